"""The TAESD family on random weights: strict loading, both kinds, the quantiser."""

import math

import numpy as np
import pytest
import torch

from vtbench import zoo
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.zoo.taesd import decoder, encoder


def save(folder, name="taesd", channels=4, pool=False, dtype=torch.float16):
    torch.manual_seed(0)
    for half, net in (("encoder", encoder(channels, pool)), ("decoder", decoder(channels, pool))):
        torch.save({k: v.to(dtype) for k, v in net.state_dict().items()}, folder / f"{name}_{half}.pth")
    return folder


IMAGES = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("channels", "pool"), [(4, False), (16, False), (32, True)])
def test_any_member_loads_from_its_two_files(tmp_path, channels, pool):
    model = zoo.load("taesd-files", weights=save(tmp_path, channels=channels, pool=pool))
    tokens = model.encode(IMAGES)
    assert tokens.data["latents"].shape == (2, 4 * 5, channels) and tokens.bits() is None
    assert tokens.streams[0].shape == (4, 5)
    out = model.decode(tokens)
    assert out.shape == IMAGES.shape and out.dtype == torch.float32 and out.min() >= 0 and out.max() <= 1
    assert all(p.dtype == torch.float32 for net in model.modules().values() for p in net.parameters())
    assert any(".pool." in k for k in model.encoder.state_dict()) == pool


def test_the_layout_without_pool_is_diffusers_autoencoder_tiny(tmp_path):
    """The same network in another's names: outputs agree, and so do the value ranges at the boundary."""
    diffusers = pytest.importorskip("diffusers")
    model = zoo.load("taesd-files", weights=save(tmp_path, dtype=torch.float32))
    other = diffusers.AutoencoderTiny().eval()
    # diffusers keeps the decoder's soft clamp outside the numbered layers.
    other.encoder.layers.load_state_dict(model.encoder.state_dict())
    other.decoder.layers.load_state_dict(
        {f"{int(k.split('.')[0]) - 1}.{k.split('.', 1)[1]}": v for k, v in model.decoder.state_dict().items()}
    )
    with torch.no_grad():
        z = model.latents(IMAGES)
        assert torch.allclose(z, other.encode(IMAGES * 2 - 1).latents, atol=1e-5)
        assert torch.allclose(model.pixels(z), (other.decode(z).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_tokens_of_a_batch_are_those_of_its_images(tmp_path):
    model = zoo.load("taesd-files", weights=save(tmp_path))
    whole = model.encode(IMAGES).data["latents"]
    assert torch.allclose(whole, torch.cat([model.encode(i[None]).data["latents"] for i in IMAGES]), atol=1e-5)


def test_the_quantiser_rounds_to_evenly_spaced_values(tmp_path):
    folder = save(tmp_path, name="taef2", channels=32, pool=True)
    plain = zoo.load("taef2", weights=folder)
    model = zoo.load("taef2-q:levels=5,range=1", weights=folder)
    assert model.params == {"levels": 5, "range": 1.0} and plain.revision == model.revision
    tokens = model.encode(IMAGES)
    ids = tokens.data["tokens"]
    assert ids.shape == (2, 20, 32) and ids.min() >= 0 and ids.max() <= 4
    assert tokens.bits() == pytest.approx([20 * 32 * math.log2(5)] * 2)
    grid = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
    nearest = (plain.encode(IMAGES).data["latents"][..., None].clamp(-1, 1) - grid).abs().argmin(-1)
    assert (ids == nearest).float().mean() > 0.999  # ties aside
    assert np.allclose(model.codebook()[:, 0], grid)
    values = grid[ids]
    exact = plain.pixels(values.transpose(1, 2).unflatten(2, (4, 5)))
    assert torch.allclose(model.decode(tokens), exact, atol=1e-6)


def test_many_levels_approach_the_continuous_model(tmp_path):
    folder = save(tmp_path, name="taef2", channels=32, pool=True)
    plain = zoo.load("taef2", weights=folder)
    exact = plain.decode(plain.encode(IMAGES))
    error = []
    for levels in (2, 16, 4096):
        model = zoo.load(f"taef2-q:levels={levels},range=4", weights=folder)
        error.append(float((model.decode(model.encode(IMAGES)) - exact).abs().max()))
    assert error == sorted(error, reverse=True) and error[-1] < 1e-2


@pytest.mark.parametrize("params", ["levels=1", "range=0", "range=nan", "levels=many"])
def test_quantisers_that_cannot_be(tmp_path, params):
    with pytest.raises(UsageError):
        zoo.load(f"taef2-q:{params}", weights=save(tmp_path, name="taef2", channels=32, pool=True))


def test_halves_of_two_models_are_refused(tmp_path):
    save(tmp_path, channels=4)
    torch.save(decoder(16, False).state_dict(), tmp_path / "taesd_decoder.pth")
    with pytest.raises(BadWeights, match="4 and 16 latent channels"):
        zoo.load("taesd-files", weights=tmp_path)


def test_another_models_file_is_refused(tmp_path):
    save(tmp_path)
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "taesd_encoder.pth")
    with pytest.raises(BadWeights, match=r"no half of a TAESD: its keys are conv.weight"):
        zoo.load("taesd-files", weights=tmp_path)


def test_an_extra_key_is_refused(tmp_path):
    save(tmp_path)
    state = torch.load(tmp_path / "taesd_encoder.pth", weights_only=True) | {"99.bias": torch.zeros(1)}
    torch.save(state, tmp_path / "taesd_encoder.pth")
    with pytest.raises(BadWeights, match=r"1 unexpected: 99\.bias"):
        zoo.load("taesd-files", weights=tmp_path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = save(tmp_path) / "taesd_decoder.pth"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(BadWeights, match="cut short"):
        zoo.load("taesd-files", weights=tmp_path)


def test_a_missing_half_is_named(tmp_path):
    (save(tmp_path) / "taesd_decoder.pth").unlink()
    with pytest.raises(MissingWeights, match="does not hold the decoder"):
        zoo.load("taesd-files", weights=tmp_path)


def test_a_checkpoint_with_an_ema_is_two_models_and_auto_takes_the_ema(tmp_path):
    save(tmp_path)
    for half in ("encoder", "decoder"):
        path = tmp_path / f"taesd_{half}.pth"
        state = torch.load(path, weights_only=True)
        torch.save({"model": state, "ema": {f"module.{k}": v * 2 for k, v in state.items()}}, path)
    auto, plain, ema = (
        zoo.load(f"taesd-files{key}", weights=tmp_path) for key in ("", ":state_key=model", ":state_key=ema")
    )
    weight = "0.weight"
    assert torch.equal(auto.encoder.state_dict()[weight], ema.encoder.state_dict()[weight])
    assert torch.equal(plain.encoder.state_dict()[weight] * 2, ema.encoder.state_dict()[weight])
    assert any("EMA" in note for note in auto.notes) and any("module." in note for note in auto.notes)
    assert plain.params == {"state_key": "model"} and len({auto.revision, plain.revision, ema.revision}) == 3
    with pytest.raises(BadWeights, match="no entry 'best'"):
        zoo.load("taesd-files", weights=tmp_path, state_key="best")
