"""The readers on the real assets: counts that the assets' own README states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vtbench.data import open_dataset

ASSETS = Path(os.environ.get("VTBENCH_ASSETS", "/nowhere"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ASSETS / "tokbench-mini").is_dir(), reason="VTBENCH_ASSETS does not point at the assets"),
]


def test_tokbench_mini() -> None:
    dataset = open_dataset(str(ASSETS / "tokbench-mini"), reader="tokbench")
    counts = {
        name: (
            sum(s.set == name for s in dataset.samples),
            sum(len(s.words) for s in dataset.samples if s.set == name),
            sum(len(s.faces) for s in dataset.samples if s.set == name),
        )
        for name in sorted({s.set for s in dataset.samples})
    }
    assert counts == {"people": (33, 0, 104), "rendered": (12, 168, 0), "wildreceipt": (2, 82, 0)}
    assert dataset.problems == ()
    assert [s.image("ignore").mode for s in dataset.samples[:3]] == ["RGB"] * 3


def test_imagenet_200() -> None:
    dataset = open_dataset(str(ASSETS / "imagenet-200"))
    assert (len(dataset), dataset.problems) == (200, ())
    assert {s.stored_as for s in dataset.samples} == {"jpeg"}
