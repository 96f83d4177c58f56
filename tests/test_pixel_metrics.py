"""Pixel and perceptual metrics against independent implementations."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import pytest
import torch

from vtbench.api import Batch, Measurements
from vtbench.errors import BadSample, UsageError
from vtbench.extractors import lpips as lpips_extractor
from vtbench.extractors import ssim
from vtbench.extractors.pixels import Pixels
from vtbench.registry import metric


class Fixed:
    """A column held in memory."""

    def __init__(self, values):
        self.values, self.image = np.asarray(values), np.arange(len(values))

    def array(self):
        return self.values

    def blocks(self):
        yield self.image, self.values


def measured(values, groups=4):
    n = len(values)
    return Measurements({"mse": Fixed(values)}, {"id": np.arange(n).astype(str)}, np.arange(n) % groups)


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    a = torch.nn.functional.avg_pool2d(torch.rand(3, 3, 176, 190, generator=generator), 5, 1, 2)
    return a, (a + 0.04 * torch.randn(a.shape, generator=generator)).clamp(0, 1)


def run(heads, a, b, **args):
    rows = Pixels(args)(Batch([], images=a, reference=b), heads)
    return {h: r.values for h, r in rows.items()}


def test_errors_are_the_plain_formulas(pair):
    a, b = (t.double().numpy() for t in pair)
    got = run(["mse", "mae", "span"], *pair)
    np.testing.assert_allclose(got["mse"], ((a - b) ** 2).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(got["mae"], np.abs(a - b).mean((1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(got["span"], np.ptp(b, axis=(1, 2, 3)), rtol=1e-6)


def test_psnr_agrees_with_torchmetrics_in_both_aggregations(pair):
    from torchmetrics.functional.image import peak_signal_noise_ratio

    mse = run(["mse"], *pair)["mse"]
    each = next(iter(metric("psnr").compute(measured(mse), {"quantise": "round"}))).samples
    wanted = [peak_signal_noise_ratio(x, y, data_range=1.0).item() for x, y in zip(*pair)]
    np.testing.assert_allclose(each, wanted, rtol=1e-5)
    pooled = next(iter(metric("psnr").compute(measured(mse), {"quantise": "round", "psnr_over": "set"})))
    assert pooled.value == pytest.approx(peak_signal_noise_ratio(*pair, data_range=1.0).item(), rel=1e-5)
    assert pooled.value <= np.mean(each)


def test_psnr_of_equal_images_is_infinite_and_its_leave_one_out_values_are_right():
    value = next(iter(metric("psnr").compute(measured([0.0, 0.01]), {"quantise": "round"})))
    assert value.samples[0] == np.inf and value.samples[1] == pytest.approx(20)
    mse = np.array([0.01, 0.02, 0.03, 0.04, 0.05])
    value = next(iter(metric("psnr").compute(measured(mse, 3), {"quantise": "round", "psnr_over": "set"})))
    for group in range(3):
        assert value.groups[group] == pytest.approx(-10 * np.log10(mse[np.arange(5) % 3 != group].mean()))
    with pytest.raises(UsageError, match="image or set"):
        list(metric("psnr").compute(measured(mse), {"quantise": "round", "psnr_over": "median"}))


agreeing = pytest.mark.skipif(
    int(version("torchmetrics").split(".")[1]) < 9 and version("torchmetrics").startswith("1."),
    reason="older torchmetrics computes another SSIM and has no DISTS; ours is the same in both environments",
)


@pytest.mark.parametrize("offset", [0.0, -0.5])
@agreeing
def test_ssim_agrees_with_torchmetrics(pair, offset):
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = ((t.double() + offset) for t in pair)
    wanted = structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    np.testing.assert_allclose(ssim.ssim(*pair, offset=offset), wanted, rtol=1e-6)


@pytest.mark.parametrize("window", ["gaussian11", "uniform7"])
@pytest.mark.parametrize("span", [1.0, 2.0])
def test_ssim_agrees_with_scikit_image(pair, window, span):
    structural_similarity = pytest.importorskip("skimage.metrics").structural_similarity

    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False} if window == "gaussian11" else {}
    got = run(["ssim"], *pair, window=window, border="valid", range=span)["ssim"]
    for value, x, y in zip(got, *pair):
        x, y = x.double().numpy(), y.double().numpy()
        assert value == pytest.approx(structural_similarity(x, y, channel_axis=0, data_range=span, **options), rel=1e-6)


def test_observed_range_is_the_images_own(pair):
    a, b = pair[0][:1] * 0.5, pair[1][:1] * 0.5
    span = float(max(np.ptp(a.numpy()), np.ptp(b.numpy())))
    np.testing.assert_allclose(ssim.ssim(a, b, span="observed"), ssim.ssim(a, b, span=span), rtol=1e-9)


@agreeing
def test_ms_ssim_agrees_with_torchmetrics(pair):
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    a, b = (t.double() for t in pair)
    wanted = multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none", normalize="relu")
    np.testing.assert_allclose(ssim.ms_ssim(*pair), wanted, rtol=1e-5)


def test_every_pixel_head_is_batch_independent_and_perfect_on_equal_images(pair):
    heads = ["mse", "mae", "ssim", "ms_ssim"]
    whole = run(heads, *pair)
    for i in range(3):
        one = run(heads, pair[0][i : i + 1], pair[1][i : i + 1])
        for head in heads:
            np.testing.assert_allclose(one[head][0], whole[head][i], rtol=1e-6)
    same = run(heads, pair[0], pair[0])
    assert (same["mse"] == 0).all() and (same["mae"] == 0).all()
    assert (same["ssim"] == 1).all() and (same["ms_ssim"] == 1).all()


def test_heads_together_in_pieces_are_the_heads_apart(pair):
    a, b = (torch.cat([t, t.flip(0)]) for t in pair)
    together = run(["ssim", "ms_ssim", "mse"], a, b)
    assert (together["ssim"] == run(["ssim"], a, b)["ssim"]).all()
    assert (together["ms_ssim"] == run(["ms_ssim"], a, b)["ms_ssim"]).all()
    np.testing.assert_allclose(together["mse"], ((a - b).double() ** 2).mean((1, 2, 3)), rtol=1e-6)
    assert all(len(v) == 6 for v in together.values())


@pytest.mark.parametrize("border", ["reflect", "valid"])
@pytest.mark.parametrize("level", [0.0, 1 / 255, 0.5, 1.0])
def test_ssim_of_equal_nearly_flat_images_is_exactly_one(border, level):
    generator = torch.Generator().manual_seed(3)
    flat = (level + torch.randint(0, 2, (1, 3, 176, 190), generator=generator) / 255).clamp(0, 1)
    for window in ("gaussian11", "uniform7"):
        same = run(["ssim", "ms_ssim"], flat, flat.clone(), window=window, border=border)
        assert same["ssim"] == 1 and same["ms_ssim"] == 1


def test_bad_pairs_are_named(pair):
    with pytest.raises(BadSample, match="190 x 176"):
        run(["mse"], pair[0], pair[1][:, :, :100])
    with pytest.raises(BadSample, match="SSIM needs"):
        run(["ssim"], pair[0][:, :, :8, :8], pair[1][:, :, :8, :8])
    with pytest.raises(BadSample, match="MS-SSIM"):
        run(["ms_ssim"], pair[0][:, :, :100], pair[1][:, :, :100])
    with pytest.raises(UsageError, match="window"):
        run(["ssim"], *pair, window="hann")
    with pytest.raises(UsageError, match="argument"):
        Pixels({"sigma": 2})


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_agrees_with_its_package_on_a_shared_trunk(net, pair):
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    layers = lpips_extractor.features(net)
    trunk = {}
    for name, value in theirs.net.state_dict().items():
        trunk[name.split(".", 1)[1]] = value
    layers.load_state_dict(trunk, strict=False)
    heads = [lin.model[1].weight.detach() for lin in theirs.lins]
    ours = lpips_extractor.Distance(net, layers, heads)
    a, b = (2 * t[:2, :, :80, :72] - 1 for t in pair)
    with torch.no_grad():
        wanted = theirs(a, b).flatten()
        got = ours(a, b)
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
        assert ours(a, a).abs().max() == 0
        np.testing.assert_allclose(ours(a[1:], b[1:]), got[1:], rtol=1e-5)


def test_lpips_heads_in_the_wheels_are_the_pinned_ones():
    import hashlib

    for net, trunk in lpips_extractor.TRUNKS.items():
        for package, folder in (("lpips", "weights/v0.1"), ("torchmetrics", "functional/image/lpips_models")):
            path = lpips_extractor.carried(f"{net}.pth", {package: folder})
            if path is not None:
                assert trunk.head == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert lpips_extractor.head_file(net).is_file()


@agreeing
def test_dists_agrees_with_torchmetrics_on_a_shared_trunk(pair, monkeypatch):
    from torchmetrics.functional.image import dists as peer

    from vtbench.extractors import dists

    torch.manual_seed(0)
    trunk = lpips_extractor.features("vgg")
    for layer in trunk:
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    monkeypatch.setattr(peer, "vgg16", lambda weights: type("VGG", (), {"features": trunk}))
    a, b = (t[:2, :, :75, :64] for t in pair)
    wanted = peer.DISTSNetwork()(a, b)
    ours = dists.Distance(trunk, dists.mixing())
    np.testing.assert_allclose(ours(a, b), wanted.detach(), rtol=1e-4, atol=1e-6)
    assert ours(a, a).abs().max() < 1e-5
    np.testing.assert_allclose(ours(a[1:], b[1:]), ours(a, b)[1:], rtol=1e-4)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_lpips_trunks_have_torchvisions_layout(net):
    from torchvision import models

    build = {"alex": models.alexnet, "vgg": models.vgg16, "squeeze": models.squeezenet1_1}[net]
    with torch.device("meta"):
        wanted, got = build(weights=None).features, lpips_extractor.features(net)
    assert [str(layer) for layer in got] == [str(layer) for layer in wanted]
