"""Shapes of point clouds: how one codebook, or what its tokens do, lies on another."""

from __future__ import annotations

from typing import Any

import numpy as np

from vtbench.errors import MissingPackage


def aligned(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Paired points ``[n, d]`` (padded to one dimension) centred, scaled to unit norm, and `b` rotated and scaled onto `a` (orthogonal
    Procrustes; Gower 1975)."""
    d = max(a.shape[1], b.shape[1])
    a, b = (np.pad(x.astype(np.float64), ((0, 0), (0, d - x.shape[1]))) for x in (a, b))
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    a, b = a / max(float(np.linalg.norm(a)), 1e-300), b / max(float(np.linalg.norm(b)), 1e-300)
    u, s, vt = np.linalg.svd(b.T @ a)
    return a, s.sum() * b @ (u @ vt)


def procrustes_residual(a: np.ndarray, b: np.ndarray) -> float:
    """Share of the squared norm of `a` that no rotation and scaling of `b` explains: 0 for a rotated copy, at most 1."""
    x, y = aligned(a, b)
    return float(((x - y) ** 2).sum())


def hausdorff(a: np.ndarray, b: np.ndarray) -> float:
    """Symmetric Hausdorff distance of the two clouds after alignment, in units of the first one's root mean square radius."""
    from scipy.spatial.distance import cdist

    x, y = aligned(a, b)
    distance = cdist(x, y)
    farthest = max(distance.min(axis=1).max(), distance.min(axis=0).max())
    return float(farthest * np.sqrt(len(x)))


def gromov_wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Gromov-Wasserstein discrepancy of the clouds' distance matrices, each divided by its mean: needs no pairing (Memoli 2011)."""
    try:
        import ot
    except ImportError as error:
        raise MissingPackage("POT", "tokens", "the metric gromov_wasserstein") from error
    first, second = _scaled_distances(a), _scaled_distances(b)
    even = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    found = ot.gromov.gromov_wasserstein2(first, second, *even, loss_fun="square_loss", symmetric=True)
    return max(0.0, float(found))


def _scaled_distances(points: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    distance = cdist(points, points)
    mean = distance.mean()
    scaled: np.ndarray = distance / (mean if mean > 0 else 1.0)
    return scaled


def persistence(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of the finite H0 bars and of the H1 bars of the Vietoris-Rips filtration, over the cloud's diameter; longest first."""
    try:
        from ripser import ripser
    except ImportError as error:
        raise MissingPackage("ripser", "tokens", "the metric codebook_homology") from error
    from scipy.spatial.distance import cdist

    distance = cdist(points, points)
    size = float(distance.max())
    found: Any = ripser(distance / (size or 1.0), distance_matrix=True, maxdim=1)["dgms"]
    lengths = [np.sort((d[:, 1] - d[:, 0])[np.isfinite(d[:, 1])])[::-1] for d in found[:2]]
    return lengths[0], lengths[1]


def company(ids: np.ndarray, shape: tuple[int, ...], symbols: np.ndarray, dims: int) -> np.ndarray:
    """What keeps company with what: the positive pointwise mutual information of neighbours (right and below; next, in a sequence) between
    the given symbols, and its leading left singular vectors times the roots of their singular values: ``[n, dims]`` (Levy and
    Goldberg 2014)."""
    place = np.full(int(max(ids.max(), symbols.max())) + 2, -1)
    place[symbols] = np.arange(len(symbols))
    grid = place[ids].reshape(len(ids), *(shape if len(shape) == 2 else (1, -1)))
    n = len(symbols)
    table = np.zeros(n * n)
    for a, b in ((grid[:, :, :-1], grid[:, :, 1:]), (grid[:, :-1], grid[:, 1:])):
        both = (a >= 0) & (b >= 0)
        table += np.bincount(a[both] * n + b[both], minlength=n * n)
    square = table.reshape(n, n)
    square = square + square.T
    total = max(1.0, square.sum())
    margin = square.sum(axis=1) / total
    with np.errstate(divide="ignore", invalid="ignore"):
        pmi = np.log(square / total / np.outer(margin, margin))
    ppmi = np.where(np.isfinite(pmi), np.maximum(pmi, 0), 0)
    u, s, _ = np.linalg.svd(ppmi)
    kept = min(dims, n)
    out: np.ndarray = u[:, :kept] * np.sqrt(s[:kept])
    return out
