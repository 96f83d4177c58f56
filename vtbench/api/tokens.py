"""Tokens: the streams that an encoder makes, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Kind = Literal["index", "bits", "continuous", "soft", "bytes"]
Layout = Literal["grid2d", "seq1d", "multiscale", "grid3d"]


@dataclass(frozen=True)
class Condition:
    """What a model may know of a sample besides its pixels."""

    id: str
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Stream:
    """One stream of tokens.

    name: unique in a `Tokens`. kind: `index` (integers below `sizes`), `bits` (0/1), `continuous`, `soft` (weights over a
    codebook), `bytes` (a codec's own file). layout: how positions lie. sizes: the codebook sizes, one per codebook that a
    position indexes (two for a product code). shape: of the positions, ``(h, w)``, ``(n,)`` or the side of every scale.
    ordered: a prefix means something. residual: the codebooks of a position are summed. shared_index: one index reads
    several codebooks, so its bits count once.
    """

    name: str
    kind: Kind
    layout: Layout = "grid2d"
    sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    ordered: bool = False
    residual: bool = False
    shared_index: bool = False

    def bits_per_position(self) -> float | None:
        """Nominal bits of one position: the sum of log2 K (a shared index once); None when continuous or soft."""
        if self.kind in ("continuous", "soft"):
            return None
        if self.kind == "bits":
            return float(sum(math.log2(k) for k in self.sizes)) if self.sizes else 1.0
        sizes = self.sizes[:1] if self.shared_index else self.sizes
        return float(sum(math.log2(k) for k in sizes))


@dataclass
class Tokens:
    """What an encoder makes of a batch of B images.

    data: per stream, an integer array or tensor ``[B, N]`` (``[B, N, C]`` with C codebooks), floats for continuous streams, or
    for `bytes` a list of B ``bytes``. lengths: per image, the positions in use (counted over all streams), or None when all
    are. nmax: the greatest length that a variable-length code may send (its length is then sent too). condition: what the
    decoder needs beside the tokens. extra: whatever the adapter wants to hand from its encode to its decode (never stored).
    """

    streams: tuple[Stream, ...]
    data: dict[str, Any]
    size: int
    lengths: np.ndarray | None = None
    nmax: int | None = None
    condition: Sequence[Condition] | None = None
    extra: Any = None

    def __len__(self) -> int:
        return self.size

    def positions(self) -> np.ndarray:
        """Active positions per image, over all streams: int64 ``[B]``."""
        if self.lengths is not None:
            return np.asarray(self.lengths, dtype=np.int64)
        total = sum(int(self.data[s.name].shape[1]) for s in self.streams if s.kind not in ("bytes", "continuous"))
        return np.full(self.size, total, dtype=np.int64)

    def bits(self) -> np.ndarray | None:
        """Nominal bits per image, float64 ``[B]``: the sum of log2 K over active positions, plus ceil(log2 nmax) when the
        length varies; a codec's real bytes times 8; None when any stream is continuous."""
        total = np.zeros(self.size)
        for stream in self.streams:
            if stream.kind == "bytes":
                total += 8.0 * np.array([len(b) for b in self.data[stream.name]], dtype=np.float64)
                continue
            each = stream.bits_per_position()
            if each is None:
                return None
            if self.lengths is not None and len(self.streams) == 1:
                total += each * self.positions()
            else:
                total += each * int(self.data[stream.name].shape[1])
        if self.lengths is not None and self.nmax is not None and self.nmax > 1:
            total += math.ceil(math.log2(self.nmax))
        return total

    def caption_bits(self) -> np.ndarray | None:
        """Bits of the captions that the decoder needs (UTF-8 bytes times 8), shown apart from `bits`."""
        if self.condition is None or all(c.caption is None for c in self.condition):
            return None
        return np.array([8.0 * len((c.caption or "").encode()) for c in self.condition])

    def arrays(self) -> dict[str, np.ndarray]:
        """The integer streams as NumPy arrays on the CPU."""
        out: dict[str, np.ndarray] = {}
        for stream in self.streams:
            if stream.kind in ("index", "bits"):
                value = self.data[stream.name]
                out[stream.name] = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        return out
