#!/usr/bin/env python3
"""Compiles CUDA kernels to PTX, or checks that what is committed is what they compile to and holds what it should.

The compilers come from PyPI and nothing else is needed (no CUDA toolkit, no GPU):

    pip install -r llama-cuda/ptx_build/wheels.txt

    build-ptx.py                writes the PTX, budgets.txt and assembled.txt
    build-ptx.py --check        changes nothing; fails if a committed file differs from what its source compiles to, if a
                                kernel uses more registers or shared memory than budgets.txt allows or spills, or if its
                                machine code lacks what sass.txt asks for
    build-ptx.py --only gemv    only sources whose names start so (either of the above)
    build-ptx.py --check --brief
                                compiles and compares, but assembles nothing: assembled.txt tells of which PTX everything
                                else was asked before, by these programs with these tables, and found right

Sources are kernels/*.cu here and in benches/. Two sets are made. ptx/compute_80 runs on every device from Ampere on.
ptx/compute_90a is for Hopper alone: the same sources again, which may use what Hopper adds where
`__CUDA_ARCH__ >= 900`, and those named *_sm90.cu, which need it.
Results are kept under target/ptx, named by a hash of all they were made from, so only what changed is made again.
"""

import argparse
import collections
import concurrent.futures
import itertools
import json
import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(HERE / "ptx_build"))
import assemble
import compile
import tables
import wheels

REPOSITORY = HERE.parent
# Folders with kernels/*.cu, which become ptx/SET/*.ptx beside them: what ships, and what the benchmarks measure with.
FOLDERS = [HERE, REPOSITORY / "benches"]
BUDGETS, SASS, ASSEMBLED = HERE / "ptx" / "budgets.txt", HERE / "ptx" / "sass.txt", HERE / "ptx" / "assembled.txt"
KEPT = REPOSITORY / "target" / "ptx"
OPTIONS = ["-std=c++17", "--fmad=false"]

# `looked_at`: the architectures whose machine code is disassembled, one for each encoding of instructions.
Set = collections.namedtuple("Set", "version archs looked_at")
SETS = {
    "compute_80": Set(
        "7.0",
        ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100", "sm_101", "sm_103", "sm_120", "sm_121"],
        ["sm_80", "sm_90a", "sm_120"],
    ),
    "compute_90a": Set("8.0", ["sm_90a"], ["sm_90a"]),
}


def sources_of(name, only):
    """The sources of a set, those asked for."""
    chosen = lambda stem: name == "compute_90a" or not stem.endswith("_sm90")
    sources = [source for folder in FOLDERS for source in sorted(folder.glob("kernels/*.cu"))]
    return [source for source in sources if chosen(source.stem) and source.stem.startswith(only)]


def target_of(name, source):
    """Where a source's PTX is committed."""
    return source.parent.parent / "ptx" / name / f"{source.stem}.ptx"


def kept(key, make):
    """What `make` returns, made once for a key."""
    path = KEPT / key
    if not path.exists():
        made = json.dumps(make())
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(made)
        unfinished.rename(path)
    return json.loads(path.read_text())


def build(nvrtc, name, source, brief):
    """The committed form of a source in a set, and {kernel: {arch: facts}} of it: no facts if `brief`."""
    of = SETS[name]
    options = [f"--gpu-architecture={name}", *OPTIONS]
    texts = [path.name + path.read_text() for path in compile.included(source)]
    compiled = lambda: compile.committed_form(source, of.version, nvrtc.compile(source, options))
    ptx = kept(wheels.digest(of.version, *options, source.name, *texts), compiled)
    kernels = {kernel: {} for kernel in compile.entries(ptx)}
    for arch in [] if brief else of.archs:
        look = arch in of.looked_at
        facts = kept(wheels.digest(arch, str(look), compile.code(ptx)), lambda: assembled(ptx, arch, look))
        for kernel, found in facts.items():
            kernels[kernel][arch] = found
    return ptx, kernels


def proof(name, ptx, budgets, sass):
    """A hash of all that decides whether a set's PTX is found right."""
    of = SETS[name]
    limits = [f"{kernel} {budgets.get((name, kernel))}" for kernel in compile.entries(ptx)]
    return wheels.digest(*of.archs, *of.looked_at, compile.code(ptx), sass, *limits)


