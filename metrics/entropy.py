"""Entropy of the token frequencies, and what follows from it: perplexity, redundancy, divergence from uniform use."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.tokens import entropy as estimate
from vtbench.tokens.counts import Counts
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")
SOURCE = "delete-group jackknife over groups of images (50); the plug-in value beside it"


def pooled(counts: Counts) -> tuple[float, float, np.ndarray]:
    """(bias-corrected by the jackknife and at most log2 K, plug-in, leave-one-out plug-in ``[G]``) entropies in bits of the pooled tokens."""
    left = estimate.without_each(counts)
    whole = estimate.plugin(counts.total)
    corrected = estimate.jackknifed(whole, left)
    return (corrected if math.isnan(corrected) else min(corrected, math.log2(counts.total.size))), whole, left


def _of_entropy(study: Study, function: Callable[[float], float]) -> Iterator[Value]:
    """A monotone function of the entropy: corrected, plug-in, and the matched uniform null's plug-in."""
    counts = study.counts
    low, high = sorted((function(0.0), function(math.log2(study.size))))
    corrected, plain, left = pooled(counts)
    notes: dict[str, Any] = study.law_note() | {"symbols": int((counts.total > 0).sum())}
    if math.isnan(corrected):
        yield Value(
            status="skipped", why="one image: the jackknife needs two", n=counts.n, slice=study.slice(), notes=notes
        )
    else:
        # The corrected value moves with the plug-in's leave-one-out values around it.
        shift = corrected - plain
        groups = np.array([function(h + shift) for h in left])
        yield Value(
            value=function(corrected), n=counts.n, groups=groups, slice=study.slice(), notes=notes, bounds=(low, high)
        )
    groups = np.array([function(h) for h in left])
    name = study.slice("estimator=plugin")
    yield Value(value=function(plain), n=counts.n, groups=groups, slice=name, notes=notes, bounds=(low, high))
    floor = function(estimate.plugin(study.uniform_counts.total))
    yield Value(value=floor, n=counts.n, slice=study.slice("estimator=plugin", "null=uniform"), notes=notes)


@metric(
    "entropy",
    needs=needs,
    unit="bits/token",
    fields=FIELDS,
    title="Entropy of the pooled token frequencies",
    source=SOURCE,
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, math.inf),
)
@per_unit
def entropy(study: Study, p: Fields) -> Iterator[Value]:
    """H in bits, at most log2 K."""
    yield from _of_entropy(study, lambda h: h)


@metric(
    "perplexity",
    needs=needs,
    unit="symbols",
    fields=FIELDS,
    title="2 to the entropy of the pooled token frequencies",
    source=SOURCE,
    tolerance=1e-3,
    groups=50,
    bounds=(1.0, math.inf),
)
@per_unit
def perplexity(study: Study, p: Fields) -> Iterator[Value]:
    """As many equally likely symbols would have the same entropy."""
    yield from _of_entropy(study, lambda h: 2.0**h)


@metric(
    "redundancy",
    needs=needs,
    fields=FIELDS,
    title="1 - H / log2 K",
    source=f"Shannon 1948; {SOURCE}",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1.0),
)
@per_unit
def redundancy(study: Study, p: Fields) -> Iterator[Value]:
    """0 for uniform use, 1 for a constant."""
    if study.size < 2:
        yield Value(status="skipped", why="a codebook of one symbol has no redundancy", slice=study.slice())
        return
    full = math.log2(study.size)
    yield from _of_entropy(study, lambda h: 1 - h / full)


@metric(
    "entropy_per_position",
    needs=needs,
    unit="bits/token",
    fields=FIELDS,
    title="Entropy over the images at each position: mean, and the lowest and highest position",
    source="Chao, Wang and Jost 2013, position by position: one token an image, so images are the independent draws",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def entropy_per_position(study: Study, p: Fields) -> Iterator[Value]:
    """The profile over the positions is in the notes, with the plug-in's. At most log2 K, and in practice log2 of the number of images, which is said."""
    ids = study.sample
    if len(ids) < 2:
        yield Value(status="skipped", why="one image: a position has a single token", slice=study.slice(), n=len(ids))
        return
    profile, plain = [], []
    for column in np.ascontiguousarray(ids.T):
        there = column[column >= 0]
        counted = np.bincount(there, minlength=1)
        profile.append(min(estimate.chao_wang_jost(counted), math.log2(study.size)))
        plain.append(estimate.plugin(counted))
    values, flat = np.array(profile), np.array(plain)
    used = ~np.isnan(values)
    if not used.any():
        yield Value(status="skipped", why="no position has two tokens", slice=study.slice(), n=len(ids))
        return
    doubt = ""
    if len(ids) < study.size:
        doubt = f"{len(ids)} images for {study.size} symbols at a position: still biased low"
    notes = study.sample_note | {
        "log2_images": math.log2(len(ids)),
        "profile": [round(float(v), 4) for v in values],
        "profile_plugin": [round(float(v), 4) for v in flat],
        "shape": list(study.unit.shape),
    }
    bounds = (0.0, math.log2(study.size))
    mean = float(values[used].mean())
    yield Value(value=mean, n=len(ids), slice=study.slice(), why=doubt, notes=notes, bounds=bounds)
    yield Value(value=float(values[used].min()), n=len(ids), slice=study.slice("position=lowest"), why=doubt)
    yield Value(value=float(values[used].max()), n=len(ids), slice=study.slice("position=highest"), why=doubt)
    plugin = float(flat[used].mean())
    yield Value(value=plugin, n=len(ids), slice=study.slice("estimator=plugin"), why=doubt)


@metric(
    "kl_to_uniform",
    needs=needs,
    unit="bits",
    fields=(*FIELDS, "scans"),
    title="Divergence of single tokens and of neighbouring pairs from uniform use",
    source="log2 K - H1 and 2 log2 K - H2 (plug-in), as ELM reports them; the null is the plug-in's own bias",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, math.inf),
)
@per_unit
def kl_to_uniform(study: Study, p: Fields) -> Iterator[Value]:
    """order=1 by the jackknife; order=2 plug-in, per scan. The pair's floor under uniform use is about log2(K^2 / N) where N << K^2:
    4.4 bits at K = 16384 and 50k images, so read a pair's value beside its null only."""
    full = math.log2(study.size) if study.size > 1 else 0.0
    for value in _of_entropy(study, lambda h: full - h):
        name = value.slice.removeprefix(study.unit.name).removeprefix(";")
        yield _renamed(value, study.slice("order=1", "" if name == "all" else name))
    scans = study.scans(tuple(p["scans"]))
    study.prepare([(scan, 2, "") for scan in scans] + [("native", 2, "shuffled")])
    for scan in scans:
        law = study.law(scan, 2)
        if not law.n:
            why = "there are no neighbouring tokens"
            yield Value(status="skipped", why=why, slice=study.slice("order=2", f"scan={scan}"))
            continue
        notes = study.law_note(law.n, float(study.size) ** 2) | study.sample_note
        name = study.slice("order=2", f"scan={scan}")
        left = 2 * full - law.entropy_groups
        both = (0.0, 2 * full)
        yield Value(value=2 * full - law.entropy, n=law.n, groups=left, slice=name, notes=notes, bounds=both)
    for null in ("uniform", "shuffled"):
        law = study.law("native", 2, null)
        if law.n:
            name = study.slice("order=2", f"null={null}")
            yield Value(value=2 * full - law.entropy, n=law.n, slice=name)


def _renamed(value: Value, name: str) -> Value:
    from dataclasses import replace

    return replace(value, slice=name)
