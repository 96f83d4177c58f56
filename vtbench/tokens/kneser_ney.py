"""Interpolated modified Kneser-Ney n-gram models of token sequences (Chen and Goodman, 1999), in sorted arrays.

Every image is a sequence of its own, opened by n - 1 start symbols. The lowest order is mixed with the uniform distribution over the
nominal K, so a symbol that the training images lack still has a probability and the held-out bits are finite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtbench.errors import BadData


@dataclass(frozen=True)
class _Order:
    """n-grams of one length as sorted keys with their (continuation) counts, and the totals of their contexts."""

    keys: np.ndarray
    counts: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    reserved: np.ndarray
    discounts: np.ndarray


@dataclass(frozen=True)
class KneserNey:
    """A trained model: orders 1 .. n, lowest first. bits: of a symbol in a key."""

    orders: tuple[_Order, ...]
    size: int
    bits: int

    def log2_probability(self, ids: np.ndarray) -> np.ndarray:
        """log2 P of every token of sequences ``[M, N]``: float ``[M, N]``, nan where a token is absent."""
        padded = _padded(ids, len(self.orders), self.size)
        probability = np.full(ids.shape, 1.0 / self.size)
        for n, order in enumerate(self.orders, 1):
            probability = self._interpolate(order, _keys(padded, n, ids.shape[1], self.bits), probability)
        with np.errstate(divide="ignore"):
            return np.where(ids >= 0, np.log2(probability), np.nan)

    def _interpolate(self, order: _Order, key: np.ndarray, lower: np.ndarray) -> np.ndarray:
        flat = key.ravel()
        counts = _found(order.keys, order.counts, flat)
        context = flat >> np.uint64(self.bits)
        totals = _found(order.contexts, order.totals, context)
        reserved = _found(order.contexts, order.reserved, context)
        kept = np.maximum(counts - order.discounts[np.minimum(counts, 3).astype(np.int64)], 0)
        below = lower.ravel()
        with np.errstate(invalid="ignore", divide="ignore"):
            mixed = (kept + reserved * below) / totals
        return np.where(totals > 0, mixed, below).reshape(key.shape)


def train(ids: np.ndarray, size: int, order: int, *, discounts: Sequence[Sequence[float]] | None = None) -> KneserNey:
    """Train a model of an order on sequences ``[M, N]`` of ids below `size` (-1: absent).

    Its lower orders count contexts, not occurrences, so they are no models of their own: train one per order. discounts: (D1, D2, D3+)
    of each order, lowest first, instead of the estimated ones. Raises `BadData` where keys do not fit into 64 bits (order 4 needs
    K < 65536)."""
    bits = int(size).bit_length()  # one symbol more than K: the start
    if bits * order > 64:
        raise BadData(f"an order-{order} model of {size} symbols does not fit", f"Order {64 // bits} does")
    padded = _padded(ids, order, size)
    raw = _keys(padded, order, ids.shape[1], bits)[ids >= 0]
    keys, counts = np.unique(raw, return_counts=True)
    made = [_order(keys, counts, bits, discounts[order - 1] if discounts else None)]
    for n in range(order - 1, 0, -1):
        # Below the top an n-gram counts once for every different symbol before it. Keys end at tokens, so the start symbol is
        # part of contexts only, never an event.
        keys, counts = np.unique(keys & np.uint64((1 << (bits * n)) - 1), return_counts=True)
        made.append(_order(keys, counts, bits, discounts[n - 1] if discounts else None))
    return KneserNey(tuple(reversed(made)), size, bits)


def _padded(ids: np.ndarray, order: int, size: int) -> np.ndarray:
    starts = np.full((len(ids), order - 1), size, np.uint64)
    return np.concatenate([starts, np.where(ids < 0, size, ids).astype(np.uint64)], axis=1)


def _keys(padded: np.ndarray, n: int, width: int, bits: int) -> np.ndarray:
    """The key of the n-gram that ends at each of the last `width` positions."""
    first = padded.shape[1] - width - (n - 1)
    key = np.zeros((len(padded), width), np.uint64)
    for i in range(n):
        key = (key << np.uint64(bits)) | padded[:, first + i : first + i + width]
    return key


def _order(keys: np.ndarray, counts: np.ndarray, bits: int, discounts: Sequence[float] | None) -> _Order:
    cut = _discounts(counts) if discounts is None else np.array([0.0, *discounts])
    context = keys >> np.uint64(bits)
    first = (
        np.flatnonzero(np.concatenate(([True], context[1:] != context[:-1]))) if len(keys) else np.zeros(0, np.int64)
    )
    if not len(keys):
        none = np.zeros(0)
        return _Order(keys, none, keys, none, none, cut)
    totals = np.add.reduceat(counts, first).astype(np.float64)
    taken = np.minimum(cut[np.minimum(counts, 3)], counts)
    reserved = np.add.reduceat(taken, first)
    return _Order(keys, counts.astype(np.float64), context[first], totals, reserved, cut)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """(0, D1, D2, D3+) from the counts of counts. Where those are lacking (every n-gram of a small alphabet is frequent) 0.5, which then
    costs next to nothing."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    out = np.array([0.0, 0.5, 0.5, 0.5])
    if n[1] > 0 and n[2] > 0:
        y = n[1] / (n[1] + 2 * n[2])
        for k in (1, 2, 3):
            if n[k] > 0:
                out[k] = np.clip(k - (k + 1) * y * n[k + 1] / n[k], 0.05, k)
    return out


