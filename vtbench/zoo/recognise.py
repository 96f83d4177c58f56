"""Which published checkpoint a state dict is, by its tensors' names and shapes: for the error that says so when a file of another model was given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vtbench.zoo import layout
from vtbench.zoo.catalogue import FOLDER, read

ENOUGH = 0.5
"""Share of names that must agree before a guess is worth telling."""


def recognise(state: Mapping[str, Any]) -> str:
    """The card whose checkpoint is nearest; empty when none is near.

    state: tensors (or anything with a `shape`) by name. The score of a full layout is the share of the names of both that agree, names with
    equal shapes counting double; a card with a `signature` instead is taken when all of it is there (0 stands for any size)."""
    shapes = {name: list(getattr(value, "shape", ())) for name, value in state.items()}
    for path in sorted(FOLDER.glob("*.toml")):
        signature = read(path).signature
        if signature and all(
            name in shapes and len(shapes[name]) == len(shape) and all(w in (0, s) for w, s in zip(shape, shapes[name]))
            for name, shape in signature.items()
        ):
            return path.stem
    best, most = "", ENOUGH
    for name in layout.names():
        known = layout.layout(name).shapes
        common = known.keys() & shapes.keys()
        equal = sum(list(known[k]) == shapes[k] for k in common)
        score = (len(common) + equal) / (2 * len(known.keys() | shapes.keys()))
        if score > most:
            best, most = name, score
    return best
