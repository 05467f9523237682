#!/usr/bin/env python3
"""Writes the golden files beside this script: what PyPI's `gguf` makes of each weight format.

    pip install gguf==0.19.0 numpy
    python make.py [folder [factor]]

For each format `F`:
    F.bytes     random blocks: random codes and sub-scales, finite f16 super-scales of both signs, extremes among them
    F.f32       gguf.quants.dequantize of them, little-endian f32
and for those that gguf can quantise:
    F.encoded   gguf.quants.quantize of `numbers.f32` (floats.f32 for F16 and BF16, later_numbers.f32 for MXFP4, TQ1_0
                and TQ2_0)
"""

import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize, quantize

# Where the f16 numbers of a block start.
HALVES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0],
}
# Bytes from..to that hold the sub-scales.
SCALES = {"Q2_K": (0, 16), "Q3_K": (96, 108), "Q4_K": (4, 16), "Q5_K": (4, 16), "Q6_K": (192, 208), "IQ4_XS": (2, 8)}
ENCODED = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]

# The formats that came later have a generator of their own, so that what was there did not change.
LATER = {
    "MXFP4": [], "IQ1_S": [0], "IQ1_M": [], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "TQ1_0": [52], "TQ2_0": [64],
}
LATER_ENCODED = ["MXFP4", "TQ1_0", "TQ2_0"]
# Blocks of IQ1_S, so that every word of its codebook comes.
MOST_BLOCKS = 64


def halves(rng, n):
    """Finite f16 numbers of both signs: mostly of a weight's size; some zero, subnormal or the largest there are."""
    h = (rng.standard_normal(n) * 0.01).astype(np.float16)
    odd = np.array([0.0, -0.0, 6e-8, -6e-8, 6.1e-5, 65504.0, -65504.0, 1.0], dtype=np.float16)
    return np.where(rng.random(n) < 0.15, odd[rng.integers(0, len(odd), n)], h).astype(np.float16)


def blocks(rng, name, n):
    size = GGML_QUANT_SIZES[Type[name]][1]
    b = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES[name]:
        b[:, at:at + 2] = halves(rng, n).view(np.uint8).reshape(n, 2)
    if name in SCALES:
        start, end = SCALES[name]
        b[0::8, start:end] = 0x00
        b[1::8, start:end] = 0xFF
        b[2::8, start:end] = 0x80
        b[3::8, start:end] = 0x7F
    return b


def every_word(name, b):
    """Makes the words of a codebook count up from the first block on: as many as there are come at least once."""
    n = len(b)
    if name == "IQ1_S":
        i = np.arange(32 * n).reshape(n, 8, 4) % 2048
        qh = b[:, 34:50].copy().view("<u2")
        high = sum((i[..., k] >> 8) << (3 * k) for k in range(4))
        b[:, 2:34] = (i & 255).reshape(n, 32)
        b[:, 34:50] = (qh & 0xF000 | high).astype("<u2").view(np.uint8)
    elif name == "IQ2_XXS":
        b[:, 2:66].reshape(n, 8, 8)[..., :4] = (np.arange(32 * n) % 256).reshape(n, 8, 4)
    elif name == "IQ2_XS":
        qs = b[:, 2:66].copy().view("<u2")
        b[:, 2:66] = (qs & 0xFE00 | (np.arange(32 * n) % 512).reshape(n, 32)).astype("<u2").view(np.uint8)
    elif name == "IQ2_S":
        i = np.arange(32 * n).reshape(n, 8, 4) % 1024
        b[:, 2:34] = (i & 255).reshape(n, 32)
        b[:, 66:74] = sum((i[..., k] >> 8) << (2 * k) for k in range(4))
    elif name == "IQ3_XXS":
        b[:, 2:66] = (np.arange(64 * n) % 256).reshape(n, 64)
    elif name == "IQ3_S":
        i = np.arange(64 * n).reshape(n, 8, 8) % 512
        b[:, 2:66] = (i & 255).reshape(n, 64)
        b[:, 66:74] = sum((i[..., k] >> 8) << k for k in range(8))
    return b


