"""What n-gram counts say, reduced to numbers at once, since the counts themselves take hundreds of megabytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vtbench.tokens import entropy
from vtbench.tokens.counts import Grams
from vtbench.tokens.zipf import Refit, Split, fit, ranked

NEW = 0.9
"""Above this V/N nearly every token is new, and no law can be fitted."""


@dataclass(frozen=True)
class GramLaw:
    """n windows, V types, their plug-in and Chao-Wang-Jost entropies in bits (with leave-one-group-out values of the plug-in), and the
    cross-fitted exponent (nan where V/N > 0.9, or where only one half of the images has any)."""

    n: int
    types: int
    entropy: float
    entropy_groups: np.ndarray
    entropy_cwj: float
    exponent: Split
    distinct_groups: np.ndarray


def law(grams: Grams, size: float, *, intervals: bool) -> GramLaw:
    """The numbers of n-grams over `size` = K^n possible types; `intervals`: whether the exponent gets leave-one-out values."""
    value, left = entropy.of_grams(grams)
    nothing = Split(math.nan, math.nan, None)
    fits = grams.n > 0 and grams.types <= NEW * grams.n
    return GramLaw(
        grams.n,
        grams.types,
        value,
        left,
        entropy.chao_wang_jost(grams.totals) if grams.n else math.nan,
        exponent(grams, size, intervals=intervals) if fits else nothing,
        _distinct_without(grams),
    )


def _distinct_without(grams: Grams) -> np.ndarray:
    """V/N without each group: a type goes when the group has all of its occurrences."""
    own = grams.count == grams.of_run if grams.n else np.zeros(0, bool)
    gone = np.bincount(grams.group, weights=own, minlength=grams.groups)
    taken = np.bincount(grams.group, weights=grams.count, minlength=grams.groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = (grams.types - gone) / (grams.n - taken)
    left[taken == 0] = math.nan
    return left


def exponent(grams: Grams, size: float, *, intervals: bool) -> Split:
    """The cross-fitted Zipf-Mandelbrot exponent of n-gram types, even groups of images against odd ones."""
    a, b = grams.halves()
    if not a.any() or not b.any():
        return Split(math.nan, math.nan, None)
    halves = (a, b)
    pairs = [_tables(halves[i], halves[1 - i]) for i in (0, 1)]
    blocks = [ranked(t, s, size) for t, s in pairs]
    whole = [fit(b, size) for b in blocks]
    left = None
    if intervals:
        left = np.full(grams.groups, math.nan)
        again = [Refit(w, b, size) for w, b in zip(whole, blocks)]
        order = np.argsort(grams.group, kind="stable")
        edges = np.searchsorted(grams.group[order], np.arange(grams.groups + 1))
        for g in range(grams.groups):
            runs = order[edges[g] : edges[g + 1]]
            if not runs.size:
                continue
            types, count = grams.type[runs], grams.count[runs].astype(np.int64)
            had = (a[types], b[types])
            fits = []
            for i in (0, 1):
                by, other = had[i], had[1 - i]
                t, s = pairs[i][0].astype(np.float64), pairs[i][1].copy()
                if g % 2 == i:  # the group is of the ranking half: its types move down
                    t += np.bincount(by - count, minlength=t.size) - np.bincount(by, minlength=t.size)
                    s += np.bincount(by - count, other, t.size) - np.bincount(by, other, t.size)
                else:
                    s -= np.bincount(by, count, s.size)
                fits.append(again[i](ranked(t, s, size)))
            left[g] = np.mean(fits)
    return Split(float(np.mean([f.s for f in whole])), float(np.mean([f.q for f in whole])), left)


def _tables(by: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.bincount(by), np.bincount(by, weights=other)


def uniform_law(n: int, size: float, seed: int) -> GramLaw:
    """The matched uniform null: n windows over `size` equally likely types, drawn without drawing the windows.

    Few types: a multinomial draw. Many: the number of types seen a times in one half and b in the other is a Poisson draw around
    `size` Poisson(a) Poisson(b), which is the same law up to the fixed n."""
    rng = np.random.default_rng(seed)
    half = n // 2
    if n < 2:
        return law(_no_grams(), size, intervals=False)
    if size <= 1 << 20:
        even = np.full(int(size), 1 / size)
        a, b = rng.multinomial(half, even), rng.multinomial(n - half, even)
        times = np.ones(a.size, np.int64)
    else:
        rate = half / size
        reach = int(rate + 12 * math.sqrt(rate) + 30)
        log_p = np.arange(reach) * math.log(rate) - rate - np.array([math.lgamma(i + 1) for i in range(reach)])
        table = rng.poisson(size * np.exp(log_p[:, None] + log_p[None, :]))
        table[0, 0] = 0
        a, b = np.nonzero(table)
        times = table[a, b]
    seen = a + b > 0
    drawn = float(times @ (a + b))
    types = int(times[seen].sum())
    value = math.log2(drawn) - float(times[seen] @ ((a + b) * np.log2(np.maximum(a + b, 1)))[seen]) / drawn
    exponent = Split(math.nan, math.nan, None)
    if types <= NEW * drawn:
        fits = [
            fit(ranked(np.bincount(x, times).astype(np.float64), np.bincount(x, times * y), size), size)
            for x, y in ((a, b), (b, a))
        ]
        exponent = Split(float(np.mean([f.s for f in fits])), float(np.mean([f.q for f in fits])), None)
    none = np.zeros(0)
    return GramLaw(int(drawn), types, value, none, math.nan, exponent, none)


def _no_grams() -> Grams:
    empty = np.zeros(0, np.int32)
    return Grams(empty, empty.astype(np.uint8), empty, empty, 0, 1)
