"""With the real networks on real photographs: our features and distances beside those of the installed peers."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench.api import Batch
from vtbench.extractors.inception import Inception
from vtbench.extractors.lpips import LPIPS
from vtbench.metrics import _frechet as fr

pytestmark = pytest.mark.real
COUNT = 10


@pytest.fixture(scope="module")
def folders(assets, tmp_path_factory):
    """Ten photographs at 256 x 256 as PNG, and their JPEG (quality 20) versions."""
    root = tmp_path_factory.mktemp("photos")
    for name in ("reference", "fake"):
        (root / name).mkdir()
    for i, path in enumerate(sorted((assets / "imagenet-200").glob("*.JPEG"))[::19][:COUNT]):
        image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
        image.save(root / "reference" / f"{i}.png")
        image.save(root / "coarse.jpg", quality=20)
        Image.open(root / "coarse.jpg").save(root / "fake" / f"{i}.png")
    return root


def pixels(folder: Path) -> torch.Tensor:
    arrays = [np.asarray(Image.open(p)) for p in sorted(folder.glob("*.png"))]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module")
def state_file(assets, tmp_path_factory):
    """The real trunk with a random logits head, in the format that the peers load."""
    from safetensors.torch import load_file

    state = load_file(assets / "inception/fid_inception_v3_pool3.safetensors")
    generator = torch.Generator().manual_seed(0)
    state["fc.weight"] = torch.randn(1008, 2048, generator=generator) * 0.05
    state["fc.bias"] = torch.randn(1008, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def features(folders):
    """Ours by (resize, scale): features of both folders."""
    found = {}

    def get(resize, scale="128"):
        if (resize, scale) not in found:
            extractor = Inception({"resize": resize, "scale": scale})
            extractor.open("cpu")
            batches = [Batch([], images=pixels(folders / name).float() / 255) for name in ("fake", "reference")]
            found[resize, scale] = tuple(extractor(b, ["pool3"])["pool3"].values for b in batches)
        return found[resize, scale]

    return get


def fid(pair):
    a, b = (fr.Sample(x, np.zeros(len(x), int)).gaussian() for x in pair)
    return fr.distance(a, b)


def agree(got, wanted):
    return np.linalg.norm(got - np.asarray(wanted), axis=1).max() / np.linalg.norm(wanted, axis=1).mean()


def test_torch_fidelity(folders, state_file, features):
    torch_fidelity = pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(state_file))
    with torch.inference_mode():
        (theirs,) = net(pixels(folders / "fake"))
    assert agree(features("tf1")[0], theirs.numpy()) < 1e-5
    wanted = torch_fidelity.calculate_metrics(
        input1=str(folders / "fake"), input2=str(folders / "reference"), fid=True, cuda=False, verbose=False, cache=False,
        feature_extractor_weights_path=str(state_file), batch_size=COUNT, save_cpu_ram=True,
    )["frechet_inception_distance"]  # fmt: skip
    assert fid(features("tf1")) == pytest.approx(wanted, rel=2e-4)


def test_pytorch_fid(folders, state_file, features, monkeypatch):
    module = pytest.importorskip("pytorch_fid.inception")
    monkeypatch.setattr(module, "load_state_dict_from_url", lambda *a, **k: torch.load(state_file, weights_only=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = module.InceptionV3([3]).eval()
    with torch.inference_mode():
        theirs = net(pixels(folders / "fake").float() / 255)[0].flatten(1)
    assert agree(features("half-pixel", "pm1")[0], theirs.numpy()) < 1e-5


def test_torchmetrics(folders, state_file, features):
    from torchmetrics.image.fid import FrechetInceptionDistance

    peer = FrechetInceptionDistance(feature_extractor_weights_path=str(state_file))
    for name, real in (("fake", False), ("reference", True)):
        peer.update(pixels(folders / name), real=real)
    # their eigenvalues of a product of two singular matrices are good to about 2e-4 at so small an n
    assert fid(features("antialias")) == pytest.approx(peer.compute().item(), rel=1e-3)


def test_named_resizes_differ_as_they_should(features):
    tf1, clean = fid(features("tf1")), fid(features("clean"))
    assert abs(tf1 - clean) > 1e-3 * tf1, "two named protocols are two numbers"
    assert fid((features("tf1")[0],) * 2) < 1e-6


def test_lpips(assets, folders, monkeypatch):
    lpips = pytest.importorskip("lpips")
    from safetensors.torch import load_file

    extractor = LPIPS({})
    extractor.open("cpu")
    fake, reference = (pixels(folders / name).float() / 255 for name in ("fake", "reference"))
    got = extractor(Batch([], images=fake, reference=reference), ["distance"])["distance"].values
    peer = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = {
        k.removeprefix("features."): v for k, v in load_file(assets / "lpips/alexnet_features.safetensors").items()
    }
    own = peer.net.state_dict()
    peer.net.load_state_dict({k: trunk[k.split(".", 1)[1]] for k in own})
    with torch.inference_mode():
        wanted = peer(2 * fake - 1, 2 * reference - 1).flatten().numpy()
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    fed_raw = LPIPS({"range": "01"})
    fed_raw.open("cpu")
    raw = fed_raw(Batch([], images=fake, reference=reference), ["distance"])["distance"].values
    with torch.inference_mode():
        np.testing.assert_allclose(raw, peer(fake, reference).flatten().numpy(), rtol=1e-5, atol=1e-6)


def test_the_head_less_file_says_that_it_has_no_logits(assets):
    identity = Inception({}).identity()
    assert identity["trunk"].startswith("sha256:28803973")
    if identity["head"] == "none":
        extractor = Inception({})
        extractor.open("cpu")
        rows = extractor(Batch([], images=torch.rand(1, 3, 64, 64)), ["logits"])
        assert rows["logits"].values.shape == (1, 0)


def test_views_share_one_network(assets):
    a, b = Inception({}), Inception({"resize": "clean"})
    for extractor in (a, b):
        extractor.open("cpu")
    assert a._network is b._network
