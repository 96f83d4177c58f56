"""Entropy in bits from counts: plug-in and its corrections, and the delete-group jackknife over images.

Every correction for independent draws (Miller-Madow, Chao-Wang-Jost) fails when images cluster their tokens; the jackknife over
groups of images sees the clustering. Plug-in values are always printed beside.
"""

from __future__ import annotations

import math

import numpy as np

from vtbench.tokens.counts import Counts, Grams

LN2 = math.log(2)


def spectrum(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct positive counts, and how many symbols have each."""
    if counts.size and counts.max() <= 4 * counts.size + 1024:
        times = np.bincount(counts)
        times[0] = 0
        values = np.flatnonzero(times)
        return values, times[values]
    return np.unique(counts[counts > 0], return_counts=True)


def plugin(counts: np.ndarray) -> float:
    """Plug-in entropy in bits of counts of any shape; nan without counts."""
    kept = counts[counts > 0].astype(np.float64)
    n = kept.sum()
    return float(np.log2(n) - (kept @ np.log2(kept)) / n) if n else math.nan


def miller_madow(counts: np.ndarray) -> float:
    """Plug-in plus (V - 1) / 2N, with V the symbols that occur: nominal K would be wrong by dead codes (Miller, 1955)."""
    n, seen = counts.sum(), int((counts > 0).sum())
    return plugin(counts) + (seen - 1) / (2 * n * LN2) if n else math.nan


def chao_wang_jost(counts: np.ndarray) -> float:
    """Entropy in bits by Chao, Wang and Jost (2013), equation 7: unbiased but for the unseen, whose part the singletons estimate."""
    from scipy.special import digamma

    values, times = spectrum(counts)
    n = float(values @ times)
    if n < 2:
        return math.nan
    seen = values < n
    x, f = values[seen].astype(np.float64), times[seen]
    known = float((f * x / n) @ (digamma(n) - digamma(x)))
    once = float(times[values == 1].sum())
    twice = float(times[values == 2].sum())
    if once == 0:
        return known / LN2
    a = 2 * twice / ((n - 1) * once + 2 * twice) if twice else 2 / ((n - 1) * (once - 1) + 2)
    return (known + once / n * _tail(n, a)) / LN2


def _tail(n: float, a: float) -> float:
    """(1 - a)^(1 - n) [-log a - sum over r < n of (1 - a)^r / r], as an integral that neither overflows nor cancels:
    the sum over j >= 1 of x^j / (n - 1 + j) with x = 1 - a is the integral over u > 0 of e^-u x / (n (1 - x e^(-u/n)))."""
    from scipy.integrate import quad

    x = 1 - a
    if x <= 0:
        return 0.0

    def inside(log_u: float) -> float:
        u = math.exp(log_u)
        return u * math.exp(-u) * x / (n * (a - x * math.expm1(-u / n)))

    return float(quad(inside, -60.0, 4.0, limit=400, points=[math.log(max(a * n, 1e-25)), 0.0])[0])


def without_each(counts: Counts) -> np.ndarray:
    """Plug-in entropies without each group in turn, float ``[G]``; nan for a group without images."""
    return np.array([math.nan if kept is None else plugin(kept) for kept in counts.without()])


def jackknifed(whole: float, left: np.ndarray) -> float:
    """The bias-corrected value G h - (G - 1) mean of the leave-one-out values; nan with fewer than two groups."""
    kept = left[~np.isnan(left)]
    return float(kept.size * whole - (kept.size - 1) * kept.mean()) if kept.size > 1 else math.nan


def of_grams(grams: Grams) -> tuple[float, np.ndarray]:
    """Plug-in entropy of n-gram types in bits, and without each group: float ``[G]``."""
    if not grams.n:
        return math.nan, np.full(grams.groups, math.nan)
    whole = _xlog2x(grams.totals).sum()
    value = math.log2(grams.n) - whole / grams.n
    # Removing a group changes only the types that it has, and a type seen once takes its 1 log 1 = 0 along: sum the other changes.
    often = np.flatnonzero(grams.of_run > 1)
    before, taken_here = grams.of_run[often], grams.count[often]
    change = _xlog2x(before - taken_here) - _xlog2x(before)
    moved = np.bincount(grams.group[often], weights=change, minlength=grams.groups)
    taken = np.bincount(grams.group, weights=grams.count, minlength=grams.groups)
    left = grams.n - taken
    with np.errstate(divide="ignore", invalid="ignore"):
        groups = np.log2(left) - (whole + moved) / left
    groups[(taken == 0) | (left == 0)] = math.nan
    return value, groups


def _xlog2x(x: np.ndarray) -> np.ndarray:
    top = int(x.max(initial=0))
    if top <= 1 << 22:
        table = np.arange(top + 1, dtype=np.float64)
        table[1:] *= np.log2(table[1:])
        out: np.ndarray = table[x]
        return out
    return x * np.log2(np.maximum(x, 1))


def uniform_seen(size: float, n: float) -> float:
    """E[V] of n draws from K equally likely symbols: K (1 - (1 - 1/K)^n)."""
    return float(-size * math.expm1(n * math.log1p(-1 / size))) if size > 1 else float(n > 0)


def chao1(counts: np.ndarray) -> float:
    """Symbols that live, seen or not, at least: V + f1 (f1 - 1) / (2 (f2 + 1)), bias-corrected (Chao, 1984; 2005)."""
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return float((counts > 0).sum() + once * (once - 1) / (2 * (twice + 1)))


def unseen_mass(counts: np.ndarray) -> float:
    """Good-Turing: the probability that the next token is new, f1 / N (Good, 1953)."""
    n = counts.sum()
    return float((counts == 1).sum() / n) if n else math.nan


def huffman_bits(counts: np.ndarray) -> float:
    """Mean length in bits of a Huffman code of the symbols that occur (Huffman, 1952); a single symbol takes 1 bit.

    Symbols of equal weight are merged together, so the work grows with the distinct counts, not with K."""
    import heapq

    values, times = spectrum(counts)
    if values.size == 0:
        return math.nan
    n = int(values @ times)
    if times.sum() == 1:
        return 1.0
    many = {int(v): int(t) for v, t in zip(values, times)}
    heap = list(many)
    heapq.heapify(heap)
    total = 0

    def add(weight: int, number: int) -> None:
        if weight in many:
            many[weight] += number
        else:
            many[weight] = number
            heapq.heappush(heap, weight)

    while heap:
        weight = heapq.heappop(heap)
        number = many.pop(weight)
        if number > 1:
            total += 2 * weight * (number // 2)
            add(2 * weight, number // 2)
        if number % 2 == 1:
            if not heap:
                break  # the root
            other = heap[0]
            many[other] -= 1
            if not many[other]:
                heapq.heappop(heap)
                del many[other]
            total += weight + other
            add(weight + other, 1)
    return total / n
