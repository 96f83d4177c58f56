"""Scan orders: in which order the positions of an image are read as a sequence.

A statistic that depends on order holds for one scan; 2D tokens have several. Positions are numbered in raster order.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from vtbench.errors import UsageError

GRID_SCANS = ("raster", "column", "snake", "hilbert")
SCANS = (*GRID_SCANS, "native")


def scan_order(shape: tuple[int, ...], scan: str) -> np.ndarray:
    """The positions in reading order: a permutation, int64 [N].

    shape: ``(h, w)`` for a grid; anything else (1D, multiscale, 3D) has only `native`. scan: `raster` (row by row), `column`,
    `snake` (every other row backwards), `hilbert` (the Hilbert curve of the smallest power-of-two square that holds the grid,
    without the cells outside), `native` (as the model emits them). Raises `UsageError` for a scan that the shape does not have.
    """
    if scan not in SCANS:
        raise UsageError(f"unknown scan '{scan}'", f"The scans are {', '.join(SCANS)}")
    count = math.prod(shape)
    if scan in ("native", "raster") and (scan == "native" or len(shape) == 2):
        return np.arange(count)
    if len(shape) != 2:
        raise UsageError(f"tokens of shape {shape} have no {scan} scan", "1D tokens are read in their native order")
    return _grid(shape[0], shape[1], scan).copy()


def scans_of(shape: tuple[int, ...], wanted: tuple[str, ...] = SCANS) -> tuple[str, ...]:
    """The scans of `wanted` that tokens of a shape have: the four of a grid, or `native`."""
    return tuple(s for s in wanted if (s in GRID_SCANS) == (len(shape) == 2 and min(shape) > 1))


@cache
def _grid(height: int, width: int, scan: str) -> np.ndarray:
    cells = np.arange(height * width).reshape(height, width)
    if scan == "column":
        return cells.T.ravel()
    if scan == "snake":
        cells = cells.copy()
        cells[1::2] = cells[1::2, ::-1]
        return cells.ravel()
    rows, columns = np.divmod(np.arange(height * width), width)
    return np.argsort(_hilbert_rank(rows, columns, max(height, width)), kind="stable")


def _hilbert_rank(rows: np.ndarray, columns: np.ndarray, side: int) -> np.ndarray:
    """Distance along the Hilbert curve of the smallest power-of-two square with sides of at least `side` (Hilbert, 1891)."""
    x, y = columns.copy(), rows.copy()
    rank = np.zeros_like(x)
    half = 1 << max(0, (side - 1).bit_length() - 1)
    while half > 0:
        right, low = (x & half) > 0, (y & half) > 0
        quadrant = 3 * right.astype(np.int64) ^ low.astype(np.int64)
        rank += half * half * quadrant
        # Each quadrant holds a turned copy of the curve: turn the coordinates back before going down.
        x, y = x & (half - 1), y & (half - 1)
        mirrored = right & ~low
        x, y = np.where(mirrored, half - 1 - x, x), np.where(mirrored, half - 1 - y, y)
        x, y = np.where(low, x, y), np.where(low, y, x)
        half >>= 1
    return rank
