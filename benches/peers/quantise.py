#!/usr/bin/env python3
"""Quantise a GGUF with llama.cpp's own mix of types: quantise.py SOURCE.gguf TARGET.gguf Q4_K_M

The third word is one of llama.cpp's file types: Q4_0, Q8_0, Q4_K_M, ...
"""

import ctypes
import sys

import llama_cpp as llama


def main():
    if len(sys.argv) != 4:
        raise SystemExit(__doc__)
    source, target, kind = sys.argv[1:]
    params = llama.llama_model_quantize_default_params()
    params.ftype = getattr(llama, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params)) != 0:
        raise SystemExit(f"llama.cpp could not quantise {source}")


if __name__ == "__main__":
    main()
