"""Generators of tokens against their authors' code: golden files hold its logits and tokens for seeded weights, drawn with the numbers that vtbench draws
(docs/zoo-verification.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo_seeded import seeded_state

from vtbench.api import Capabilities, Tokenizer, Tokens
from vtbench.calling import generate, unmade
from vtbench.data.conditions import labels
from vtbench.errors import BadSample, BadWeights, UsageError
from vtbench.registry import resolve
from vtbench.zoo import catalogue as cards
from vtbench.zoo.layout import shapes_of
from vtbench.zoo.llamagen_gpt import cut
from vtbench.zoo.token_generator import Draws, TokenGenerator

GOLDEN = sorted((Path(__file__).parent / "golden").glob("generator_*.json"))
CODES = 37
SAMPLING: dict[str, dict[str, Any]] = {
    "generator_llamagen/none": {"guidance": "none"},
    "generator_llamagen/guided": {"guidance": "2.0", "temperature": 0.9, "top_k": 20, "top_p": 0.9},
    "generator_rar/none": {"guidance": "none"},
    "generator_rar/guided": {"guidance": "4", "power": 2.5, "temperature": 1.02},
    "titok/none": {"guidance": "none", "temperature": 4.5, "steps": 6},
    "titok/linear": {"guidance": "3", "decay": "linear", "temperature": 9.5, "steps": 6},
    "titok/power-cosine": {"guidance": "6.9", "decay": "power-cosine", "temperature": 2.8, "steps": 6},
}


class Greys(Tokenizer):
    """Decodes ids to grey patches; 16 tokens make 4 x 4 of 2 pixels."""

    def __init__(self, codes: int = CODES, name: str = "greys") -> None:
        self.name, self.revision, self.codes = name, f"greys-{codes}", codes
        self.capabilities = Capabilities(any_resolution=False, resolution=8, multiple=2)

    def codebook(self) -> np.ndarray:
        return np.zeros((self.codes, 1), np.float32)

    def decode(self, tokens: Tokens, *, seeds: Any = None) -> torch.Tensor:
        grey = torch.as_tensor(tokens.data["tokens"]).float().view(-1, 1, 4, 4) / self.codes
        return torch.nn.functional.interpolate(grey, scale_factor=2).expand(-1, 3, -1, -1)


def golden(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def build(entry: dict[str, Any], **sampling: Any) -> TokenGenerator:
    state = seeded_state(shapes_of(entry["keys"]), entry["seed"])
    return resolve(entry["adapter"]).from_state(state, Greys(), **entry["params"], **sampling)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_logits_and_tokens_are_those_of_the_authors_code(path: Path) -> None:
    entry = golden(path)
    family = "titok" if "titok" in path.stem else path.stem
    given = torch.tensor(entry["labels"])
    made = build(entry)
    ids = torch.arange(3 * 16).view(3, 16) % (CODES + (family == "titok"))
    if "llamagen" in path.stem:
        ids = torch.arange(3 * 6).view(3, 6) % CODES
    with torch.no_grad():
        logits = made.net(ids, given)
    if "rar" in path.stem:
        assert logits.shape[1] == 17
    flat = logits.double().flatten(1)
    places = np.linspace(0, flat.shape[1] - 1, 24).astype(int)
    for key, found in (("mean", flat.mean(1)), ("std", flat.std(1)), ("values", flat[:, places])):
        np.testing.assert_allclose(found.numpy(), entry["logits"][key], atol=1e-5, rtol=1e-5)
    for how, tokens in entry["tokens"].items():
        sampler = build(entry, **SAMPLING[f"{family}/{how}"])
        drawn = sampler.sample(given, Draws(entry["seeds"], torch.device("cpu")))
        assert drawn.tolist() == tokens, how
        assert len(np.unique(tokens)) > 5


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_a_batch_is_no_more_than_its_images(path: Path) -> None:
    made = build(golden(path))
    items = unmade(labels(5, 5).samples)
    together = generate(made, items, 0, None, 8)
    alone = generate(made, [items[3]], 0, None, 8)
    assert together.tokens is not None and alone.tokens is not None
    assert together.tokens.data["tokens"][3].tolist() == alone.tokens.data["tokens"][0].tolist()
    assert torch.equal(together.images[3], alone.images[0])
    assert made.capabilities.classes == 5 and made.steps in (8, 16)
    with pytest.raises(BadSample, match="knows the classes 0 to 4"):
        generate(made, unmade(labels(6, 6).samples), 0, None, 8)


def test_another_decoder_is_another_model_and_must_have_the_same_codes() -> None:
    entry = golden(GOLDEN[0])
    state = seeded_state(shapes_of(entry["keys"]), entry["seed"])
    adapter = resolve(entry["adapter"])
    own = adapter.from_state(state, Greys(), **entry["params"])
    other = Greys(name="other")
    other.revision = "another"
    assert adapter.from_state(state, other, **entry["params"]).revision != own.revision
    with pytest.raises(UsageError, match=r"other has 12 codes, and .* makes tokens of 37"):
        adapter.from_state(state, Greys(12, "other"), **entry["params"])


def test_a_checkpoint_of_another_model_is_named() -> None:
    entries = {p.stem: golden(p) for p in GOLDEN}
    state = seeded_state(shapes_of(entries["generator_rar"]["keys"]), 0)
    with pytest.raises(BadWeights, match=r"no tensor 'output\.weight'"):
        resolve(entries["generator_llamagen"]["adapter"]).from_state(state, Greys())
    cut_short = {k: v for k, v in state.items() if not k.startswith("blocks.1.attn.proj")}
    with pytest.raises(BadWeights, match=r"blocks\.1\.attn\.proj"):
        resolve(entries["generator_rar"]["adapter"]).from_state(cut_short, Greys())


def test_cutting_a_distribution_keeps_the_likeliest() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    assert cut(logits, 2, 1.0).isfinite().tolist() == [[True, True, False, False]]
    assert cut(logits, 0, 0.6).isfinite().tolist() == [[True, True, False, False]]
    assert cut(logits, 0, 1.0).equal(logits)


def test_draws_follow_the_distribution_and_belong_to_their_image() -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.6, 0.3])
    draws = Draws(list(range(4000)), torch.device("cpu"))
    found = np.bincount(draws.categorical(probabilities.expand(4000, -1)).numpy(), minlength=4) / 4000
    np.testing.assert_allclose(found, probabilities, atol=0.03)
    assert found[1] == 0
    alone = Draws([7], torch.device("cpu")).uniform(3)
    assert torch.equal(Draws([5, 7], torch.device("cpu")).uniform(3)[1], alone[0])


@pytest.mark.parametrize(
    "name", [c.name for c in cards.cards() if c.form == "generator" and c.route == "own" and c.files]
)
def test_cards_of_generators_name_an_adapter_a_decoder_and_a_file(name: str) -> None:
    card = cards.card(name)
    assert issubclass(resolve(card.adapter), TokenGenerator)
    assert cards.known(str(card.defaults["decoder"]))
    assert card.files[0].repository and card.files[0].path
