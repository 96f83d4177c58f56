"""Mutual information between positions, with the codebook made small enough for it to be estimated."""

from __future__ import annotations

import math

import numpy as np

from vtbench.tokens import entropy


def mutual_information(x: np.ndarray, y: np.ndarray, size: int) -> float:
    """Miller-Madow mutual information in bits of paired symbols below `size` (at most 256)."""
    return of_table(x, y, size, size)


def of_table(x: np.ndarray, y: np.ndarray, rows: int, columns: int) -> float:
    """Miller-Madow mutual information in bits of paired symbols, `x` below `rows` and `y` below `columns`."""
    joint = np.bincount(x.astype(np.int64) * columns + y, minlength=rows * columns)
    table = joint.reshape(rows, columns)
    parts = entropy.miller_madow(table.sum(axis=1)) + entropy.miller_madow(table.sum(axis=0))
    return parts - entropy.miller_madow(joint)


def entropy_of(x: np.ndarray) -> float:
    """Miller-Madow entropy in bits of symbols."""
    return entropy.miller_madow(np.bincount(x))


def clusters(codebook: np.ndarray, number: int, seed: int) -> np.ndarray:
    """k-means of codebook vectors ``[K, d]`` (k-means++ seeding, Lloyd's iterations): the cluster of each, int32 ``[K]`` below `number`.
    Deterministic by seed."""
    vectors = np.asarray(codebook, np.float64)
    rng = np.random.default_rng(seed)
    centres = vectors[[int(rng.integers(len(vectors)))]]
    nearest = ((vectors - centres[0]) ** 2).sum(axis=1)
    while len(centres) < number:
        total = nearest.sum()
        chance = nearest / total if total > 0 else np.full(len(vectors), 1 / len(vectors))
        new = vectors[int(rng.choice(len(vectors), p=chance))]
        centres = np.concatenate([centres, new[None]])
        nearest = np.minimum(nearest, ((vectors - new) ** 2).sum(axis=1))
    owner = np.zeros(len(vectors), np.int32)
    for _ in range(25):
        distance = (centres**2).sum(axis=1) - 2 * vectors @ centres.T
        new = distance.argmin(axis=1).astype(np.int32)
        if (new == owner).all():
            break
        owner = new
        size = np.bincount(owner, minlength=number)
        sums = np.stack([np.bincount(owner, weights=column, minlength=number) for column in vectors.T], axis=1)
        centres = np.where(size[:, None] > 0, sums / np.maximum(size, 1)[:, None], centres)
    return owner


def classes_that_fit(size: int, pairs: int, most: int) -> int:
    """How many classes the pairs can bear: at least 10 pairs a cell of the joint table, at most `most`."""
    return int(min(size, most, math.isqrt(max(0, pairs // 10))))
