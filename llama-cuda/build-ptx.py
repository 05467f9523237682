#!/usr/bin/env python3
"""Compiles kernels/*.cu to ptx/compute_80/*.ptx, or checks that what is committed is what they compile to.

The compilers come from PyPI and nothing else is needed (no CUDA toolkit, no GPU):

    pip install nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-runtime-cu12==12.9.79

    build-ptx.py            writes the PTX and budgets.txt
    build-ptx.py --check    fails if a committed file differs from what its source compiles to, or if ptxas reports more
                            registers or shared memory than budgets.txt allows, or any spill

NVRTC 12.9 stamps PTX 8.8, which only recent drivers load; the text uses nothing newer than 7.0, so that is what it is
stamped with, and ptxas confirms it. The first line of each file is the SHA-256 of its source and of every header.
"""

import argparse
import ctypes
import hashlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KERNELS = HERE / "kernels"
PTX = HERE / "ptx" / "compute_80"
BUDGETS = HERE / "ptx" / "budgets.txt"
PTX_VERSION = "7.0"
ASSEMBLE_FOR = ["sm_80", "sm_89", "sm_90a"]
OPTIONS = ["--gpu-architecture=compute_80", "-std=c++17", "--fmad=false"]


def wheel(part):
    """The folder a wheel unpacked to, for example nvidia/cuda_nvrtc."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else []:
        folder = pathlib.Path(root) / part
        if folder.is_dir():
            return folder
    raise SystemExit(f"nvidia/{part} is missing; install the wheels named at the top of {__file__}")


class Nvrtc:
    """The four calls of NVRTC that turn CUDA C++ into PTX."""

    def __init__(self):
        lib = wheel("cuda_nvrtc") / "lib"
        ctypes.CDLL(str(lib / "libnvrtc-builtins.so.12.9"), mode=ctypes.RTLD_GLOBAL)
        self.nvrtc = ctypes.CDLL(str(lib / "libnvrtc.so.12"))
        self.includes = [str(KERNELS), str(wheel("cuda_runtime") / "include")]

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, source):
        program = ctypes.c_void_p()
        self.nvrtc.nvrtcCreateProgram(
            ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None
        )
        options = [o.encode() for o in OPTIONS + [f"-I{path}" for path in self.includes]]
        failed = self.nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, "ProgramLog").strip()
        if log:
            print(log, file=sys.stderr)
        if failed:
            raise SystemExit(f"{source.name}: NVRTC error {failed}")
        return self.text(program, "PTX")


def source_hash(source):
    digest = hashlib.sha256()
    for path in [source, *sorted(KERNELS.glob("*.cuh"))]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def committed_form(source, ptx):
    """PTX as it is committed: its source named, NVRTC's own banner dropped, the version stamped down."""
    ptx = re.sub(r"^//.*\n", "", ptx, flags=re.MULTILINE)
    ptx = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", ptx, flags=re.MULTILINE)
    body = "\n".join(line.rstrip() for line in ptx.strip().splitlines())
    return f"// {source.name} sha256 {source_hash(source)}\n{body}\n"


def assemble(path):
    """What ptxas reports for each kernel of a file: {(arch, kernel): (registers, shared bytes, spill bytes)}."""
    usage = {}
    for arch in ASSEMBLE_FOR:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
            command = [wheel("cuda_nvcc") / "bin" / "ptxas", "-v", f"-arch={arch}", path, "-o", cubin.name]
            run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stderr)
        for block in run.stderr.split("Compiling entry function")[1:]:
            kernel = re.search(r"'(\w+)'", block).group(1)
            registers = int(re.search(r"Used (\d+) registers", block).group(1))
            shared = re.search(r"(\d+) bytes smem", block)
            spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", block))
            usage[arch, kernel] = (registers, int(shared.group(1)) if shared else 0, spills)
    return usage


def read_budgets():
    """budgets.txt: arch, kernel, registers, shared bytes."""
    rows = (line.split() for line in BUDGETS.read_text().splitlines() if line and not line.startswith("#"))
    return {(arch, kernel): (int(registers), int(shared)) for arch, kernel, registers, shared in rows}


def write_budgets(usage):
    lines = ["# arch kernel registers shared-bytes: what ptxas may use at most; spills are never allowed"]
    lines += [f"{arch} {kernel} {registers} {shared}" for (arch, kernel), (registers, shared, _) in sorted(usage.items())]
    BUDGETS.write_text("\n".join(lines) + "\n")


def over_budget(usage, budgets):
    for key, (registers, shared, spills) in sorted(usage.items()):
        allowed = budgets.get(key)
        verdict = "ok"
        if allowed is None:
            verdict = "no budget"
        elif spills or registers > allowed[0] or shared > allowed[1]:
            verdict = f"over budget {allowed}"
        print(f"{key[0]:7} {key[1]:24} {registers:4} registers {shared:6} shared {spills:4} spilled  {verdict}")
        if verdict != "ok":
            yield f"{key[0]} {key[1]}: {verdict}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail on any difference")
    check = parser.parse_args().check
    nvrtc, usage, complaints = Nvrtc(), {}, []
    PTX.mkdir(parents=True, exist_ok=True)
    sources = sorted(KERNELS.glob("*.cu"))
    for source in sources:
        path = PTX / f"{source.stem}.ptx"
        text = committed_form(source, nvrtc.compile(source))
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            complaints.append(f"{path.name} is not what {source.name} compiles to")
        if path.exists():
            usage.update(assemble(path))
    stale = {path.stem for path in PTX.glob("*.ptx")} - {source.stem for source in sources}
    complaints += [f"{stem}.ptx has no source" for stem in sorted(stale)]
    if not check:
        write_budgets(usage)
    complaints += over_budget(usage, read_budgets())
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
