#!/usr/bin/env python3
"""Quantise a GGUF with llama.cpp's own code: quantise.py SOURCE.gguf TARGET.gguf Q4_K_M [pure]

The third word is one of llama.cpp's file types: Q4_0, Q8_0, Q4_K_M, ... It mixes types as llama.cpp sees fit; `pure` gives
every matrix the one type, where its rows can be divided into that type's blocks.
"""

import ctypes
import sys

import llama_cpp as llama


def quantise(source, target, kind, pure=False):
    """Writes `target`. `kind` is a name as above."""
    params = llama.llama_model_quantize_default_params()
    mixture = "_MOE" if kind == "MXFP4" else ""
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}{mixture}")
    params.pure = pure
    if llama.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantise {source} to {kind}")


def main():
    if len(sys.argv) not in (4, 5) or sys.argv[4:] not in ([], ["pure"]):
        raise SystemExit(__doc__)
    quantise(*sys.argv[1:4], pure=len(sys.argv) == 5)


if __name__ == "__main__":
    main()
