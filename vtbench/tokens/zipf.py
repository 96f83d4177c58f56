"""Frequency laws: the truncated Zipf-Mandelbrot fit that is not fooled by its own ranking, and the usual fits beside it.

Ranking symbols by the counts that are then fitted makes even a uniform codebook look Zipfian: the largest counts of pure noise come
first. Here the ranks come from one half of the images and the counts from the other, and back (cross-fitting); K is known, so
symbols that never occur take part; ties share their ranks' average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EXACT = 64  # ranks summed one by one before Euler and Maclaurin take over: relative error below 1e-12
_Q_MOST = 1e4
_S_RANGE = (-1.0, 12.0)
_STEP = 1e-4  # of finite differences


@dataclass(frozen=True)
class Ranked:
    """Symbols ranked by the counts of one half, in blocks of ties, with what the other half counted.

    ends: float ``[J]``, the last rank of each block (1-based); types: ``[J]``, its symbols; sums: ``[J]``, the other half's counts.
    """

    ends: np.ndarray
    types: np.ndarray
    sums: np.ndarray


def ranked(types: np.ndarray, sums: np.ndarray, size: float) -> Ranked:
    """From tables indexed by the ranking half's count: `types` symbols had it, and the other half counted `sums` of them.

    size: K; the symbols that the tables lack occurred nowhere and join the block of count 0."""
    types = types.astype(np.float64).copy()
    types[0] += size - types.sum()
    kept = np.flatnonzero(types > 0)[::-1]
    return Ranked(np.cumsum(types[kept]), types[kept], sums[kept].astype(np.float64))


def tables(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tables for `ranked`, the counts `a` ranking and `b` fitted: int ``[types]`` each."""
    return np.bincount(a), np.bincount(a, weights=b)


@dataclass(frozen=True)
class Fit:
    """p(r) proportional to (r + q)^-s for r = 1 .. K, and its log-likelihood (nats)."""

    s: float
    q: float
    log_likelihood: float


def log_partition(s: float, q: float, size: float) -> float:
    """log of sum over r = 1 .. K of (r + q)^-s, by Euler-Maclaurin from rank 64 on. K may be as large as 1e17."""
    head = min(_EXACT, int(min(size, _EXACT)))
    total = float(np.sum((np.arange(1, head + 1) + q) ** -s))
    if size > head:
        low, high = head + 1 + q, size + q
        flat = 1 - s
        if abs(flat) < 1e-9:
            integral = math.log(high / low)
        else:
            integral = low**flat * math.expm1(flat * math.log(high / low)) / flat
        total += integral + (low**-s + high**-s) / 2
        total += s / 12 * (low ** (-s - 1) - high ** (-s - 1))
        total -= s * (s + 1) * (s + 2) / 720 * (low ** (-s - 3) - high ** (-s - 3))
    return math.log(total)


def _mean_log(blocks: Ranked, q: float) -> np.ndarray:
    """The mean of log(r + q) over each block's ranks."""
    from scipy.special import gammaln

    edge = gammaln(np.concatenate(([0.0], blocks.ends)) + q + 1)
    middle = np.log(blocks.ends - (blocks.types - 1) / 2 + q)
    # Far down the ranks the differences of log-gamma drown in rounding; there the block's middle rank says the same.
    return np.where(blocks.ends < 1e9, np.diff(edge) / blocks.types, middle)


def fit(blocks: Ranked, size: float, *, start: Fit | None = None, free_q: bool | None = None) -> Fit:
    """Maximum likelihood of s (and q) for ranked blocks. q stays 0 unless it earns its place by BIC (`free_q` None), or as told.

    start: where to look first (a leave-one-out fit starts at the whole's)."""
    from scipy.optimize import minimize, minimize_scalar

    n = float(blocks.sums.sum())
    if n <= 0:
        return Fit(math.nan, math.nan, math.nan)

    def loss(s: float, q: float, mean_log: np.ndarray) -> float:
        return s * float(blocks.sums @ mean_log) / n + log_partition(s, q, size)

    plain = None
    if not free_q:
        at_zero = _mean_log(blocks, 0.0)
        near = start.s if start else 0.0
        bounds = (max(_S_RANGE[0], near - 0.5), min(_S_RANGE[1], near + 0.5)) if start else _S_RANGE
        found = minimize_scalar(loss, bounds=bounds, args=(0.0, at_zero), method="bounded", options={"xatol": 1e-6})
        plain = Fit(float(found.x), 0.0, -n * float(found.fun))
        if free_q is False:
            return plain

    def both(x: np.ndarray) -> float:
        q = math.expm1(x[1])
        return loss(float(x[0]), q, _mean_log(blocks, q))

    top = math.log1p(min(_Q_MOST, size))
    starts = [(start.s, math.log1p(start.q))] if start else [(0.5, 0.1), (1.2, min(2.0, top)), (2.0, top * 0.7)]
    best = None
    for first in starts:
        found = minimize(
            both, first, method="L-BFGS-B", bounds=[_S_RANGE, (0.0, top)], options={"ftol": 1e-13, "gtol": 1e-7}
        )
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    bent = Fit(float(best.x[0]), math.expm1(float(best.x[1])), -n * float(best.fun))
    if plain is not None and 2 * (bent.log_likelihood - plain.log_likelihood) < math.log(n):
        return plain
    return bent