def assembled(ptx, arch, look):
    path = KEPT / wheels.digest("text", arch, ptx)
    path.write_text(ptx)
    facts = assemble.assemble(path, arch, look)
    path.unlink()
    return facts


def written(path, text, check):
    """Writes a generated file, or complains that it would change."""
    if not path.exists() or path.read_text() != text:
        if check:
            yield f"{path.relative_to(REPOSITORY)} is not what the sources compile to"
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def stale(name, check):
    """PTX files without a source are removed, or complained of."""
    there = {path for folder in FOLDERS for path in folder.glob(f"ptx/{name}/*.ptx")}
    for path in sorted(there - {target_of(name, source) for source in sources_of(name, "")}):
        if check:
            yield f"{path.relative_to(REPOSITORY)} has no source"
        else:
            path.unlink()


def judged(key, by_arch, budgets, table):
    """Reports what a kernel uses, and returns what is wrong with that."""
    report(key, by_arch)
    return [*tables.over_budget(key, by_arch, budgets), *tables.lacking(key, by_arch, table)]


def report(key, by_arch):
    shared, registers = tables.budget(by_arch)
    words = [facts["words"] for facts in by_arch.values() if "words" in facts][0]
    print(f"{key[0]:11} {key[1]:28} {shared:6} shared, registers {' '.join(map(str, registers))}  {' '.join(words)}")


def allowed(usage, args):
    """The budgets, with what `usage` uses as those of its kernels if they are to be written."""
    budgets = tables.read_budgets(BUDGETS.read_text())
    if not args.check:
        found = {key: tables.budget(by_arch) for key, by_arch in usage.items()}
        budgets = budgets | found if args.only else found
        BUDGETS.write_text(tables.write_budgets(SETS, budgets))
    return budgets


def proved(files, wrong, budgets, sass, args):
    """Writes which of `files` were found right, or complains of those that assembled.txt does not tell of.

    `wrong` is {(set, kernel): complaints}."""
    is_right = lambda name, ptx: not any(wrong.get((name, kernel)) for kernel in compile.entries(ptx))
    right = {file: proof(file[0], ptx, budgets, sass) for file, ptx in files.items() if is_right(file[0], ptx)}
    told = tables.read_assembled(ASSEMBLED.read_text()) if ASSEMBLED.exists() else {}
    if not args.check:
        ASSEMBLED.write_text(tables.write_assembled(told | right if args.only else right))
        return []
    return tables.unassembled({file: told.get(file) for file in files} if args.only else told, right)


def unused(usage, budgets, table, check):
    """What belongs to no source or kernel: files, lines of the tables."""
    for name in SETS:
        yield from stale(name, check)
    yield from tables.idle_lines(usage.keys(), table)
    for key in sorted(budgets.keys() - usage.keys()):
        yield f"budgets.txt: there is no {' '.join(key)}"


def parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on any difference")
    parser.add_argument("--only", metavar="NAME", default="", help="only sources whose names start so")
    parser.add_argument("--brief", action="store_true", help="with --check: assemble nothing")
    args = parser.parse_args()
    if args.brief and not args.check:
        parser.error("--brief is for --check: what is written is assembled")
    return args


def main():
    args = parsed()
    wheels.check()
    KEPT.mkdir(parents=True, exist_ok=True)
    nvrtc, complaints, usage, files = compile.Nvrtc(HERE / "kernels"), [], {}, {}
    jobs = [(name, source) for name in SETS for source in sources_of(name, args.only)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        built = pool.map(lambda job: build(nvrtc, *job, args.brief), jobs)
        for (name, source), (ptx, kernels) in zip(jobs, built):
            complaints += written(target_of(name, source), ptx, args.check)
            usage |= {(name, kernel): by_arch for kernel, by_arch in kernels.items()}
            files[name, source.stem] = ptx
    budgets, sass = allowed(usage, args), SASS.read_text()
    table = tables.rows(sass)
    asked = {} if args.brief else usage
    wrong = {key: judged(key, by_arch, budgets, table) for key, by_arch in sorted(asked.items())}
    complaints += [*itertools.chain(*wrong.values()), *proved(files, wrong, budgets, sass, args)]
    if not args.only:
        complaints += unused(usage, budgets, table, args.check)
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
