"""Means by size of instance (a word, a face), as TokBench reports them: three half-open bins and their unweighted mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vtbench.api import Value
from vtbench.errors import UsageError

NAMES = ("small", "medium", "large")


def edges_for(table: Mapping[str, Sequence[float]], resolution: int | None, what: str) -> list[float]:
    """The four edges of the three bins at a resolution; raises `UsageError` where the protocol has none."""
    edges = table.get(str(resolution))
    if edges is None:
        raise UsageError(
            f"the protocol has no sizes of {what} for the resolution {resolution or 'native'}",
            f"It has them for {', '.join(table)}",
        )
    if len(edges) != len(NAMES) + 1 or any(a >= b for a, b in pairwise(edges)):
        raise UsageError(f"the sizes of {what} at {resolution} are {len(NAMES) + 1} rising edges, not {list(edges)}")
    return list(edges)


def bin_of(ratio: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """The bin [a, b) of each ratio, int ``[R]``; -1 outside all of them (and for nan)."""
    index = np.searchsorted(np.asarray(edges, np.float64), ratio, side="right") - 1
    return np.where((index >= 0) & (index < len(edges) - 1), index, -1)


def mean_of_bins(samples: np.ndarray, which: np.ndarray) -> float:
    """The unweighted mean of the bins' means; nan when a bin is empty."""
    counts = np.bincount(which, minlength=len(NAMES))
    if not counts.all():
        return float("nan")
    return float((np.bincount(which, samples, minlength=len(NAMES)) / counts).mean())


def by_size(
    samples: np.ndarray,
    image: np.ndarray,
    which: np.ndarray,
    groups: np.ndarray,
    *,
    what: str,
    notes: Mapping[str, Any],
) -> Iterator[Value]:
    """One value a bin and their mean.

    samples ``[R]``; image ``[R]``, the image of each; which ``[R]``, its bin (-1: left out); groups ``[M]``, the jackknife group of
    each image. The bins' intervals come from the bootstrap by image; the mean's from deleting each group of images in turn.
    """
    used = which >= 0
    samples, image, which = np.asarray(samples, np.float64)[used], image[used], which[used]
    if not samples.size:
        yield Value(slice="mean", status="skipped", why=f"no {what} to score", notes=notes)
        return
    for number, name in enumerate(NAMES):
        chosen = which == number
        if chosen.any():
            yield Value(samples=samples[chosen], image=image[chosen], n=int(chosen.sum()), slice=name)
        else:
            yield Value(slice=name, status="skipped", why=f"no {what} of this size")
    empty = [name for number, name in enumerate(NAMES) if not (which == number).any()]
    if empty:
        why = f"no {what} among the {' and the '.join(empty)} ones"
        yield Value(slice="mean", status="skipped", why=why, n=samples.size, notes=notes)
        return
    group = groups[image]
    without = np.full(int(groups.max()) + 1, np.nan)
    for g in np.unique(group):
        without[g] = mean_of_bins(samples[group != g], which[group != g])
    yield Value(value=mean_of_bins(samples, which), n=samples.size, groups=without, slice="mean", notes=notes)
