"""Idempotency: whether encoding a reconstruction gives the tokens that made it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import OUTPUT, Column, Fields, Measurements, Need, Pass, Value, metric
from vtbench.tokens.condense import condensed
from vtbench.tokens.spelled import read
from vtbench.tokens.streams import Unit, units
from vtbench.tokens.study import why_not

MOSTLY = 0.8


def again(rounds: int) -> Pass:
    """`rounds` more encode-decode passes behind the first."""
    at = OUTPUT
    for _ in range(rounds):
        at = Pass("run", at)
    return at


def needs(p: Fields) -> Mapping[str, Need]:
    """Ids of the input, and of each reconstruction of the reconstruction before it."""
    out = {"ids": Need("tokens", "ids"), "streams": Need("tokens", "streams")}
    for r in range(1, int(p["rounds"]) + 1):
        out[f"ids{r}"] = Need("tokens", "ids", at=again(r))
    return out


def found_units(m: Measurements) -> list[Unit]:
    """The units of the ids; product codes one by one, since their joint symbol matches only where all do."""
    ids = m["ids"].array()
    depth = ids.shape[2] if ids.ndim == 3 else None
    return [u for u in units(read(str(m["streams"].array()[0])), ids.shape[1], depth) if not u.name.endswith("=joint")]


def matches(a: Column, b: Column, unit: Unit) -> np.ndarray:
    """Per image the share of positions where two encodings agree: float ``[M]``. An image's absent positions do not count."""
    first, second = unit.take(a.array()), unit.take(b.array())
    width = min(first.shape[1], second.shape[1])
    first, second = first[:, :width], second[:, :width]
    there = first >= 0
    with np.errstate(invalid="ignore"):
        share: np.ndarray = ((first == second) & there).sum(axis=1) / there.sum(axis=1)
    return share


@metric(
    "idempotency",
    needs=needs,
    better="higher",
    fields=("rounds",),
    title="Share of tokens that stay when the reconstruction is encoded again",
    source="mean of 1[E(D(E(x))) = E(x)]; published: VQ about 0.66, byte-pair text 0.995",
    tolerance=1e-2,
    groups=50,
)
def idempotency(m: Measurements, p: Fields) -> Iterator[Value]:
    """Per image, then the mean. round=k: after k round trips, against the first encoding; step=k: against the round before."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    yield from condensed(_rounds(m, int(p["rounds"])))


def _rounds(m: Measurements, rounds: int) -> Iterator[Value]:
    for unit in found_units(m):
        for r in range(1, rounds + 1):
            share = matches(m["ids"], m[f"ids{r}"], unit)
            name = unit.slice(f"round={r}" if r > 1 else "")
            yield Value(samples=share, image=m["ids"].image, slice=name, keep=r == 1)
            if r > 1:
                share = matches(m[f"ids{r - 1}"], m[f"ids{r}"], unit)
                yield Value(samples=share, image=m["ids"].image, slice=unit.slice(f"step={r}"), keep=False)


@metric(
    "idempotent_images",
    needs=needs,
    unit="%",
    better="higher",
    fields=("rounds",),
    title="Images of which more than 80 % of the tokens stay when the reconstruction is encoded again",
    source="idempotency per image, thresholded",
    tolerance=1e-2,
    groups=50,
)
def idempotent_images(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent of images, after one round trip."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    shares = ((unit, matches(m["ids"], m["ids1"], unit)) for unit in found_units(m))
    image = m["ids"].image
    yield from condensed(
        Value(samples=100.0 * (share > MOSTLY), image=image, slice=unit.slice(), keep=False) for unit, share in shares
    )
