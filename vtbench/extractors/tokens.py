"""Rows of token ids, and what the tokens of an image cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vtbench.api import Batch, Rows, Tokens
from vtbench.tokens.spelled import spell


def id_rows(tokens: Tokens) -> np.ndarray:
    """The index and bit streams of B images one after the other: int32 ``[B, N]``, or ``[B, N, C]`` when some position has C > 1
    codebooks. -1 where an image has no token (beyond its length) or a stream no such codebook. Streams that are not discrete give
    no positions."""
    parts = [np.asarray(array).astype(np.int32) for array in tokens.arrays().values()]
    if not parts:
        return np.zeros((tokens.size, 0), np.int32)
    codebooks = max(part.shape[2] if part.ndim == 3 else 1 for part in parts)
    if codebooks == 1:
        rows = np.concatenate([part.reshape(tokens.size, -1) for part in parts], axis=1)
    else:
        deep = [part if part.ndim == 3 else part[..., None] for part in parts]
        padded = [np.pad(p, ((0, 0), (0, 0), (0, codebooks - p.shape[2])), constant_values=-1) for p in deep]
        rows = np.concatenate(padded, axis=1)
    if tokens.lengths is not None:
        lengths = np.asarray(tokens.lengths)
        present = (rows >= 0).reshape(*rows.shape[:2], -1).any(2).sum(1)
        beyond = np.arange(rows.shape[1]) >= lengths[:, None]
        rows[
            beyond & (present != lengths)[:, None]
        ] = -1  # an encoder may mark its unused positions itself, wherever they are
    return rows


class TokenRows:
    """What an encoder made. One row per image.

    Heads: `ids` (`id_rows`), `streams` (what the rows hold: `vtbench.tokens.spelled`), `used` (active positions, int64), `bits`
    (nominal bits, a codec's real ones; nan where a stream is continuous), `caption_bits` (of the captions that the decoder needs; 0
    without), `pixels` (of the model's input).
    """

    name = "tokens"
    version = 1
    takes: Literal["tokens"] = "tokens"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.args = dict(args)

    def identity(self) -> Mapping[str, str]:
        """Nothing but the tokens moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure the tokens of a batch."""
        tokens = batch.tokens
        if tokens is None:
            raise ValueError("the tokens extractor was called without tokens")
        measure = {
            "ids": lambda: id_rows(tokens),
            "streams": lambda: np.full(tokens.size, spell(tokens.streams)),
            "used": tokens.positions,
            "bits": lambda: _or(tokens.bits(), tokens.size, np.nan),
            "caption_bits": lambda: _or(tokens.caption_bits(), tokens.size, 0.0),
            "pixels": lambda: np.full(tokens.size, batch.pixels, np.int64),
        }
        return {head: Rows(measure[head]()) for head in heads}


def _or(values: np.ndarray | None, size: int, otherwise: float) -> np.ndarray:
    return np.full(size, otherwise) if values is None else np.asarray(values, np.float64)
