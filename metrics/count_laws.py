"""Laws of the counts themselves: Yule-Simon and Benford."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.tokens import zipf
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")


@metric(
    "yule_simon_rho",
    needs=needs,
    fields=FIELDS,
    title="Yule-Simon rho of the counts of the symbols that occur",
    source="maximum likelihood of p(k) = rho B(k, rho + 1); Simon 1955",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def yule_simon_rho(study: Study, p: Fields) -> Iterator[Value]:
    """rho; the tail exponent of the counts would be 1 + rho if the law held."""
    for null in ("", "uniform"):
        counts = study.counts_of(null)
        left = [math.nan if kept is None else zipf.yule_simon(kept) for kept in counts.without()]
        name = study.slice(f"null={null}" if null else "")
        value = zipf.yule_simon(counts.total)
        yield Value(value=value, n=counts.n, groups=np.array(left), slice=name, notes=study.law_note())


def _digits(study: Study, which: int) -> Iterator[Value]:
    for null in ("", "uniform"):
        counts = study.counts_of(null)
        left = [math.nan if kept is None else zipf.benford(kept)[which] for kept in counts.without()]
        name = study.slice(f"null={null}" if null else "")
        total = counts.total
        notes = study.law_note() | {"symbols": int((total > 0).sum())}
        yield Value(value=zipf.benford(total)[which], n=counts.n, groups=np.array(left), slice=name, notes=notes)


@metric(
    "benford_mad",
    needs=needs,
    fields=FIELDS,
    title="Mean absolute deviation of the counts' first digits from Benford's law",
    source="Benford 1938; P(d) = log10(1 + 1/d)",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, math.inf),
)
@per_unit
def benford_mad(study: Study, p: Fields) -> Iterator[Value]:
    """0 under the law; counts that are all alike are far from it."""
    yield from _digits(study, 0)


@metric(
    "benford_jsd",
    needs=needs,
    unit="bits",
    fields=FIELDS,
    title="Jensen-Shannon divergence of the counts' first digits from Benford's law",
    source="Benford 1938; Lin 1991",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1.0),
)
@per_unit
def benford_jsd(study: Study, p: Fields) -> Iterator[Value]:
    """0 under the law, at most 1."""
    yield from _digits(study, 1)
