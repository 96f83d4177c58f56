"""What the token metrics share about one column of ids, computed once: counts, a sample in memory, its nulls, n-grams.

Counts cover every image, streamed. What depends on order (n-grams, per-position statistics, compressors, language models) is taken
from a **sample**: images spread evenly over the set, at most `sample_tokens` tokens, so memory does not grow with the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, wraps
from typing import Any
from weakref import finalize, ref

import numpy as np

from vtbench.api import Column, Fields, Measurements, Need, Value
from vtbench.errors import BadData
from vtbench.tokens import counts as counting
from vtbench.tokens.condense import condensed
from vtbench.tokens.counts import Counts, Grams
from vtbench.tokens.kneser_ney import HeldOut, held_out
from vtbench.tokens.laws import GramLaw, law, uniform_law
from vtbench.tokens.scans import scan_order, scans_of
from vtbench.tokens.spelled import read
from vtbench.tokens.streams import LARGEST, Unit, units

_KNOWN: dict[int, dict[Any, tuple[Study, ...]]] = {}


class Study:
    """One unit of one column. All arrays are computed on first use and kept.

    groups: the jackknife group of each image. sample_tokens: the most tokens held in memory. seed: of the nulls."""

    def __init__(self, column: Column, unit: Unit, groups: np.ndarray, *, sample_tokens: int, seed: int) -> None:
        self._column = ref(column)  # weakly: what is known of a column goes when the column goes
        self.unit, self.groups = unit, groups
        self.sample_tokens, self.seed = sample_tokens, seed
        self._laws: dict[tuple[str, int, str], GramLaw] = {}
        self._models: dict[tuple[str, int, str, int], HeldOut] = {}

    def slice(self, *parts: str) -> str:
        """A slice's name within this unit."""
        return self.unit.slice(*parts)

    @property
    def size(self) -> int:
        """The nominal number of symbols K."""
        return self.unit.size

    @property
    def images(self) -> int:
        """Images M."""
        return len(self.groups)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, ids ``[B, N]``) of the unit, block by block; images of fewer positions are filled up with -1."""
        column = self._column()
        assert column is not None, "a study outlived its column"
        width = self.unit.stop - self.unit.start
        for image, rows in column.blocks():
            if len(rows):
                ids = self.unit.take(rows)
                yield image, np.pad(ids, ((0, 0), (0, width - ids.shape[1])), constant_values=-1)

    @cached_property
    def counts(self) -> Counts:
        """Occurrences per group, over every image."""
        return counting.count(self.blocks(), self.size, self.groups)

    @cached_property
    def uniform_counts(self) -> Counts:
        """Counts of the matched uniform null."""
        return counting.uniform_like(self.counts, self.seed)

    @cached_property
    def shuffled_counts(self) -> Counts:
        """Counts of the image-shuffled null."""
        return counting.shuffled_like(self.counts, self.seed + 1)

    def counts_of(self, null: str = "") -> Counts:
        """Counts of the data, or of a null."""
        if null:
            return self.uniform_counts if null == "uniform" else self.shuffled_counts
        return self.counts

    # ------------------------------------------------------------------------------------ the sample

    @cached_property
    def _sampled(self) -> tuple[np.ndarray, np.ndarray]:
        width = self.unit.stop - self.unit.start
        wanted = min(self.images, max(2, self.sample_tokens // max(1, width)))
        chosen = np.zeros(self.images, bool)
        chosen[np.linspace(0, self.images - 1, wanted).round().astype(np.int64)] = True
        images, rows = [], []
        for image, ids in self.blocks():
            keep = chosen[image]
            if keep.any():
                images.append(image[keep])
                rows.append(ids[keep])
        if not rows:
            return np.zeros(0, np.int64), np.zeros((0, width), np.int32)
        return np.concatenate(images), np.concatenate(rows)

    @property
    def sample(self) -> np.ndarray:
        """Ids of the sampled images, int32 ``[M', N]``, positions in their own order."""
        return self._sampled[1]

    @property
    def sample_images(self) -> np.ndarray:
        """Which images the sample holds."""
        return self._sampled[0]

    @cached_property
    def sample_groups(self) -> np.ndarray:
        """The jackknife group of each sampled image."""
        return self.groups[self.sample_images]

    @cached_property
    def shuffled(self) -> np.ndarray:
        """The image-shuffled null: the sample's tokens dealt to images and positions at random, so that n-grams follow the product
        of the unigram law."""
        rng = np.random.default_rng(self.seed + 2)
        present = self.sample >= 0
        dealt = self.sample.copy()
        dealt[present] = rng.permutation(self.sample[present])
        return dealt

    def scans(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """The scans that the unit's shape has."""
        return scans_of(self.unit.shape, wanted)

    def scanned(self, scan: str, null: str = "") -> np.ndarray:
        """The sample, or its shuffled null, in reading order."""
        ids = self.shuffled if null == "shuffled" else self.sample
        if scan in ("native", "raster"):
            return ids
        return ids[:, scan_order(self.unit.shape, scan)]

    def grams(self, scan: str, order: int, null: str = "") -> Grams:
        """n-gram counts in a scan, or of 2 x 2 patches (scan ``patch``, order 4). Not kept: they are large; `law` is."""
        if scan == "patch":
            height, width = self.unit.shape
            windows = counting.patch_windows(self.scanned("raster", null), (height, width))
        else:
            windows = counting.sequence_windows(self.scanned(scan, null), order)
        return counting.grams(windows or [np.zeros((len(self.sample), 0), np.int32)], self.size, self.sample_groups)

    def law(self, scan: str, order: int, null: str = "") -> GramLaw:
        """What the n-grams of a scan (or the 2 x 2 patches) say, for the data or a null."""
        if null and scan != "patch":
            scan = "native"  # shuffled and uniform tokens look alike in every order
        key = (scan, order, null)
        if key not in self._laws:
            types = float(self.size) ** order
            if null == "uniform":
                windows = self.law(scan, order).n if scan == "patch" else self._windows(order)
                self._laws[key] = uniform_law(windows, types, self.seed + order)
            else:
                self._laws[key] = law(self.grams(scan, order, null), types, intervals=not null)
        return self._laws[key]

    def prepare(self, cells: Sequence[tuple[str, int, str]]) -> None:
        """Count the laws of several (scan, order, null), two at a time: sorting lets another thread run, and the values are the same."""
        lacking = [
            cell for cell in cells if cell not in self._laws and not (cell[2] and cell[0] not in ("patch", "native"))
        ]
        for null in {cell[2] for cell in lacking}:
            self.scanned("native", null if null == "shuffled" else "")  # made once, before two threads want it
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda cell: self.law(*cell), lacking))

    def _windows(self, order: int) -> int:
        lengths = (self.sample >= 0).sum(axis=1)
        return int(np.maximum(lengths - order + 1, 0).sum())

    def held_out(self, scan: str, order: int, tokens: int, null: str = "") -> HeldOut:
        """Bits of held-out images under a modified Kneser-Ney model of the others (four of five), over at most `tokens` tokens."""
        key = (scan, order, null, tokens)
        if key not in self._models:
            self._models[key] = held_out(self.scanned(scan, null), self.size, order, tokens)
        return self._models[key]

    @property
    def sample_note(self) -> dict[str, Any]:
        """What a row says about the sample."""
        return {"sample_images": len(self.sample), "images": self.images, "tokens": int((self.sample >= 0).sum())}

    def law_note(self, n: int | None = None, size: float | None = None) -> dict[str, Any]:
        """N, M, K and N/K, which every row of a law carries."""
        n = self.counts.n if n is None else n
        size = self.size if size is None else size
        return {"N": n, "M": self.images, "K": size, "N/K": n / size}