class Refit:
    """Fits of nearly the same data, started at the whole's: Newton's method with the whole's curvature.

    Leaving a group out moves the optimum little, so two or three steps with one fixed Hessian reach it; where the curvature is no guide
    (a flat likelihood, q at its bound) it is fitted from scratch."""

    def __init__(self, whole: Fit, blocks: Ranked, size: float) -> None:
        self.whole, self.size = whole, size
        self.free = whole.q > 0
        self.at = np.array([whole.s, math.log1p(whole.q)] if self.free else [whole.s])
        steps = np.eye(self.at.size) * _STEP
        rows = [(self._slope(blocks, self.at + h) - self._slope(blocks, self.at - h)) / (2 * _STEP) for h in steps]
        curve = (np.array(rows) + np.array(rows).T) / 2
        self.inverse: np.ndarray | None = None
        if np.isfinite(curve).all() and np.linalg.eigvalsh(curve)[0] > 1e-6:
            self.inverse = np.linalg.inv(curve)

    def __call__(self, blocks: Ranked) -> float:
        """The exponent of other data."""
        if self.inverse is not None and blocks.sums.sum() > 0:
            at = self.at.copy()
            for _ in range(8):
                step = self.inverse @ self._slope(blocks, at)
                at = at - step
                if not np.isfinite(at).all() or not _S_RANGE[0] < at[0] < _S_RANGE[1] or (self.free and at[1] < _STEP):
                    break
                if np.abs(step).max() < 1e-6:
                    return float(at[0])
        return fit(blocks, self.size, start=self.whole, free_q=self.free).s

    def _slope(self, blocks: Ranked, at: np.ndarray) -> np.ndarray:
        """Gradient of the mean negative log-likelihood in (s, log(1 + q)), by central differences."""
        n = float(blocks.sums.sum())
        out = np.empty(at.size)
        for k in range(at.size):
            near = []
            for sign in (1, -1):
                x = at.copy()
                x[k] += sign * _STEP
                q = math.expm1(x[1]) if self.free else 0.0
                near.append(
                    x[0] * float(blocks.sums @ _mean_log(blocks, q)) / n + log_partition(float(x[0]), q, self.size)
                )
            out[k] = (near[0] - near[1]) / (2 * _STEP)
        return out


@dataclass(frozen=True)
class Split:
    """The cross-fitted exponent: both directions averaged, with the leave-one-group-out values (nan for an empty group)."""

    s: float
    q: float
    groups: np.ndarray | None


def fit_counts(tokens: np.ndarray, size: float, *, intervals: bool = True, free_q: bool | None = None) -> Split:
    """Cross-fit dense counts ``[G, K]``: even groups against odd ones. Fewer than two non-empty halves give nan. free_q as in `fit`."""
    even, odd = (
        tokens[0::2].sum(axis=0),
        tokens[1::2].sum(axis=0) if len(tokens) > 1 else np.zeros(tokens.shape[1], int),
    )
    if not even.sum() or not odd.sum():
        return Split(math.nan, math.nan, None)
    blocks = [ranked(*tables(a, b), size) for a, b in ((even, odd), (odd, even))]
    whole = [fit(b, size, free_q=free_q) for b in blocks]
    if not intervals:
        return _average(whole, None)
    again = [Refit(w, b, size) for w, b in zip(whole, blocks)]
    left = np.full(len(tokens), math.nan)
    for g, group in enumerate(tokens):
        if not group.any():
            continue
        a, b = (even - group, odd) if g % 2 == 0 else (even, odd - group)
        if not a.sum() or not b.sum():
            continue
        left[g] = np.mean([one(ranked(*tables(x, y), size)) for one, (x, y) in zip(again, ((a, b), (b, a)))])
    return _average(whole, left)


def _average(whole: Sequence[Fit], groups: np.ndarray | None) -> Split:
    return Split(float(np.mean([f.s for f in whole])), float(np.mean([f.q for f in whole])), groups)


def ols_exponent(counts: np.ndarray) -> float:
    """Minus the slope of log count on log rank over the symbols that occur: the usual fit, biased by its own ranking."""
    kept = np.sort(counts[counts > 0])[::-1].astype(np.float64)
    if kept.size < 3 or kept[0] == kept[-1]:
        return 0.0 if kept.size >= 3 else math.nan
    x, y = np.log(np.arange(1, kept.size + 1)), np.log(kept)
    x = x - x.mean()
    return float(-(x @ (y - y.mean())) / (x @ x))


def yule_simon(counts: np.ndarray) -> float:
    """Maximum likelihood of rho in p(k) = rho B(k, rho + 1), k = 1, 2, ...: the counts of the symbols that occur (Simon, 1955)."""
    from scipy.optimize import minimize_scalar
    from scipy.special import betaln

    values, times = np.unique(counts[counts > 0], return_counts=True)
    if values.size == 0:
        return math.nan

    def loss(log_rho: float) -> float:
        rho = math.exp(log_rho)
        return -float(times @ (log_rho + betaln(values.astype(np.float64), rho + 1))) / float(times.sum())

    return math.exp(float(minimize_scalar(loss, bounds=(-9.0, 7.0), method="bounded", options={"xatol": 1e-7}).x))


def benford(counts: np.ndarray) -> tuple[float, float]:
    """First digits of the counts of symbols that occur, against log10(1 + 1/d): (mean absolute deviation, Jensen-Shannon divergence in bits)."""
    kept = counts[counts > 0].astype(np.float64)
    if kept.size == 0:
        return math.nan, math.nan
    digits = (kept / 10.0 ** np.floor(np.log10(kept) + 1e-12)).astype(int).clip(1, 9)
    p = np.bincount(digits, minlength=10)[1:10] / kept.size
    law = np.log10(1 + 1 / np.arange(1, 10))
    middle = (p + law) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / middle), 0).sum()
    return float(np.abs(p - law).mean()), float((left + (law * np.log2(law / middle)).sum()) / 2)
