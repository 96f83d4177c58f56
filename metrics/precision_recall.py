"""Precision, recall, density and coverage of Inception features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from vtbench.api import Fields, Measurements, Value, metric

from . import _neighbours
from ._features import FIELDS, inception_needs, rows, unusable

NEIGHBOUR_FIELDS = (*FIELDS, "neighbours", "rim", "neighbour_dtype")
_last: tuple[tuple[int, ...], dict[str, np.ndarray]] | None = None


def _all_four(m: Measurements, p: Fields) -> dict[str, np.ndarray]:
    """The four values; they share their distances, and the four metrics of one cell are computed one after another."""
    global _last
    fake, real = rows(m["fake"]), rows(m["reference"])
    rule = _neighbours.Rule(int(p["neighbours"]), p["rim"] == "inside", p["neighbour_dtype"] == "float16")
    key = (*(hash(a.tobytes()) for a in (fake, real, m.groups)), hash(rule))
    if _last is None or _last[0] != key:
        groups = m.group_of(m["reference"]), m.group_of(m["fake"])
        _last = key, _neighbours.values(real, fake, *groups, rule)
    return _last[1]


def _declare(
    name: str, title: str, source: str, most: float = 1.0
) -> Callable[[Measurements, Fields], Iterable[Value]]:
    @metric(
        name,
        needs=lambda p: inception_needs(p, "pool3"),
        better="higher",
        fields=NEIGHBOUR_FIELDS,
        title=title,
        source=source,
        tolerance=1e-2,
        compares="sets",
        bounds=(0.0, most),
    )
    def compute(m: Measurements, p: Fields) -> Iterator[Value]:
        problem = unusable(m, "fake", "reference", least=int(p["neighbours"]) + 2)
        if problem:
            yield problem
            return
        found = _all_four(m, p)[name]
        yield Value(value=float(found[0]), n=len(m["fake"].array()), groups=found[1:])

    return compute


KYNKAANNIEMI = "Kynkäänniemi et al. 2019, arXiv 1904.06991"
NAEEM = "Naeem et al. 2020, arXiv 2002.09797"
precision = _declare("precision", "Share of the outputs that lie in the ground truth's manifold", KYNKAANNIEMI)
recall = _declare("recall", "Share of the ground truth that lies in the outputs' manifold", KYNKAANNIEMI)
density = _declare("density", "Balls of the ground truth around an output, over k", NAEEM, math.inf)
coverage = _declare("coverage", "Share of the ground truth's balls that hold an output", NAEEM)
