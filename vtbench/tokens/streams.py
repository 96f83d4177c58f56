"""What is studied: one **unit** is one sequence of symbols per image, cut from the stored rows of token ids.

Rows hold the index and bit streams of a model one after the other along the positions, -1 where an image has no token. A unit is
a stream, a codebook of a stream, or the joint symbol of a small product code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtbench.api import Stream
from vtbench.errors import BadData

LARGEST = 1 << 20
"""Symbols that a joint code may have, and that per-group counts are kept for."""


@dataclass(frozen=True)
class Unit:
    """One sequence of symbols per image.

    name: its part of a slice (``stream=fine;codebook=1``), empty when the model has one only. size: the nominal number of symbols K.
    shape: of the positions where they are a fixed grid, else ``(n,)``. start, stop: its positions in a row. codebook: which one of
    the last axis (None: rows have no such axis). radix: the sizes of the codebooks that a joint symbol packs.
    """

    name: str
    size: int
    shape: tuple[int, ...]
    start: int
    stop: int
    codebook: int | None = None
    radix: tuple[int, ...] = ()
    ordered: bool = False

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The unit's symbols in rows ``[B, P]`` or ``[B, P, C]``: int32 ``[B, N]``, -1 where there is none.

        Raises `BadData` for numbers that are not integers and for ids outside the codebook."""
        if not np.issubdtype(rows.dtype, np.integer):
            raise BadData(
                f"token ids are {rows.dtype}, not integers", "Store them as integers; -1 where there is no token"
            )
        part = rows[:, self.start : self.stop]
        if self.radix:
            whole = np.zeros(part.shape[:2], np.int64)
            absent = np.zeros(part.shape[:2], bool)
            for c, size in enumerate(self.radix):
                _check(part[:, :, c], size, self.name)
                absent |= part[:, :, c] < 0
                whole = whole * size + part[:, :, c]
            return np.where(absent, -1, whole).astype(np.int32)
        if self.codebook is not None:
            part = part[:, :, self.codebook]
        _check(part, self.size, self.name)
        return part.astype(np.int32)

    def slice(self, *parts: str) -> str:
        """The name of a slice: the unit's part and others, joined; `all` when there is nothing to say."""
        return ";".join(p for p in (self.name, *parts) if p) or "all"


def _check(ids: np.ndarray, size: int, name: str) -> None:
    if ids.size == 0:
        return
    low, high = int(ids.min()), int(ids.max())
    if low < -1 or high >= size:
        which = f" of {name}" if name else ""
        raise BadData(
            f"the token id {high if high >= size else low}{which} is outside the codebook of {size}",
            "Ids are 0 to K - 1, and -1 where there is no token: check the codebook size",
        )


def positions(stream: Stream) -> int:
    """How many positions a stream of fixed shape has."""
    return sum(s * s for s in stream.shape) if stream.layout == "multiscale" else math.prod(stream.shape)


def units(streams: Sequence[Stream], width: int, codebooks: int | None) -> list[Unit]:
    """The units of rows of `width` positions, with a last axis of `codebooks` (None: no such axis).

    A single stream takes the whole row, so its length may vary. Several must have fixed shapes that add up to the width. Raises
    `BadData` when they do not, or when a stream does not state its codebook size."""
    kept = [s for s in streams if s.kind in ("index", "bits")]
    if not kept:
        return []
    if len(kept) > 1 and sum(positions(s) for s in kept) != width:
        found = " + ".join(f"{s.name} {positions(s)}" for s in kept)
        raise BadData(f"rows of {width} tokens do not hold the streams {found}")
    out: list[Unit] = []
    start = 0
    for stream in kept:
        stop = width if len(kept) == 1 else start + positions(stream)
        grid = stream.layout == "grid2d" and len(stream.shape) == 2 and math.prod(stream.shape) == stop - start
        shape = tuple(stream.shape) if grid else (stop - start,)
        name = f"stream={stream.name}" if len(kept) > 1 else ""
        sizes = tuple(stream.sizes) or ((2,) * (codebooks or 1) if stream.kind == "bits" else ())
        if not sizes or min(sizes) < 1:
            raise BadData(
                f"the codebook size of {stream.name or 'the tokens'} is unknown", "State it: --codebook-size K"
            )
        if stream.shared_index or codebooks is None:
            own = 0 if codebooks is not None else None
            out.append(Unit(name, sizes[0], shape, start, stop, own, (), stream.ordered))
            start = stop
            continue
        # One size for rows with several codebooks, where nothing else could fill them: every codebook has that size.
        used = sizes * codebooks if len(sizes) == 1 and len(kept) == 1 else sizes[:codebooks]
        joint = math.prod(used)
        single = len(used) == 1
        if not (stream.kind == "bits" and joint <= LARGEST):
            for c, size in enumerate(used):
                label = name if single else _join(name, f"codebook={c}")
                out.append(Unit(label, size, shape, start, stop, c, (), stream.ordered))
        if not single and joint <= LARGEST:
            label = name if stream.kind == "bits" else _join(name, "codebook=joint")
            out.append(Unit(label, joint, shape, start, stop, None, used, stream.ordered))
        start = stop
    return out


def _join(*parts: str) -> str:
    return ";".join(p for p in parts if p)
