"""KID, Inception Score, precision, recall, density and coverage against their reference implementations."""

from __future__ import annotations

import numpy as np
import pytest

from vtbench.api import Measurements
from vtbench.metrics import _neighbours
from vtbench.registry import metric


class Fixed:
    def __init__(self, values):
        self.values, self.image = values, np.arange(len(values))

    def array(self):
        return self.values


def measured(groups=20, **columns):
    n = max(len(v) for v in columns.values())
    ids = np.array([f"image{i}" for i in range(n)], dtype=object)
    return Measurements({k: Fixed(v) for k, v in columns.items()}, {"id": ids}, np.arange(n) % groups)


def compute(name, fields, groups=20, **columns):
    (value,) = metric(name).compute(measured(groups, **columns), fields)
    return value


def pair(n=120, d=24, extra=0):
    rng = np.random.default_rng(0)
    x = np.abs(rng.normal(size=(n, d)))
    y = np.abs(rng.normal(size=(n + extra, d)) * 1.2 + 0.1)
    return x, y


KID = {"kid_subsets": 20, "kid_subset_size": 50, "kid_seed": 2020}


@pytest.mark.parametrize("whole", [True, False])
def test_kid_agrees_with_torch_fidelity(whole, monkeypatch):
    module = pytest.importorskip("torch_fidelity.metric_kid")
    import torch

    from vtbench.metrics import kid as ours

    if not whole:
        monkeypatch.setattr(ours, "_WHOLE", 10)
    x, y = pair(extra=13)
    options = {"kid_subsets": 20, "kid_subset_size": 50, "rng_seed": 2020, "verbose": False}
    wanted = module.kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    value = compute("kid", KID, fake=x, reference=y)
    assert value.value == pytest.approx(wanted["kernel_inception_distance_mean"], rel=1e-9)
    assert value.notes["std"] == pytest.approx(wanted["kernel_inception_distance_std"], rel=1e-9)


def test_kid_leave_one_out_values_delete_the_group():
    x, y = pair()
    fields = {"kid_subsets": 1, "kid_subset_size": 0, "kid_seed": 0}
    value = compute("kid", fields, groups=6, fake=x, reference=y)
    for g in range(6):
        kept = np.arange(len(x)) % 6 != g
        assert value.groups[g] == pytest.approx(compute("kid", fields, fake=x[kept], reference=y[kept]).value, rel=1e-9)


def test_kid_of_too_few_images_is_skipped():
    x, y = pair(n=20)
    value = compute("kid", KID, fake=x, reference=y)
    assert value.status == "skipped" and "50" in value.why and "kid_subset_size" in value.why


def test_kid_of_one_distribution_is_unbiased():
    rng = np.random.default_rng(1)
    fields = {"kid_subsets": 1, "kid_subset_size": 0, "kid_seed": 0}
    draws = [
        compute("kid", fields, fake=rng.normal(size=(40, 8)), reference=rng.normal(size=(40, 8))).value
        for _ in range(60)
    ]
    assert abs(np.mean(draws)) < 3 * np.std(draws) / np.sqrt(60)


IS = {"is_order": "shuffled", "is_splits": 10, "is_block": 0, "is_seed": 2020}


def logits(n=250, c=30):
    return np.random.default_rng(2).normal(size=(n, c)) * 2


def test_inception_score_agrees_with_torch_fidelity():
    module = pytest.importorskip("torch_fidelity.metric_isc")
    import torch

    wanted = module.isc_features_to_metric(torch.from_numpy(logits()), 10, True, 2020)
    value = compute("inception_score", IS, fake=logits())
    assert value.value == pytest.approx(wanted["inception_score_mean"], rel=1e-10)
    assert value.notes["std"] == pytest.approx(wanted["inception_score_std"], rel=1e-8)


def test_inception_score_in_blocks_as_adm_has_it():
    z = logits()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    wanted = []
    for start in range(0, len(p), 100):
        part = p[start : start + 100]
        kl = part * (np.log(part) - np.log(part.mean(0, keepdims=True)))
        wanted.append(np.exp(kl.sum(1).mean()))
    value = compute("inception_score", {**IS, "is_order": "stored", "is_block": 100}, fake=z)
    assert value.value == pytest.approx(np.mean(wanted), rel=1e-10)
    assert "sorted by class" in value.notes["warning"]


