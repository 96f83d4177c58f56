"""DINOv2 and CLIP features against libraries with the same random weights; the metrics made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vtbench.api import Batch, Measurements
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.extractors.clip import CLIP
from vtbench.extractors.dinov2 import DINOv2
from vtbench.extractors.vision_transformer import VisionTransformer, pillow_resized
from vtbench.registry import metric


class Fixed:
    def __init__(self, values):
        self.values, self.image = values, np.arange(len(values))

    def array(self):
        return self.values


def measured(x, y, groups=20):
    ids = np.arange(len(x)).astype(str)
    return Measurements({"fake": Fixed(x), "reference": Fixed(y)}, {"id": ids}, np.arange(len(x)) % groups)


def random_dinov2(width=48, depth=2, side=5):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator) * 0.2

    state = {
        "cls_token": draw(1, 1, width), "pos_embed": draw(1, side * side + 1, width),
        "patch_embed.proj.weight": draw(width, 3, 14, 14), "patch_embed.proj.bias": draw(width),
        "norm.weight": 1 + draw(width), "norm.bias": draw(width),
    }  # fmt: skip
    shapes = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    for i in range(depth):
        for name, shape in shapes.items():
            state[f"blocks.{i}.{name}.weight"], state[f"blocks.{i}.{name}.bias"] = draw(*shape), draw(shape[0])
        for name in ("norm1", "norm2"):
            state[f"blocks.{i}.{name}.weight"], state[f"blocks.{i}.{name}.bias"] = 1 + draw(width), draw(width)
        for name in ("ls1", "ls2"):
            state[f"blocks.{i}.{name}.gamma"] = 1 + draw(width)
    return state


def to_transformers(state, known, depth=2):
    """The same weights under transformers' names, which changed in its version 5."""
    new = any(".q_proj." in name for name in known)
    heads = ("q_proj", "k_proj", "v_proj") if new else ("attention.query", "attention.key", "attention.value")
    joined = "attention.o_proj" if new else "attention.output.dense"
    out = {
        "embeddings.cls_token": state["cls_token"], "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"], "layernorm.bias": state["norm.bias"],
    }  # fmt: skip
    renamed = {
        "attn.proj": joined,
        "norm1": "norm1",
        "norm2": "norm2",
        "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }
    for i in range(depth):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        for kind in ("weight", "bias"):
            for part, value in zip(heads, state[f"{ours}.attn.qkv.{kind}"].chunk(3)):
                out[f"{theirs}.attention.{part}.{kind}"] = value
            for a, b in renamed.items():
                out[f"{theirs}.{b}.{kind}"] = state[f"{ours}.{a}.{kind}"]
        for n in (1, 2):
            out[f"{theirs}.layer_scale{n}.lambda1"] = state[f"{ours}.ls{n}.gamma"]
    return out


def test_dinov2_agrees_with_transformers():
    transformers = pytest.importorskip("transformers")
    state = random_dinov2()
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=70, patch_size=14, layer_norm_eps=1e-6
    )
    theirs = transformers.Dinov2Model(config).eval()
    missing, unexpected = theirs.load_state_dict(to_transformers(state, theirs.state_dict()), strict=False)
    assert not unexpected and all("mask_token" in name for name in missing)
    images = torch.randn(2, 3, 70, 70, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(images).pooler_output
        got = VisionTransformer(state, 4)(images)
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
        # other sides: equal without the repository's offset, slightly different with it
        wide = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(2))
        wanted = theirs(wide).pooler_output
        np.testing.assert_allclose(VisionTransformer(state, 4, offset=0)(wide), wanted, rtol=1e-3, atol=1e-4)
        assert (VisionTransformer(state, 4)(wide) - wanted).abs().max() > 1e-4


def test_dinov2_extractor_prepares_with_pillow(monkeypatch):
    extractor = DINOv2({"model": "vits14"})
    extractor.use(random_dinov2(width=48, side=16))
    images = torch.rand(2, 3, 40, 50)
    rows = extractor(Batch([], images=images), ["cls"])["cls"].values
    assert rows.shape == (2, 48) and rows.dtype == np.float32
    one = extractor(Batch([], images=images[1:]), ["cls"])["cls"].values
    np.testing.assert_allclose(one[0], rows[1], rtol=1e-4, atol=1e-5)
    small = pillow_resized(images, 8) * 255
    assert torch.equal(small, small.round())


def test_wrong_weights_and_names_are_told(tmp_path, monkeypatch):
    with pytest.raises(BadWeights, match="norm"):
        VisionTransformer({k: v for k, v in random_dinov2().items() if k != "norm.weight"}, 4)
    with pytest.raises(UsageError, match="vitl14"):
        DINOv2({"model": "vitx"})
    with pytest.raises(UsageError, match="vit-b32"):
        CLIP({"model": "vitx"})
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match="dinov2_vitl14_pretrain"):
        DINOv2({}).identity()
    pytest.importorskip("transformers")
    with pytest.raises(MissingWeights, match="clip-vit-large-patch14-336"):
        CLIP({}).identity()


def test_clip_takes_a_whole_models_weights():
    transformers = pytest.importorskip("transformers")
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 32,
    }
    vision |= {"patch_size": 8, "projection_dim": 16}
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 50,
    }
    torch.manual_seed(0)
    whole = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
    ).eval()
    extractor = CLIP({"model": "vit-b32"})
    extractor.use(whole.state_dict(), vision)
    images = torch.rand(2, 3, 48, 40)
    got = extractor(Batch([], images=images), ["embedding"])["embedding"].values
    x = torch.nn.functional.interpolate(images, (32, 32), mode="bicubic").clamp(0, 1)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
    with torch.no_grad():
        tower = whole.vision_model(pixel_values=(x - mean) / std).pooler_output
        wanted = whole.visual_projection(tower)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


CMMD = {"cmmd_sigma": 10.0, "cmmd_scale": 1000.0}


def test_cmmd_is_the_plain_double_sum_and_its_groups_delete():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 12)), rng.normal(size=(30, 12)) + 0.3

    def plain(a, b):
        a, b = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (a, b))

        def mean(u, v):
            return np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in v] for p in u])

        return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))

    (value,) = metric("cmmd").compute(measured(x, y, 5), CMMD)
    assert value.value == pytest.approx(plain(x, y), rel=1e-9)
    for g in range(5):
        kept = np.arange(30) % 5 != g
        assert value.groups[g] == pytest.approx(plain(x[kept], y[kept]), rel=1e-8)
    (same,) = metric("cmmd").compute(measured(x, x), CMMD)
    assert same.value == pytest.approx(0, abs=1e-9)


def test_cosines_and_fd_dinov2():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(40, 6))
    (value,) = metric("dino_cosine").compute(measured(2 * x, x), {})
    np.testing.assert_allclose(value.samples, 1)
    (value,) = metric("clip_cosine").compute(measured(-x, x), {})
    np.testing.assert_allclose(value.samples, -1)
    (value,) = metric("fd_dinov2").compute(measured(x + 1, x), {})
    assert value.value == pytest.approx(6, rel=1e-9), "a shift by one in six dimensions"
