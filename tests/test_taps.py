"""Features inside encoders: what the taps of each family hold, and that the engine measures them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from zoo_seeded import seeded_images, seeded_state

from vtbench.api import Batch, Tokenizer
from vtbench.data.sample import Sample
from vtbench.data.sources import FileSource
from vtbench.errors import UsageError
from vtbench.extractors.encoder_features import EncoderFeatures
from vtbench.registry import resolve
from vtbench.zoo.layout import shapes_of
from vtbench.zoo.quantise import nearest
from vtbench.zoo.tiny import Tiny
from vtbench.zoo.tiny_network import STRIDES
from vtbench.zoo.unitok import UniTok

sys.path.insert(0, str(Path(__file__).parent))
import toys

GOLDEN = Path(__file__).parent / "golden"


def small(name: str) -> tuple[Any, torch.Tensor]:
    """The seeded small network of a family, and images for it."""
    entry = json.loads((GOLDEN / f"zoo_{name}.json").read_text("utf-8"))
    model = resolve(entry["adapter"]).from_state(seeded_state(shapes_of(entry["keys"])), **entry["params"])
    return model, seeded_images(entry["input"]["shape"])


@pytest.mark.parametrize("name", sorted(p.stem.removeprefix("zoo_") for p in GOLDEN.glob("zoo_*.json")))
def test_every_own_family_hands_out_both_taps(name: str) -> None:
    model, images = small(name)
    found = {tap: model.features(images, tap) for tap in ("hidden", "pre_quant")}
    for features in found.values():
        assert features.ndim == 3 and len(features) == len(images) and features.dtype == torch.float32
        assert bool(torch.isfinite(features).all()) and float(features.std()) > 0
    assert found["hidden"].shape[1] == found["pre_quant"].shape[1]
    assert not torch.equal(found["hidden"], found["pre_quant"])
    assert model.features(images, "aligned") is None and model.text_features(["a cat"]) is None
    alone = model.features(images[-1:], "pre_quant")
    torch.testing.assert_close(alone[0], found["pre_quant"][-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["vqgan", "llamagen", "ibq", "titok", "maskgit", "vit_vqgan"])
def test_pre_quant_is_what_is_quantised(name: str) -> None:
    model, images = small(name)
    z = model.features(images, "pre_quant")
    ids = model.encode(images).data["tokens"]
    if name == "titok":
        assert torch.equal(nearest(z, model.net.quantize.embedding.weight, model._rule), ids)
    else:
        grid = z.transpose(1, 2).unflatten(2, model.encode(images).streams[0].shape)
        assert torch.equal(model.quantise(grid).flatten(1), ids)


def test_hidden_leads_to_pre_quant_by_the_last_layers() -> None:
    model, images = small("vqgan")
    grid = model.encode(images).streams[0].shape
    hidden = model.features(images, "hidden").transpose(1, 2).unflatten(2, grid)
    with torch.no_grad():
        z = model.net.quant_conv(model.net.encoder.conv_out(F.silu(hidden)))
    torch.testing.assert_close(z.flatten(2).transpose(1, 2), model.features(images, "pre_quant"), rtol=1e-4, atol=1e-4)


def test_tiny_hands_out_its_deepest_map_and_what_it_rounds() -> None:
    model, images = Tiny(), seeded_images((2, 3, 64, 96))
    hidden, z = model.features(images, "hidden"), model.features(images, "pre_quant")
    assert hidden is not None and z is not None
    assert hidden.shape == (2, 2 * 3, 96) and z.shape == (2, sum(64 // stride * 96 // stride for stride in STRIDES), 4)
    ids = model.encode(images).data["tokens"]
    digits = torch.round((z[:, :6] + 1) / 2 * (model.net.steps - 1)).long()
    coarse = (digits * model.net.place).sum(2)
    assert torch.equal(coarse.sort(1).values, ids[:, :6].sort(1).values)


def aligned_unitok() -> tuple[UniTok, dict[str, torch.Tensor]]:
    """The small UniTok with a text encoder of two layers beside it, under the published names."""
    open_clip = pytest.importorskip("open_clip")
    entry = json.loads((GOLDEN / "zoo_unitok.json").read_text("utf-8"))
    state = seeded_state(shapes_of(entry["keys"]))
    words = open_clip.transformer.TextTransformer(vocab_size=49408, width=64, heads=1, layers=2, output_dim=16)
    width = state["post_quant_proj.proj.weight"].shape[0]
    more = {f"text_encoder.{k}": v for k, v in words.state_dict().items() if k != "attn_mask"}
    head = {
        "fc_norm.weight": (width,),
        "fc_norm.bias": (width,),
        "projection.weight": (16, width),
        "projection.bias": (16,),
    }
    more |= seeded_state(head) | {"logit_scale": torch.zeros(())}
    return UniTok.from_state({**state, **more}), {**state, **more}


def test_unitok_aligns_images_with_text_as_its_authors_define_it() -> None:
    model, state = aligned_unitok()
    assert model.capabilities.text_align
    images = seeded_images((2, 3, 32, 32))
    found = model.features(images, "aligned")
    assert found is not None and found.shape == (2, 1, 16)
    tokens = model.encode(images).data["tokens"]
    tables = [F.normalize(t, dim=1) for t in model.net.quantizer.tables()]
    with torch.no_grad():
        z = torch.cat([table[part] for table, part in zip(tables, tokens.unbind(-1))], -1)
        pooled = model.net.post_quant_proj(z).mean(1)
        normed = F.layer_norm(pooled, pooled.shape[1:], state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)
        wanted = F.normalize(F.linear(normed, state["projection.weight"], state["projection.bias"]), dim=-1)
    torch.testing.assert_close(found[:, 0], wanted, rtol=1e-4, atol=1e-5)
    texts = model.text_features(["a cat", "a photo of an axolotl", "a cat"])
    assert texts is not None and torch.equal(texts[0], texts[2]) and not torch.allclose(texts[0], texts[1])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    batch = Batch([Sample("a", "", FileSource(""), caption="cat"), Sample("b", "", FileSource(""))], images=images)
    extractor = EncoderFeatures({"template": "a {}"})
    extractor.model = model
    rows = extractor(batch, ["aligned", "text", "caption", "pre_quant"])
    np.testing.assert_allclose(rows["text"].values[0], texts[0].numpy(), rtol=1e-5)
    assert rows["caption"].values.tolist() == ["cat", ""] and rows["pre_quant"].values.shape[0] == 2
    with pytest.raises(UsageError, match="no place"):
        EncoderFeatures({"template": "a photo"})


class Grey(toys.Patches):
    """Patches whose encoder hands out the colours, and what they lack of white, as its hidden features."""

    def features(self, images: torch.Tensor, tap: str) -> torch.Tensor | None:
        return torch.cat([images, 1 - images], 1).flatten(2).transpose(1, 2) if tap == "hidden" else None


def test_the_engine_measures_taps_and_probes_name_them(tmp_path: Path) -> None:
    from vtbench.evaluation import Evaluator

    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "data" / ("dark" if i % 2 else "light")
        folder.mkdir(parents=True, exist_ok=True)
        level = 60 if i % 2 else 180
        Image.fromarray(rng.integers(level - 20, level + 20, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    suite = tmp_path / "probe.toml"
    suite.write_text(
        'name = "probe"\nversion = 1\ntask = "reconstruct"\ntitle = "probe"\nresolutions = [64]\ncontrols = []\n'
        'data = { reader = "images" }\nmetrics = [{ name = "knn_accuracy", protocols = ["token-semantics"] }]\n'
    )
    run = Evaluator(str(suite), data=str(tmp_path / "data"), out=str(tmp_path / "out"), device="cpu", baselines=False)
    record = run(Grey()).records[0]
    rows = {row.slice: row for row in record.rows}
    assert rows["tap=hidden"].value == 100 and rows["tap=hidden"].n == 6
    assert rows["tap=pre_quant"].status == "skipped" and "pre_quant" in rows["tap=pre_quant"].why
    assert {"tap=token_id", "tap=post_quant"} <= set(rows)
    assert isinstance(Grey(), Tokenizer)
