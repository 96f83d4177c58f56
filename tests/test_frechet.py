"""The Fréchet distance against closed forms and every installed implementation, and its invariants."""

from __future__ import annotations

import numpy as np
import pytest

from vtbench.api import Measurements
from vtbench.errors import BadData
from vtbench.metrics import _frechet as fr
from vtbench.registry import metric

RNG = np.random.default_rng(0)


def spd(d, rng, low=0.1):
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    return (basis * np.exp(rng.uniform(np.log(low), 1, d))) @ basis.T


def features(n, d, rng, shift=0.0):
    scale = np.exp(rng.normal(size=d) * 0.8)
    return (rng.normal(size=(n, d)) * scale + shift).astype(np.float32)


def sample(rows, groups=20):
    return fr.Sample(rows, np.arange(len(rows)) % groups)


def of_samples(x, y):
    return fr.distance(sample(x).gaussian(), sample(y).gaussian())


@pytest.mark.parametrize("d", [3, 40, 300])
@pytest.mark.parametrize("rank", [1.0, 0.5])
def test_closed_form_of_a_linear_map(d, rank):
    """S2 = T S1 T for symmetric positive definite T: FD = |dm|^2 + tr (T - I) S1 (T - I), S1 singular or not."""
    rng = np.random.default_rng(d)
    s1, t = spd(d, rng), spd(d, rng)
    if rank < 1:
        values, vectors = np.linalg.eigh(s1)
        values[: int(d * rank)] = 0
        s1 = (vectors * values) @ vectors.T
    m1, m2 = rng.normal(size=(2, d))
    gap = t - np.eye(d)
    wanted = ((m1 - m2) ** 2).sum() + np.trace(gap @ s1 @ gap)
    got = fr.distance(fr.of_statistics(m1, s1), fr.of_statistics(m2, t @ s1 @ t))
    assert got == pytest.approx(wanted, rel=1e-10 if rank == 1 else 1e-9)


@pytest.mark.parametrize(("n1", "n2"), [(20, 20), (20, 33), (20, 200), (200, 20), (64, 65)])
def test_fewer_samples_than_dimensions_is_the_nuclear_norm(n1, n2):
    rng = np.random.default_rng(1)
    d = 64
    x, y = features(n1, d, rng).astype(float), features(n2, d, rng, 0.3).astype(float)
    a, b = (x - x.mean(0)) / np.sqrt(n1 - 1), (y - y.mean(0)) / np.sqrt(n2 - 1)
    nuclear = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * nuclear
    assert of_samples(x, y) == pytest.approx(wanted, rel=1e-9)


def pair(n=400, d=48):
    rng = np.random.default_rng(2)
    return features(n, d, rng), features(n + 50, d, rng, 0.2)


def test_agrees_with_pytorch_fid():
    module = pytest.importorskip("pytorch_fid.fid_score")
    x, y = (a.astype(float) for a in pair())
    try:
        wanted = module.calculate_frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    except TypeError:
        pytest.skip("pytorch-fid needs scipy < 1.18")
    assert of_samples(x, y) == pytest.approx(wanted, rel=1e-9)


def test_agrees_with_torch_fidelity():
    module = pytest.importorskip("torch_fidelity.metric_fid")
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(a).double() for a in pair())
    stats = [module.fid_features_to_statistics(a) for a in (x, y)]
    wanted = module.fid_statistics_to_metric(*stats, False)["frechet_inception_distance"]
    assert of_samples(x.numpy(), y.numpy()) == pytest.approx(wanted, rel=1e-9)


def test_agrees_with_torchmetrics():
    import torch
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 48

        def forward(self, x):
            return x

    x, y = (torch.from_numpy(a).double() for a in pair())
    theirs = FrechetInceptionDistance(feature=Identity(), input_img_size=(48,)).set_dtype(torch.float64)
    theirs.num_features = 48
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert of_samples(x.numpy(), y.numpy()) == pytest.approx(theirs.compute().item(), rel=1e-6)


@pytest.mark.parametrize("n", [30, 300])
def test_invariants(n):
    rng = np.random.default_rng(3)
    d = 64
    x, y = features(n, d, rng), features(n, d, rng, 0.4)
    assert 0 <= of_samples(x, x) < 1e-6
    value = of_samples(x, y)
    assert of_samples(y, x) == pytest.approx(value, rel=1e-9)
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    turned = [a.astype(float) @ basis + 5 for a in (x, y)]
    assert of_samples(*turned) == pytest.approx(value, rel=1e-9)
    order = rng.permutation(n)
    assert of_samples(x[order], y[order]) == pytest.approx(value, rel=1e-10)
    assert of_samples(x * 0 + 1, y * 0 + 1) == 0


