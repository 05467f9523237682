#!/usr/bin/env python3
"""Finds the lines of planted bugs again after kernels were compiled anew.

A planted bug (tests/suite/common/*.rs) names a line of the committed PTX, often by its registers, and a compiler numbers
those anew each time. Old and new text are compared without the numbers; a line that is in both tells which register became which.

    replant.py REVISION           prints what has to change since git's REVISION, which the bugs still fit
    replant.py REVISION --write   changes it

What it cannot find (the line is gone, or is another) it names, and ends with status 1.
"""

import argparse
import pathlib
import re
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
STRING = r'"((?:[^"\\]|\\.)*)"'
BUG = re.compile(rf"bug\({STRING}, {STRING}, \({STRING}, (\d+)\), {STRING}, {STRING}\)")
REGISTER = re.compile(r"%[a-z]+\d+\b|\$L__\w+")


def texts(revision, path):
    """The lines of a PTX file at `revision` and now."""
    name = path.relative_to(REPOSITORY)
    old = subprocess.run(["git", "-C", REPOSITORY, "show", f"{revision}:{name}"], capture_output=True, text=True, check=True)
    return old.stdout.splitlines(), path.read_text().splitlines()


def moved(old, new):
    """{index of a line of `old`: its index in `new`}, by GNU diff."""
    with tempfile.TemporaryDirectory() as folder:
        files = [pathlib.Path(folder) / name for name in ["old", "new"]]
        for file, lines in zip(files, [old, new]):
            file.write_text("\n".join(REGISTER.sub("%", line) for line in lines) + "\n")
        marks = ["--old-line-format=<", "--new-line-format=>", "--unchanged-line-format=="]
        told = subprocess.run(["diff", *marks, *files], capture_output=True, text=True).stdout
    places, a, b = {}, 0, 0
    for mark in told:
        if mark == "=":
            places[a] = b
        a, b = a + (mark != ">"), b + (mark != "<")
    return places


def renamed_before(at, old, new, places):
    """What each register of the kernel around line `at` of the old text became, by the lines up to there; the nearest tells."""
    start = max((i for i in range(at) if ".entry" in old[i]), default=0)
    pairs = [zip(REGISTER.findall(old[i]), REGISTER.findall(new[places[i]])) for i in range(start, at + 1) if i in places]
    return {before: after for pair in pairs for before, after in pair}


def replanted(line, nth, words, old, new, places):
    """A bug's line, number and words in the new text, or None if its line is not there."""
    at = [i for i, other in enumerate(old) if line in other][nth]
    if at not in places:
        return None
    names = renamed_before(at, old, new, places)
    renamed = lambda text: REGISTER.sub(lambda found: names.get(found[0], found[0]), text)
    there, line = places[at], renamed(line)
    if line not in new[there]:
        return None
    return line, sum(line in other for other in new[:there]), [renamed(word) for word in words]


def replant(source, revision, files):
    """The source of some bugs with their lines found again, and those that were not. `files` keeps what was compared."""
    lost, text = [], source.read_text()
    folder = "compute_90a" if source.stem == "wgmma_bugs" else "compute_80"

    def again(found):
        escaped = lambda i: found[i].replace("\\t", "\t")
        path = REPOSITORY / "llama-cuda" / "ptx" / folder / f"{found[2]}.ptx"
        if path not in files:
            old, new = texts(revision, path)
            files[path] = old, new, moved(old, new)
        answer = replanted(escaped(3), int(found[4]), [escaped(5), escaped(6)], *files[path])
        if answer is None:
            lost.append(f"{source.name}: {found[2]}, {found[1]}")
            return found[0]
        line, nth, words = answer
        line, *words = [text.replace("\t", "\\t") for text in [line, *words]]
        return f'bug("{found[1]}", "{found[2]}", ("{line}", {nth}), "{words[0]}", "{words[1]}")'

    return BUG.sub(again, text), lost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="the last one whose PTX the bugs fit")
    parser.add_argument("--write", action="store_true", help="change the sources")
    args = parser.parse_args()
    files, lost = {}, []
    for source in sorted(HERE.glob("tests/suite/common/*.rs")):
        text, missing = replant(source, args.revision, files)
        lost += missing
        for before, after in zip(source.read_text().splitlines(), text.splitlines()):
            if before != after:
                print(f"- {before.strip()}\n+ {after.strip()}")
        if args.write and text != source.read_text():
            source.write_text(text)
    if lost:
        raise SystemExit("\n".join(["not found:", *lost]))


if __name__ == "__main__":
    main()
