"""The oldest corner that vtbench supports, and the newest: an environment each, and the core tests in it.

    python tests/corners.py oldest --python python3.10 --at /tmp/oldest
    python tests/corners.py newest --python python3.13 --at /tmp/newest

First an environment as somebody who trains has it: torch, torchvision and NumPy, nothing else. `pip install .` beside them must leave
the three as they are. For the oldest corner every other package is then put down to its lower bound in pyproject.toml. The tests that need
an extra skip themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
THEIRS = ("torch", "torchvision", "numpy")
LEFT_OUT = (
    "tests/test_wheel.py",  # builds with hatchling, which is of [dev]
    "tests/test_docs.py::test_the_generated_pages_are_current",  # --help as the newest typer words it
)


def bounds() -> dict[str, str]:
    """The lower bound of every core dependency, from pyproject.toml."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert listed is not None
    return dict(re.findall(r'"([\w-]+)>=([\d.]+)', listed[1]))


def versions(python: Path) -> dict[str, str]:
    """What is installed, by name."""
    found = subprocess.run(
        [python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True
    )
    return {entry["name"].lower(): entry["version"] for entry in json.loads(found.stdout)}


def pip(python: Path, *arguments: str) -> None:
    """Run pip in an environment."""
    print("$ pip", *arguments, flush=True)
    subprocess.run([python, "-m", "pip", *arguments], check=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a corner and test it; the tests' exit code, or 1 when installing moved somebody's torch."""
    parser = argparse.ArgumentParser(
        description="Build the oldest or the newest supported environment and test vtbench in it."
    )
    parser.add_argument("corner", choices=("oldest", "newest"))
    parser.add_argument("--python", default=sys.executable, help="the interpreter of the environment")
    parser.add_argument("--at", type=Path, required=True, help="where the environment goes")
    parser.add_argument("tests", nargs="*", default=["tests"], help="what pytest runs (default: tests)")
    given = parser.parse_args(arguments)
    lowest = bounds()
    subprocess.run([given.python, "-m", "venv", given.at], check=True)
    python = given.at / ("Scripts" if os.name == "nt" else "bin") / "python"
    pip(python, "install", *(f"{n}=={lowest[n]}" if given.corner == "oldest" else n for n in THEIRS))
    before = {name: versions(python)[name] for name in THEIRS}
    pip(python, "install", str(ROOT))
    after = {name: versions(python)[name] for name in THEIRS}
    print(f"before: {before}\nafter:  {after}", flush=True)
    if before != after:
        print("installing vtbench replaced what was there")
        return 1
    if given.corner == "oldest":
        pip(python, "install", *(f"{name}=={version}" for name, version in lowest.items()))
    pip(python, "install", "pytest", "hypothesis")
    left_out = [f"--deselect={test}" if "::" in test else f"--ignore={test}" for test in LEFT_OUT]
    return subprocess.run([python, "-m", "pytest", "-q", *left_out, *given.tests], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
