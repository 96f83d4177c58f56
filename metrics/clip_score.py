"""CLIP score: how well images fit their prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import OUTPUT, Fields, Measurements, Need, Value, View, metric


def needs(p: Fields) -> Mapping[str, Need]:
    """The cosine of each output and its sample's caption."""
    args = (("model", p["clip_score_model"]),)
    return {"cosine": Need("clip_score", "cosine", at=OUTPUT, view=View(quantise=p["features_quantise"]), args=args)}


@metric(
    "clip_score",
    needs=needs,
    better="higher",
    fields=("features_quantise", "clip_score_model", "clip_score_scale"),
    title="Cosine of an image's and its prompt's CLIP embeddings, scaled, never below 0",
    source="Hessel et al. 2021, arXiv 2104.08718 (there 2.5 times the cosine; most tables print 100 times)",
    tolerance=1e-3,
)
def clip_score(m: Measurements, p: Fields) -> Iterator[Value]:
    """clip_score_scale times the cosine, cut at 0, the mean over images."""
    cosine = m["cosine"].array().astype(np.float64)
    yield Value(samples=float(p["clip_score_scale"]) * np.maximum(cosine, 0), image=m["cosine"].image)
