"""How tokens answer to small changes of the image: JPEG, noise, shifts by a pixel, shifts by whole cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import INPUT, Fields, Measurements, Need, Pass, Value, metric
from vtbench.tokens.condense import condensed
from vtbench.tokens.streams import Unit
from vtbench.tokens.study import why_not

from .idempotency import found_units, matches


def _shift(spelled: str) -> Pass:
    down, right = (int(part) for part in spelled.split(","))
    return Pass("shift", INPUT, (("dx", right), ("dy", down)))


def changes(p: Fields) -> dict[str, Pass]:
    """The changed inputs by slice name."""
    out: dict[str, Pass] = {}
    for quality in p["jpeg_qualities"]:
        out[f"jpeg={quality}"] = Pass("jpeg", INPUT, (("quality", int(quality)),))
    for sigma in p["noise_sigmas"]:
        out[f"noise={sigma:g}"] = Pass("noise", INPUT, (("sigma", float(sigma)),))
    for spelled in p["pixel_shifts"]:
        out[f"shift={spelled.replace(',', 'x')}"] = _shift(spelled)
    return out


def needs(p: Fields) -> Mapping[str, Need]:
    """Ids of the input and of its changed versions."""
    out = {"ids": Need("tokens", "ids"), "streams": Need("tokens", "streams")}
    for name, at in changes(p).items():
        out[name] = Need("tokens", "ids", at=Pass("run", at))
    return out


@metric(
    "token_stability",
    needs=needs,
    better="higher",
    fields=("jpeg_qualities", "noise_sigmas", "pixel_shifts"),
    title="Share of tokens that stay under JPEG, noise, and shifts by a pixel",
    source="match of E(change(x)) with E(x), position by position; published: VQ under JPEG about 0.31",
    tolerance=1e-2,
    groups=50,
)
def token_stability(m: Measurements, p: Fields) -> Iterator[Value]:
    """Per image, then the mean; `chance` in the notes is what independent tokens of the same frequencies would match."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    yield from condensed(_stable(m, p))


def _stable(m: Measurements, p: Fields) -> Iterator[Value]:
    for unit in found_units(m):
        chance = _chance(unit.take(m["ids"].array()), unit.size)
        for name in changes(p):
            share = matches(m["ids"], m[name], unit)
            notes = {"chance": chance}
            yield Value(samples=share, image=m["ids"].image, slice=unit.slice(name), notes=notes, keep=False)


def _chance(ids: np.ndarray, size: int) -> float:
    p = np.bincount(ids[ids >= 0], minlength=size).astype(np.float64)
    p /= max(1.0, p.sum())
    return float(p @ p)


def needs_cells(p: Fields) -> Mapping[str, Need]:
    """Ids of the input and of its versions shifted by `cell_shift` pixels."""
    out = {"ids": Need("tokens", "ids"), "streams": Need("tokens", "streams")}
    for name, spelled in _cell_shifts(p).items():
        out[name] = Need("tokens", "ids", at=Pass("run", _shift(spelled)))
    return out


def _cell_shifts(p: Fields) -> dict[str, str]:
    pixels = int(p["cell_shift"])
    return {"right": f"0,{pixels}", "down": f"{pixels},0"}


@metric(
    "shift_equivariance",
    needs=needs_cells,
    better="higher",
    fields=("cell_shift", "resolution"),
    title="Whether tokens move with the picture: match after a shift by whole cells, un-shifted, corrected for chance",
    source="(match - chance) / (1 - chance) over the cells whose content stayed inside, one cell from the border",
    tolerance=1e-2,
    groups=50,
)
def shift_equivariance(m: Measurements, p: Fields) -> Iterator[Value]:
    """1 where tokens follow the picture, 0 where they match as often as chance. For grids whose cell divides the shift."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    yield from condensed(_equivariant(m, p))


def _equivariant(m: Measurements, p: Fields) -> Iterator[Value]:
    for unit in found_units(m):
        refused, steps = _steps(unit, p)
        if refused:
            yield Value(status="skipped", why=refused, slice=unit.slice())
            continue
        height, width = unit.shape
        still = unit.take(m["ids"].array()).reshape(-1, height, width)
        chance = _chance(still, unit.size)
        for name, (down, right) in zip(_cell_shifts(p), steps):
            moved = unit.take(m[name].array()).reshape(-1, height, width)
            inner = still[:, 1 : height - 1 - down, 1 : width - 1 - right]
            met = (inner == moved[:, 1 + down : height - 1, 1 + right : width - 1]).mean(axis=(1, 2))
            share = (met - chance) / (1 - chance) if chance < 1 else np.ones(len(met))
            notes = {"chance": chance, "cells": down or right}
            yield Value(samples=share, image=m["ids"].image, slice=unit.slice(f"shift={name}"), notes=notes, keep=False)


def _steps(unit: Unit, p: Fields) -> tuple[str, list[tuple[int, int]]]:
    """(why not, the two shifts in cells)."""
    pixels, side = int(p["cell_shift"]), p["resolution"]
    if len(unit.shape) != 2:
        return "1D tokens have no cells that could move", []
    if side is None:
        return "images of different sizes have different grids", []
    height, width = unit.shape
    if side % height or side % width or pixels % (side // height) or pixels % (side // width):
        return f"{pixels} pixels are not a whole number of cells of a {height} x {width} grid at {side} pixels", []
    down, right = pixels * height // side, pixels * width // side
    if down > height - 3 or right > width - 3:
        return f"a {height} x {width} grid is too small for a shift by {pixels} pixels", []
    return "", [(0, right), (down, 0)]
