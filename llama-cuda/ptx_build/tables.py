"""The two tables that kernels are held to, budgets.txt, which the build writes, and sass.txt, which people write; and
assembled.txt, which tells what was held to them.

budgets.txt has a line a kernel and set: static shared memory, then registers on each architecture of the set. sass.txt has
lines `pattern set words`: the first line that fits a kernel says which instructions must be in it. No kernel may spill or
touch local memory, whatever the tables say.

assembled.txt has a line a PTX file that was found right on every architecture: its set and name, and a hash of all that this
depends on. Whoever computes the same hash knows what the answer would be, and need not ask for minutes.
"""

import fnmatch


def rows(text):
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_budgets(text):
    """{(set, kernel): (shared, [registers by architecture])}"""
    return {(row[0], row[1]): (int(row[2]), [int(n) for n in row[3:]]) for row in rows(text)}


def budget(by_arch):
    """The budget line of a kernel that uses what `by_arch` ({arch: facts}) says."""
    facts = by_arch.values()
    return max(f["shared"] for f in facts), [f["registers"] for f in facts]


def write_budgets(sets, budgets):
    lines = ["# Most that ptxas may use: set, kernel, static shared bytes, registers on each architecture of the set."]
    lines += [f"# {name}: {' '.join(s.archs)}" for name, s in sets.items()]
    for (name, kernel), (shared, registers) in sorted(budgets.items()):
        lines.append(" ".join(map(str, [name, kernel, shared, *registers])))
    return "\n".join(lines) + "\n"


def over_budget(key, by_arch, budgets):
    """Complaints about one kernel's registers, shared memory and spills."""
    shared, registers = budgets.get(key, (0, []))
    if len(registers) != len(by_arch):
        yield f"{' '.join(key)}: has no budget; build without --check to write one"
        return
    for (arch, facts), allowed in zip(by_arch.items(), registers):
        if facts["registers"] > allowed or facts["shared"] > shared:
            used = f"{facts['registers']} registers and {facts['shared']} bytes shared"
            yield f"{' '.join(key)} on {arch}: {used}, over the budget of {allowed} and {shared}"
        if facts["spilled"]:
            yield f"{' '.join(key)} on {arch}: {facts['spilled']} bytes spilled or on a stack"


def required(key, table):
    """The words that sass.txt wants in a kernel."""
    for pattern, name, *wanted in table:
        if fnmatch.fnmatchcase(key[1], pattern) and fnmatch.fnmatchcase(key[0], name):
            return [word for word in wanted if word != "-"]
    return None


def lacking(key, by_arch, table):
    """Complaints about one kernel's machine code, on the architectures it was disassembled for."""
    wanted = required(key, table)
    if wanted is None:
        yield f"{' '.join(key)}: no line of sass.txt fits"
        return
    for arch, facts in by_arch.items():
        if "words" not in facts:
            continue
        missing = [word for word in wanted if word not in facts["words"]]
        if missing:
            yield f"{' '.join(key)} on {arch}: no {' or '.join(missing)} in its machine code"
        if "local" in facts["words"]:
            yield f"{' '.join(key)} on {arch}: touches local memory"


def idle_lines(keys, table):
    """Lines of sass.txt that fit no kernel: a name was changed, or the line never meant anything."""
    for pattern, name, *wanted in table:
        if pattern != "*" and not any(fnmatch.fnmatchcase(k, pattern) and fnmatch.fnmatchcase(s, name) for s, k in keys):
            yield f"sass.txt: no kernel fits {' '.join([pattern, name, *wanted])}"


def read_assembled(text):
    """{(set, name): hash}"""
    return {(row[0], row[1]): row[2] for row in rows(text)}


def write_assembled(proofs):
    lines = ["# PTX that was found right on every architecture: set, name, and a hash of what that depends on."]
    lines += [" ".join([*file, proof]) for file, proof in sorted(proofs.items())]
    return "\n".join(lines) + "\n"


def unassembled(told, proofs):
    """Complaints about files that assembled.txt (`told`) does not tell of as they are, or that are not."""
    for file in sorted(told.keys() | proofs.keys()):
        if told.get(file) != proofs.get(file):
            yield f"{' '.join(file)} is not what was assembled last, or was found wrong: run build-ptx.py"
