"""Fréchet distances of Inception features: FID and sFID."""

from __future__ import annotations

import math
from collections.abc import Iterator

from vtbench.api import Fields, Measurements, Value, metric

from . import _frechet
from ._features import FIELDS, inception_needs, rows, small_sample, unusable


def frechet_values(m: Measurements, head: str = "pool3") -> Iterator[Value]:
    """The distance between the columns `fake` and `reference`, with its leave-one-group-out values.

    Without the column `reference` it is taken from the mean and covariance that the context holds for `head`; groups are then deleted from
    `fake` alone.

    notes: `split_half`, the distance between two halves of the ground truth (unpaired samples of n / 2 images from one source give
    this; reconstructions of the same images can lie below it), and a `warning` when n is small for the dimension.
    """
    given = "reference" not in m.columns
    problem = unusable(m, "fake") if given else unusable(m, "fake", "reference")
    if problem:
        yield problem
        return
    fake = _frechet.Sample(rows(m["fake"]), m.group_of(m["fake"]))
    if given:
        moments = _frechet.of_statistics(*m.context["reference_statistics"][head])
        value = _frechet.distance(fake.gaussian(), moments)
        notes = {"reference": "statistics", **small_sample(fake.n, fake.d)}
        yield Value(value=value, n=fake.n, groups=_frechet.leave_one_out(fake, moments), notes=notes)
        return
    truth = _frechet.Sample(rows(m["reference"]), m.group_of(m["reference"]))
    value = _frechet.distance(fake.gaussian(), truth.gaussian())
    notes = {
        "n_reference": truth.n,
        "split_half": _frechet.split_half(truth),
        **small_sample(min(fake.n, truth.n), fake.d),
    }
    yield Value(value=value, n=fake.n, groups=_frechet.leave_one_out(fake, truth), notes=notes)


@metric(
    "fid",
    needs=lambda p: inception_needs(p, "pool3"),
    better="lower",
    fields=FIELDS,
    title="Fréchet Inception distance against the ground truth prepared the same way (rFID for reconstructions)",
    source="Heusel et al. 2017, arXiv 1706.08500",
    tolerance=1e-3,
    compares="moments",
    bounds=(0.0, math.inf),
)
def fid(m: Measurements, p: Fields) -> Iterator[Value]:
    """FID on pool3 features, 2048 dimensions."""
    yield from frechet_values(m)


@metric(
    "sfid",
    needs=lambda p: inception_needs(p, "sfid"),
    better="lower",
    fields=FIELDS,
    title="Fréchet distance of spatial Inception features",
    source="Nash et al. 2021, arXiv 2103.03841, as ADM's evaluator has it: seven channels of mixed_6/conv",
    tolerance=1e-3,
    compares="moments",
    bounds=(0.0, math.inf),
)
def sfid(m: Measurements, p: Fields) -> Iterator[Value]:
    """sFID on 17 x 17 x 7 = 2023 dimensions."""
    yield from frechet_values(m, "sfid")