def _found(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of keys, 0 for those that are not there. Looking up in sorted order is several times faster for large tables."""
    if not len(keys):
        return np.zeros(len(wanted))
    order = np.argsort(wanted) if len(wanted) > 1 << 16 else None
    asked = wanted if order is None else wanted[order]
    at = np.searchsorted(keys, asked)
    at[at == len(keys)] = 0
    got = np.where(keys[at] == asked, values[at], 0.0)
    if order is None:
        return got
    out = np.empty_like(got)
    out[order] = got
    return out


@dataclass(frozen=True)
class HeldOut:
    """Bits of held-out images: per image (mean a token, and sum), per position (nan where no image has a token).

    rows: which sequences were held out. tokens: (trained on, tested on). train_bits: mean bits of a part of the training images."""

    per_token: np.ndarray
    per_image: np.ndarray
    per_position: np.ndarray
    rows: np.ndarray
    tokens: tuple[int, int]
    train_bits: float


def split(count: int, width: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(training, held-out) rows of `count` sequences: spread evenly, at most `tokens` tokens, every fifth held out."""
    kept = min(count, max(2, tokens // max(1, width)))
    rows = np.linspace(0, count - 1, kept).round().astype(np.int64)
    held = np.arange(kept) % 5 == min(4, kept - 1)
    return rows[~held], rows[held]


def held_out(ids: np.ndarray, size: int, order: int, tokens: int) -> HeldOut:
    """Train on four of five sequences ``[M, N]``, measure the fifth. Raises `BadData` with fewer than two sequences."""
    if len(ids) < 2:
        raise BadData("one image: a language model needs images to learn from and others to be measured on")
    learn, test = split(len(ids), ids.shape[1], tokens)
    model = train(ids[learn], size, order)
    return measured(-model.log2_probability(ids[test]), test, int((ids[learn] >= 0).sum()), np.nan)


def measured(bits: np.ndarray, rows: np.ndarray, trained: int, train_bits: float) -> HeldOut:
    """Sum bits ``[M, N]`` (nan: absent) up per image and position; images without a token are left out."""
    there = ~np.isnan(bits)
    kept = there.any(axis=1)
    bits, there = bits[kept], there[kept]
    filled = np.where(there, bits, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        position = filled.sum(axis=0) / there.sum(axis=0)
    sums = filled.sum(axis=1)
    return HeldOut(sums / there.sum(axis=1), sums, position, rows[kept], (trained, int(there.sum())), train_bits)
