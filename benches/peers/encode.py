#!/usr/bin/env python3
"""Our encoders beside ggml's quantisers: million weights a second on one thread, and the squared error that is left.

    encode.py --ours target/release/encode [FORMAT ...]         needs: numpy, gguf, ik-llama-cpp-python

Both encode the same numbers, rows of 2,048: normal ones, and Student's t with four degrees of freedom, whose tails are
heavy. Errors are ratios, ours by ggml's: with every column as important as any other, with an importance uniform in
0..1, and with a log-normal one (the logarithm's deviation is 1.5), which counts in the error as it does in the search.
ggml demands an importance for IQ1 and IQ2, and is given one of 1 for them and IQ3. Speeds are of the normal numbers.
"""

import argparse
import ctypes
import pathlib
import subprocess
import tempfile
import time

import gguf
import ik_llama_cpp
import numpy as np

COLUMNS = 2048
FORMATS = """Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4 IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS
             IQ3_S""".split()
# What has nothing to choose.
UNWEIGHED = ["Q8_0", "MXFP4"]
# Runs of which the best counts, as of ours.
RUNS = 10


def ggml():
    library = ctypes.CDLL(str(pathlib.Path(ik_llama_cpp.__file__).parent / "lib" / "libggml.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    return library


def pointer(array):
    return None if array is None else array.ctypes.data_as(ctypes.c_void_p)


def theirs(library, name, x, importance):
    """ggml's speed and error."""
    kind = gguf.GGMLQuantizationType[name]
    if importance is None and name[:3] in ("IQ1", "IQ2", "IQ3"):
        importance = np.ones(COLUMNS, np.float32)
    length, size = gguf.GGML_QUANT_SIZES[kind]
    out = np.zeros((len(x), COLUMNS // length * size), np.uint8)
    library.ggml_quantize_init(int(kind))
    best = float("inf")
    for _ in range(RUNS):
        start = time.perf_counter()
        # The type, from, to, the first number, rows, columns, the importance, and parameters of which there are none.
        sizes = [ctypes.c_int64(size) for size in (0, len(x), COLUMNS)]
        library.ggml_quantize_chunk(int(kind), pointer(x), pointer(out), *sizes, pointer(importance), None)
        best = min(best, time.perf_counter() - start)
    return x.size / best / 1e6, error(x, gguf.dequantize(out, kind), importance)


def error(x, y, importance):
    weight = 1.0 if importance is None else importance.astype(np.float64)
    square = lambda v: (weight * v.astype(np.float64) ** 2).sum()
    return square(x - y) / square(x)


def ours(program, x, importance):
    """{format: (speed, error)}"""
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / name for name in ("numbers", "importance")]
        x.tofile(files[0])
        arguments = [files[0], str(COLUMNS)]
        if importance is not None:
            importance.tofile(files[1])
            arguments.append(files[1])
        lines = subprocess.run([program, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()
    return {name: (float(rate), float(error)) for name, rate, error in map(str.split, lines)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default="target/release/encode", help="our program")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("formats", nargs="*", default=FORMATS)
    args = parser.parse_args()
    random, library = np.random.default_rng(1), ggml()
    shape = (args.rows, COLUMNS)
    numbers = [random.standard_normal(shape).astype(np.float32), random.standard_t(4, shape).astype(np.float32)]
    uniform, log_normal = random.random(COLUMNS), np.exp(1.5 * random.standard_normal(COLUMNS))
    importances = [None, uniform.astype(np.float32), log_normal.astype(np.float32)]
    # What each column of the table compares.
    cases = [(x, importance) for importance in importances[:2] for x in numbers] + [(numbers[0], importances[2])]
    found = [ours(args.ours, *case) for case in cases]
    print("| format | encode | ggml | weighing | ggml | error, normal | t | weighed, normal | t | log-normal |")
    print("|---|" + "---:|" * 9)
    for name in args.formats:
        counted = cases[:2] if name in UNWEIGHED else cases
        both = [(of[name], theirs(library, name, *case)) for of, case in zip(found, counted)]
        rates = [f"{rate:.3g}" for i in (0, 2) if i < len(both) for (rate, _) in both[i]]
        ratios = [f"{a[1] / b[1]:.3f}" for a, b in both]
        cells = rates + ["–"] * (4 - len(rates)) + ratios + ["–"] * (5 - len(ratios))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