ABSENT = {
    "continuous": "the tokens are continuous: there is no codebook",
    "soft": "the tokens are weights over a codebook: no index is chosen",
    "bytes": "a codec's file has no codebook",
}


def needs(p: Fields) -> Mapping[str, Need]:
    """Token ids, and what they are."""
    return {"ids": Need("tokens", "ids"), "streams": Need("tokens", "streams")}


def per_unit(function: Callable[[Study, Fields], Iterator[Value]]) -> Callable[[Measurements, Fields], Iterator[Value]]:
    """A metric's function from one over a single unit: it is called for each (many codebooks are condensed into their mean), and skipped
    with the reason where there are no ids."""

    @wraps(function)
    def compute(m: Measurements, p: Fields) -> Iterator[Value]:
        why = why_not(m)
        if why:
            yield Value(status="skipped", why=why)
            return
        yield from condensed(each(m, p))

    def each(m: Measurements, p: Fields) -> Iterator[Value]:
        for study in studies(m, p):
            if study.counts.n:
                yield from function(study, p)
            else:
                yield Value(status="skipped", why="there is not a single token", slice=study.slice())

    return compute


def why_not(m: Measurements) -> str:
    """Why there are no ids to study; empty when there are."""
    if not len(m["ids"].image):
        return "there are no tokens"
    streams = read(str(m["streams"].array()[0]))
    discrete = [s for s in streams if s.kind in ("index", "bits")]
    if not discrete:
        return ABSENT[streams[0].kind] if streams else "the model has no tokens"
    if len(discrete) > 1 and len(np.unique(m["streams"].array())) > 1:
        return "the model's streams differ in size from image to image, so their positions cannot be lined up"
    smallest = min(min(s.sizes, default=2) for s in discrete)
    if smallest > LARGEST:
        return f"a codebook of {smallest} symbols is too large to count (at most {LARGEST})"
    return ""


def studies(m: Measurements, fields: Mapping[str, Any], column: str = "ids") -> Sequence[Study]:
    """The units of a column of token ids, in order. Computed once per column and kept while it lives.

    Raises `BadData` when there are no tokens, when ids are not integers or outside the codebook, or when K is unknown."""
    ids = m[column]
    if id(ids) not in _KNOWN:
        _KNOWN[id(ids)] = {}
        finalize(ids, _KNOWN.pop, id(ids), None)
    kept = _KNOWN[id(ids)]
    key = (len(m.groups), int(m.groups.max()), fields["sample_tokens"], fields["null_seed"])
    if key not in kept:
        made = (Study(ids, u, m.groups, sample_tokens=key[2], seed=key[3]) for u in _units_of(ids, m["streams"]))
        kept[key] = tuple(made)
    return kept[key]


def _units_of(ids: Column, streams: Column) -> list[Unit]:
    shapes = {rows.shape[1:] for _, rows in ids.blocks() if len(rows)}
    if not shapes:
        raise BadData("there are no tokens to study")
    width = max(shape[0] for shape in shapes)
    depth = max(shape[1] for shape in shapes) if any(len(shape) > 1 for shape in shapes) else None
    spelled = np.unique(streams.array())
    told = read(str(spelled[0]))
    if len(spelled) > 1:
        # Images of different sizes have different grids: their rows are read in the order in which they were written.
        told = tuple(replace(s, layout="seq1d", shape=(width,)) for s in told)
    found = units(told, width, depth)
    small = [u for u in found if u.size <= LARGEST]
    if not small:
        raise BadData(f"a codebook of {found[0].size} symbols is too large to count (at most {LARGEST})")
    return small
