"""CUDA C++ to PTX in the form that is committed.

NVRTC is called through ctypes: a create, a compile, two texts. The result names its source and the SHA-256 of that source
and of every header it includes, directly or not, so a change to a header touches the PTX of the kernels that use it and no
other. NVRTC 12.9 stamps PTX 8.8, which only recent drivers load; the text of a set uses nothing newer than the version the
set is stamped with, which ptxas confirms by assembling it.
"""

import ctypes
import hashlib
import re
import sys

import wheels


class Nvrtc:
    """The few calls of NVRTC that turn CUDA C++ into PTX."""

    def __init__(self, folder):
        lib = wheels.path("cuda_nvrtc/lib")
        ctypes.CDLL(str(lib / "libnvrtc-builtins.so.12.9"), mode=ctypes.RTLD_GLOBAL)
        self.nvrtc = ctypes.CDLL(str(lib / "libnvrtc.so.12"))
        self.includes = [f"-I{folder}", f"-I{wheels.path('cuda_runtime/include')}"]

    def text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, buffer)
        return buffer.value.decode()

    def compile(self, source, options):
        program = ctypes.c_void_p()
        name, text = source.name.encode(), source.read_bytes()
        self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, name, 0, None, None)
        options = [o.encode() for o in [*options, *self.includes]]
        failed = self.nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        log = self.text(program, "ProgramLog").strip()
        if failed:
            raise SystemExit(f"{log}\n{source.name}: NVRTC error {failed}")
        if log:
            print(log, file=sys.stderr)
        ptx = self.text(program, "PTX")
        self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx


def included(source, seen=None):
    """`source` and the headers of its folder that it includes, by name."""
    seen = {} if seen is None else seen
    if source.name not in seen and source.exists():
        seen[source.name] = source
        for name in re.findall(r'^\s*#include "(\w+\.cuh)"', source.read_text(), flags=re.MULTILINE):
            included(source.parent / name, seen)
    return [seen[name] for name in sorted(seen)]


def source_hash(source):
    sha = hashlib.sha256()
    for path in included(source):
        sha.update(path.read_bytes())
    return sha.hexdigest()


def committed_form(source, version, ptx):
    """PTX as it is committed: its source named, NVRTC's own banner dropped, the version stamped down.

    A hint that only newer versions know (which bytes of a wide load are used) goes too."""
    ptx = re.sub(r"^//.*\n", "", ptx, flags=re.MULTILINE)
    ptx = re.sub(r'^\s*\.pragma "used_bytes_mask.*\n', "", ptx, flags=re.MULTILINE)
    ptx = re.sub(r"^\.version .*$", f".version {version}", ptx, flags=re.MULTILINE)
    body = "\n".join(line.rstrip() for line in ptx.strip().splitlines())
    return f"// {source.name} sha256 {source_hash(source)}\n{body}\n"


def code(ptx):
    """The committed form without its first line, whose hash of the sources may change where the code does not."""
    return ptx.split("\n", 1)[1]


def entries(ptx):
    """The kernels of a PTX file."""
    return re.findall(r"^\.visible \.entry (\w+)", ptx, flags=re.MULTILINE)
