"""Slices and intervals as rows have them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import vtbench
from vtbench.intervals import jackknife
from vtbench.record import Row
from vtbench.reduce import _join
from vtbench.report.numbers import number, signed, with_interval
from vtbench.samples import instances
from vtbench.seeds import _over


def test_slices_join() -> None:
    assert _join("all", "small") == "small"
    assert _join("set=ic13", "small") == "set=ic13;size=small"
    assert _join("set=ic13", "mean") == "set=ic13"
    assert _join("set=ic13", "stream=0") == "set=ic13;stream=0"


def test_instances_number_the_rows_of_an_image() -> None:
    assert instances(np.array([0, 0, 2, 2, 2, 5])).tolist() == [0, 1, 0, 1, 2, 0]


def test_an_interval_stays_on_the_scale_of_its_metric() -> None:
    tokens = np.repeat([0, 0, 0, 0, 0, 1, 2, 3], 16).reshape(8, 16)  # any image moves the pooled frequencies a lot
    meter = vtbench.Meter(["codebook_perplexity@tokens"])
    meter.update(np.zeros((8, 3, 16, 16)), np.zeros((8, 3, 16, 16)), tokens=tokens, codebook_size=4)
    (row,) = meter.compute().record.rows
    free = jackknife(row.value, np.array(row.groups))
    assert free.low < 1 or free.high > 4, "the jackknife alone would have stayed on the scale"
    assert 1 <= row.ci_low <= row.value <= row.ci_high <= 4


@pytest.mark.parametrize(("metric", "values"), [("fid", (0.1, 0.2, 3.0)), ("precision", (0.99, 0.5, 1.0))])
def test_the_interval_over_seeds_stays_on_the_scale(metric: str, values: tuple[float, ...]) -> None:
    shared = {"protocol": "p", "metric": metric, "metric_version": 1, "status": "ok", "protocol_digest": ""}
    mean, _ = _over([Row(**shared, slice="all", value=v) for v in values], "seeds=3", 3)
    low, high = vtbench.registry.metric(metric).bounds
    assert low <= mean.ci_low <= mean.value <= mean.ci_high <= high
    assert mean.ci_low == low or mean.ci_high == high


def _bounded(value: float, low: float, high: float) -> SimpleNamespace:
    return SimpleNamespace(value=value, ci_low=low, ci_high=high)


def test_what_rounds_to_zero_has_no_sign() -> None:
    assert with_interval(_bounded(2.4, -0.2, 5.0)) == "2 [0, 5]"
    assert with_interval(_bounded(-0.001, -0.3, 0.3)) == "0.0 [-0.3, 0.3]"
    assert number(-0.0) == "0"
    assert with_interval(_bounded(0.18899104, 0.18899103, 0.18899105)) == "0.1890"
    assert with_interval(_bounded(3e-12, 1e-12, 5e-12)) == number(3e-12, 1e-12, 5e-12) == "0"
    assert with_interval(_bounded(3e-12, 1e-12, 2e-6)) == "0 [0.000000, 0.000002]"
    assert signed(-0.001, -0.3, 0.3) == "0.0 [-0.3, +0.3]"
    assert signed(0.02, -0.004, 0.4) == "0.0 [0.0, +0.4]"
    assert signed(1.5) == "+1.500"
