"""Rows of several batches or chunks as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stack(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate along the first axis. Rows of different lengths (token rows of images of different sizes) are padded with -1;
    parts without rows say nothing about the shape."""
    filled = [p for p in parts if p.shape[0]] or list(parts[:1])
    if not filled:
        return np.zeros(0)
    if len({p.shape[1:] for p in filled}) == 1:
        return np.concatenate(filled)
    widest = tuple(int(n) for n in np.max(np.array([p.shape[1:] for p in filled]), axis=0))
    out = np.full((sum(len(p) for p in filled), *widest), -1, filled[0].dtype)
    start = 0
    for part in filled:
        inside = (slice(start, start + len(part)), *(slice(0, n) for n in part.shape[1:]))
        out[inside] = part
        start += len(part)
    return out
