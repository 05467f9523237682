#!/usr/bin/env python3
"""Finds the lines of planted bugs again in kernels that were compiled anew.

    replant.py REVISION            prints the bugs whose lines are spelled otherwise than in the PTX of REVISION
    replant.py REVISION --write    and spells them anew in the tests

A compilation that moves one instruction numbers all registers after it anew. So the two texts are compared without the numbers
of registers and labels, and a bug's line is the one that is opposite. It ends with status 1 and names the bugs whose lines
have none, or one that a bug cannot be planted in: these are for people. That a bug is caught, only the tests tell.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PTX = HERE.parent.parent / "llama-cuda" / "ptx"
TEXT = r'"((?:[^"\\]|\\.)*)"'
BUG = re.compile(rf"\bbug\({TEXT}, {TEXT}, \({TEXT}, (\d+)\), {TEXT}, {TEXT}\)")
REGISTER = re.compile(r"%[a-z]+\d+")


def git(*command, statuses=(0,), **options):
    done = subprocess.run(["git", *command], stdout=subprocess.PIPE, text=True, **options)
    if done.returncode not in statuses:
        raise SystemExit(f"git {' '.join(map(str, command))}: status {done.returncode}")
    return done.stdout


def unnumbered(text):
    """PTX without the numbers of registers and labels."""
    return re.sub(r"\$L__BB\d+_\d+|<\d+>", "#", REGISTER.sub(lambda found: found[0].rstrip("0123456789"), text))


def opposite(old, new):
    """{line of `old`: line of `new`}, by number from 0, of those that are the same without numbers."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [pathlib.Path(folder) / name for name in ("old", "new")]
        for path, text in zip(paths, (old, new)):
            path.write_text(unnumbered(text))
        options = ["--no-index", "--no-color", "--no-ext-diff", "--text", f"--unified={len(old)}"]
        lines = git("diff", *options, *paths, statuses=(0, 1)).splitlines()
    if not lines:
        return {n: n for n in range(len(old.splitlines()))}
    pairs, n, m = {}, 0, 0
    for line in lines[next(n for n, line in enumerate(lines) if line.startswith("@@")) + 1 :]:
        mark = line[:1] or " "
        if mark == " ":
            pairs[n] = m
        n, m = n + (mark in " -"), m + (mark in " +")
    return pairs


class Twins:
    """A kernel file as it was and as it is."""

    def __init__(self, old, new):
        self.pairs = opposite(old, new)
        self.old, self.new = old.splitlines(), new.splitlines()

    def renamed(self, register, at):
        """What a register of a line, or of the nearest line that has it, is called now."""
        for n in sorted(self.pairs, key=lambda n: abs(n - at)):
            names = REGISTER.findall(self.old[n])
            if register in names:
                return REGISTER.findall(self.new[self.pairs[n]])[names.index(register)]
        raise LookupError(register)

    def again(self, line, nth, *texts):
        """A bug's line, which of those it is and what is exchanged in it, as they are now; None if it is not found."""
        there = [n for n, text in enumerate(self.old) if line in text]
        if nth >= len(there) or there[nth] not in self.pairs:
            return None
        at, now = there[nth], self.pairs[there[nth]]
        try:
            line, *texts = [REGISTER.sub(lambda found: self.renamed(found[0], at), text) for text in (line, *texts)]
        except LookupError:
            return None
        if not all(text in self.new[now] for text in (line, texts[0])):
            return None
        return line, sum(line in text for text in self.new[:now]), *texts


def replanted(source, twins_of):
    """The text of a test with its bugs spelled anew, and {what a bug is: how it is spelled, or None if it is not found}."""
    told = {}

    def spell(found):
        what, file, line, nth, *texts = found.groups()
        tabs = [text.replace(r"\t", "\t") for text in (line, *texts)]
        again = twins_of(file).again(tabs[0], int(nth), *tabs[1:])
        if again is None:
            told[f"{file}: {what}"] = None
            return found[0]
        line, nth, *texts = [str(part).replace("\t", r"\t") for part in again]
        anew = f'bug("{what}", "{file}", ("{line}", {nth}), "{texts[0]}", "{texts[1]}")'
        if anew != found[0]:
            told[f"{file}: {what}"] = anew
        return anew

    return BUG.sub(spell, source), told


def twins_since(revision):
    """What gives a kernel file by its name, as it was in a revision and as it is; each is compared once."""
    kept = {}

    def twins_of(file):
        if file not in kept:
            path = PTX / ("compute_90a" if file.endswith("_sm90") else "compute_80") / f"{file}.ptx"
            kept[file] = Twins(git("show", f"{revision}:./{path.name}", cwd=path.parent), path.read_text())
        return kept[file]

    return twins_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the revision whose PTX the tests name the lines of")
    parser.add_argument("--write", action="store_true", help="spell the bugs anew in the tests")
    args = parser.parse_args()
    twins_of, lost = twins_since(args.revision), []
    for path in sorted(HERE.glob("tests/suite/**/*.rs")):
        text, told = replanted(path.read_text(), twins_of)
        lost += [f"{path.name}: {bug}: not found" for bug, anew in told.items() if anew is None]
        for anew in filter(None, told.values()):
            print(f"{path.name}: {anew}")
        if args.write:
            path.write_text(text)
    if lost:
        raise SystemExit("\n".join(lost))


if __name__ == "__main__":
    main()
