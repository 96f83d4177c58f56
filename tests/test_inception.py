"""The FID Inception's wiring, resizes and inputs against the peers, with random weights shared by all."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vtbench.api import Batch
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.extractors import inception, resample
from vtbench.extractors.inception import Inception


@pytest.fixture(scope="module")
def theirs():
    """torch-fidelity's extractor with random weights of a healthy scale (the default ones let features collapse)."""
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    cls = module.FeatureExtractorInceptionV3
    patch = pytest.MonkeyPatch()
    patch.setattr(cls, "load_state_dict", lambda self, state: None)
    patch.setattr(module.torch, "load", lambda *a, **k: {})
    made = cls("random", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    patch.undo()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in made.modules():
            if isinstance(part, torch.nn.Conv2d):
                fan = part.weight[0].numel()
                part.weight.copy_(torch.randn(part.weight.shape, generator=generator) * math.sqrt(2 / fan))
            elif isinstance(part, torch.nn.BatchNorm2d):
                part.weight.copy_(0.8 + 0.4 * torch.rand(part.weight.shape, generator=generator))
                part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
                part.running_mean.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
                part.running_var.copy_(0.8 + 0.4 * torch.rand(part.bias.shape, generator=generator))
    return made


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    noise = torch.nn.functional.interpolate(torch.rand(2, 3, 24, 24, generator=generator), (96, 112), mode="bicubic")
    return (noise.clamp(0, 1) * 255).round() / 255


def ours(state, images, heads=("pool3",), **args):
    extractor = Inception(args)
    extractor.use(state)
    rows = extractor(Batch([], images=images), heads)
    return {h: r.values for h, r in rows.items()}


def relative(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def test_wiring_agrees_with_torch_fidelity(theirs, images):
    with torch.inference_mode():
        pool3, logits = theirs((images * 255).to(torch.uint8))
    got = ours(theirs.state_dict(), images, ("pool3", "logits", "sfid"))
    assert relative(got["pool3"], pool3) < 1e-5
    assert relative(got["logits"], logits) < 1e-5
    assert got["pool3"].dtype == np.float32 and got["sfid"].shape == (2, 2023)


def test_float64_agrees_tighter(theirs, images):
    double = theirs.double()
    double.feature_extractor_internal_dtype = torch.float64
    with torch.inference_mode():
        pool3, _ = double((images[:1] * 255).to(torch.uint8))
    got = ours(theirs.state_dict(), images[:1], dtype="float64")
    theirs.float()
    theirs.feature_extractor_internal_dtype = torch.float32
    assert relative(got["pool3"], pool3) < 2e-7


def test_sfid_is_seven_channels_of_mixed_6_conv(theirs, images):
    seen = {}
    hook = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda m, i, out: seen.setdefault("out", out))
    with torch.inference_mode():
        theirs((images * 255).to(torch.uint8))
    hook.remove()
    wanted = seen["out"][:, :7].permute(0, 2, 3, 1).reshape(2, -1)
    assert relative(ours(theirs.state_dict(), images, ("sfid",))["sfid"], wanted) < 1e-5


def test_batches_change_nothing_and_a_missing_head_is_empty(theirs, images):
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    whole = ours(state, images, ("pool3", "logits"))
    assert whole["logits"].shape == (2, 0)
    for i in range(2):
        assert relative(ours(state, images[i : i + 1])["pool3"][0], whole["pool3"][i]) < 1e-6


def test_plain_convolutions_give_the_same(theirs, images):
    from vtbench.extractors.inception_network import FIDInception

    x = resample.resize(images * 255, "tf1", 299) / 128 - 1
    plain, packed = FIDInception(theirs.state_dict()).float(), FIDInception(theirs.state_dict()).float()
    if not packed.prepack():
        pytest.skip("this torch offers no prepacked convolutions")
    with torch.inference_mode():
        for a, b in zip(plain(x), packed(x)):
            assert relative(a, b) < 1e-5


@pytest.mark.parametrize("size", [(32, 32), (256, 256), (300, 200), (511, 640)])
def test_tf1_resize_agrees_with_torch_fidelity(size):
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = torch.randint(0, 256, (1, 3, *size), generator=torch.Generator().manual_seed(2)).float()
    wanted = module.interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False)
    assert (resample.resize(x, "tf1", 299) - wanted).abs().max() < 1e-4


@pytest.mark.parametrize("size", [(256, 256), (300, 200), (64, 640)])
def test_clean_resize_agrees_with_clean_fid(size):
    module = pytest.importorskip("cleanfid.resize")
    x = np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = module.build_resizer("clean")(x).transpose(2, 0, 1)
    got = resample.resize(torch.from_numpy(x).permute(2, 0, 1)[None].float(), "clean", 299)[0]
    assert np.abs(got.numpy() - wanted).max() < 5.3e-4


def test_bfloat16_is_near_and_not_the_default(theirs, images):
    state = theirs.state_dict()
    exact, rough = ours(state, images)["pool3"], ours(state, images, dtype="bfloat16")["pool3"]
    assert 1e-4 < relative(rough, exact) < 5e-2
    assert Inception({}).dtype == "float32"


def test_bad_arguments_and_weights_are_named(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="argument"):
        Inception({"size": 5})
    with pytest.raises(UsageError, match="dtype"):
        Inception({"dtype": "int8"})
    with pytest.raises(UsageError, match="resize"):
        resample.resize(torch.zeros(1, 3, 8, 8), "area", 299)
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(inception, "FILES", ("other/" + inception.FILES[0],))
    with pytest.raises(MissingWeights, match="2015-12-05"):
        Inception({}).identity()
    from safetensors.torch import save_file

    (tmp_path / "other" / "inception").mkdir(parents=True)
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "other/inception/a.safetensors")
    monkeypatch.setattr(inception, "FILES", ("other/inception/a.safetensors",))
    with pytest.raises(BadWeights, match="another network"):
        Inception({}).identity()
