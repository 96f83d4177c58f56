"""Probes on cached features: nearest neighbours, and a linear classifier trained as in MAE's linear protocol. NumPy only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

STEPS = 16
"""The fewest steps of an epoch."""


@dataclass(frozen=True)
class LinearRecipe:
    """MAE's linear probing (He et al. 2022, appendix A): LARS with momentum 0.9, batch 16384, base rate 0.1 per 256, no decay, 90 epochs,
    10 of warm-up, cosine; features normalised by batch-norm statistics without affine parameters. A set too small for 16 such batches an
    epoch is cut into 16 smaller ones at the same rate (LARS makes steps relative to the weights), or nothing would be learnt."""

    batch: int = 16384
    base_rate: float = 0.1
    epochs: int = 90
    warm: int = 10
    seed: int = 0


def knn_correct(train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, k: int) -> np.ndarray:
    """Whether the cosine-weighted vote of the k nearest training images (temperature 0.07: Wu et al. 2018) is right: bool ``[n]``."""
    a, b = _unit(train), _unit(test)
    classes = int(max(labels.max(), truth.max())) + 1
    out = np.zeros(len(test), bool)
    k = min(k, len(train))
    for start in range(0, len(test), 1024):
        near = b[start : start + 1024] @ a.T
        best = np.argpartition(-near, k - 1, axis=1)[:, :k]
        weight = np.exp(np.take_along_axis(near, best, axis=1) / 0.07)
        votes = np.zeros((len(near), classes))
        np.add.at(votes, (np.arange(len(near))[:, None], labels[best]), weight)
        out[start : start + 1024] = votes.argmax(axis=1) == truth[start : start + 1024]
    return out


def linear_correct(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, truth: np.ndarray, recipe: LinearRecipe
) -> np.ndarray:
    """Whether a linear classifier trained on cached features is right: bool ``[n]``. Deterministic by seed."""
    mean, spread = train.mean(axis=0), train.std(axis=0)
    x = (train - mean) / (spread + 1e-6)
    classes = int(max(labels.max(), truth.max())) + 1
    batch = min(recipe.batch, max(1, len(x) // STEPS))
    rate = recipe.base_rate * recipe.batch / 256
    rng = np.random.default_rng(recipe.seed)
    weight, bias = rng.normal(0, 0.01, (x.shape[1], classes)), np.zeros(classes)
    speed_w, speed_b = np.zeros_like(weight), np.zeros_like(bias)
    steps = max(1, len(x) // batch)
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(x))
        for step in range(steps):
            now = epoch + step / steps
            if now < recipe.warm:
                scale = now / recipe.warm
            else:
                scale = 0.5 * (1 + math.cos(math.pi * (now - recipe.warm) / (recipe.epochs - recipe.warm)))
            picked = order[step * batch : (step + 1) * batch]
            error = _softmax(x[picked] @ weight + bias)
            error[np.arange(len(picked)), labels[picked]] -= 1
            grad_w, grad_b = x[picked].T @ error / len(picked), error.mean(axis=0)
            # LARS scales the matrix's step by the ratio of norms and leaves biases alone.
            size, slope = np.linalg.norm(weight), np.linalg.norm(grad_w)
            trust = 0.001 * size / slope if size > 0 and slope > 0 else 1.0
            speed_w = 0.9 * speed_w + trust * grad_w
            speed_b = 0.9 * speed_b + grad_b
            weight -= rate * scale * speed_w
            bias -= rate * scale * speed_b
    scores = (test - mean) / (spread + 1e-6) @ weight + bias
    out: np.ndarray = scores.argmax(axis=1) == truth
    return out


def _unit(x: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return scaled


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    out: np.ndarray = e / e.sum(axis=1, keepdims=True)
    return out


def histograms(ids: np.ndarray, size: int) -> np.ndarray:
    """How often each symbol occurs in each image, square-rooted (Hellinger): float32 ``[M, K]``."""
    rows = np.repeat(np.arange(len(ids)), ids.shape[1])
    flat = ids.ravel()
    there = flat >= 0
    table = np.bincount(rows[there] * size + flat[there], minlength=len(ids) * size).reshape(len(ids), size)
    rooted: np.ndarray = np.sqrt(table).astype(np.float32)
    return rooted


def pooled(ids: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Mean codebook vector of each image's tokens: float32 ``[M, d]``."""
    out = np.zeros((len(ids), book.shape[1]), np.float32)
    for i, row in enumerate(ids):
        there = row[row >= 0]
        if there.size:
            out[i] = book[there].mean(axis=0)
    return out
