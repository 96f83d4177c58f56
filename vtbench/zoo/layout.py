"""The key layouts of published checkpoints, as data: names, shapes and counts of one file each, in ``layouts/*.json``.

Names are written as patterns: ``{0-3}`` stands for the numbers 0 to 3, ``{bias,weight}`` for either word, and a pattern for every combination. Reading
a layout imports no torch.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtbench.errors import UnknownName

FOLDER = Path(__file__).parent / "layouts"
_BRACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Layout:
    """One checkpoint. adapter, params: what loads it. source: where the layout comes from. executed: whether the authors' own class was built to get
    it. shapes: of every tensor, in the file's names. tensors, parameters: how many, as stored in the data and so a check on `shapes`."""

    name: str
    adapter: str
    source: str
    executed: bool
    tensors: int
    parameters: int
    shapes: Mapping[str, tuple[int, ...]]
    params: Mapping[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """The checkpoints whose layout is known."""
    return sorted(p.stem for p in FOLDER.glob("*.json"))


def layout(name: str) -> Layout:
    """One layout. Raises `UnknownName`."""
    path = FOLDER / f"{name}.json"
    if not path.is_file():
        raise UnknownName("layout", name, names())
    table = json.loads(path.read_text("utf-8"))
    shapes = shapes_of(table.pop("keys"))
    return Layout(name=name, shapes=shapes, **table)


def shapes_of(keys: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """Patterns with their shapes -> every name with its shape."""
    return {name: tuple(shape) for pattern, shape in keys.items() for name in expand(pattern)}


def expand(pattern: str) -> list[str]:
    """Every name that a pattern stands for."""
    pieces = _BRACE.split(pattern)
    choices = [_choices(piece) if i % 2 else [piece] for i, piece in enumerate(pieces)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


def _choices(brace: str) -> list[str]:
    if match := re.fullmatch(r"(\d+)-(\d+)", brace):
        return [str(i) for i in range(int(match[1]), int(match[2]) + 1)]
    return brace.split(",")


def compact(shapes: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """The inverse of `shapes_of`: as few patterns as merging one dotted part at a time finds."""
    left = {tuple(name.split(".")): tuple(shape) for name, shape in shapes.items()}
    for place in range(max(map(len, left), default=0)):
        groups: dict[tuple[Any, ...], list[str]] = {}
        for parts, shape in left.items():
            if place < len(parts):
                groups.setdefault((parts[:place], parts[place + 1 :], shape), []).append(parts[place])
        merged = {parts: shape for parts, shape in left.items() if place >= len(parts)}
        for (before, after, shape), words in groups.items():
            for word in _merge(words):
                parts = (*before, word, *after)
                merged[parts] = shape
        left = merged
    return {".".join(parts): list(shape) for parts, shape in sorted(left.items())}


def _merge(words: Iterable[str]) -> list[str]:
    numbers = sorted(int(w) for w in words if w.isdigit())
    texts = sorted(w for w in words if not w.isdigit())
    out = (
        [texts[0]]
        if len(texts) == 1
        else ["{" + ",".join(texts) + "}"]
        if texts and not any("{" in t for t in texts)
        else texts
    )
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        values = [value for _, value in run]
        out.append(str(values[0]) if len(values) == 1 else f"{{{values[0]}-{values[-1]}}}")
    return out


def elements(shapes: Mapping[str, Sequence[int]]) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(shape) for shape in shapes.values())
