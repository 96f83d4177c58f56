"""DreamSim: perceptual distance from vision transformers tuned on human judgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric

from . import embeddings
from ._features import rows, unusable


def needs(p: Fields) -> Mapping[str, Need]:
    """Embeddings of the output and of the ground truth."""
    plain = embeddings.needs("dreamsim")(p)
    return {k: replace(need, args=(*need.args, ("resize", p["dreamsim_resize"]))) for k, need in plain.items()}


@metric(
    "dreamsim",
    needs=needs,
    better="lower",
    fields=("features_quantise", "dreamsim_model", "dreamsim_resize"),
    title="DreamSim: distance of tuned transformer embeddings",
    source="Fu et al. 2023, arXiv 2306.09344; https://github.com/ssundaram21/dreamsim",
    tolerance=1e-4,
)
def dreamsim(m: Measurements, p: Fields) -> Iterator[Value]:
    """One minus the cosine of the two embeddings of each pair; 0 for equal images. dreamsim_resize: `pillow` (to 224 x 224, as the package prepares images) or `none`."""
    problem = unusable(m, "fake", "reference", least=1)
    if problem:
        yield problem
        return
    a, b = (rows(m[k]).astype(np.float64) for k in ("fake", "reference"))
    cosine = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    yield Value(samples=np.maximum(0.0, 1 - cosine), image=m["fake"].image)