def later_blocks(rng, name, n):
    b = rng.integers(0, 256, (n, GGML_QUANT_SIZES[Type[name]][1]), dtype=np.uint8)
    for at in LATER[name]:
        b[:, at:at + 2] = halves(rng, n).view(np.uint8).reshape(n, 2)
    if name == "IQ1_M":
        d = halves(rng, n).view(np.uint16)
        for k in range(4):
            b[:, 49 + 2 * k] = b[:, 49 + 2 * k] & 0x0F | ((d >> (4 * k) & 15) << 4).astype(np.uint8)
    if name == "MXFP4":
        b[:8, 0] = [0, 1, 2, 3, 252, 253, 254, 255]
        b[8:n // 2, 0] = rng.integers(100, 130, n // 2 - 8)
    return every_word(name, b)


def numbers(rng, n):
    """Rows of 32: Gaussians of many sizes, zeros, constants, a lone outlier, ties of the rounding, one sign only."""
    x = rng.standard_normal((n, 32)) * 10.0 ** rng.integers(-6, 4, (n, 1))
    x[0] = 0.0
    x[1] = -0.0
    x[2] = 0.37
    x[3] = -0.37
    x[4, 1:] = 0.0
    x[5] = np.arange(32) - 16
    x[6] = np.arange(32) * 0.5
    x[7] = np.arange(32) - 15.5
    x[7, 0] = 127
    x[8] = np.abs(x[8])
    x[9] = -np.abs(x[9])
    x[10] = np.where(np.arange(32) % 2, 65504.0, -65504.0)
    x[11] = 1e-7
    return x.astype(np.float32)


def floats(rng, n):
    """Numbers of every size f32 has, signs, ties between neighbours and what overflows; no NaN."""
    bits = rng.integers(0, 1 << 32, n, dtype=np.uint32)
    x = bits.view(np.float32)
    x = np.where(np.isnan(x), np.float32(np.inf), x)
    near = (rng.standard_normal(n) * 10.0 ** rng.integers(-9, 5, n)).astype(np.float32)
    x = np.where(rng.random(n) < 0.7, near, x)
    ties = (np.arange(0, n // 8, dtype=np.uint32) * 0x1000 + 0x3F800000).view(np.float32)
    x[: len(ties)] = ties
    x[-6:] = [0.0, -0.0, np.inf, -np.inf, 65519.99, 65520.0]
    return x.astype(np.float32)


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent
    factor = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    rng = np.random.default_rng(20_240_817)
    np.seterr(over="ignore")
    put = lambda name, array: (folder / name).write_bytes(np.ascontiguousarray(array).tobytes())

    for name in HALVES:
        n = (48 if GGML_QUANT_SIZES[Type[name]][0] == 256 else 128) * factor
        b = blocks(rng, name, n)
        put(f"{name}.bytes", b)
        put(f"{name}.f32", dequantize(b, Type[name]).astype("<f4"))

    x = numbers(rng, 128 * factor)
    put("numbers.f32", x)
    for name in ENCODED:
        put(f"{name}.encoded", quantize(x, Type[name]))

    x = floats(rng, 2048 * factor)
    put("floats.f32", x)
    for name in ["F16", "BF16"]:
        encoded = np.ascontiguousarray(quantize(x, Type[name])).view(np.uint8)
        put(f"{name}.encoded", encoded)
        finite = rng.integers(0, 1 << 16, 2048 * factor, dtype=np.uint16)
        exponent = 0x7C00 if name == "F16" else 0x7F80
        finite = np.where(finite & exponent == exponent, finite & 0x8000 | exponent, finite).astype(np.uint16)
        put(f"{name}.bytes", finite)
        put(f"{name}.f32", dequantize(finite.view(np.uint8), Type[name]).astype("<f4"))

    rng = np.random.default_rng(20_261_126)
    for name in LATER:
        n = {"MXFP4": 128, "IQ1_S": MOST_BLOCKS}.get(name, 32) * factor
        b = later_blocks(rng, name, n)
        put(f"{name}.bytes", b)
        put(f"{name}.f32", dequantize(b, Type[name]).astype("<f4"))
    x = numbers(rng, 128 * factor)
    put("later_numbers.f32", x)
    for name in LATER_ENCODED:
        rows = x.reshape(-1, GGML_QUANT_SIZES[Type[name]][0])
        put(f"{name}.encoded", quantize(rows, Type[name]))


main()
