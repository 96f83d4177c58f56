"""T-ACC and T-NED against a library, by hand, and against a plain recomputation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vtbench.metrics.size_bins import bin_of, by_size, edges_for
from vtbench.metrics.text import levenshtein, similarity

from vtbench import registry
from vtbench.api import Measurements, Value
from vtbench.errors import UsageError
from vtbench.suite import load_protocol

TEXT = st.text(alphabet="abcdeé€ß字 AB.", max_size=12)


@settings(deadline=None)
@given(TEXT, TEXT)
def test_edit_distance_equals_rapidfuzz(a: str, b: str) -> None:
    distance = pytest.importorskip("rapidfuzz.distance")
    assert levenshtein(a, b) == distance.Levenshtein.distance(a, b)
    assert similarity(a, b) == pytest.approx(distance.Levenshtein.normalized_similarity(a, b), abs=1e-12)


def test_bins_are_half_open() -> None:
    edges = [0.02, 0.03, 0.04, 1.0]
    ratio = np.array([0.0199, 0.02, 0.0299999, 0.03, 0.04, 0.999, 1.0, np.nan, -1.0])
    assert bin_of(ratio, edges).tolist() == [-1, 0, 0, 1, 2, 2, -1, -1, -1]


def test_bins_of_the_protocol() -> None:
    table = load_protocol("tokbench").reduce["text_bins"]
    assert edges_for(table, 1024, "words") == [0.005, 0.01, 0.02, 1.0]
    with pytest.raises(UsageError, match="no sizes of words for the resolution 336"):
        edges_for(table, 336, "words")
    with pytest.raises(UsageError, match="rising edges"):
        edges_for({"256": [0.1, 0.1, 0.2, 1.0]}, 256, "words")


class Column:
    """A column that lies in memory."""

    def __init__(self, values: Any, image: Any) -> None:
        self.values, self.image = np.asarray(values), np.asarray(image, np.int64)

    def blocks(self) -> Any:
        yield self.image, self.values

    def array(self) -> np.ndarray:
        return self.values


def measured(rows: list[tuple[int, str, str, float, int, bool, str]], images: int, groups: int = 5) -> Measurements:
    """rows: (image, truth, text, ratio, status, foreign, text of the original)."""
    image = [r[0] for r in rows]
    names = ("truth", "text", "ratio", "status", "foreign", "original")
    kinds = (np.str_, np.str_, np.float64, np.int8, np.bool_, np.str_)
    columns = {n: Column(np.array([r[i] for r in rows], k), image) for i, (n, k) in enumerate(zip(names, kinds), 1)}
    return Measurements(columns, {"id": np.arange(images)}, np.arange(images) % groups)


def run(name: str, m: Measurements, **changes: str) -> dict[str, Value]:
    fields = load_protocol("tokbench").override(changes).fields(256)
    return {v.slice: v for v in registry.metric(name).compute(m, fields)}


ROWS = [
    (0, "Cat", "Cat", 0.025, 0, False, "Cat"),
    (0, "Cat", "cat", 0.025, 0, False, "Cat"),  # case counts
    (1, "dog.", "dog", 0.035, 0, False, "dog"),  # so does punctuation; misread on the original too
    (1, "dog.", "dog.", 0.035, 0, False, "dog."),
    (2, "Ω1", "O1", 0.5, 0, True, "Ω1"),  # a letter outside the alphabet: misread, and nothing else is lost
    (2, "tiny", "", 0.5, 1, False, ""),
    (3, "small", "small", 0.01, 0, False, "small"),
    (4, "large", "large", 0.04, 0, False, "large"),
]


def test_counts_by_hand() -> None:
    m = measured(ROWS, 5)
    acc = run("t_acc", m)
    assert [np.mean(acc[s].samples) for s in ("small", "medium", "large")] == [50.0, 50.0, 50.0]
    assert acc["mean"].value == 50.0
    assert acc["mean"].n == 6
    assert acc["mean"].notes == {
        "annotated": 8,
        "scored": 6,
        "with_foreign_characters": 1,
        "dropped_crop-too-small": 1,
        "dropped_size-outside-bins": 1,
    }
    ned = run("t_ned", m)
    assert ned["small"].samples is not None
    assert ned["small"].samples.tolist() == pytest.approx([100.0, 100 * 2 / 3])
    assert np.mean(ned["large"].samples) == pytest.approx(75.0)
    scored, dropped = run("words_scored", m), run("words_dropped", m)
    assert {k: v.value for k, v in scored.items()} == {"all": 6.0, "small": 2.0, "medium": 2.0, "large": 2.0}
    assert {k: v.value for k, v in dropped.items()} == {
        "all": 2.0,
        "reason=crop-too-small": 1.0,
        "reason=size-outside-bins": 1.0,
    }


def test_refine_drops_what_was_misread_on_the_original() -> None:
    m = measured(ROWS, 5)
    acc = run("t_acc", m, refine="true")
    assert acc["medium"].samples is not None
    assert acc["medium"].samples.tolist() == [100.0]
    assert acc["mean"].notes["dropped_misread-on-original"] == 1
    dropped = run("words_dropped", m, refine="true")
    assert dropped["all"].value == 3.0
    assert dropped["reason=misread-on-original"].value == 1.0
    fields = load_protocol("tokbench").override({"refine": "true"}).fields(256)
    needs = registry.metric("t_acc").needs(fields)
    assert needs["original"].at.spelled() == "load"
    assert "original" not in registry.metric("t_acc").needs(load_protocol("tokbench").fields(256))


def test_mean_and_jackknife_against_a_plain_recomputation() -> None:
    rng = np.random.default_rng(3)
    n, images, groups = 400, 60, 20
    image = np.sort(rng.integers(0, images, n))
    which = rng.integers(-1, 3, n)
    samples = rng.random(n) * 100
    group = rng.integers(0, groups, images)
    values = {v.slice: v for v in by_size(samples, image, which, group, what="words", notes={})}

    def plain(keep: np.ndarray) -> float:
        return sum(samples[keep & (which == b)].mean() for b in range(3)) / 3

    everything = np.ones(n, bool)
    assert values["mean"].value == pytest.approx(plain(everything), rel=1e-12)
    assert values["mean"].groups is not None
    for g in range(groups):
        assert values["mean"].groups[g] == pytest.approx(plain(group[image] != g), rel=1e-12)
    assert sum(values[s].n for s in ("small", "medium", "large")) == values["mean"].n == int((which >= 0).sum())


def test_empty_bins_say_so() -> None:
    m = measured([ROWS[0], ROWS[7]], 5)
    acc = run("t_acc", m)
    assert acc["medium"].status == acc["mean"].status == "skipped"
    assert "medium" in acc["mean"].why
    assert acc["small"].status == "ok"
    none = run("t_acc", measured([], 5))
    assert list(none) == ["mean"]
    assert (none["mean"].status, none["mean"].why) == ("skipped", "no words to score")


def test_a_group_whose_loss_empties_a_bin_has_no_value() -> None:
    values = {
        v.slice: v
        for v in by_size(
            np.array([1.0, 2.0, 3.0, 4.0]),
            np.array([0, 1, 2, 3]),
            np.array([0, 1, 2, 2]),
            np.array([0, 1, 2, 3]),
            what="words",
            notes={},
        )
    }
    assert values["mean"].groups is not None
    assert np.isnan(values["mean"].groups).tolist() == [True, True, False, False]
