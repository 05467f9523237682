#!/usr/bin/env python3
"""Compare our engine with candle, llama.cpp and ik_llama.cpp on the same files, in one run, and print the tables in Markdown.

Every figure comes from a process of its own that loads the model once and prints one line of JSON. For each model and
thread count the engines take turns, A B C A B C, so that a machine that slows down slows all of them; a ratio is the
median of the ratios within a round. Progress goes to stderr, the tables to stdout, every line of JSON to --log.

An engine is a command. Unless it contains {model}, these flags are appended to it:
--model {model} --threads {threads} --prompt {prompt} --generate {generate} --context {context} --repeat {repeat}
and --sequences {sequences} where it is not 1: not every engine knows it.

Besides the two speeds, ours is expected to print `read_gbs`, the rate at which the same threads read a buffer as large
as the weights, measured in the same process, and `bytes_per_token`, the bytes of weights a decoded token must read:
their quotient is the ceiling of decoding. If it prints `pp_ceiling`, in tok/s, that is the ceiling of the prompt.
"""

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

MEASURED = ("prompt", "generate", "context", "repeat", "sequences")
HERE = pathlib.Path(__file__).resolve().parent
# With more of the machine than this taken by others, a figure says more about them than about the engine.
BUSY = 0.05


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="GGUF files")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="turns of every engine")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each measure within a turn")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--sequences", type=int, default=1, help="sequences generated side by side")
    parser.add_argument("--ours", metavar="CMD", help="our engine")
    parser.add_argument("--candle", metavar="CMD", help="candle/target/release/peer-candle, or a command that runs it")
    parser.add_argument("--python", help="the Python that has llama_cpp and ik_llama_cpp: turns for both")
    parser.add_argument("--llama-cpp", metavar="CMD", help="another command for llama.cpp")
    parser.add_argument("--ik-llama", metavar="CMD", help="another command for ik_llama.cpp")
    parser.add_argument("--engine", metavar="NAME=CMD", action="append", default=[], help="any other engine")
    parser.add_argument("--timeout", type=float, default=600, help="seconds one process may take")
    parser.add_argument("--log", type=pathlib.Path, help="append every result to this file, one JSON object a line")
    parser.add_argument("--from-log", type=pathlib.Path, help="run nothing: print the tables of this log")
    args = parser.parse_args()
    if bool(args.models) == bool(args.from_log):
        parser.error("give either models or --from-log")
    return args


def engines(args):
    """Names and commands of what takes turns."""
    script = lambda name: f"{shlex.quote(args.python)} {shlex.quote(str(HERE / name))}" if args.python else None
    known = {
        "ours": args.ours,
        "llama.cpp": args.llama_cpp or script("llamacpp.py"),
        "ik_llama.cpp": args.ik_llama or script("ik_llama.py"),
        "candle": args.candle,
    }
    return {name: command for name, command in known.items() if command} | dict(e.split("=", 1) for e in args.engine)


def run(command, values, timeout):
    """The JSON object that one process prints, or {"error": why there is none}."""
    flags = [f"--{name} {{{name}}}" for name, value in values.items() if name != "sequences" or value > 1]
    template = command if "{model}" in command else " ".join([command, *flags])
    words = [word.format(**values) for word in shlex.split(template)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout:.0f} s"}
    except OSError as error:
        return {"error": str(error)}
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"error": f"exit status {done.returncode}: {last}"}
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        return {"error": "printed no JSON"}


