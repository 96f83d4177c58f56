"""Resizes of metric networks, batched on any device: every linear resize is two small matrix products.

The matrices hold a resize's weights exactly as its library computes them, so one image or a hundred, CPU or GPU, give the same pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from vtbench.errors import UsageError

BAND = 32
RESIZES = ("tf1", "clean", "half-pixel", "antialias")


@lru_cache(maxsize=64)
def tf1_matrix(size: int, out: int) -> np.ndarray:
    """TensorFlow 1's legacy bilinear grid: source = index * size / out, no half pixel, no antialias; float64 ``[out, size]``.

    The positions are rounded to float32 as TensorFlow does it."""
    at = np.arange(out, dtype=np.float32) * np.float32(size / out)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    weight = (at - low.astype(np.float32)).astype(np.float64)
    matrix = np.zeros((out, size))
    rows = np.arange(out)
    np.add.at(matrix, (rows, low), 1 - weight)
    np.add.at(matrix, (rows, high), weight)
    return matrix


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5, as in Pillow."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=64)
def pillow_bicubic_matrix(size: int, out: int) -> np.ndarray:
    """Pillow's bicubic: half-pixel centres, support widened when shrinking, weights normalised; float64 ``[out, size]``."""
    scale = size / out
    stretch = max(scale, 1.0)
    support = 2.0 * stretch
    matrix = np.zeros((out, size))
    for row in range(out):
        centre = (row + 0.5) * scale
        first = max(int(centre - support + 0.5), 0)
        last = min(int(centre + support + 0.5), size)
        weights = _cubic((np.arange(first, last) - centre + 0.5) / stretch)
        matrix[row, first:last] = weights / weights.sum()
    return matrix


def separable(images: torch.Tensor, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
    """``rows @ image @ columns.T`` for every plane of ``[B, C, H, W]``; on a CPU without most of the zeros, which are all but a band."""
    banded = images.device.type == "cpu"
    wide = [
        torch.matmul(images[..., first:last], torch.from_numpy(part).to(images).T)
        for part, first, last in _bands(columns, banded)
    ]
    across = torch.cat(wide, -1)
    high = [
        torch.matmul(torch.from_numpy(part).to(images), across[..., first:last, :])
        for part, first, last in _bands(rows, banded)
    ]
    return torch.cat(high, -2)


def _bands(matrix: np.ndarray, banded: bool) -> Iterator[tuple[np.ndarray, int, int]]:
    """``matrix`` in parts of `BAND` rows, each with the first and last column that it needs; whole, unless banded."""
    size = BAND if banded else len(matrix)
    for start in range(0, len(matrix), size):
        part = matrix[start : start + size]
        (used,) = part.any(0).nonzero()
        first, last = int(used[0]), int(used[-1]) + 1
        yield part[:, first:last], first, last


def resize(images: torch.Tensor, how: str, size: int) -> torch.Tensor:
    """Resize ``[B, 3, H, W]`` in 0..255 to ``size x size``.

    tf1: TensorFlow 1's bilinear (ADM, torch-fidelity). clean: Pillow's float bicubic, clipped to 0..255 (clean-fid). half-pixel: bilinear
    without antialias (pytorch-fid). antialias: bilinear with antialias (torchmetrics' default).
    """
    height, width = images.shape[2:]
    if how == "tf1":
        return separable(images, tf1_matrix(height, size), tf1_matrix(width, size))
    if how == "clean":
        return separable(images, pillow_bicubic_matrix(height, size), pillow_bicubic_matrix(width, size)).clamp(0, 255)
    if how in ("half-pixel", "antialias"):
        return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=how == "antialias")
    raise UsageError(f"unknown resize '{how}'", f"Known: {', '.join(RESIZES)}")
