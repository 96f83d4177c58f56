"""DreamSim against its own package, on small trunks with random weights that both read from one folder of the published layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from vtbench.api import Batch, Measurements
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.extractors.dreamsim import MODELS, TRUNKS, DreamSim
from vtbench.registry import metric

WIDTH, DEPTH, PROJECTED = 48, 12, 24  # the package reads its twelfth block, so there must be twelve


def state(name, generator):
    """A trunk's tensors under the names of the published files."""
    patch = int(name[-2:])

    def draw(*shape, scale=0.2):
        return torch.randn(*shape, generator=generator) * scale

    made = {
        "cls_token": draw(1, 1, WIDTH), "pos_embed": draw(1, (224 // patch) ** 2 + 1, WIDTH),
        "patch_embed.proj.weight": draw(WIDTH, 3, patch, patch, scale=0.02), "patch_embed.proj.bias": draw(WIDTH),
    }  # fmt: skip
    shapes = {
        "attn.qkv": (3 * WIDTH, WIDTH),
        "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (4 * WIDTH, WIDTH),
        "mlp.fc2": (WIDTH, 4 * WIDTH),
    }
    norms = ["norm"] + (["pos_drop"] if "clip" in name else [])
    for i in range(DEPTH):
        for part, shape in shapes.items():
            made[f"blocks.{i}.{part}.weight"], made[f"blocks.{i}.{part}.bias"] = draw(*shape), draw(shape[0])
        norms += [f"blocks.{i}.norm1", f"blocks.{i}.norm2"]
    for norm in norms:
        made[f"{norm}.weight"], made[f"{norm}.bias"] = 1 + draw(WIDTH), draw(WIDTH)
    return made


def write(folder, model):
    """The folder `dreamsim/` of a model, as the package's download leaves it."""
    generator = torch.Generator().manual_seed(0)
    trunks, tuning = MODELS[model]
    factors = {}
    for number, name in enumerate(trunks):
        tensors = state(name, generator)
        path = folder / TRUNKS[name].files[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        if "clip" in name:
            tensors["proj"] = torch.randn(WIDTH, PROJECTED, generator=generator)
            torch.save({"state_dict": tensors}, path)
        elif name.startswith("synclr"):
            torch.save({"model": {f"module.visual.{k}": v for k, v in tensors.items()}}, path)
        else:
            torch.save(tensors, path)
        for i in range(DEPTH):
            layer = f"base_model.model.extractor_list.{number}.model.blocks.{i}.attn.qkv"
            factors[f"{layer}.lora_A.weight"] = torch.randn(4, WIDTH, generator=generator)
            factors[f"{layer}.lora_B.weight"] = torch.randn(3 * WIDTH, 4, generator=generator)
    # the package reads the head of DINO's own training from here, and does not use it
    head = {
        f"module.head.{k}.{e}": torch.zeros(1)
        for k in ("mlp.0", "mlp.2", "mlp.4", "last_layer")
        for e in ("weight", "bias")
    }
    torch.save({"student": head}, folder / "dreamsim" / "dino_vitb16_pretrain.pth")
    from safetensors.torch import save_file

    (folder / "dreamsim" / tuning).mkdir()
    save_file(factors, folder / "dreamsim" / tuning / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 0.5,
        "lora_dropout": 0.3,
        "bias": "none",
        "target_modules": ["qkv"],
    }
    (folder / "dreamsim" / tuning / "adapter_config.json").write_text(json.dumps(config))


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    x = torch.nn.functional.interpolate(torch.rand(2, 3, 20, 20, generator=generator), (256, 224), mode="bicubic")
    return (x.clamp(0, 1) * 255).round() / 255


def theirs(monkeypatch, folder, model):
    """The package's own model on that folder, its trunks made small."""
    package = pytest.importorskip("dreamsim")
    from dreamsim.feature_extraction import load_clip_as_dino, load_open_clip_as_dino, load_synclr_as_dino
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer

    def small(patch_size=16, **_):
        return VisionTransformer(
            patch_size=patch_size, embed_dim=WIDTH, depth=DEPTH, num_heads=12, mlp_ratio=4, qkv_bias=True,
            norm_layer=lambda n: torch.nn.LayerNorm(n, eps=1e-6),
        )  # fmt: skip

    def hub(repository, name):
        made = small(16)
        made.load_state_dict(torch.load(folder / TRUNKS[name].files[0], weights_only=True))
        return made

    for module in (load_clip_as_dino, load_open_clip_as_dino, load_synclr_as_dino):
        monkeypatch.setattr(module, "vit_base", small)
    monkeypatch.setattr(torch.hub, "load", hub)
    monkeypatch.setattr(torch.hub, "set_dir", lambda d: None)
    return package.dreamsim(device="cpu", cache_dir=str(folder / "dreamsim"), dreamsim_type=model)


@pytest.mark.parametrize("model", ["ensemble", "clip_vitb32", "open_clip_vitb32", "dino_vitb16", "synclr_vitb16"])
def test_distances_are_the_packages(tmp_path, monkeypatch, images, model):
    from PIL import Image

    write(tmp_path, model)
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    extractor = DreamSim({"model": model})
    extractor.open("cpu")
    rows = extractor(Batch([], images=images), ["embedding"])["embedding"].values
    network, prepare = theirs(monkeypatch, tmp_path, model)
    arrays = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    ready = [prepare(Image.fromarray(a)) for a in arrays]
    with torch.inference_mode():
        wanted = float(network(ready[0], ready[1]))
    assert wanted > 1e-3
    assert 1 - float((rows[0].astype(float) * rows[1]).sum()) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    bare = DreamSim({"model": model, "resize": "none"})
    bare.open("cpu")
    raw = bare(Batch([], images=images[:, :, :192]), ["embedding"])["embedding"].values.astype(float)
    with torch.inference_mode():
        fed = float(network(images[:1, :, :192], images[1:, :, :192]))
    assert 1 - float((raw[0] * raw[1]).sum()) == pytest.approx(fed, rel=1e-4, abs=1e-6)
    one = extractor(Batch([], images=images[1:]), ["embedding"])["embedding"].values
    np.testing.assert_allclose(one[0], rows[1], atol=1e-6)


def test_the_tuning_matters_and_faults_are_named(tmp_path, monkeypatch, images):
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match="DreamSim") as missing:
        DreamSim({}).identity()
    assert "dreamsim_ensemble_checkpoint.zip" in str(missing.value.way_out)
    with pytest.raises(UsageError, match="resize"):
        DreamSim({"resize": "bilinear"})
    with pytest.raises(UsageError, match="vit"):
        DreamSim({"model": "vit"})
    write(tmp_path, "clip_vitb32")
    extractor = DreamSim({"model": "clip_vitb32"})
    before = extractor.identity()
    extractor.open("cpu")
    first = extractor(Batch([], images=images), ["embedding"])["embedding"].values
    config = tmp_path / "dreamsim/clip_vitb32_single_lora/adapter_config.json"
    config.write_text(config.read_text().replace("0.5", "2.0"))
    assert extractor.identity() != before
    extractor.open("cpu")
    assert np.abs(extractor(Batch([], images=images), ["embedding"])["embedding"].values - first).max() > 1e-3
    config.write_text("{}")
    with pytest.raises(BadWeights, match="lora_alpha"):
        extractor.open("cpu")
    config.write_text('{"r": 4, "lora_alpha": 1, "use_dora": true}')
    with pytest.raises(BadWeights, match="kind of tuning"):
        extractor.open("cpu")


def test_metric_is_one_minus_the_cosine():
    class Fixed:
        def __init__(self, values):
            self.values, self.image = np.array(values, np.float32), np.arange(len(values))

        def array(self):
            return self.values

    columns = {"fake": Fixed([[1, 0], [0, 1]]), "reference": Fixed([[1, 0], [0.6, 0.8]])}
    m = Measurements(columns, {"id": np.array(["a", "b"])}, np.arange(2))
    (value,) = metric("dreamsim").compute(m, {})
    np.testing.assert_allclose(value.samples, [0, 0.2], atol=1e-7)
