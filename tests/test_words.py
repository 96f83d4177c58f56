"""Crops, rows and what becomes of words that cannot be read, with a recogniser whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from vtbench.api import Batch
from vtbench.data import Word
from vtbench.extractors.words import HEADS, READ, TOO_SMALL, WordReader, by_shape, crop


class Sizes(WordReader):
    """Reads a crop as its size, "12x5"; counts its calls."""

    name = "sizes"

    def __init__(self) -> None:
        self.calls = 0

    def identity(self) -> Mapping[str, str]:
        return {}

    def open(self, device: str) -> None:
        pass

    def alphabet(self) -> frozenset[str]:
        return frozenset("0123456789x")

    def read(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        self.calls += 1
        return [(f"{c.shape[1]}x{c.shape[0]}", 0.5) for c in crops]


def sample(*words: Word) -> SimpleNamespace:
    return SimpleNamespace(words=words, faces=())


IMAGE = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


@pytest.mark.parametrize(
    ("box", "shape"),
    [
        ((3.9, 2.9, 10.2, 8.7), (6, 7)),  # corners truncated, not rounded
        ((-5.0, -5.0, 4.0, 3.0), (3, 4)),
        ((25.0, 15.0, 99.0, 99.0), (5, 5)),
        ((0.0, 0.0, 30.0, 20.0), (20, 30)),
        ((5.0, 5.0, 7.0, 7.0), (2, 2)),
    ],
)
def test_crop(box: tuple[float, ...], shape: tuple[int, int]) -> None:
    pixels = crop(IMAGE, box)
    assert pixels is not None
    assert pixels.shape[:2] == shape
    x0, y0 = max(int(box[0]), 0), max(int(box[1]), 0)
    np.testing.assert_array_equal(pixels[0, 0], IMAGE[y0, x0])


@pytest.mark.parametrize(
    "box",
    [
        (5.0, 5.0, 6.0, 15.0),  # one pixel wide
        (5.0, 5.0, 15.0, 6.9),
        (40.0, 5.0, 60.0, 15.0),  # beside the image
        (-9.0, -9.0, -2.0, -2.0),
        (15.0, 5.0, 5.0, 15.0),  # corners swapped
        (float("nan"), 0.0, 5.0, 5.0),
    ],
)
def test_nothing_to_read(box: tuple[float, ...]) -> None:
    assert crop(IMAGE, box) is None


def test_rows_follow_the_annotations() -> None:
    reader = Sizes()
    samples = [
        sample(Word("6x5", (0, 0, 6, 5), 0.02), Word("gone", (90, 90, 99, 99), 0.03)),
        sample(),
        sample(Word("é5", (0, 0, 4, 4), 0.04)),
    ]
    rows = reader(Batch(samples, [IMAGE] * 3), HEADS)
    assert rows["text"].values.tolist() == ["6x5", "", "4x4"]
    assert rows["truth"].values.tolist() == ["6x5", "gone", "é5"]
    assert rows["status"].values.tolist() == [READ, TOO_SMALL, READ]
    assert rows["foreign"].values.tolist() == [False, True, True]
    assert rows["word"].values.tolist() == [0, 1, 0]
    assert rows["ratio"].values.tolist() == [0.02, 0.03, 0.04]
    for head in HEADS:
        assert rows[head].image is not None
        assert rows[head].image.tolist() == [0, 0, 2]
        assert rows[head].values.dtype.kind in "Uifb"
    assert reader.calls == 1


def test_the_network_runs_only_when_it_is_asked() -> None:
    reader = Sizes()
    rows = reader(Batch([sample(Word("a", (0, 0, 9, 9), 0.1))], [IMAGE]), ["truth", "ratio"])
    assert sorted(rows) == ["ratio", "truth"]
    rows = reader(Batch([sample(), sample()], [IMAGE, IMAGE]), HEADS)
    assert all(rows[h].values.shape == (0,) for h in HEADS)
    assert rows["text"].values.dtype.kind == "U"
    assert reader.calls == 0


def test_groups_never_mix_shapes() -> None:
    items = [3, 1, 3, 3, 1, 2, 3]
    groups = list(by_shape(items, lambda x: x, 3))
    assert groups == [[0, 2, 3], [6], [1, 4], [5]]
    assert sorted(i for group in groups for i in group) == list(range(len(items)))