def test_dead_dimensions_change_nothing():
    x, y = pair()
    wide = [np.concatenate([a, np.zeros((len(a), 7), np.float32), a[:, :1] * 0 + 3], 1) for a in (x, y)]
    assert of_samples(*wide) == pytest.approx(of_samples(x, y), rel=1e-9)


@pytest.mark.parametrize("n", [30, 300])
def test_leave_one_out_values_are_those_of_the_smaller_samples(n):
    rng = np.random.default_rng(4)
    x, y = features(n, 32, rng), features(n, 32, rng, 0.4)
    a, b = sample(x, 6), sample(y, 6)
    got = fr.leave_one_out(a, b)
    for g in range(6):
        kept = np.arange(n) % 6 != g
        assert got[g] == pytest.approx(of_samples(x[kept], y[kept]), rel=1e-6)
    fixed = b.gaussian()
    one = fr.leave_one_out(a, fixed)
    assert one[2] == pytest.approx(fr.distance(sample(x[np.arange(n) % 6 != 2]).gaussian(), fixed), rel=1e-6)


def test_a_streamed_sample_gives_the_same_values(monkeypatch):
    rng = np.random.default_rng(3)
    x, y = features(700, 12, rng), features(650, 12, rng, 0.2)
    whole = [fr.distance(sample(x).gaussian(), sample(y).gaussian()), fr.split_half(sample(y))]
    left = fr.leave_one_out(sample(x), sample(y))
    monkeypatch.setattr(fr, "_STREAMED", 1)
    monkeypatch.setattr(fr, "_SLAB", 32)
    assert sample(x)._streamed
    assert fr.distance(sample(x).gaussian(), sample(y).gaussian()) == pytest.approx(whole[0], rel=1e-10)
    assert fr.split_half(sample(y)) == pytest.approx(whole[1], rel=1e-10)
    np.testing.assert_allclose(fr.leave_one_out(sample(x), sample(y)), left, rtol=1e-7)


def test_bad_statistics_are_refused():
    good = np.eye(3)
    with pytest.raises(BadData, match="indefinite"):
        fr.of_statistics(np.zeros(3), np.diag([1.0, 1.0, -0.5]))
    with pytest.raises(BadData, match="symmetric"):
        fr.of_statistics(np.zeros(3), good + np.triu(np.ones((3, 3)), 1))
    with pytest.raises(BadData, match="finite"):
        fr.of_statistics(np.zeros(3), good * np.nan)
    with pytest.raises(BadData, match="shapes"):
        fr.of_statistics(np.zeros(3), np.eye(4))
    with pytest.raises(BadData, match="dimensions"):
        fr.distance(fr.of_statistics(np.zeros(3), good), fr.of_statistics(np.zeros(4), np.eye(4)))


class Fixed:
    def __init__(self, values):
        self.values, self.image = values, np.arange(len(values))

    def array(self):
        return self.values


def measured(x, y, groups=20):
    n = len(x)
    ids = np.array([f"image{i}" for i in range(n)], dtype=object)
    return Measurements({"fake": Fixed(x), "reference": Fixed(y)}, {"id": ids}, np.arange(n) % groups)


def fid(x, y):
    (value,) = metric("fid").compute(measured(x, y), {})
    return value


def test_fid_reports_its_floor_and_its_warning():
    rng = np.random.default_rng(5)
    x = features(60, 100, rng)
    value = fid(x + 0.01 * rng.normal(size=x.shape).astype(np.float32), x)
    assert value.n == 60 and value.groups.shape == (20,)
    assert value.notes["split_half"] > value.value, "a paired reconstruction lies below what two samples give"
    assert "60 images for 100 dimensions" in value.notes["warning"]


@pytest.mark.parametrize("damage", ["nan", "inf", "one image"])
def test_bad_features_skip_with_a_reason(damage):
    rng = np.random.default_rng(6)
    x = features(30, 8, rng)
    y = x.copy()
    if damage == "one image":
        x, y = x[:1], y[:1]
    else:
        y[7, 3] = float(damage)
    value = fid(x, y)
    assert value.status == "skipped" and value.value is None
    assert ("at least 2" if damage == "one image" else "image7") in value.why


def test_jackknife_interval_covers_by_simulation():
    """Paired reconstructions: the 95 % interval holds the mean of the estimator over 250 draws about as often as it should."""
    from vtbench.intervals import jackknife

    rng = np.random.default_rng(7)
    n, d, draws = 160, 5, 250
    found = []
    for _ in range(draws):
        x = rng.normal(size=(n, d))
        y = 0.9 * x + 0.2 * rng.normal(size=(n, d)) + 0.1
        a, b = sample(y), sample(x)
        found.append(jackknife(fr.distance(a.gaussian(), b.gaussian()), fr.leave_one_out(a, b)))
    target = np.mean([f.value for f in found])
    covered = np.mean([f.low <= target <= f.high for f in found])
    assert 0.90 <= covered <= 0.99
