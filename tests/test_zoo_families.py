"""The families' adapters: files, variants, moving averages, prefixes, noise, captions, and weights that do not fit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo_seeded import seeded_images, seeded_state

from vtbench import zoo
from vtbench.api import Condition, Tokenizer
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.registry import resolve
from vtbench.zoo.card import Card, File
from vtbench.zoo.clip_text import ClipText
from vtbench.zoo.cosmos import Cosmos
from vtbench.zoo.kl_vae import KLVAE
from vtbench.zoo.layout import layout, names, shapes_of
from vtbench.zoo.magvit2 import OpenMagvit2
from vtbench.zoo.titok import OneDPiece, TATiTok, TiTok
from vtbench.zoo.tokenbridge import TokenBridge, levels
from vtbench.zoo.var import VAR
from vtbench.zoo.vqgan import IBQ, VQGAN, LlamaGen

GOLDEN = Path(__file__).parent / "golden"


def small(name: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Seeded weights of the small network of a golden file, under the published names."""
    return seeded_state(shapes_of(json.loads((GOLDEN / f"zoo_{name}.json").read_text("utf-8"))["keys"]), seed)


def tokenizer(name: str) -> Tokenizer:
    entry = json.loads((GOLDEN / f"zoo_{name}.json").read_text("utf-8"))
    return resolve(entry["adapter"]).from_state(small(name), **entry["params"])


# ------------------------------------------------------------------------------------------------- variants and files


def test_a_titok_of_a_size_that_nobody_published_loads() -> None:
    state = small("titok")
    width = state["latent_tokens"].shape[1]
    more = {"latent_tokens": 10, "encoder.latent_token_positional_embedding": 10}
    state |= seeded_state({name: (number, width) for name, number in more.items()})
    state |= seeded_state({"decoder.latent_token_positional_embedding": (10, width)})
    state |= seeded_state({"quantize.embedding.weight": (48, state["quantize.embedding.weight"].shape[1])})
    model = TiTok.from_state(state)
    tokens = model.encode(seeded_images((1, 3, 64, 64)))
    assert tokens.streams[0].sizes == (48,) and tokens.data["tokens"].shape == (1, 10)
    assert model.capabilities.resolution == 64 and model.capabilities.max_tokens == 10


def test_a_file_loads_through_the_zoo_and_its_averages_are_preferred(tmp_path: Path) -> None:
    ema, model = small("llamagen", 1), small("llamagen", 2)
    path = tmp_path / "mine.pt"
    torch.save({"model": model, "ema": {f"module.{k}": v for k, v in ema.items()}, "steps": 7}, path)
    made = {key: zoo.load("llamagen-vq-ds16", weights=path, state_key=key) for key in ("auto", "ema", "model")}
    images = seeded_images((1, 3, 32, 32))
    ids = {key: m.encode(images).data["tokens"] for key, m in made.items()}
    assert torch.equal(ids["auto"], ids["ema"]) and not torch.equal(ids["auto"], ids["model"])
    assert made["auto"].revision == made["ema"].revision != made["model"].revision
    assert torch.equal(ids["auto"], LlamaGen.from_state(ema).encode(images).data["tokens"])


def test_a_familys_own_entry_is_found(tmp_path: Path) -> None:
    path = tmp_path / "unitok.pth"
    state = small("unitok")
    text = {"text_encoder.positional_embedding": torch.zeros(2, 2), "logit_scale": torch.zeros(())}
    torch.save({"args": {"model": "vitamin_large"}, "trainer": {"unitok": {**state, **text}, "step": 3}}, path)
    model = zoo.load("unitok", weights=path)
    tokens = model.encode(seeded_images((1, 3, 32, 48)))
    assert tokens.data["tokens"].shape == (1, 6, 4) and tokens.streams[0].shape == (2, 3)
    assert model.decode(tokens).shape == (1, 3, 32, 48)


def test_averages_among_the_weights_are_preferred(tmp_path: Path) -> None:
    plain, average = small("open_magvit2", 1), small("open_magvit2", 2)
    shadows = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in average.items()}
    path = tmp_path / "lightning.ckpt"
    extra = {"loss.discriminator.main.0.weight": torch.zeros(2), "model_ema.decay": torch.tensor(0.999)}
    torch.save({"state_dict": {**plain, **shadows, **extra}}, path)
    images = seeded_images((1, 3, 32, 32))
    auto, raw = OpenMagvit2(weights=path), OpenMagvit2(weights=path, state_key="state_dict")
    wanted = OpenMagvit2.from_state(average).encode(images).data["tokens"]
    assert torch.equal(auto.encode(images).data["tokens"], wanted)
    assert not torch.equal(raw.encode(images).data["tokens"], wanted)
    assert auto.revision != raw.revision
    assert any("EMA" in note for note in auto.loaded.notes)
    assert "loss.discriminator.main.0.weight" in auto.loaded.dropped