def test_inception_score_without_a_head_says_so():
    value = compute("inception_score", IS, fake=np.zeros((30, 0), np.float32))
    assert value.status == "skipped" and "official file" in value.why
    assert compute("inception_score", IS, fake=logits(5)).status == "skipped"


PRDC = {"neighbours": 5, "rim": "outside", "neighbour_dtype": "float64"}
FOUR = ("precision", "recall", "density", "coverage")


def test_all_four_agree_with_prdc():
    prdc = pytest.importorskip("prdc")
    x, y = pair(extra=30)
    wanted = prdc.compute_prdc(real_features=y, fake_features=x, nearest_k=5)
    for name in FOUR:
        assert compute(name, PRDC, fake=x, reference=y).value == wanted[name]


def test_precision_and_recall_agree_with_torch_fidelity():
    module = pytest.importorskip("torch_fidelity.metric_prc")
    import torch

    x, y = pair(extra=30)
    options = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    wanted = module.prc_features_to_metric(torch.from_numpy(x), torch.from_numpy(y), **options)
    fields = {"neighbours": 3, "rim": "inside", "neighbour_dtype": "float64"}
    for name in ("precision", "recall"):
        assert compute(name, fields, fake=x, reference=y).value == pytest.approx(wanted[name], abs=1e-6)


@pytest.mark.parametrize("name", FOUR)
def test_leave_one_out_values_are_those_of_the_smaller_samples(name):
    x, y = pair()
    value = compute(name, PRDC, groups=5, fake=x, reference=y)
    for g in range(5):
        kept = np.arange(len(x)) % 5 != g
        assert value.groups[g] == compute(name, PRDC, fake=x[kept], reference=y[kept]).value


def test_blocks_change_nothing(monkeypatch):
    x, y = pair(extra=30)
    whole = {name: compute(name, PRDC, fake=x, reference=y).value for name in FOUR}
    monkeypatch.setattr(_neighbours, "BLOCK", 17)
    for name in FOUR:
        rule = _neighbours.Rule(5, False)
        group = np.zeros(len(x), int), np.zeros(len(y), int)
        assert _neighbours.values(y, x, group[1], group[0], rule)[name][0] == whole[name]


def test_half_precision_is_near_and_falls_back_where_it_overflows():
    x, y = pair()
    exact = _neighbours.squared_distances(x, y, False)
    np.testing.assert_allclose(_neighbours.squared_distances(x, y, True), exact, atol=0.1)
    np.testing.assert_allclose(_neighbours.squared_distances(x * 100, y * 100, True), exact * 1e4, rtol=1e-3)


def test_identical_sets_are_perfect():
    x, _ = pair()
    for name in ("precision", "recall", "coverage"):
        assert compute(name, PRDC, fake=x, reference=x).value == 1


@pytest.mark.filterwarnings("error")
def test_sets_of_one_image_again_and_again_have_plain_values():
    """Constant images: every feature vector is the same, so covariances, radii and kernels are degenerate."""
    x, y = np.full((40, 12), 0.5), np.full((40, 12), 0.75)
    assert compute("fid", {}, fake=x, reference=y).value == pytest.approx(12 * 0.25**2, rel=1e-12)
    assert compute("fid", {}, fake=x, reference=x).value == pytest.approx(0, abs=1e-12)
    one = {"kid_subsets": 1, "kid_subset_size": 0, "kid_seed": 0}
    kernel = [(0.5 * 0.5 + 1) ** 3, (0.75 * 0.75 + 1) ** 3, (0.5 * 0.75 + 1) ** 3]
    wanted = kernel[0] + kernel[1] - 2 * kernel[2]
    assert compute("kid", one, fake=x, reference=y).value == pytest.approx(wanted, rel=1e-9)
    fields = {"neighbours": 3, "rim": "inside", "neighbour_dtype": "float64"}
    for name in ("precision", "recall"):
        assert compute(name, fields, fake=x, reference=y).value == 0
        assert compute(name, fields, fake=x, reference=x).value == 1
