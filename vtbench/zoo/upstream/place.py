"""Where an upstream system runs: its interpreter, its checkout, and at which commit. Made by `setup.py`, or named by the user with ``--upstream``."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from vtbench import weights
from vtbench.errors import UnknownName, UsageError, VtbenchError

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

FOLDER = "VTBENCH_ENVIRONMENTS"
RECORD = "environment.json"
CODE = (".py", ".yaml", ".yml", ".json", ".toml")
DRIVERS = Path(__file__).parent / "drivers"


@dataclass(frozen=True)
class Recipe:
    """A card's ``[upstream]`` table: what its authors' code is and needs.

    repository: to clone. commit: the one that the driver was written for. driver: the file in ``drivers/`` (and the name of the environment, shared by cards that
    name the same one); empty: the card's name. subfolders: of the checkout, put on ``sys.path``; empty: the checkout itself. submodules: whether to clone those too. packages: pip requirements of
    the environment, torch among them. python: what the interpreter must be (``>=3.10``). size: of the packages, for people. licence: of code and weights, in words. note: anything else to say before installing.
    """

    repository: str = ""
    commit: str = ""
    driver: str = ""
    subfolders: tuple[str, ...] = ()
    submodules: bool = False
    packages: tuple[str, ...] = ()
    python: str = ">=3.10"
    size: str = ""
    licence: str = ""
    note: str = ""

    @classmethod
    def from_table(cls, table: Mapping[str, Any], card: str) -> Recipe:
        """A recipe from a card's table; unknown fields are refused by name, absent ones that must be there too."""
        known = {f.name for f in fields(cls)}
        for key in table:
            if key not in known:
                raise UnknownName(f"field of [upstream] in the card {card}", key, known)
        for key in ("repository", "commit", "packages"):
            if not table.get(key):
                raise UsageError(f"the card {card}: [upstream] lacks '{key}'")
        made: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        return cls(**{"driver": card, **made})

    def driver_file(self) -> Path:
        """The driver: a name in ``drivers/``, or an absolute path (a plug-in's own)."""
        named = Path(self.driver)
        return named if named.is_absolute() else DRIVERS / f"{self.driver}.py"


@dataclass(frozen=True)
class Place:
    """An environment that stands. python: its interpreter. source: the checkout. commit: of the checkout, with a digest behind it when files were changed."""

    python: str
    source: str
    commit: str
    packages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.python} with {self.source} ({self.commit})"


@cache
def driver(path: Path) -> ModuleType:
    """A driver's module, imported here for its signature and version: it imports nothing heavy at the top."""
    if not path.is_file():
        raise VtbenchError(f"there is no driver {path}")
    from vtbench.zoo.upstream.worker import load_driver

    module: ModuleType = load_driver(str(path))
    return module


def folder(name: str) -> Path:
    """Where the environment of a driver lies: in VTBENCH_ENVIRONMENTS, or the platform's cache."""
    named = os.environ.get(FOLDER)
    return (Path(named).expanduser() if named else weights.cache_folder().parent / "upstream") / Path(name).stem


def standing(card: Card) -> Place | None:
    """The recorded environment of a card's system, or None: there is none, or it needs none."""
    recipe = card.recipe()
    return recorded(recipe.driver) if recipe is not None else None


def recorded(name: str) -> Place | None:
    """The environment that `vtbench models setup` made or noted, or None. One that was removed since counts as none."""
    path = folder(name) / RECORD
    if not path.is_file():
        return None
    try:
        table = json.loads(path.read_text("utf-8"))
        known = {f.name for f in fields(Place)}
        told: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in known}
        made = Place(**told)
    except (ValueError, TypeError) as error:
        raise VtbenchError(
            f"{path} cannot be read ({error})", f"`vtbench models setup {Path(name).stem}` makes it anew"
        ) from error
    return made if Path(made.python).is_file() and Path(made.source).is_dir() else None


def record(name: str, place: Place) -> Path:
    """Note an environment."""
    from vtbench.atomic import replace_file

    path = folder(name) / RECORD
    replace_file(path, json.dumps(asdict(place), indent=1).encode())
    return path


def find(card: Card, given: str | Path | None = None) -> Place:
    """The environment of a card's system. given: a checkout (``--upstream``); its own ``.venv`` or ``venv`` is taken where it has one, else the recorded
    environment's interpreter, else the one that runs vtbench. Raises `VtbenchError` with the command that makes one."""
    recipe = card.recipe()
    assert recipe is not None
    there = recorded(recipe.driver)
    if given is None:
        if there is None:
            raise VtbenchError(f"{card.title or card.name} does not run here: no environment for it", how(card))
        return replace(there, commit=commit_of(Path(there.source)))  # a checkout of the user's may have moved on
    source = Path(given).expanduser().absolute()
    if not source.is_dir():
        raise UsageError(f"no folder {source}", "Look at what stands after --upstream")
    own = next((p for v in (".venv", "venv") if (p := source / v / "bin" / "python").is_file()), None)
    python = str(own) if own else there.python if there else sys.executable
    return Place(python, str(source), commit_of(source))


def how(card: Card) -> str:
    """The way out where the environment is missing."""
    return (
        f"`vtbench models setup {card.name}` says what it needs and makes it; a checkout that you have: --upstream DIR"
    )


def commit_of(source: Path) -> str:
    """The commit of a checkout; code that was changed since adds a digest. A folder without git gives the digest of its code alone."""
    try:
        head = _git(source, "rev-parse", "HEAD")
        kinds = [f"*{suffix}" for suffix in CODE]
        changed = _git(source, "status", "--porcelain", "--untracked-files=no", "--", *kinds)
    except (OSError, subprocess.SubprocessError):
        return f"code:{_code_digest(source)}"
    return f"{head}+{_code_digest(source)}" if changed else head


def _git(source: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(source), *words], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def _code_digest(source: Path) -> str:
    """Of the Python files and configurations below a folder, environments left out."""
    hashed = hashlib.sha256()
    skipped = {".git", ".venv", "venv", "__pycache__", "node_modules"}
    for path in sorted(p for p in source.rglob("*") if p.suffix in CODE):
        relative = path.relative_to(source)
        if path.is_file() and not skipped & set(relative.parts):
            hashed.update(f"{relative.as_posix()}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return hashed.hexdigest()[:16]
