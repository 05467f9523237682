"""PTX to machine code that is looked at and thrown away: what ptxas says it uses, and what the disassembly holds.

ptxas answers for registers, static shared memory and spills; only the disassembly answers whether a load of 16 bytes
stayed one and whether a product runs on the matrix unit. Nothing here is shipped: drivers assemble the PTX themselves.
"""

import os
import re
import subprocess
import tempfile

import wheels

# What a kernel can be required to contain (sass.txt). `local` is required to be absent of all.
WORDS = {
    "load128": r"LDG\.E(\.\w+)*\.128|LDGSTS(\.\w+)*\.128|UBLKCP|UTMALDG",
    "hmma": r"HMMA\.16816",
    "hgmma": r"HGMMA",
    "tma": r"UBLKCP|UTMALDG",
    "local": r"\b(LDL|STL)\b",
}


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done


def usage(report):
    """ptxas's report: {kernel: {"registers", "shared", "spilled"}}; spilled counts stack frames too."""
    kernels = {}
    for block in report.split("Compiling entry function")[1:]:
        number = lambda pattern: sum(int(n) for n in re.findall(pattern, block))
        kernels[re.search(r"'(\w+)'", block).group(1)] = {
            "registers": int(re.search(r"Used (\d+) registers", block).group(1)),
            "shared": number(r"(\d+) bytes smem"),
            "spilled": number(r"(\d+) bytes (?:stack frame|spill stores|spill loads)"),
        }
    return kernels


def words(disassembly):
    """A disassembly: {kernel: [the WORDS in it]}."""
    kernels = {}
    for block in disassembly.split("Function : ")[1:]:
        kernels[block.split()[0]] = [word for word, pattern in WORDS.items() if re.search(pattern, block)]
    return kernels


def assemble(path, arch, look):
    """The usage of every kernel of a PTX file on one architecture and, if it is to `look`, its words."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        report = run([wheels.path("cuda_nvcc/bin/ptxas"), "-v", f"-arch={arch}", path, "-o", cubin.name]).stderr
        kernels = usage(report)
        if look:
            cuobjdump = wheels.path("cu13/bin/cuobjdump")
            search = {**os.environ, "PATH": f"{wheels.path('cu13/bin')}:{os.environ.get('PATH', '')}"}
            found = words(run([cuobjdump, "-sass", cubin.name], env=search).stdout)
            for kernel, facts in kernels.items():
                facts["words"] = found[kernel]
    return kernels
