"""Many codebooks in few rows: a product code of 32 channels is told by the mean over its codebooks, with each one's value in the notes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

from vtbench.api import Value

MOST = 8
"""Codebooks of a stream that have rows of their own."""

_BOOK = re.compile(r"codebook=(\d+)")


def condensed(values: Iterable[Value]) -> Iterator[Value]:
    """The values as they are, or, where a slice has more than `MOST` codebooks, one ``codebook=mean`` in their place.

    The mean is over the codebooks that have a value, and its leave-one-out values are the means of theirs. Where none has one, the row
    is skipped with the first reason. notes: `codebooks`, the values in order (nan: skipped)."""
    families: dict[str, list[Value]] = {}
    plain: list[tuple[str, Value]] = []
    for value in values:
        found = _BOOK.search(value.slice)
        name = _BOOK.sub("codebook=mean", value.slice) if found else value.slice
        if found:
            families.setdefault(name, []).append(value)
        plain.append((name if found else "", value))
    told: set[str] = set()
    for name, value in plain:
        if not name or len(families[name]) <= MOST:
            yield value
        elif name not in told:
            told.add(name)
            yield _mean(name, families[name])


def number(value: Value) -> float:
    """A value's point estimate; nan when it was skipped."""
    if value.status == "skipped":
        return math.nan
    if value.samples is not None:
        return float(np.mean(value.samples)) if np.size(value.samples) else math.nan
    return math.nan if value.value is None else float(value.value)


def mean_bounds(values: Iterable[Value]) -> tuple[float, float] | None:
    """The ends of the scale of a mean of values; None where one states none."""
    known = [v.bounds for v in values]
    ends = [b for b in known if b is not None]
    return (
        (float(np.mean([a for a, _ in ends])), float(np.mean([b for _, b in ends])))
        if len(ends) == len(known)
        else None
    )


def _mean(name: str, values: list[Value]) -> Value:
    each = [number(v) for v in values]
    kept = [v for v, x in zip(values, each) if not math.isnan(x)]
    notes = {"codebooks": [round(x, 6) for x in each]}
    if not kept:
        return Value(status="skipped", why=values[0].why, slice=name, n=values[0].n, notes=notes)
    groups = [v.groups for v in kept if v.groups is not None]
    same = len(groups) == len(kept) and len({len(g) for g in groups}) == 1
    return Value(
        value=float(np.nanmean(each)),
        n=kept[0].n,
        groups=np.mean(groups, axis=0) if same else None,
        slice=name,
        why=next((v.why for v in kept if v.why), ""),
        notes=notes,
        bounds=mean_bounds(kept),
    )
