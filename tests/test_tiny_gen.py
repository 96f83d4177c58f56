"""The generator that the package carries: seeds, prefixes, classes, guidance, and that it has learnt something."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from vtbench import cli
from vtbench.api import Condition
from vtbench.errors import BadSample, BadWeights, UsageError
from vtbench.records import read_all
from vtbench.zoo import load_generator
from vtbench.zoo.tiny import load_net as load_tokenizer
from vtbench.zoo.tiny_gen import WEIGHTS, TinyGen
from vtbench.zoo.tiny_gen_network import CLASSES, LENGTH

DEMO = Path(__file__).parents[1] / "vtbench/demo/images/photos"


@pytest.fixture(scope="module")
def model() -> TinyGen:
    return TinyGen()


def asked(*labels: int | None) -> list[Condition]:
    return [Condition(str(i), label) for i, label in enumerate(labels)]


def ids_of(model: TinyGen, labels: tuple[int | None, ...], seeds: list[int], budget: int = 24) -> torch.Tensor:
    """The tokens that it makes, int64 [B, budget]."""
    made = model.generate(asked(*labels), seeds=seeds, budget=budget)
    assert made.tokens is not None
    return made.tokens.data["tokens"]


def test_weights_are_small_and_load_strictly(tmp_path: Path) -> None:
    assert WEIGHTS.stat().st_size <= 3_000_000
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BadWeights, match="does not hold a tiny-gen"):
        TinyGen(weights=tmp_path / "other.safetensors")


def test_images_and_their_tokens(model: TinyGen) -> None:
    made = model.generate(asked(0, 4), seeds=[1, 2])
    assert made.images.shape == (2, 3, 256, 256)
    assert 0 <= made.images.min() <= made.images.max() <= 1
    assert made.tokens is not None
    assert made.tokens.bits().tolist() == [6.0 * LENGTH] * 2  # type: ignore[union-attr]


def test_sampling_token_by_token_follows_the_whole_pass(model: TinyGen) -> None:
    """Keys and values are kept between steps; recomputing everything at once gives the distributions that the draws cut."""
    labels, draws = torch.tensor([1, 3]), torch.rand(2, 40, generator=torch.Generator().manual_seed(0)).double()
    ids = model.net.sample(labels, draws, temperature=0.8)
    sums = (model.net(labels, ids[:, :-1]).double() / 0.8).softmax(2).cumsum(2)
    upper = sums.gather(2, ids[..., None])[..., 0]
    lower = torch.where(ids > 0, sums.gather(2, (ids - 1).clamp_min(0)[..., None])[..., 0], 0.0)
    assert bool(((draws > lower - 1e-5) & (draws < upper + 1e-5)).all())


def test_an_image_depends_on_its_seed_alone(model: TinyGen) -> None:
    together = ids_of(model, (0, 2, 2), [5, 6, 7])
    assert torch.equal(ids_of(model, (2,), [6]), together[1:2])
    assert not torch.equal(together[1], together[2])
    assert torch.equal(ids_of(model, (0, 2, 2), [5, 6, 7]), together)


def test_a_budget_makes_the_beginning_of_the_whole(model: TinyGen) -> None:
    assert torch.equal(ids_of(model, (1,), [3], 8), ids_of(model, (1,), [3], 24)[:, :8])
    with pytest.raises(UsageError, match="1 to 320"):
        ids_of(model, (1,), [3], 321)


def test_temperature_and_guidance() -> None:
    greedy = TinyGen(temperature=0)
    assert torch.equal(ids_of(greedy, (1,), [3]), ids_of(greedy, (1,), [4]))
    unguided = TinyGen(guidance="0")
    assert torch.equal(ids_of(unguided, (1,), [3]), ids_of(unguided, (4,), [3]))
    assert torch.equal(ids_of(unguided, (1,), [3]), ids_of(TinyGen(), (None,), [3]))
    assert torch.equal(ids_of(TinyGen(guidance="none"), (1,), [3]), ids_of(TinyGen(guidance="1"), (1,), [3]))
    assert not torch.equal(ids_of(TinyGen(guidance="4"), (1,), [3]), ids_of(TinyGen(), (1,), [3]))
    with pytest.raises(UsageError, match="temperature"):
        TinyGen(temperature=-1)


def test_a_class_that_it_does_not_know(model: TinyGen) -> None:
    with pytest.raises(BadSample, match="class 5"):
        model.generate(asked(len(CLASSES)), seeds=[0])


def test_it_has_learnt_what_photographs_are_like(model: TinyGen) -> None:
    """The demo's photographs, which it has not seen: fewer bits a token than their own frequencies give, and than the same tokens in another order."""
    tokenizer = load_tokenizer()
    pixels = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(DEMO.glob("*.png"))]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    ids = torch.cat([tokenizer.encode_ids(image[None])[:, :LENGTH] for image in images])

    def bits(tokens: torch.Tensor) -> float:
        logits = model.net(torch.full((len(tokens),), len(CLASSES)), tokens[:, :-1])
        return float(F.cross_entropy(logits.flatten(0, 1), tokens.flatten())) / math.log(2)

    shuffled = ids[:, torch.randperm(LENGTH, generator=torch.Generator().manual_seed(0))]
    share = ids.flatten().bincount(minlength=64) / ids.numel()
    assert bits(ids) < float(-(share * share.clamp_min(1e-9).log2()).sum())
    assert bits(ids) < bits(shuffled) - 0.2


def test_the_command_runs_offline_with_what_the_package_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTBENCH_WEIGHTS", "")
    line = ["generate", "--model", "tiny-gen", "--tokens", "16", "--suite", "generation-demo", "--limit", "7"]
    monkeypatch.setattr(sys, "argv", ["vtbench", *line, "--device", "cpu", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    (record,) = read_all(tmp_path)[0]
    rows = {row.metric: row for row in record.rows}
    assert rows["tokens_used"].value == 16
    assert rows["entropy"].status == "limited"
    assert "repeated-images" not in {alarm.name for alarm in record.alarms}, "images of one class are not copies"
    assert load_generator("tiny-gen").revision == record.model.revision