def test_half_precision_files_run_in_float32_and_bfloat16_keeps_the_codebook(tmp_path: Path) -> None:
    state = small("vqgan")
    model = VQGAN.from_state({k: v.half() for k, v in state.items()})
    assert {p.dtype for p in model.net.parameters()} == {torch.float32}
    model = VQGAN.from_state(state).to("cpu", "bfloat16")
    assert model.net.encoder.conv_in.weight.dtype == torch.bfloat16
    assert torch.equal(model.net.quantize.embedding.weight, state["quantize.embedding.weight"])
    images = seeded_images((1, 3, 32, 32))
    decoded = model.decode(model.encode(images))
    assert decoded.dtype == torch.float32 and bool(((decoded >= 0) & (decoded <= 1)).all())


# ------------------------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("name", ["vqgan", "llamagen", "titok_legacy", "var", "open_magvit2", "bsq_vit", "tokenbridge"])
def test_batch_size_does_not_matter(name: str) -> None:
    model = tokenizer(name)
    side = model.capabilities.resolution or 32
    images = seeded_images((3, 3, side, side), 5)
    together = model.encode(images)
    apart = [model.encode(image[None]) for image in images]
    assert torch.equal(together.data["tokens"], torch.cat([t.data["tokens"] for t in apart]))
    decoded = torch.cat([model.decode(t) for t in apart])
    torch.testing.assert_close(model.decode(together), decoded, atol=5e-5, rtol=0)


def test_bits_are_counted_by_position() -> None:
    images = seeded_images((1, 3, 32, 32))
    assert tokenizer("open_magvit2").encode(images).bits() == [64 * 8]
    assert tokenizer("bsq_vit").encode(images).bits() == [16 * 6]
    assert tokenizer("tokenbridge").encode(images).bits() == [64 * 16 * 6]
    assert tokenizer("var").encode(images).bits() == [(1 + 4 + 9 + 16) * 6]
    assert tokenizer("kl16").encode(images).bits() is None


def test_convolutional_tokens_grow_with_the_area_and_keep_the_shape() -> None:
    model = tokenizer("vqgan")
    assert model.capabilities.multiple == 4 and model.capabilities.scales_with_area
    tokens = model.encode(seeded_images((1, 3, 32, 48)))
    assert tokens.streams[0].shape == (8, 12) and model.decode(tokens).shape == (1, 3, 32, 48)
    with pytest.raises(UsageError, match="multiples of 4"):
        model.encode(seeded_images((1, 3, 30, 32)))


def test_a_fixed_size_is_told() -> None:
    with pytest.raises(UsageError, match="64x64 images only"):
        tokenizer("titok").encode(seeded_images((1, 3, 32, 32)))


def test_a_prefix_is_shorter_not_padded() -> None:
    model = OneDPiece.from_state(small("one_d_piece"))
    assert model.capabilities.prefix
    tokens = model.encode(seeded_images((2, 3, 64, 64)), budget=3)
    assert tokens.data["tokens"].shape == (2, 3) and list(tokens.bits()) == [15.0, 15.0]
    whole = model.encode(seeded_images((2, 3, 64, 64)))
    assert torch.equal(model.decode(model.prefix(whole, 3)), model.decode(tokens))
    assert not torch.allclose(model.decode(whole), model.decode(tokens), atol=1e-3)


def test_scales_are_cut_whole() -> None:
    model = VAR.from_state(small("var"), sides="1-2-3-4")
    whole = model.encode(seeded_images((1, 3, 32, 32)))
    assert model.capabilities.budgets == (1, 5, 14, 30)
    cut = model.prefix(whole, 13)
    assert cut.streams[0].shape == (1, 2) and cut.data["tokens"].shape == (1, 5)
    assert model.prefix(whole, 30).data["tokens"].shape == (1, 30)
    with pytest.raises(UsageError, match="grow"):
        VAR.from_state(small("var"), sides="4-2")


def test_a_posterior_gives_its_mode_or_a_draw_of_each_images_own() -> None:
    model = KLVAE.from_state(small("kl16"))
    images = seeded_images((2, 3, 32, 32))
    mode = model.encode(images).data["latents"]
    moments = model.moments(images)
    torch.testing.assert_close(mode, moments.chunk(2, 1)[0].flatten(2).transpose(1, 2))
    draw = model.encode(images, sample=True, seeds=[3, 4]).data["latents"]
    alone = model.encode(images[1:], sample=True, seeds=[4]).data["latents"]
    torch.testing.assert_close(draw[1:], alone, atol=1e-5, rtol=1e-5)
    deviation = moments.chunk(2, 1)[1].mul(0.5).exp().flatten(2).transpose(1, 2)
    noise = (draw - mode) / deviation
    assert abs(float(noise.mean())) < 0.15 and 0.8 < float(noise.std()) < 1.2


