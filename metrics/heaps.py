"""Vocabulary growth: Heaps' law as its local slope, since no single exponent holds for a finite codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.tokens import growth
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")
PARTS = (0.01, 0.1, 1.0)


def _label(part: float) -> str:
    return "" if part == 1.0 else f"at={part:g}"


@metric(
    "heaps_slope",
    needs=needs,
    fields=FIELDS,
    title="Local slope d ln V / d ln n of the vocabulary after 1 %, 10 % and all of the images",
    source="rarefaction over the images in closed form, the mean over all their orders (Mao, Colwell and Chang 2005)",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1.0),
)
@per_unit
def heaps_slope(study: Study, p: Fields) -> Iterator[Value]:
    """1 where every token is new, 0 where none is. Nulls: uniform K (1 - (1 - 1/K)^n), and the shuffled tokens' own rarefaction."""
    counts = study.counts
    occupied, units = counts.images.sum(axis=0), int(counts.sizes.sum())
    at = np.array([max(1, round(part * units)) for part in PARTS])
    curve_at = np.unique(np.geomspace(1, max(1, units), 60).round().astype(int))
    curve = growth.rarefied(occupied, units, curve_at)
    per_image = counts.n / units
    left = np.full((len(counts.sizes), len(PARTS)), math.nan)
    for g, size in enumerate(counts.sizes):
        if 0 < size < units:
            rest = units - int(size)
            kept = np.array([max(1, round(part * rest)) for part in PARTS])
            left[g] = _at(growth.rarefied(occupied - counts.images[g], rest, kept), kept)
    whole = _at(growth.rarefied(occupied, units, at), at)
    for i, part in enumerate(PARTS):
        notes = study.law_note() | {"tokens_at": float(at[i] * per_image)}
        if part == 1.0:
            notes["curve"] = {
                "n": (curve.at * per_image).tolist(),
                "seen": curve.seen.tolist(),
                "uniform": growth.uniform(study.size, curve.at * per_image).seen.tolist(),
            }
        n = round(at[i] * per_image)
        yield Value(value=whole[i], n=counts.n, groups=left[:, i], slice=study.slice(_label(part)), notes=notes)
        flat = growth.uniform(study.size, np.array([float(n)])).slope[0]
        yield Value(
            value=float(flat), n=counts.n, slice=study.slice(_label(part), "null=uniform"), notes={"at_tokens": n}
        )
        mixed = growth.rarefied(counts.total, counts.n, np.array([n])).slope[0]
        yield Value(
            value=float(mixed), n=counts.n, slice=study.slice(_label(part), "null=shuffled"), notes={"at_tokens": n}
        )


def _at(found: growth.Growth, wanted: np.ndarray) -> np.ndarray:
    out: np.ndarray = found.slope[np.searchsorted(found.at, wanted)]
    return out


@metric(
    "innovation_rate",
    needs=needs,
    unit="symbols/1k tokens",
    fields=FIELDS,
    title="New symbols per thousand tokens in the last image of a random order",
    source="rarefaction: symbols that occur in one image only, over the number of images",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1000.0),
)
@per_unit
def innovation_rate(study: Study, p: Fields) -> Iterator[Value]:
    """How fast the vocabulary still grows at the end of the set."""
    counts = study.counts
    occupied, units = counts.images.sum(axis=0), int(counts.sizes.sum())
    tokens = counts.tokens.sum(axis=1)
    groups = [
        1000.0 * ((occupied - images) == 1).sum() / (counts.n - own) if 0 < own < counts.n else math.nan
        for images, own in zip(counts.images, tokens)
    ]
    notes = study.law_note()
    value = 1000.0 * float((occupied == 1).sum()) / counts.n
    yield Value(value=value, n=counts.n, groups=np.array(groups), slice=study.slice(), notes=notes)
    found = growth.uniform(study.size, np.array([counts.n * (1 - 0.5 / units)]))
    rate = 1000.0 * float(found.slope[0] * found.seen[0] / found.at[0])
    yield Value(value=rate, n=counts.n, slice=study.slice("null=uniform"), notes=notes)
