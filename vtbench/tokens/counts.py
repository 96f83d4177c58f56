"""Counting: how often each symbol occurs, and in how many images, per jackknife group, in one pass over blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

BATCH = 1 << 20
"""Tokens that are counted at a time."""


@dataclass(frozen=True)
class Counts:
    """Occurrences of K symbols per group of images.

    tokens: int64 ``[G, K]``. images: int32 ``[G, K]``, in how many images of the group a symbol occurs. sizes: int64 ``[G]``,
    images of each group.
    """

    tokens: np.ndarray
    images: np.ndarray
    sizes: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Occurrences of each symbol, int64 ``[K]``."""
        return self.tokens.sum(axis=0)

    @property
    def n(self) -> int:
        """Tokens counted."""
        return int(self.tokens.sum())

    def without(self) -> Iterator[np.ndarray | None]:
        """The total without each group in turn; None for a group without images."""
        total = self.total
        for group, size in zip(self.tokens, self.sizes):
            yield total - group if size else None


def rebatched(
    blocks: Iterable[tuple[np.ndarray, np.ndarray]], tokens: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (image indices, ids ``[B, N]``) of equal width, joined or cut to about `tokens` ids each (`BATCH`)."""
    tokens = tokens or BATCH
    held: list[tuple[np.ndarray, np.ndarray]] = []
    size = 0
    for image, ids in blocks:
        if held and held[0][1].shape[1] != ids.shape[1]:
            yield _joined(held)
            held, size = [], 0
        rows = max(1, tokens // max(1, ids.shape[1]))
        for start in range(0, len(ids), rows):
            part = ids[start : start + rows]
            held.append((image[start : start + rows], part))
            size += part.size
            if size >= tokens:
                yield _joined(held)
                held, size = [], 0
    if held:
        yield _joined(held)


def _joined(held: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    if len(held) == 1:
        return held[0]
    return np.concatenate([h[0] for h in held]), np.concatenate([h[1] for h in held])


def count(blocks: Iterable[tuple[np.ndarray, np.ndarray]], size: int, groups: np.ndarray) -> Counts:
    """Count blocks of (image indices ``[B]``, ids ``[B, N]`` in -1 .. size - 1); groups: the group of each image.

    Memory: two tables of G x K and one batch, whatever the number of images."""
    number = int(groups.max()) + 1 if len(groups) else 1
    tokens = np.zeros(number * size, np.int64)
    images = np.zeros(number * size, np.int32)
    sizes = np.zeros(number, np.int64)
    for image, ids in rebatched(blocks):
        group = groups[image].astype(np.int64)
        sizes += np.bincount(group, minlength=number)
        # Sorting a row puts equal ids side by side: the first of each run is the image's only vote.
        ordered = np.sort(ids, axis=1)
        cell = group[:, None] * size + ordered
        present = ordered >= 0
        tokens += np.bincount(cell[present], minlength=number * size)
        first = present.copy()
        first[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        images += np.bincount(cell[first], minlength=number * size).astype(np.int32)
    return Counts(tokens.reshape(number, size), images.reshape(number, size), sizes)


def uniform_like(counts: Counts, seed: int) -> Counts:
    """The matched uniform null: as many tokens in each group, every symbol equally likely (no image structure: `images` is zero)."""
    rng = np.random.default_rng(seed)
    size = counts.tokens.shape[1]
    each = counts.tokens.sum(axis=1)
    drawn = np.stack([rng.multinomial(n, np.full(size, 1 / size)) for n in each])
    return Counts(drawn, np.zeros_like(counts.images), counts.sizes)


def shuffled_like(counts: Counts, seed: int) -> Counts:
    """The image-shuffled null: the same tokens dealt to the groups at random, so that no image clusters its symbols."""
    rng = np.random.default_rng(seed)
    each = counts.tokens.sum(axis=1)
    total = counts.total
    dealt = rng.multinomial(total, each / max(1, each.sum()))
    return Counts(dealt.T.copy(), np.zeros_like(counts.images), counts.sizes)


@dataclass(frozen=True)
class Grams:
    """Occurrences of n-gram types per group, as runs sorted by type.

    type: int32 ``[R]``, group: uint8 ``[R]``, count: int32 ``[R]``; first: int64 ``[V]``, the first run of each type; n: windows
    counted; groups: G.
    """

    type: np.ndarray
    group: np.ndarray
    count: np.ndarray
    first: np.ndarray
    n: int
    groups: int

    @property
    def types(self) -> int:
        """Distinct n-grams V."""
        return len(self.first)

    @cached_property
    def totals(self) -> np.ndarray:
        """Occurrences of each type, int64 ``[V]``."""
        return np.add.reduceat(self.count, self.first, dtype=np.int64) if self.n else np.zeros(0, np.int64)

    @cached_property
    def of_run(self) -> np.ndarray:
        """Occurrences of each run's type over all groups, int64 ``[R]``."""
        return self.totals[self.type]

    def halves(self) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences of each type in the even and in the odd groups, int64 ``[V]`` each."""
        if not self.n:
            return self.totals, self.totals
        odd = np.add.reduceat(self.count * (self.group & 1), self.first, dtype=np.int64)
        return self.totals - odd, odd


_GROUP_BITS = 6  # up to 64 groups ride in the low bits of a key


def grams(windows: Sequence[np.ndarray], size: int, groups: np.ndarray) -> Grams:
    """Count n-grams. windows: the n symbols of every window, each int32 ``[M, W]`` (a negative one drops the window).

    size: K. groups: int ``[M]`` (below 64), the group of each image. Keys are packed into 64 bits; where n log2 K does not fit they
    are mixed to 58 bits, and about V^2 / 2^59 types are expected to be taken for another."""
    number = int(groups.max()) + 1 if len(groups) else 1
    if number > 1 << _GROUP_BITS:
        raise ValueError(f"{number} groups of images: n-grams are counted for {1 << _GROUP_BITS} at most")
    bits = max(1, (size - 1).bit_length())
    packed = bits * len(windows) + _GROUP_BITS <= 64
    key = windows[0].astype(np.uint64)
    if not packed:
        key = _mixed(key)
    for part in windows[1:]:
        if packed:
            key <<= np.uint64(bits)
            np.bitwise_or(key, part, out=key, dtype=np.uint64, casting="unsafe")
        else:
            key = _mixed(key ^ part.astype(np.uint64))
    if not packed:
        key >>= np.uint64(_GROUP_BITS)
    key <<= np.uint64(_GROUP_BITS)
    key |= groups.astype(np.uint64)[:, None]
    whole = all(part.size == 0 or part.min() >= 0 for part in windows)
    flat = key.ravel() if whole else key[np.logical_and.reduce([part >= 0 for part in windows])]
    flat.sort()
    if not flat.size:
        empty = np.zeros(0, np.int32)
        return Grams(empty, empty.astype(np.uint8), empty, empty, 0, number)
    starts = np.flatnonzero(_changes(flat))
    kept = flat[starts]
    counts = np.diff(starts, append=flat.size).astype(np.int32)
    group = (kept & np.uint64((1 << _GROUP_BITS) - 1)).astype(np.uint8)
    kept >>= np.uint64(_GROUP_BITS)
    new = _changes(kept)
    return Grams(np.cumsum(new, dtype=np.int32) - 1, group, counts, np.flatnonzero(new), int(flat.size), number)


def _changes(ordered: np.ndarray) -> np.ndarray:
    """Where a sorted array takes a new value."""
    out = np.ones(ordered.size, bool)
    np.not_equal(ordered[1:], ordered[:-1], out=out[1:])
    return out


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit integers."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


def sequence_windows(ids: np.ndarray, order: int) -> list[np.ndarray]:
    """The windows of `order` consecutive symbols of sequences ``[M, N]``: `order` arrays ``[M, N - order + 1]``."""
    width = ids.shape[1] - order + 1
    return [ids[:, i : i + width] for i in range(order)] if width > 0 else []


def patch_windows(ids: np.ndarray, shape: tuple[int, int]) -> list[np.ndarray]:
    """The overlapping 2 x 2 patches of grids ``[M, h * w]``: four arrays ``[M, (h - 1) * (w - 1)]``."""
    grid = ids.reshape(len(ids), *shape)
    corners = [grid[:, i : shape[0] - 1 + i, j : shape[1] - 1 + j] for i in (0, 1) for j in (0, 1)]
    return [c.reshape(len(ids), -1) for c in corners]
