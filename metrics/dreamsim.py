"""DreamSim: perceptual distance from vision transformers tuned on human judgements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Measurements, Value, metric

from ._features import rows, unusable
from .embeddings import needs


@metric(
    "dreamsim",
    needs=needs("dreamsim"),
    better="lower",
    fields=("features_quantise", "dreamsim_model"),
    title="DreamSim: distance of tuned transformer embeddings",
    source="Fu et al. 2023, arXiv 2306.09344; https://github.com/ssundaram21/dreamsim",
    tolerance=1e-4,
)
def dreamsim(m: Measurements, p: Fields) -> Iterator[Value]:
    """One minus the cosine of the two embeddings of each pair; 0 for equal images. Images are resized to 224 x 224 as the package does."""
    problem = unusable(m, "fake", "reference", least=1)
    if problem:
        yield problem
        return
    a, b = (rows(m[k]).astype(np.float64) for k in ("fake", "reference"))
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    yield Value(samples=np.maximum(0.0, 1 - cosine), image=m["fake"].image)
