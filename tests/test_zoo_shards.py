"""A tokenizer inside a whole model's sharded checkpoint: only the shard that holds it is opened."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from zoo_seeded import seeded_images, seeded_state

from vtbench import zoo
from vtbench.registry import resolve
from vtbench.zoo.layout import shapes_of

GOLDEN = json.loads((Path(__file__).parent / "golden" / "zoo_janus.json").read_text("utf-8"))


def test_janus_is_read_from_its_shard_alone(tmp_path):
    prefix = "model.vqmodel."
    held = {k.removeprefix(prefix): v for k, v in shapes_of(GOLDEN["keys"]).items()}
    state = {prefix + k: v for k, v in seeded_state(held, GOLDEN["seed"]).items()}
    save_file(state | {"model.aligner.weight": torch.zeros(3, 3)}, tmp_path / "one.safetensors")
    names = dict.fromkeys((*state, "model.aligner.weight"), "one.safetensors") | {
        "model.language_model.embed_tokens.weight": "two.safetensors"
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))  # the second shard does not even exist

    model = zoo.load("janus-vq", weights=index)
    direct = resolve(GOLDEN["adapter"]).from_state(state, **GOLDEN["params"])
    images = seeded_images(GOLDEN["input"]["shape"], GOLDEN["input"]["seed"])
    assert torch.equal(model.encode(images).data["tokens"], direct.encode(images).data["tokens"])
    before = model.revision
    key = f"{prefix}quant_conv.bias"
    save_file(state | {key: state[key] + 1}, tmp_path / "one.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(state, "one.safetensors")}))
    assert zoo.load("janus-vq", weights=index).revision != before
