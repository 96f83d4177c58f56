"""The Inception Score of the outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.errors import UsageError

from ._features import FIELDS, inception_needs, rows, unusable

WHY = (
    "the weights at hand carry no logits head: the Inception Score needs the official file "
    "(weights-inception-2015-12-05-6726825d.pth of torch-fidelity)"
)


def needs(p: Fields) -> Mapping[str, Need]:
    """The logits of the outputs; the score knows no ground truth."""
    return {"fake": inception_needs(p, "logits")["fake"]}


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise log softmax, float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    out: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return out


def bounds(n: int, splits: int, block: int) -> list[tuple[int, int]]:
    """Consecutive parts: `splits` nearly equal ones, or blocks of `block` images (the last may be smaller)."""
    if block:
        return [(start, min(start + block, n)) for start in range(0, n, block)]
    return [(i * n // splits, (i + 1) * n // splits) for i in range(splits)]


def scores(log_p: np.ndarray, parts: list[tuple[int, int]]) -> np.ndarray:
    """exp of the mean KL divergence to the part's marginal, one a part."""
    out = []
    for start, stop in parts:
        chunk = log_p[start:stop]
        if not len(chunk):
            continue
        probability = np.exp(chunk)
        with np.errstate(divide="ignore"):
            marginal = np.log(probability.mean(0))
        out.append(np.exp((probability * (chunk - marginal)).sum(1).mean()))
    return np.array(out)


@metric(
    "inception_score",
    needs=needs,
    better="higher",
    fields=(*FIELDS, "is_order", "is_splits", "is_block", "is_seed"),
    title="Inception Score: exp of the mean KL divergence between an image's classes and all images'",
    source="Salimans et al. 2016, arXiv 1606.03498",
    tolerance=1e-3,
    bounds=(1.0, math.inf),
)
def inception_score(m: Measurements, p: Fields) -> Iterator[Value]:
    """Mean over the parts. notes: `std` over the parts (population) and `std_sample`.

    is_order: `stored` (ADM: consecutive images, so a class-sorted set scores low) or `shuffled` by RandomState(is_seed). is_splits parts, or blocks of
    is_block images when that is not 0. Leave-one-group-out values keep the order and cut the rest into as many parts.
    """
    problem = unusable(m, "fake")
    if problem:
        yield problem
        return
    logits = rows(m["fake"])
    n = len(logits)
    if logits.shape[1] == 0:
        yield Value(status="skipped", n=n, why=WHY)
        return
    splits, block = int(p["is_splits"]), int(p["is_block"])
    if not block and n < splits:
        yield Value(status="skipped", n=n, why=f"needs at least {splits} images (is_splits), and there are {n}")
        return
    if p["is_order"] == "shuffled":
        order = np.random.RandomState(int(p["is_seed"])).permutation(n)
    elif p["is_order"] == "stored":
        order = np.arange(n)
    else:
        raise UsageError(f"is_order is stored or shuffled, not '{p['is_order']}'")
    log_p = log_softmax(logits[order])
    group = m.group_of(m["fake"])[order]
    each = scores(log_p, bounds(n, splits, block))
    left = np.full(int(group.max()) + 1, np.nan)
    for g in range(len(left)):
        kept = group != g
        rest = int(kept.sum())
        if rest < n and rest >= (1 if block else splits):
            left[g] = scores(log_p[kept], bounds(rest, splits, block)).mean()
    notes: dict[str, Any] = {
        "std": float(each.std()),
        "std_sample": float(each.std(ddof=1)) if len(each) > 1 else None,
        "parts": len(each),
    }
    if p["is_order"] == "stored" and len(each) > 1:
        notes["warning"] = "consecutive parts: images sorted by class score low"
    yield Value(value=float(each.mean()), n=n, groups=left, notes=notes)
