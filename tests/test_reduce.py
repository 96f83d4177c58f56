"""Slices and intervals as rows have them."""

from __future__ import annotations

import numpy as np

from vtbench.reduce import _join
from vtbench.samples import instances


def test_slices_join() -> None:
    assert _join("all", "small") == "small"
    assert _join("set=ic13", "small") == "set=ic13;size=small"
    assert _join("set=ic13", "mean") == "set=ic13"
    assert _join("set=ic13", "stream=0") == "set=ic13;stream=0"


def test_instances_number_the_rows_of_an_image() -> None:
    assert instances(np.array([0, 0, 2, 2, 2, 5])).tolist() == [0, 1, 0, 1, 2, 0]