def test_the_levels_of_tokenbridge_are_conditional_means() -> None:
    """Independent check by numerical integration of a standard normal between its 64-quantiles."""
    from scipy.stats import norm

    found = levels(6, 5.0, 3.0)
    edges = norm.ppf(np.linspace(0, 1, 65))
    inner = [norm.expect(lambda x: x, lb=a, ub=b, conditional=True) for a, b in itertools.pairwise(edges[1:-1])]
    np.testing.assert_allclose(found[1:-1] * 3 / 5, inner, atol=2e-4)
    assert np.all(np.diff(found) > 0) and -5 < found[0] < found[-1] < 5
    with pytest.raises(UsageError, match="1 to 12 bits"):
        TokenBridge(bits=0)


def test_codebooks_are_what_the_decoder_is_given() -> None:
    book = LlamaGen.from_state(small("llamagen")).codebook()
    assert book is not None and book.shape == (64, 8)
    np.testing.assert_allclose(np.linalg.norm(book, axis=1), 1, atol=1e-6)
    assert set(np.unique(OpenMagvit2.from_state(small("open_magvit2")).codebook())) == {-1.0, 1.0}


def test_the_rule_of_choice_can_be_given() -> None:
    images = seeded_images((1, 3, 32, 32))
    ids = {
        rule: IBQ.from_state(small("ibq"), rule=rule).encode(images).data["tokens"]
        for rule in ("auto", "dot", "distance")
    }
    assert torch.equal(ids["auto"], ids["dot"]) and not torch.equal(ids["auto"], ids["distance"])


@pytest.mark.parametrize("name", sorted(p.stem.removeprefix("zoo_") for p in GOLDEN.glob("zoo_*.json")))
def test_the_halves_hold_every_parameter(name: str) -> None:
    model = tokenizer(name)
    halves = model.modules()
    assert set(halves) == {"encoder", "decoder"}
    sets = [{id(p) for p in half.parameters()} for half in halves.values()]
    assert sets[0] | sets[1] == {id(p) for p in model.net.parameters()}  # type: ignore[attr-defined]
    shared = sum(p.numel() for p in halves["encoder"].parameters() if id(p) in sets[1])
    assert shared < sum(p.numel() for p in halves["decoder"].parameters()) / 2


# ------------------------------------------------------------------------------------------------- captions


def clip_state() -> dict[str, torch.Tensor]:
    """A small text encoder's tensors, from open_clip's own class."""
    pytest.importorskip("open_clip")
    from open_clip.transformer import TextTransformer

    net: Any = TextTransformer(context_length=77, vocab_size=49408, width=64, heads=1, layers=2, output_dim=16)
    shapes = {k: tuple(v.shape) for k, v in net.state_dict().items() if k != "attn_mask"}
    return {**seeded_state(shapes), "visual.proj": torch.zeros(2), "logit_scale": torch.tensor(1.0)}


def test_captions_are_encoded_as_a_whole_clip_does() -> None:
    open_clip = pytest.importorskip("open_clip")
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    state = clip_state()
    vision = CLIPVisionCfg(layers=1, width=64, head_width=64, patch_size=16, image_size=16)
    whole = CLIP(
        16, vision, CLIPTextCfg(context_length=77, vocab_size=49408, width=64, heads=1, layers=2), quick_gelu=True
    )
    whole.load_state_dict({k: v for k, v in state.items() if not k.startswith("visual.")}, strict=False)
    whole.eval()
    captions = ["a photograph of a cat", ""]
    found = ClipText(state)(captions)
    assert found.shape == (2, 77, 64)
    with torch.no_grad():
        ids = open_clip.tokenize(captions)
        x = whole.token_embedding(ids) + whole.positional_embedding
        x = whole.ln_final(whole.transformer(x, attn_mask=whole.attn_mask))
        pooled = x[torch.arange(2), ids.argmax(1)] @ whole.text_projection
        torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled, whole.encode_text(ids), atol=1e-5, rtol=1e-5)


