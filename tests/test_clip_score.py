"""CLIP score against transformers' own model and processor, with shared random weights."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import picture
from pipelines import clip_tokenizer

from vtbench.api import Batch, Measurements
from vtbench.errors import BadSample
from vtbench.extractors.clip_score import CLIPScore
from vtbench.registry import metric

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer, vocabulary = clip_tokenizer(tmp_path_factory.mktemp("clip"))
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(vocabulary), "max_position_embeddings": 16}
    text |= {"bos_token_id": vocabulary["<|startoftext|>"], "eos_token_id": vocabulary["<|endoftext|>"]}
    config = {"text_config": text, "vision_config": {**size, "image_size": 32, "patch_size": 8}, "projection_dim": 12}
    model = transformers.CLIPModel(transformers.CLIPConfig(**config)).eval()
    return model, config, tokenizer


def samples(*captions):
    return [SimpleNamespace(id=str(i), caption=c) for i, c in enumerate(captions)]


def test_the_cosine_is_the_librarys_own(parts):
    model, config, tokenizer = parts
    extractor = CLIPScore({})
    extractor.use(model.state_dict(), config, tokenizer)
    pictures, captions = [picture(i, 48, 64) for i in range(3)], ["a cat", "two dogs and a very long story", "ant"]
    tensors = torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255
    ours = extractor(Batch(samples(*captions), images=tensors), ["cosine"])["cosine"].values
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, use_fast=False
    )
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    text = tokenizer(captions, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=text["input_ids"], attention_mask=text["attention_mask"], pixel_values=pixels)
    theirs = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
    np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-3)
    assert np.ptp(ours) > 1e-3
    with pytest.raises(BadSample, match="1 has no prompt"):
        extractor(Batch(samples("a cat", None, "ant"), images=tensors), ["cosine"])


def test_the_score_is_scaled_and_never_negative():
    column = SimpleNamespace(array=lambda: np.array([0.3, -0.1], np.float32), image=np.arange(2))
    given = Measurements({"cosine": column}, {}, np.zeros(2, int))
    (value,) = metric("clip_score").compute(given, {"clip_score_scale": 100.0})
    np.testing.assert_allclose(value.samples, [30.0, 0.0], rtol=1e-6)
