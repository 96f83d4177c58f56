"""Distances of DINOv2 and CLIP features: FD-DINOv2, CMMD, and the cosine between an image and its reconstruction."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vtbench.api import INPUT, OUTPUT, Fields, Measurements, Need, Value, View, metric

from ._features import rows, unusable
from .fid import frechet_values
from .kid import group_sums, sums_without

HEADS = {"dinov2": "cls", "clip": "embedding", "dreamsim": "embedding"}


def needs(extractor: str) -> Callable[[Fields], Mapping[str, Need]]:
    """Features of the output and of the ground truth, of the protocol's model (`dinov2_model`, `clip_model`, `dreamsim_model`)."""

    def build(p: Fields) -> Mapping[str, Need]:
        args = (("model", p[f"{extractor}_model"]),)
        quantise = p["features_quantise"]
        views = {"fake": (OUTPUT, quantise), "reference": (INPUT, p.get("features_reference") or quantise)}
        return {
            k: Need(extractor, HEADS[extractor], at=at, view=View(quantise=q), args=args)
            for k, (at, q) in views.items()
        }

    return build


@metric(
    "fd_dinov2",
    needs=needs("dinov2"),
    better="lower",
    fields=("features_quantise", "dinov2_model"),
    title="Fréchet distance of DINOv2 class tokens",
    source="Stein et al. 2023, arXiv 2306.04675; https://github.com/layer6ai-labs/dgm-eval",
    tolerance=1e-3,
    compares="sets",
    bounds=(0.0, math.inf),
)
def fd_dinov2(m: Measurements, p: Fields) -> Iterator[Value]:
    """FD on 1024 dimensions (vitl14), with its jackknife values."""
    yield from frechet_values(m)


def gaussian_kernel(x: np.ndarray, y: np.ndarray, sigma: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 sigma^2)), float64 ``[n, m]``."""
    square = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * (x @ y.T)
    out: np.ndarray = np.exp(-np.maximum(square, 0) / (2 * sigma**2))
    return out


@metric(
    "cmmd",
    needs=needs("clip"),
    better="lower",
    fields=("features_quantise", "clip_model", "cmmd_sigma", "cmmd_scale"),
    title="Maximum mean discrepancy of normalised CLIP embeddings, Gaussian kernel",
    source="Jayasumana et al. 2024, arXiv 2401.09603",
    tolerance=1e-3,
    compares="sets",
    bounds=(0.0, math.inf),
)
def cmmd(m: Measurements, p: Fields) -> Iterator[Value]:
    """CMMD: the biased (V-statistic) squared MMD times cmmd_scale (1000), kernel width cmmd_sigma (10); never negative.

    Cost: n^2 kernel values three times, in blocks."""
    problem = unusable(m, "fake", "reference")
    if problem:
        yield problem
        return
    x, y = (rows(m[k]).astype(np.float64) for k in ("fake", "reference"))
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    gx, gy = m.group_of(m["fake"]), m.group_of(m["reference"])
    count = int(max(gx.max(), gy.max())) + 1
    means = []
    for a, b, ga, gb in ((x, x, gx, gx), (y, y, gy, gy), (x, y, gx, gy)):
        table = np.zeros((count, count))
        for start in range(0, len(a), 2048):
            block = gaussian_kernel(a[start : start + 2048], b, float(p["cmmd_sigma"]))
            table += group_sums(block, ga[start : start + 2048], gb, count)
        left = [len(g) - np.concatenate([[0], np.bincount(g, minlength=count)]) for g in (ga, gb)]
        with np.errstate(divide="ignore", invalid="ignore"):
            means.append(sums_without(table) / (left[0] * left[1]))
    value = float(p["cmmd_scale"]) * (means[0] + means[1] - 2 * means[2])
    yield Value(value=max(0.0, float(value[0])), n=len(x), groups=value[1:])


def _cosine(name: str, extractor: str, title: str) -> Callable[[Measurements, Fields], object]:
    @metric(
        name,
        needs=needs(extractor),
        better="higher",
        fields=("features_quantise", f"{extractor}_model"),
        title=title,
        source="the cosine of the two feature vectors of each pair",
        tolerance=1e-4,
    )
    def compute(m: Measurements, p: Fields) -> Iterator[Value]:
        problem = unusable(m, "fake", "reference", least=1)
        if problem:
            yield problem
            return
        a, b = (rows(m[k]).astype(np.float64) for k in ("fake", "reference"))
        samples = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
        yield Value(samples=samples, image=m["fake"].image)

    return compute


dino_cosine = _cosine("dino_cosine", "dinov2", "Cosine of the DINOv2 class tokens of an image and its reconstruction")
clip_cosine = _cosine("clip_cosine", "clip", "Cosine of the CLIP embeddings of an image and its reconstruction")
