"""Symbols that the set has not shown: live codes and the mass that is still unseen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.tokens import entropy as estimate
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")


def _of_counts(study: Study, function: Callable[[np.ndarray], float], ends: tuple[float, float]) -> Iterator[Value]:
    """A function of the counts and the uniform null's, at most the upper end of its scale."""
    counts, most = study.counts, ends[1]
    total = counts.total
    left = np.array([math.nan if kept is None else min(function(kept), most) for kept in counts.without()])
    notes = study.law_note() | {
        "seen": int((total > 0).sum()),
        "seen_if_uniform": estimate.uniform_seen(study.size, counts.n),
        "once": int((total == 1).sum()),
        "twice": int((total == 2).sum()),
    }
    value = min(function(total), most)
    yield Value(value=value, n=counts.n, groups=left, slice=study.slice(), notes=notes, bounds=ends)
    flat = min(function(study.uniform_counts.total), most)
    yield Value(value=flat, n=counts.n, slice=study.slice("null=uniform"), notes=notes)


@metric(
    "codes_seen",
    needs=needs,
    unit="symbols",
    better="higher",
    fields=FIELDS,
    title="Symbols that occur in the set; the null says how many uniform use would show",
    source="counted over the full set; E[V] = K (1 - (1 - 1/K)^N) under uniform use",
    tolerance=1e-3,
    groups=50,
    bounds=(1.0, math.inf),
)
@per_unit
def codes_seen(study: Study, p: Fields) -> Iterator[Value]:
    """V, from 1 to K. A lower bound of the live codes while N/K is small."""
    yield from _of_counts(study, lambda c: float((c > 0).sum()), (1.0, study.size))


@metric(
    "codes_alive",
    needs=needs,
    unit="symbols",
    better="higher",
    fields=FIELDS,
    title="Symbols that live, seen or not (Chao1, at most K)",
    source="Chao 1984, bias-corrected form; a lower bound where images cluster their tokens",
    tolerance=1e-3,
    groups=50,
    bounds=(1.0, math.inf),
)
@per_unit
def codes_alive(study: Study, p: Fields) -> Iterator[Value]:
    """Chao1; K minus it are dead."""
    yield from _of_counts(study, estimate.chao1, (1.0, study.size))


@metric(
    "unseen_mass",
    needs=needs,
    better="lower",
    fields=FIELDS,
    title="Probability that the next token is one not seen yet (Good-Turing)",
    source="Good 1953; f1 / N",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, 1.0),
)
@per_unit
def unseen_mass(study: Study, p: Fields) -> Iterator[Value]:
    """0 where every symbol has been seen often."""
    yield from _of_counts(study, estimate.unseen_mass, (0.0, 1.0))
