"""Pipelines of diffusers as generators, with random weights in the library's own layout."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from pipelines import dit, stable_diffusion

from vtbench import zoo
from vtbench.api import Condition
from vtbench.calling import generate, unmade
from vtbench.data.conditions import labels, prompts
from vtbench.errors import BadSample, BadWeights, MissingWeights, UsageError
from vtbench.evaluation import Evaluator

pytest.importorskip("diffusers")
pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stable_diffusion(tmp_path_factory.mktemp("sd") / "made")


@pytest.fixture(scope="module")
def model(folder):
    return zoo.load_generator(f"diffusers:{folder},steps=2")


def test_the_images_are_the_librarys_own_one_by_one(folder, model):
    import diffusers

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    prompts_, seeds = ["a cat", "a dog"], [5, 6]
    ours = model.generate([Condition(str(i), caption=p) for i, p in enumerate(prompts_)], seeds=seeds)
    for i, (prompt, seed) in enumerate(zip(prompts_, seeds)):
        theirs = pipe(
            prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(seed), output_type="np"
        ).images[0]
        assert np.abs(theirs.transpose(2, 0, 1) - ours[i].numpy()).max() < 1e-4
    assert model.params["guidance"] == "7.5" and model.params["steps"] == 2 and model.params["size"] == 32
    assert model.revision.startswith("sha256:") and model.steps == 2


def test_guidance_none_is_another_run_with_other_images(folder, model):
    off = zoo.load_generator(f"diffusers:{folder},steps=2,guidance=none")
    condition = [Condition("0", caption="a cat")]
    assert off.params["guidance"] == "none" and off.revision == model.revision
    assert (off.generate(condition, seeds=[1]) - model.generate(condition, seeds=[1])).abs().max() > 1e-4


def test_a_suite_of_prompts_and_guidance_as_rows_of_their_own(folder, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("a cat\na dog\n")
    (tmp_path / "s.toml").write_text(
        'name = "s"\nversion = 1\ntask = "generate"\nresolutions = [0]\n[data]\nreader = "prompts"\nneeds_reference = false\n'
        '[[metrics]]\nname = "sampling_steps"\nprotocols = ["generation-costs"]\n'
        '[[metrics]]\nname = "params_generator"\nprotocols = ["generation-costs"]\n'
        '[[metrics]]\nname = "seconds_per_image"\nprotocols = ["generation-costs"]\n'
        '[[metrics]]\nname = "tokens_per_second"\nprotocols = ["generation-costs"]\n'
    )
    evaluator = Evaluator(
        str(tmp_path / "s.toml"), data=str(tmp_path / "p.txt"), out=str(tmp_path / "out"), device="cpu"
    )
    found = evaluator(f"diffusers:{folder},steps=2")
    cells = {r.metric: r for r in found.record.rows}
    network = zoo.load_generator(f"diffusers:{folder}").pipe.unet
    assert round(cells["params_generator"].value * 1e6) == sum(p.numel() for p in network.parameters())
    assert cells["sampling_steps"].value == 2 and cells["seconds_per_image"].value > 0
    assert cells["tokens_per_second"].why == "the model gives no tokens"
    assert found.record.options["conditions"] == "prompts:p" and found.record.environment.seed == 0


def test_no_prompt_is_a_failure_of_its_sample(model):
    with pytest.raises(BadSample, match="000000 has no prompt, and diffusers makes images from prompts"):
        generate(model, unmade(labels(2, 2).samples), 0, None, None)


def test_a_batch_is_no_more_than_its_images(model, tmp_path):
    (tmp_path / "p.txt").write_text("a cat\na dog\nan ant\n")
    items = unmade(prompts(tmp_path / "p.txt").samples)
    together = generate(model, items, 3, None, 32).images
    alone = torch.cat([generate(model, [item], 3, None, 32).images for item in items])
    assert (together - alone).abs().max() < 1e-4
    assert (generate(model, items, 4, None, 32).images - together).abs().max() > 1e-2


@pytest.mark.parametrize("part", ["unet", "tokenizer"])
def test_a_folder_that_lacks_a_part_says_which(folder, tmp_path, part):
    shutil.copytree(folder, tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / part)
    with pytest.raises(BadWeights, match=f"lacks its part {part}/"):
        zoo.load_generator(f"diffusers:{tmp_path / 'cut'}")


def test_damaged_and_foreign_folders_are_one_line(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    weights = next((tmp_path / "cut/unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadWeights, match="cut short"):
        zoo.load_generator(f"diffusers:{tmp_path / 'cut'}")
    (tmp_path / "cut/model_index.json").write_text("{")
    with pytest.raises(BadWeights, match="is damaged"):
        zoo.load_generator(f"diffusers:{tmp_path / 'cut'}")
    with pytest.raises(BadWeights, match="no pipeline of diffusers"):
        zoo.load_generator(f"diffusers:{folder / 'unet'}")
    with pytest.raises(MissingWeights, match="no folder someone/nothing"):
        zoo.load_generator("diffusers:someone/nothing")
    with pytest.raises(UsageError, match="guidance is none, best or a number, not 'much'"):
        zoo.load_generator(f"diffusers:{folder},guidance=much")


def test_a_class_conditional_pipeline_takes_labels(tmp_path):
    model = zoo.load_generator(f"diffusers:{dit(tmp_path / 'dit')},steps=2")
    assert model.capabilities.classes == 1000 and model.params["size"] == 16 and model.params["guidance"] == "4"
    items = unmade(labels(4, 4).samples)
    together = generate(model, items, 0, None, 16).images
    alone = generate(model, [items[2]], 0, None, 16).images[0]
    assert (together[2] - alone).abs().max() < 1e-4
    same_seed = model.generate([Condition("a", 1), Condition("b", 2)], seeds=[5, 5])
    assert (same_seed[0] - same_seed[1]).abs().max() > 1e-3
    with pytest.raises(BadSample, match="the label 1000, and diffusers knows the classes 0 to 999"):
        generate(model, unmade(labels(1001, 1001).samples[1000:]), 0, None, 16)
