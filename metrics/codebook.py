"""How much of the codebook a tokenizer uses, and how many tokens an image."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.tokens import counts as counting
from vtbench.tokens.condense import mean_bounds
from vtbench.tokens.counts import Counts
from vtbench.tokens.spelled import read
from vtbench.tokens.streams import Unit, units

ABSENT = {
    "continuous": "the tokens are continuous: there is no codebook",
    "soft": "the tokens are weights over a codebook: no index is chosen",
    "bytes": "a codec's file has no codebook",
}

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
"""Slices of a distribution of lengths."""


def needs(p: Fields) -> Mapping[str, Need]:
    """Token ids and what they are."""
    return {"ids": Need("tokens", "ids"), "streams": Need("tokens", "streams")}


def needs_used(p: Fields) -> Mapping[str, Need]:
    """Active positions and what they are."""
    return {"used": Need("tokens", "used"), "streams": Need("tokens", "streams")}


def why_not(m: Measurements) -> str:
    """Why there are no indices to count; empty when there are."""
    streams = read(str(m["streams"].array()[0]))
    if any(s.kind in ("index", "bits") for s in streams):
        return ""
    return ABSENT[streams[0].kind] if streams else "the model has no tokens"


def counted(m: Measurements) -> Iterator[tuple[Unit, Counts]]:
    """Each codebook with how often its entries occur, per jackknife group; a product code counts its codebooks one by one, bits of
    one position together (up to 2^20 words)."""
    column = m["ids"]
    width = max(rows.shape[1] for _, rows in column.blocks() if len(rows))
    depth = next((rows.shape[2] for _, rows in column.blocks() if len(rows) and rows.ndim == 3), None)
    for unit in units(read(str(m["streams"].array()[0])), width, depth):
        if unit.name.endswith("codebook=joint"):
            continue
        blocks = ((image, unit.take(rows)) for image, rows in column.blocks() if len(rows))
        counts = counting.count(blocks, unit.size, m.groups)
        if counts.n:
            yield unit, counts


def perplexity(counts: np.ndarray) -> float:
    """2 to the entropy (bits, plug-in) of occurrences ``[K]``: 1 to K."""
    seen = counts[counts > 0] / counts.sum()
    return float(2.0 ** -(seen * np.log2(seen)).sum())


@metric(
    "tokens_used",
    needs=needs_used,
    unit="tokens",
    title="Active token positions per image, mean",
    source="counted",
    tolerance=0.0,
    bounds=(0.0, math.inf),
)
def tokens_used(m: Measurements, p: Fields) -> Iterator[Value]:
    """Positions in use per image; a position with several codebooks counts once. Where images use different numbers, their distribution too: the
    least, 10%, median, 90% and the greatest, as slices (the ends without an interval)."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    used, group = m["used"].array(), m.group_of(m["used"])
    yield Value(samples=used, image=m["used"].image)
    if used.min() == used.max():
        return
    for name, share in QUANTILES.items():
        rest = [used[group != g] if (group == g).any() else [] for g in range(int(m.groups.max()) + 1)]
        without = [float(np.quantile(r, share)) if len(r) else np.nan for r in rest]
        inner = 0 < share < 1
        value = float(np.quantile(used, share))
        yield Value(value=value, n=len(used), groups=np.array(without) if inner else None, slice=name)


@metric(
    "codebook_usage",
    needs=needs,
    unit="%",
    better="higher",
    title="Share of the codebook's entries that occur at least once in the set",
    source="counted; grows with the number of tokens, so the notes say N and what uniform use would give",
    tolerance=1e-2,
)
def codebook_usage(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent of K per codebook, and their mean when there are several.

    It can only grow with the set, so no interval is given; `usage_if_uniform` is 100 (1 - (1 - 1/K)^N)."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    values = []
    for unit, counts in counted(m):
        usage = 100.0 * float((counts.total > 0).sum()) / unit.size
        expected = -100.0 * float(np.expm1(counts.n * np.log1p(-1.0 / unit.size))) if unit.size > 1 else 100.0
        notes = {"N": counts.n, "K": unit.size, "usage_if_uniform": expected}
        values.append(Value(value=usage, n=counts.n, slice=unit.slice(), notes=notes))
    yield from _with_mean(values)


@metric(
    "codebook_perplexity",
    needs=needs,
    better="higher",
    title="2 to the entropy of the pooled token frequencies",
    source="plug-in entropy of the empirical distribution; van den Oord et al. 2017, arXiv:1711.00937",
    tolerance=1e-2,
    bounds=(1.0, math.inf),
)
def codebook_perplexity(m: Measurements, p: Fields) -> Iterator[Value]:
    """Perplexity in 1 .. K per codebook with its delete-group jackknife, and their mean when there are several."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    values = []
    for unit, counts in counted(m):
        without = [np.nan if left is None or not left.any() else perplexity(left) for left in counts.without()]
        notes = {"N": counts.n, "K": unit.size}
        value = perplexity(counts.total)
        values.append(
            Value(
                value=value,
                n=counts.n,
                groups=np.array(without),
                slice=unit.slice(),
                notes=notes,
                bounds=(1.0, unit.size),
            )
        )
    yield from _with_mean(values)


def _with_mean(values: list[Value]) -> Iterator[Value]:
    """The values, and their unweighted mean when there are several."""
    yield from values
    if len(values) < 2:
        return
    mean = float(np.mean([v.value for v in values if v.value is not None]))
    groups = [v.groups for v in values if v.groups is not None]
    yield Value(
        value=mean,
        n=sum(v.n for v in values),
        groups=np.mean(groups, axis=0) if groups else None,
        slice="mean",
        bounds=mean_bounds(values),
    )
