"""TOML and JSON files as plain data, and their fields checked by type: such files come from strangers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vtbench.errors import VtbenchError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = Any
"""`str`, `int`, `float` (whole numbers too), `bool`, `dict`, None; ``[kind]``: a list of them; ``(kind, kind)``: one of them."""

_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a table",
    None: "nothing",
}


def toml(path: Path, error: type[VtbenchError], what: str = "") -> dict[str, Any]:
    """The table in a TOML file. what: how messages call it (default: its path). Raises `error` when it is none."""
    found = _parsed(path, error, what or str(path), "TOML", tomllib.loads)
    return dict(found)


def loads_json(path: Path, error: type[VtbenchError], what: str = "") -> Any:
    """What a JSON file holds. what: how messages call it (default: its path). Raises `error` when it is none."""
    return _parsed(path, error, what or str(path), "JSON", json.loads)


def _parsed(path: Path, error: type[VtbenchError], what: str, kind: str, parse: Any) -> Any:
    try:
        return parse(path.read_text("utf-8"))
    except OSError as cause:
        raise error(f"{what} cannot be read: {cause.strerror or cause}") from cause
    except RecursionError as cause:
        raise error(f"{what} is not a {kind} file that can be read: it is nested too deeply") from cause
    except ValueError as cause:
        raise error(f"{what} is not a {kind} file: {cause}") from cause


def is_file(path: Path) -> bool:
    """Whether there is such a file; no for a name that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def fits(value: Any, kind: Kind) -> bool:
    """Whether a value is of a kind."""
    if isinstance(kind, tuple):
        return any(fits(value, one) for one in kind)
    if isinstance(kind, list):
        return isinstance(value, list) and all(fits(item, kind[0]) for item in value)
    if kind is None:
        return value is None
    if kind in (int, float):
        return isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
    return isinstance(value, kind)


def expect(table: Any, kinds: Mapping[str, Kind], where: str, error: type[VtbenchError]) -> None:
    """Raise `error` when `table` is no table, or one of its fields is of another kind; fields that `kinds` does not name may be anything."""
    if not isinstance(table, dict):
        raise error(f"{where} is not a table: {table!r:.60}")
    for key, kind in kinds.items():
        if key in table and not fits(table[key], kind):
            raise error(f"{where}: '{key}' must be {_worded(kind)}, not {table[key]!r:.60}")


def _worded(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return " or ".join(_worded(one) for one in kind)
    if isinstance(kind, list):
        return f"a list ({_worded(kind[0])} each)"
    return _WORDS[kind]
