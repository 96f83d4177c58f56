"""Vocabulary growth: how many symbols n tokens show, by rarefaction in closed form (all orders of the images at once)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Growth:
    """V after m units of `units` (images or tokens): `seen` and the local slope d ln V / d ln m."""

    at: np.ndarray
    seen: np.ndarray
    slope: np.ndarray


def rarefied(occupied: np.ndarray, units: int, at: np.ndarray) -> Growth:
    """Expected V in a random subset of m of `units` images: sum over symbols of 1 - C(U - d, m) / C(U, m).

    occupied: int ``[K]``, in how many of the units each symbol occurs (its count, when units are tokens). at: the m. The mean over
    all orders of the images, which random orders only approach (Hurlbert, 1971; Mao, Colwell and Chang, 2005)."""
    values, times = np.unique(occupied[occupied > 0], return_counts=True)
    at = np.unique(np.clip(at, 1, units)).astype(np.int64)
    seen = _seen(values, times, units, at)
    before = _seen(values, times, units, at - 1)
    slope = at * (seen - before) / np.where(seen > 0, seen, np.nan)
    return Growth(at.astype(np.float64), seen, slope)


def _seen(values: np.ndarray, times: np.ndarray, units: int, at: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln

    d, m = values[None, :].astype(np.float64), at[:, None].astype(np.float64)
    possible = units - d - m >= 0
    free = np.where(possible, units - d - m, 0)
    log_missed = gammaln(units - d + 1) - gammaln(free + 1) - gammaln(units + 1.0) + gammaln(units - m + 1)
    missed = np.where(possible, np.exp(np.minimum(log_missed, 0)), 0)
    out: np.ndarray = (times * (1 - missed)).sum(axis=1)
    return out


def uniform(size: int, at: np.ndarray) -> Growth:
    """The law of K equally likely symbols: V(n) = K (1 - (1 - 1/K)^n)."""
    at = np.asarray(at, np.float64)
    if size < 2:
        return Growth(at, np.ones_like(at), np.zeros_like(at))
    step = np.log1p(-1 / size)
    seen = -size * np.expm1(at * step)
    return Growth(at, seen, -size * step * at * np.exp(at * step) / seen)
