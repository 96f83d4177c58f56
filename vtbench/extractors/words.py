"""Reading words in ground-truth boxes, whatever the recogniser: crops, rows, and what could not be read.

TokBench (Wu et al. 2025): the boxes are given, so no detector takes part; a crop is ``image[y0:y1, x0:x1]`` with the corners
truncated to integers, axis-aligned.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from vtbench.api import Batch, Rows

READ = 0
TOO_SMALL = 1
HEADS = ("text", "confidence", "truth", "ratio", "status", "foreign", "word")

T = TypeVar("T")


def crop(image: np.ndarray, box: Sequence[float]) -> np.ndarray | None:
    """The pixels of a box (x0, y0, x1, y1) of an image uint8 ``[H, W, 3]``, cut off at its borders.

    None when a side is 1 px or less (a box outside the image, a degenerate one): nothing can be read there."""
    if not all(math.isfinite(v) for v in box):
        return None
    height, width = image.shape[:2]
    x0, y0, x1, y1 = (int(v) for v in box)
    x0, x1 = max(x0, 0), min(x1, width)
    y0, y1 = max(y0, 0), min(y1, height)
    if x1 - x0 <= 1 or y1 - y0 <= 1:
        return None
    return np.ascontiguousarray(image[y0:y1, x0:x1])


def by_shape(items: Sequence[T], key: Callable[[T], Hashable], size: int) -> Iterator[list[int]]:
    """Positions of items grouped by `key` (in order of first appearance), at most `size` together.

    Items that share a key need no padding to each other, so that no result depends on its neighbours."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for position, item in enumerate(items):
        groups[key(item)].append(position)
    for positions in groups.values():
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


class WordReader(ABC):
    """A word recogniser as an extractor: one row per annotated word, in the annotation's order.

    Heads: `text` (the string that was read, "" for nothing), `confidence` (the recogniser's own, 0 to 1), `truth`, `ratio` (both
    from the annotation), `status` (`READ`, or `TOO_SMALL`: a crop with a side of 1 px or less is not read), `foreign` (the truth
    holds a character that the recogniser cannot write: it is read all the same, and counts as misread), `word` (running number in
    its image). Pictures in frame `source`. The network runs only when `text` or `confidence` is asked for.
    """

    name = ""
    version = 1
    takes: Literal["images"] = "images"

    @abstractmethod
    def identity(self) -> Mapping[str, str]:
        """Digest of the network, without loading it."""

    @abstractmethod
    def open(self, device: str) -> None:
        """Load the network onto a device."""

    @abstractmethod
    def read(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """(string, confidence) of every crop (uint8 ``[h, w, 3]`` RGB, both sides at least 2 px); none depends on its neighbours."""

    @abstractmethod
    def alphabet(self) -> frozenset[str]:
        """The characters that the recogniser can write."""

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure the words of a batch; images without words cost nothing."""
        image: list[int] = []
        found: dict[str, list[Any]] = {name: [] for name in HEADS}
        crops: list[np.ndarray] = []
        readable: list[int] = []
        letters = self.alphabet() if "foreign" in heads and any(s.words for s in batch.samples) else frozenset()
        reading = "text" in heads or "confidence" in heads
        for position, sample in enumerate(batch.samples):
            for number, word in enumerate(sample.words):
                pixels = crop(batch.images[position], word.box)
                if pixels is not None and reading:
                    readable.append(len(image))
                    crops.append(pixels)
                image.append(position)
                found["text"].append("")
                found["confidence"].append(0.0)
                found["truth"].append(word.text)
                found["ratio"].append(word.ratio)
                found["status"].append(READ if pixels is not None else TOO_SMALL)
                found["foreign"].append(not set(word.text) <= letters)
                found["word"].append(number)
        for row, (text, confidence) in zip(readable, self.read(crops) if crops else []):
            found["text"][row] = text
            found["confidence"][row] = confidence
        kinds = {
            "confidence": np.float32,
            "ratio": np.float64,
            "status": np.int8,
            "foreign": np.bool_,
            "word": np.int32,
            "text": np.str_,
            "truth": np.str_,
        }
        where = np.array(image, dtype=np.int64)
        return {head: Rows(np.array(found[head], dtype=kinds[head]), where) for head in heads}
