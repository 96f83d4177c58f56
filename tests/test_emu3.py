"""Emu3's tokenizer: equal to its authors' code on seeded weights (golden/emu3.json, made as docs/zoo-verification.md says), and found inside a whole model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from zoo_seeded import digest_of, seeded_images, seeded_state

from vtbench import weights, zoo
from vtbench.errors import BadWeights, MissingWeights
from vtbench.zoo.layout import shapes_of

pytest.importorskip("transformers")
GOLDEN = json.loads((Path(__file__).parent / "golden" / "emu3.json").read_text("utf-8"))
IMAGES = seeded_images(GOLDEN["input"]["shape"], GOLDEN["input"]["seed"])


@pytest.fixture(scope="module")
def state():
    made = seeded_state(shapes_of(GOLDEN["keys"]), GOLDEN["seed"])
    for name in made:
        if name.endswith("running_var"):
            made[name] = made[name].abs() + 0.5
        elif name.endswith("num_batches_tracked"):
            made[name] = torch.zeros((), dtype=torch.long)
    return made


@pytest.fixture
def model(state, tmp_path):
    save_file(state, tmp_path / "model.safetensors")
    return zoo.load("emu3", weights=tmp_path / "model.safetensors")


def test_ids_and_pixels_are_those_of_the_authors_code(model):
    tokens = model.encode(IMAGES)
    assert tokens.data["tokens"].tolist() == GOLDEN["ids"]
    assert tokens.bits().tolist() == [8 * 12 * 6.0] * 2 and model.capabilities.multiple == 2
    found = digest_of(model.decode(tokens))
    for key, wanted in GOLDEN["image"].items():
        np.testing.assert_allclose(found[key], wanted, atol=1e-5, rtol=1e-5)
    assert model.codebook().shape == (64, 4)


def shards(model, folder):
    """transformers' own layout of the whole language model, in two shards: the tokenizer in the first."""
    held = {f"model.vqmodel.{k}": v.contiguous() for k, v in model.net.state_dict().items()}
    rest = {"model.text_model.embed_tokens.weight": torch.zeros(4, 4), "lm_head.weight": torch.zeros(4, 4)}
    save_file(held | {"lm_head.weight": rest.pop("lm_head.weight")}, folder / "model-00001-of-00002.safetensors")
    save_file(rest, folder / "model-00002-of-00002.safetensors")
    names = {
        **dict.fromkeys((*held, "lm_head.weight"), "model-00001-of-00002.safetensors"),
        **dict.fromkeys(rest, "model-00002-of-00002.safetensors"),
    }
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    return index


def test_inside_a_whole_model_only_its_shard_is_read(model, tmp_path):
    index = shards(model, tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()  # holds nothing of the tokenizer: not needed
    inside = zoo.load("emu3", weights=index)
    assert torch.equal(inside.encode(IMAGES).data["tokens"], model.encode(IMAGES).data["tokens"])
    assert inside.notes == ("took the tensors under 'model.vqmodel.'",) and inside.revision != weights.digest(index)
    with pytest.raises(MissingWeights, match=r"00002-of-00002.*fetch it too"):
        weights.load_state(index)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(MissingWeights, match="00001-of-00002"):
        zoo.load("emu3", weights=index)


def test_an_index_that_lies_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(BadWeights, match=r"lacks tensors .*: b"):
        weights.load_state(index)
    index.write_text("{}")
    with pytest.raises(BadWeights, match="no weight_map"):
        weights.load_state(index)


def test_other_weights_are_refused(tmp_path, state):
    save_file({"encoder.conv_in.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(BadWeights, match="not of Emu3"):
        zoo.load("emu3", weights=tmp_path / "w.safetensors")
    less = {k: v for k, v in state.items() if k != "decoder.mid.attn_1.q.bias"}
    save_file(less, tmp_path / "less.safetensors")
    with pytest.raises(BadWeights, match=r"1 missing: decoder\.middle_block\.attn_1\.q_proj\.bias"):
        zoo.load("emu3", weights=tmp_path / "less.safetensors")
