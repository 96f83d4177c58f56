"""Our networks against the authors' own: golden files hold what the published code gave for seeded weights and images (docs/zoo-verification.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zoo_seeded import digest_of, seeded_images, seeded_state

from vtbench.api import Tokenizer
from vtbench.registry import resolve
from vtbench.zoo.layout import shapes_of

GOLDEN = sorted((Path(__file__).parent / "golden").glob("zoo_*.json"))
TOLERANCE = 1e-5


def golden(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def build(entry: dict[str, Any]) -> Tokenizer:
    """The adapter on the golden's seeded weights, under the names of the published file."""
    prefix = entry.get("seed_prefix", "")
    shapes = {name[len(prefix) :]: shape for name, shape in shapes_of(entry["keys"]).items()}
    state = {prefix + name: tensor for name, tensor in seeded_state(shapes, entry["seed"]).items()}
    for name in entry.get("zeros", ()):  # tensors that are zero in every file
        state[prefix + name].zero_()
    tokenizer = resolve(entry["adapter"]).from_state(state, **entry["params"])
    if "text" in entry:  # features instead of a caption's: CLIP has a test of its own
        features = seeded_state({"text": entry["text"]}, entry["seed"])["text"]
        tokenizer.clip = lambda captions: features[: len(captions)]
    return tokenizer


def same(found: torch.Tensor, wanted: dict[str, Any]) -> None:
    made = digest_of(found)
    for key in ("mean", "std", "pixels"):
        np.testing.assert_allclose(made[key], wanted[key], atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem.removeprefix("zoo_"))
def test_encode_and_decode_as_the_authors_code_does(path: Path) -> None:
    entry = golden(path)
    tokenizer = build(entry)
    images = seeded_images(entry["input"]["shape"], entry["input"]["seed"])
    tokens = tokenizer.encode(images)
    for name, ids in entry["streams"].items():
        np.testing.assert_array_equal(np.asarray(tokens.data[name]), np.asarray(ids))
    if "latents" in entry:
        latents = tokens.data["latents"]
        assert list(latents.shape) == entry["latents"]["shape"]
        same(latents, entry["latents"])
    decoded = tokenizer.decode(tokens)
    assert decoded.dtype == torch.float32 and decoded.shape == images.shape
    same(decoded, entry["image"])
    for budget, wanted in entry.get("prefixes", {}).items():
        same(tokenizer.decode(tokenizer.prefix(tokens, int(budget))), wanted)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem.removeprefix("zoo_"))
def test_goldens_can_tell(path: Path) -> None:
    """Images with contrast, several codes: a broken network could not pass by giving grey or one index."""
    entry = golden(path)
    assert min(entry["image"]["std"]) > 0.02
    for ids in entry["streams"].values():
        assert len(np.unique(ids)) > 1