def taken(seconds=0.5):
    """The share of the processors' time that others take just now, while no engine runs. 0 where /proc is missing."""

    def ticks():
        with open("/proc/stat") as stat:
            fields = [int(field) for field in stat.readline().split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    try:
        (total, idle), _, (later, idle_later) = ticks(), time.sleep(seconds), ticks()
    except OSError:
        return 0.0
    return 1 - (idle_later - idle) / max(later - total, 1)


def take_turns(args, engines):
    """Runs every engine in every round; yields one result at a time."""
    for model in args.models:
        for threads in args.threads:
            broken = set()
            for turn in range(args.rounds):
                for name, command in engines.items():
                    if name in broken:
                        continue
                    wanted = {key: getattr(args, key) for key in MEASURED}
                    others, start = taken(), time.monotonic()
                    result = run(command, {"model": model, "threads": threads, **wanted}, args.timeout)
                    if "error" in result:
                        broken.add(name)
                    place = {"engine": name, "model": os.path.basename(model), "threads": threads, "round": turn}
                    result = {**result, **place, "others": round(others, 2)}
                    print(f"{time.monotonic() - start:6.1f} s  {json.dumps(result)}", file=sys.stderr, flush=True)
                    yield result


class Table:
    """The results of one measure (`pp512`, `tg64@0`), a row for each model and thread count."""

    def __init__(self, results, measure):
        self.measure = measure
        self.rounds = {}
        for result in results:
            row = self.rounds.setdefault((result["model"], result["threads"]), {})
            row.setdefault(result["round"], {})[result["engine"]] = result
        self.engines = list(dict.fromkeys(result["engine"] for result in results))

    def across(self, row, value):
        """`value` of every round that has it: a function of {engine: result}."""
        values = [value(turn) for turn in self.rounds[row].values()]
        return [v for v in values if v is not None]

    def speed(self, engine):
        return lambda turn: turn.get(engine, {}).get(self.measure)

    def ratio(self, peer):
        def value(turn):
            ours, theirs = self.speed("ours")(turn), self.speed(peer)(turn)
            return ours / theirs if ours and theirs else None

        return value

    def ceiling(self, turn):
        """The most tokens per second the machine allows, as measured beside ours in this round."""
        ours = turn.get("ours", {})
        if self.measure.startswith("pp"):
            return ours.get("pp_ceiling")
        # The weights are read once for all sequences of a step, whose limit may then be arithmetic.
        if "read_gbs" in ours and "bytes_per_token" in ours and "x" not in self.measure:
            return ours["read_gbs"] * 1e9 / ours["bytes_per_token"]
        return None

    def fraction(self, turn):
        ours, ceiling = self.speed("ours")(turn), self.ceiling(turn)
        return ours / ceiling if ours and ceiling else None

    def columns(self):
        """Pairs of a heading and the function that makes the cell of a row."""
        read = lambda turn: turn.get("ours", {}).get("read_gbs")
        yield "read GB/s", lambda row: spread(self.across(row, read))
        for engine in self.engines:
            yield f"{engine} tok/s", lambda row, engine=engine: spread(self.across(row, self.speed(engine)))
        if "ours" in self.engines:
            yield "of ceiling", lambda row: middle(self.across(row, self.fraction), "{:.0%}")
            for peer in self.engines:
                if peer != "ours":
                    yield f"ours ÷ {peer}", lambda row, peer=peer: middle(self.across(row, self.ratio(peer)), "{:.2f}")

    def markdown(self):
        columns = [column for column in self.columns() if any(column[1](row) != "-" for row in self.rounds)]
        lines = [["model", "threads"] + [heading for heading, _ in columns], ["---"] + ["---:"] * (len(columns) + 1)]
        for row in self.rounds:
            lines.append([row[0], str(row[1])] + [cell(row) for _, cell in columns])
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def middle(values, form):
    return form.format(statistics.median(values)) if values else "-"


def spread(values):
    """The median, and the range where rounds differ."""
    if not values:
        return "-"
    text = f"{statistics.median(values):.1f}"
    return text if len(values) == 1 else f"{text} ({min(values):.1f} to {max(values):.1f})"


def remarks(results):
    """What the reader of the tables must know besides."""
    for model, threads in dict.fromkeys((r["model"], r["threads"]) for r in results):
        here = [r for r in results if (r["model"], r["threads"]) == (model, threads)]
        for result in here:
            if "error" in result:
                yield f"{result['engine']}, {model}, --threads {threads}: {result['error']}"
        following = {r["engine"]: r["next"] for r in here if "next" in r}
        if len(set(following.values())) > 1:
            yield f"{model}, --threads {threads}: the likeliest token after the prompt differs: {following}"
    busy = sum(r["others"] > BUSY for r in results)
    if busy:
        yield f"{busy} of {len(results)} processes began while others took over {BUSY:.0%} of the machine."


def report(results):
    measures = dict.fromkeys(key for r in results for key in r if key.startswith(("tg", "pp")) and key[2].isdigit())
    for measure in sorted(measures, reverse=True):
        kind = "Decode" if measure.startswith("tg") else "Prompt"
        print(f"{kind}, `{measure}`\n\n{Table(results, measure).markdown()}\n")
    for remark in remarks(results):
        print(f"- {remark}")


def main():
    args = arguments()
    if args.from_log:
        report([json.loads(line) for line in args.from_log.read_text().splitlines()])
        return
    results = []
    for result in take_turns(args, engines(args)):
        results.append(result)
        if args.log:
            with args.log.open("a") as log:
                log.write(json.dumps(result) + "\n")
    report(results)


if __name__ == "__main__":
    main()
