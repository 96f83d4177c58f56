"""Intervals: how far a number could be from what it estimates.

Means: bootstrap by image (all instances of an image travel together). Pooled values (FD, KID, entropy): delete-group jackknife.
Never a percentile bootstrap of a Fréchet distance: its resamples are biased upwards, and the interval misses its own estimate.
NumPy only.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np

NAN = float("nan")
_CELLS = 4_000_000  # indices drawn at a time: 32 MB


class Interval(NamedTuple):
    """A value and its two-sided interval; nan bounds where there is too little to tell."""

    value: float
    low: float
    high: float

    def excludes(self, point: float) -> bool:
        """Whether the interval rules a point out."""
        return self.low > point or self.high < point


def bootstrap_mean(
    samples: np.ndarray,
    image: np.ndarray,
    n_images: int | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Mean of `samples` [R] with a percentile bootstrap over images (`image` [R]: the image index of each row).

    n_images: how many images there are, when some have no row (they are drawn too). Deterministic by `seed`. An infinite sample
    makes the mean infinite; nan anywhere makes everything nan; fewer than two images give nan bounds.
    """
    samples = np.asarray(samples, dtype=np.float64)
    image = np.asarray(image)
    if samples.size == 0:
        return Interval(NAN, NAN, NAN)
    with np.errstate(invalid="ignore"):
        value = float(samples.mean())
    if np.isnan(samples).any():
        return Interval(NAN, NAN, NAN)
    _, cluster = np.unique(image, return_inverse=True)
    present = int(cluster.max()) + 1
    total = max(present, n_images or 0)
    if total < 2:
        return Interval(value, NAN, NAN)
    counts = np.bincount(cluster, minlength=total).astype(np.float64)
    endless = np.isinf(samples)
    sums = np.bincount(cluster, weights=np.where(endless, 0.0, samples), minlength=total)
    up = np.bincount(cluster, weights=(samples == np.inf), minlength=total)
    down = np.bincount(cluster, weights=(samples == -np.inf), minlength=total)
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // total)
    means = np.empty(resamples)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.integers(0, total, size=(stop - start, total))
        with np.errstate(invalid="ignore", divide="ignore"):
            part = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
            if endless.any():
                ups, downs = up[drawn].any(axis=1), down[drawn].any(axis=1)
                part = np.where(ups & downs, NAN, np.where(ups, np.inf, np.where(downs, -np.inf, part)))
        means[start:stop] = part
    means = means[~np.isnan(means)]
    if means.size == 0:
        return Interval(value, NAN, NAN)
    low, high = _quantiles(means, level)
    return Interval(value, low, high)


def bootstrap_strata(
    samples: np.ndarray,
    cluster: np.ndarray,
    stratum: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Unweighted mean of the strata's means of `samples` [R], with a percentile bootstrap over clusters drawn within each stratum.

    cluster, stratum [R]: of each row; a cluster lies in one stratum. A stratum of one cluster does not vary; fewer than two clusters in all give nan
    bounds."""
    samples = np.asarray(samples, dtype=np.float64)
    if samples.size == 0 or np.isnan(samples).any():
        return Interval(NAN, NAN, NAN)
    rng = np.random.default_rng(seed)
    means, values, most = np.zeros(resamples), [], 0
    strata = np.unique(stratum)
    for one in strata:
        rows = np.asarray(stratum) == one
        _, number = np.unique(np.asarray(cluster)[rows], return_inverse=True)
        counts = np.bincount(number).astype(np.float64)
        sums = np.bincount(number, samples[rows])
        drawn = rng.integers(0, len(counts), size=(resamples, len(counts)))
        means += sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) / len(strata)
        values.append(sums.sum() / counts.sum())
        most = max(most, len(counts))
    if most < 2:
        return Interval(float(np.mean(values)), NAN, NAN)
    return Interval(float(np.mean(values)), *_quantiles(means, level))


def _quantiles(values: np.ndarray, level: float) -> tuple[float, float]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    # Interpolating between inf and inf is nan: take drawn values instead when any is infinite.
    method = "linear" if np.isfinite(values).all() else "inverted_cdf"
    low, high = np.quantile(values, tails, method=method)  # type: ignore[call-overload]
    return float(low), float(high)


def jackknife(value: float, groups: np.ndarray, *, level: float = 0.95) -> Interval:
    """Delete-group jackknife: `groups` [G] are the values without each group in turn (nan: that group was empty, and is left out).

    Standard error sqrt((G - 1) / G * sum((g - mean g)^2)); the interval is value +- Student's t quantile with G - 1 degrees of
    freedom times it. The centre is the value itself: the jackknife's bias estimate moves no number here.
    """
    kept = np.asarray(groups, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    count = kept.size
    if count < 2 or not math.isfinite(value) or not np.isfinite(kept).all():
        same = count >= 2 and math.isinf(value) and bool((kept == value).all())
        return Interval(float(value), value if same else NAN, value if same else NAN)
    error = math.sqrt((count - 1) / count * float(((kept - kept.mean()) ** 2).sum()))
    half = t_quantile((1 + level) / 2, count - 1) * error
    return Interval(float(value), float(value) - half, float(value) + half)


def paired_difference(
    a: np.ndarray, b: np.ndarray, image: np.ndarray, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Mean of a - b over the same rows, with a bootstrap by image. Two equal infinities differ by 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, a - b)
    return bootstrap_mean(difference, image, level=level, resamples=resamples, seed=seed)


def paired_groups(
    value_a: float, groups_a: np.ndarray, value_b: float, groups_b: np.ndarray, *, level: float = 0.95
) -> Interval:
    """value_a - value_b when the same groups of images are deleted from both: what the two share cancels."""
    a, b = np.asarray(groups_a, dtype=np.float64), np.asarray(groups_b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"groups differ in number: {a.shape} and {b.shape}")
    return jackknife(value_a - value_b, a - b, level=level)


@cache
def t_quantile(p: float, df: int) -> float:
    """Quantile of Student's t (0.5 < p < 1), by bisection on the closed form of its distribution for integer df."""
    low, high = 0.0, 1.0
    while _t_cdf(high, df) < p:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def _t_cdf(t: float, df: int) -> float:
    """Abramowitz and Stegun 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(df))
    cosine, sine = math.cos(angle), math.sin(angle)
    if df % 2:
        term, total = cosine, cosine if df > 1 else 0.0
        for k in range(3, df - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 1.0
        for k in range(2, df - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        inside = sine * total
    return 0.5 + inside / 2
