"""n-grams in every scan order, and 2 x 2 patches: their rank-frequency exponent, entropy and novelty, beside two nulls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.tokens.laws import GramLaw
from vtbench.tokens.study import Study, needs, per_unit

from .zipf import bends, doubts

FIELDS = ("sample_tokens", "null_seed", "scans", "orders")
NULL_NOTE = (
    "uniform: every symbol equally likely; shuffled: the same tokens at random images and positions (the product law)"
)


def cells(study: Study, p: Fields) -> Iterator[tuple[str, int, str, GramLaw]]:
    """(slice, order, null, law) of every scan and order, then of the nulls, which are the same for every scan."""
    scans = study.scans(tuple(p["scans"]))
    grid = len(study.unit.shape) == 2 and min(study.unit.shape) > 1
    wanted = [(scan, order, "") for order in p["orders"] for scan in scans]
    wanted += [("native", order, "shuffled") for order in p["orders"]]
    study.prepare(wanted + ([("patch", 4, ""), ("patch", 4, "shuffled")] if grid else []))
    for order in p["orders"]:
        for scan in scans:
            yield study.slice(f"order={order}", f"scan={scan}"), order, "", study.law(scan, order)
        for null in ("uniform", "shuffled"):
            yield study.slice(f"order={order}", f"null={null}"), order, null, study.law("native", order, null)
    if grid:
        for null in ("", "uniform", "shuffled"):
            name = study.slice("order=2x2", f"null={null}" if null else "")
            yield name, 4, null, study.law("patch", 4, null)


def _each(study: Study, p: Fields, make: Callable[[str, int, str, GramLaw], Value]) -> Iterator[Value]:
    for name, order, null, law in cells(study, p):
        if law.n:
            yield make(name, order, null, law)
        else:
            yield Value(status="skipped", why="the sequences are shorter than the n-gram", slice=name)


@metric(
    "ngram_zipf_exponent",
    needs=needs,
    fields=FIELDS,
    title="Zipf-Mandelbrot exponent of n-grams (n = 2 to 4) in every scan, and of 2 x 2 patches",
    source="as zipf_exponent, over K^n possible types; nulls: " + NULL_NOTE,
    tolerance=1e-3,
    groups=50,
)
@per_unit
def ngram_zipf_exponent(study: Study, p: Fields) -> Iterator[Value]:
    """Skipped where more than 90 % of the n-grams are new, which is the rule for long ones."""

    def make(name: str, order: int, null: str, law: GramLaw) -> Value:
        notes = study.law_note(law.n, float(study.size) ** order) | {"V": law.types} | study.sample_note
        refused, doubt = doubts(law.n, float(study.size) ** order, law.types)
        if not refused and math.isnan(law.exponent.s):
            refused = "one image: ranks and counts cannot come from different images"
        refused = refused or bends(law.exponent, float(study.size) ** order)
        if refused:
            return Value(status="skipped", why=refused, slice=name, n=law.n, notes=notes)
        notes["q"] = law.exponent.q
        return Value(value=law.exponent.s, n=law.n, groups=law.exponent.groups, slice=name, why=doubt, notes=notes)

    yield from _each(study, p, make)


@metric(
    "ngram_entropy",
    needs=needs,
    unit="bits/n-gram",
    fields=FIELDS,
    title="Plug-in entropy of n-grams in every scan, and of 2 x 2 patches",
    source="plug-in, biased low, at most log2 N: read it beside its nulls, which carry the same bias",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, math.inf),
)
@per_unit
def ngram_entropy(study: Study, p: Fields) -> Iterator[Value]:
    """Below the shuffled null: neighbours depend on each other."""

    def make(name: str, order: int, null: str, law: GramLaw) -> Value:
        notes = study.law_note(law.n, float(study.size) ** order) | {"V": law.types, "log2_N": math.log2(law.n)}
        groups = law.entropy_groups if not null else None
        most = order * math.log2(study.size)
        return Value(value=law.entropy, n=law.n, groups=groups, slice=name, notes=notes, bounds=(0.0, most))

    yield from _each(study, p, make)


@metric(
    "ngram_novelty",
    needs=needs,
    fields=FIELDS,
    title="Distinct n-grams over n-grams, V/N, in every scan, and of 2 x 2 patches",
    source="counted; falls with N, so compare at equal N or with the nulls",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1.0),
)
@per_unit
def ngram_novelty(study: Study, p: Fields) -> Iterator[Value]:
    """1 where no n-gram ever returns."""

    def make(name: str, order: int, null: str, law: GramLaw) -> Value:
        notes = study.law_note(law.n, float(study.size) ** order) | {"V": law.types}
        groups: np.ndarray | None = law.distinct_groups if not null else None
        return Value(value=law.types / law.n, n=law.n, groups=groups, slice=name, notes=notes)

    yield from _each(study, p, make)
