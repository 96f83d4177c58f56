"""Precision, recall, density and coverage from nearest neighbours, with exact leave-one-group-out values. NumPy only.

A sample's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour in the sample. For every
point the k + 1 nearest of each group are kept, so its radius without any one group is exact and needs no second search.

Cost: the distances of n x m pairs once for each of three pairs of sets, and 1 + G comparisons a pair.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 2048


@dataclass(frozen=True)
class Rule:
    """k; whether a point on the rim belongs to a ball (`<=`, ADM) or not (`<`, PRDC); whether distances are half precision (ADM)."""

    k: int
    closed: bool
    half: bool = False

    def inside(self, distances: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Whether each distance lies within its ball; a negative radius holds nothing."""
        found: np.ndarray = (distances <= radii) if self.closed else (distances < radii)
        return found


def squared_distances(a: np.ndarray, b: np.ndarray, half: bool) -> np.ndarray:
    """Squared Euclidean distances ``[n, m]``.

    half: as ADM's evaluator has them on a GPU, products accumulated in float32 and every result rounded to float16; float32 throughout where
    that overflows."""
    if not half:
        a, b = a.astype(np.float64), b.astype(np.float64)
        square = (a * a).sum(1)[:, None] + (b * b).sum(1)[None] - 2 * (a @ b.T)
        return np.maximum(square, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        a16, b16 = a.astype(np.float16), b.astype(np.float16)
        a32, b32 = a16.astype(np.float32), b16.astype(np.float32)
        norm_a, norm_b = ((x * x).sum(1).astype(np.float16) for x in (a32, b32))
        product = (a32 @ b32.T).astype(np.float16)
        square = np.maximum((norm_a[:, None] - np.float16(2) * product) + norm_b[None], np.float16(0))
    if np.isfinite(square).all():
        return square.astype(np.float32)
    a32, b32 = a.astype(np.float32), b.astype(np.float32)
    wide: np.ndarray = np.maximum((a32 * a32).sum(1)[:, None] - 2 * (a32 @ b32.T) + (b32 * b32).sum(1)[None], 0)
    return wide


def radii(points: np.ndarray, group: np.ndarray, count: int, rule: Rule) -> np.ndarray:
    """Squared radii ``[1 + G, n]``: whole, then without each group (-1 for that group's own points: they hold nothing)."""
    n, keep = len(points), rule.k + 1  # a point is its own nearest neighbour
    near = np.full((n, count, keep), np.inf)
    columns = [np.flatnonzero(group == g) for g in range(count)]
    for start in range(0, n, BLOCK):
        block = squared_distances(points[start : start + BLOCK], points, rule.half)
        if not rule.half:
            at = np.arange(len(block))
            block[at, start + at] = 0
        for g, chosen in enumerate(columns):
            part = block[:, chosen]
            if part.shape[1] > keep:
                part = np.partition(part, keep - 1, axis=1)[:, :keep]
            near[start : start + BLOCK, g, : part.shape[1]] = part
    out = np.empty((1 + count, n))
    out[0] = np.partition(near.reshape(n, -1), rule.k, axis=1)[:, rule.k]
    for g in range(count):
        others = np.delete(near, g, axis=1).reshape(n, -1)
        out[1 + g] = np.partition(others, rule.k, axis=1)[:, rule.k] if count > 1 else -1
        out[1 + g, columns[g]] = -1
    return out


def _mean_without(flags: np.ndarray, group: np.ndarray, count: int) -> np.ndarray:
    """Means of ``[1 + G, n]`` over the points that each variant keeps: ``[1 + G]``."""
    out = np.empty(1 + count)
    out[0] = flags[0].mean()
    for g in range(count):
        kept = group != g
        deleted = bool((~kept).any())
        out[1 + g] = flags[1 + g][kept].mean() if kept.any() and deleted else np.nan
    return out


def values(
    real: np.ndarray, fake: np.ndarray, real_group: np.ndarray, fake_group: np.ndarray, rule: Rule
) -> dict[str, np.ndarray]:
    """`precision`, `recall`, `density`, `coverage`: each ``[1 + G]``, whole and without each group.

    Both samples need more than k points. Precision: the share of fakes inside the real manifold; recall: of reals inside the fakes'
    (Kynkaanniemi et al. 2019). Density: real balls around a fake, over k; coverage: the share of real balls that hold a fake (Naeem et al. 2020).
    """
    count = int(max(real_group.max(), fake_group.max())) + 1
    real_radii = radii(real, real_group, count, rule)
    fake_radii = radii(fake, fake_group, count, rule)
    held = np.zeros((1 + count, len(fake)), bool)
    balls = np.zeros((1 + count, len(fake)))
    recalled = np.zeros((1 + count, len(real)), bool)
    covered = np.zeros((1 + count, len(real)), bool)
    for start, stop, first, last, block in _pairs(real, fake, rule):
        for variant in range(1 + count):
            inside = rule.inside(block, real_radii[variant, start:stop, None])
            balls[variant, first:last] += inside.sum(0)
            held[variant, first:last] |= inside.any(0)
            if variant:
                inside = inside & (fake_group[first:last] != variant - 1)
            covered[variant, start:stop] |= inside.any(1)
            recalled[variant, start:stop] |= rule.inside(block, fake_radii[variant, None, first:last]).any(1)
    return {
        "precision": _mean_without(held.astype(np.float64), fake_group, count),
        "recall": _mean_without(recalled.astype(np.float64), real_group, count),
        "density": _mean_without(balls / rule.k, fake_group, count),
        "coverage": _mean_without(covered.astype(np.float64), real_group, count),
    }


def _pairs(real: np.ndarray, fake: np.ndarray, rule: Rule) -> Iterator[tuple[int, int, int, int, np.ndarray]]:
    for start in range(0, len(real), BLOCK):
        for first in range(0, len(fake), BLOCK):
            rows, columns = real[start : start + BLOCK], fake[first : first + BLOCK]
            yield start, start + len(rows), first, first + len(columns), squared_distances(rows, columns, rule.half)
