"""Intervals: against SciPy, against closed forms, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vtbench.intervals import bootstrap_mean, jackknife, paired_difference, paired_groups, t_quantile


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 19, 49])
@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995])
def test_t_quantile_equals_scipys(p, df):
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=5e-9)  # as exact as older scipy is


def test_the_bootstrap_is_deterministic_and_near_the_closed_form():
    values = np.random.default_rng(0).normal(size=400)
    first = bootstrap_mean(values, np.arange(400))
    assert first == bootstrap_mean(values, np.arange(400))
    assert first.value == values.mean()
    half = 1.96 * values.std(ddof=1) / 20
    assert (first.high - first.low) / 2 == pytest.approx(half, rel=0.1)


def test_instances_of_an_image_travel_together():
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(50), 20)
    values = rng.normal(size=50)[image]  # an image's words agree entirely: 50 facts, not 1000
    clustered = bootstrap_mean(values, image)
    alone = bootstrap_mean(values, np.arange(1000))
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(math.sqrt(20), rel=0.25)


def test_order_of_rows_does_not_matter():
    rng = np.random.default_rng(2)
    values, image = rng.integers(0, 2, 90).astype(float), np.repeat(np.arange(30), 3)
    order = rng.permutation(90)
    a, b = bootstrap_mean(values, image), bootstrap_mean(values[order], image[order])
    assert a == pytest.approx(b, rel=1e-12)


def test_bad_numbers():
    inf, nan = math.inf, math.nan
    assert bootstrap_mean(np.array([inf, inf]), np.arange(2)) == (inf, inf, inf)
    some = bootstrap_mean(np.array([inf, *np.zeros(9)]), np.arange(10))
    assert some.value == inf
    assert some.low == 0
    assert some.high == inf
    assert all(math.isnan(v) for v in bootstrap_mean(np.array([nan, 1.0]), np.arange(2)))
    assert all(math.isnan(v) for v in bootstrap_mean(np.array([]), np.array([], dtype=int)))
    one = bootstrap_mean(np.array([3.0, 5.0]), np.array([7, 7]))
    assert one.value == 4
    assert math.isnan(one.low)
    assert math.isnan(jackknife(1.0, np.array([nan, 2.0])).low)
    assert math.isnan(jackknife(nan, np.ones(5)).value)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(3).normal(size=20)
    left = np.array([np.delete(values, i).mean() for i in range(20)])
    interval = jackknife(values.mean(), left)
    se = values.std(ddof=1) / math.sqrt(20)
    assert (interval.high - interval.low) / 2 == pytest.approx(t_quantile(0.975, 19) * se, rel=1e-9)


def _frechet(x: np.ndarray) -> float:
    """Distance of diagonal Gaussians to the standard one: pooled and nonlinear, as FD is."""
    return float((x.mean(0) ** 2).sum() + ((x.std(0, ddof=1) - 1) ** 2).sum())


def test_coverage_of_the_jackknife_by_simulation():
    """A mean-shifted Gaussian in 8 dimensions, 400 images, 20 groups: the truth is 8 * 0.25 = 2."""
    rng = np.random.default_rng(4)
    group = np.arange(400) % 20
    covered = 0
    for _ in range(400):
        x = rng.normal(0.5, 1.0, size=(400, 8))
        left = np.array([_frechet(x[group != g]) for g in range(20)])
        covered += not jackknife(_frechet(x), left).excludes(2.0)
    assert 0.91 <= covered / 400 <= 0.98


def test_coverage_of_the_bootstrap_by_simulation():
    rng = np.random.default_rng(5)
    image = np.repeat(np.arange(60), 4)
    covered = 0
    for trial in range(400):
        values = rng.normal(size=60)[image] + rng.normal(size=240)
        covered += not bootstrap_mean(values, image, resamples=400, seed=trial).excludes(0.0)
    assert 0.91 <= covered / 400 <= 0.98


def test_pairing_finds_a_small_difference_that_two_intervals_hide():
    rng = np.random.default_rng(6)
    hard = rng.normal(size=100) * 5
    a, b = hard + 0.3 + rng.normal(size=100) * 0.1, hard
    image = np.arange(100)
    assert paired_difference(a, b, image).excludes(0)
    first, second = bootstrap_mean(a, image), bootstrap_mean(b, image)
    assert first.low < second.high
    same = np.array([math.inf, 1.0, 2.0])
    assert paired_difference(same, same, np.arange(3)) == (0, 0, 0)


def test_paired_groups_cancel_what_is_shared():
    rng = np.random.default_rng(7)
    x = rng.normal(0.5, 1, size=(400, 8))
    y = x + 0.05 + rng.normal(size=x.shape) * 0.01
    group = np.arange(400) % 20
    left_x = np.array([_frechet(x[group != g]) for g in range(20)])
    left_y = np.array([_frechet(y[group != g]) for g in range(20)])
    paired = paired_groups(_frechet(y), left_y, _frechet(x), left_x)
    assert paired.low > 0
    assert jackknife(_frechet(y), left_y).low < jackknife(_frechet(x), left_x).high
    with pytest.raises(ValueError, match="groups differ"):
        paired_groups(1.0, left_x, 1.0, left_y[:10])