def test_captions_move_the_reconstruction_and_their_bits_are_apart(tmp_path: Path) -> None:
    entry = json.loads((GOLDEN / "zoo_tatitok.json").read_text("utf-8"))
    shapes = shapes_of(entry["keys"])
    width = shapes["decoder.text_guidance_proj.weight"][0]
    shapes["decoder.text_guidance_proj.weight"] = (width, 64)
    shapes["decoder.text_guidance_positional_embedding"] = (77, width)
    torch.save(seeded_state(shapes), tmp_path / "titok.pt")
    torch.save(clip_state(), tmp_path / "clip.pt")
    card = Card("mine", files=(File("weights", ("titok.pt",)), File("clip", ("clip.pt",))))
    model = TATiTok(card=card, weights=tmp_path)
    assert model.capabilities.needs_caption and model.revision.startswith("sha256:")
    images = seeded_images((1, 3, 64, 64))
    cat, none = (model.encode(images, condition=[Condition("0", caption=text)]) for text in ("a cat", None))
    assert torch.equal(cat.data["tokens"], none.data["tokens"])
    assert not torch.allclose(model.decode(cat), model.decode(none), atol=1e-4)
    assert cat.caption_bits() == [40.0] and cat.bits() == none.bits()
    bare = TATiTok.from_state(seeded_state(shapes))
    with pytest.raises(UsageError, match="captions"):
        bare.decode(cat)


# ------------------------------------------------------------------------------------------------- programs


class _Encoder(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = torch.nn.functional.avg_pool2d(x, 8)
        return ((pooled.float().mean(1) + 1) * 100).to(torch.int32), pooled


class _Decoder(torch.nn.Module):
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        grey = (ids.to(torch.bfloat16) / 100 - 1)[:, None].repeat(1, 3, 1, 1)
        return torch.nn.functional.interpolate(grey, scale_factor=8.0)


def test_programs_run_only_when_allowed(tmp_path: Path) -> None:
    torch.jit.script(_Encoder()).save(str(tmp_path / "encoder.jit"))
    torch.jit.script(_Decoder()).save(str(tmp_path / "decoder.jit"))
    with pytest.raises(UsageError, match="--allow-code"):
        zoo.load("cosmos-di8x8", weights=tmp_path)
    model = zoo.load("cosmos-di8x8", weights=tmp_path, allow_code=True)
    assert isinstance(model, Cosmos)
    images = seeded_images((2, 3, 32, 48))
    tokens = model.encode(images)
    assert tokens.streams[0].sizes == (64000,) and tokens.streams[0].shape == (4, 6)
    blocks = torch.nn.functional.avg_pool2d(images, 8).mean(1)
    torch.testing.assert_close(model.decode(tokens)[:, 0, ::8, ::8], blocks, atol=0.02, rtol=0)
    (tmp_path / "decoder.jit").write_bytes(b"not a program")
    with pytest.raises(BadWeights, match="no TorchScript program"):
        zoo.load("cosmos-di8x8", weights=tmp_path, allow_code=True)


# ------------------------------------------------------------------------------------------------- weights that do not fit


def test_weights_of_another_model_are_told_by_name() -> None:
    found = layout("maskgit-vqgan")
    state = {name: torch.empty(shape, device="meta") for name, shape in found.shapes.items()}
    with pytest.raises(BadWeights, match="Its keys look like maskgit-vqgan"):
        TiTok.from_state(state, revision="sha256:0")
    other = {k: torch.empty(s, device="meta") for k, s in layout("llamagen-vq-ds16").shapes.items()}
    with pytest.raises(BadWeights, match="Its keys look like llamagen-vq-ds16"):
        VQGAN.from_state(other, revision="sha256:0")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("decoder.conv_out.bias"), "1 missing: decoder.conv_out.bias"),
        (lambda s: s.update({"surprise.weight": torch.zeros(3)}), "1 unexpected: surprise.weight"),
        (
            lambda s: s.update({"decoder.norm_out.weight": torch.zeros(5)}),
            "1 of another shape: decoder.norm_out.weight",
        ),
    ],
)
def test_every_key_must_fit(change: Any, told: str) -> None:
    state = small("vqgan")
    change(state)
    with pytest.raises(BadWeights, match=told):
        VQGAN.from_state(state)


def test_no_weights_and_cut_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="--weights"):
        VQGAN()
    path = tmp_path / "cut.pt"
    torch.save(small("vqgan"), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadWeights, match=r"cut short|damaged"):
        zoo.load("vqgan-imagenet-f16-1024", weights=path)


def test_every_layout_belongs_to_a_card() -> None:
    from vtbench.zoo import catalogue

    known = set(catalogue.names())
    assert [name for name in names() if name not in known] == []
    for name in names():
        assert catalogue.card(name).adapter == layout(name).adapter


def test_buffers_of_a_file_are_no_parameters() -> None:
    """MaskBit's files hold the table of all signs, which the network has no use for: 4.7 of 59 million numbers at 18 bits."""
    from vtbench.zoo import catalogue
    from vtbench.zoo.maskbit import MaskBit
    from vtbench.zoo.verify import check_parameters

    shapes = layout("maskbit-18bit").shapes
    state = {name: torch.zeros(shape) for name, shape in shapes.items()}
    check = check_parameters(catalogue.card("maskbit-18bit"), MaskBit.from_state(state, revision="sha256:0"))
    assert check.result == "ok", check.told
