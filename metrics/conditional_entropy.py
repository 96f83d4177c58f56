"""Entropy of a token given those before it, as a bracket: from below by estimation, from above by prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.errors import BadData
from vtbench.tokens import entropy
from vtbench.tokens.study import Study, needs, per_unit

TRUSTED = 0.1
CONTEXTS = (1, 2, 3)


@metric(
    "conditional_entropy",
    needs=needs,
    unit="bits/token",
    fields=("sample_tokens", "null_seed", "scans", "kn_tokens"),
    title="Entropy of a token given the 1, 2 or 3 before it in a scan, bracketed",
    source="below: Chao-Wang-Jost entropies of n-grams, their difference; above: held-out modified Kneser-Ney cross-entropy",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def conditional_entropy(study: Study, p: Fields) -> Iterator[Value]:
    """bound=lower is biased low, bound=upper is no less than the entropy up to noise; the value itself is their middle, and skipped where
    they are more than 0.1 bit apart. Contexts longer than 1 are measured in the first scan only."""
    scans = study.scans(tuple(p["scans"]))
    for context in CONTEXTS:
        for scan in scans if context == 1 else scans[:1]:
            yield from _bracket(study, scan, context, int(p["kn_tokens"]))


def _bracket(study: Study, scan: str, context: int, tokens: int) -> Iterator[Value]:
    name = study.slice(f"context={context}", f"scan={scan}")
    if study.unit.stop - study.unit.start <= context:
        yield Value(status="skipped", why="the sequences are shorter than the context", slice=name)
        return
    long = study.law(scan, context + 1)
    if context == 1:
        there = study.sample[study.sample >= 0]
        short = entropy.chao_wang_jost(np.bincount(there, minlength=study.size))
    else:
        short = study.law(scan, context).entropy_cwj
    most = math.log2(study.size)
    lower = min(max(0.0, long.entropy_cwj - short), most)
    notes = study.sample_note | {"V/N": long.types / long.n if long.n else None}
    yield Value(value=lower, n=long.n, slice=f"{name};bound=lower", notes=notes, bounds=(0.0, most))
    try:
        found = study.held_out(scan, context + 1, tokens)
    except BadData as error:
        yield Value(status="skipped", why=str(error), slice=f"{name};bound=upper")
        yield Value(status="skipped", why=str(error), slice=name)
        return
    upper = float(found.per_token.mean())
    notes = {"trained_on": found.tokens[0], "tested_on": found.tokens[1]}
    images = study.sample_images[found.rows]
    yield Value(samples=found.per_token, image=images, slice=f"{name};bound=upper", notes=notes, keep=False)
    gap = upper - lower
    notes = {"lower": lower, "upper": upper, "gap": gap}
    if gap > TRUSTED:
        why = f"between {lower:.2f} and {upper:.2f} bits: more tokens are needed to tell"
        yield Value(status="skipped", why=why, slice=name, n=long.n, notes=notes)
    else:
        top = min(upper, most)  # a prediction may be worse than none, an entropy may not
        yield Value(value=(lower + top) / 2, n=long.n, slice=name, notes=notes)
