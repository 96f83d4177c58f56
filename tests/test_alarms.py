"""Alarms: every injected mistake raises exactly its own, and codecs, resizes and toys raise none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench.alarms import of_counts, of_digests, of_ids, of_order, of_reference, of_sets
from vtbench.alarms_pairs import of_pairs
from vtbench.api import Batch
from vtbench.extractors.alarms import PAIR_HEADS, SET_HEADS, PairLook, SetLook

N = 16
IDS = [f"image_{i:02d}" for i in range(N)]


def scene(seed: int, height: int = 96, width: int = 128) -> Image.Image:
    """A picture with large shapes and fine texture, warmer than grey as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (5, 7, 3)).astype(np.float64) * (0.9, 0.8, 0.65)
    large = np.asarray(
        Image.fromarray(coarse.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC), float
    )
    texture = rng.normal(0, 14, (height, width, 1)) + rng.normal(0, 4, (height, width, 3))
    return Image.fromarray(np.clip(large + texture, 0, 255).astype(np.uint8))


def tensor(images: list[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(i) for i in images])).permute(0, 3, 1, 2).float() / 255


def crop(image: Image.Image) -> Image.Image:
    return image.crop((16, 0, 112, 96))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    held = io.BytesIO()
    image.save(held, "JPEG", quality=quality)
    return Image.open(held).convert("RGB")


SOURCES = [scene(i) for i in range(N)]
TRUTH = tensor([crop(i) for i in SOURCES])


def names(fake: torch.Tensor, truth: torch.Tensor = TRUTH) -> list[str]:
    rows = PairLook({})(Batch([None] * len(fake), images=fake, reference=truth), PAIR_HEADS)
    return [a.name for a in of_pairs({h: r.values for h, r in rows.items()}, IDS[: len(fake)])]


def noisy(images: torch.Tensor) -> torch.Tensor:
    """What a middling model gives: blurred, with errors of its own."""
    small = torch.nn.functional.avg_pool2d(images, 2)
    back = torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear")
    noise = torch.randn(back.shape, generator=torch.Generator().manual_seed(0))
    return (back + 0.03 * noise).clamp(0, 1)


GOOD: dict[str, Callable[[], torch.Tensor]] = {
    "identity": lambda: TRUTH.clone(),
    "blurred and noisy": lambda: noisy(TRUTH),
    "jpeg quality 1": lambda: tensor([jpeg(crop(i), 1) for i in SOURCES]),
    "jpeg quality 30": lambda: tensor([jpeg(crop(i), 30) for i in SOURCES]),
    "grey patches": lambda: torch.nn.functional.interpolate(
        torch.nn.functional.avg_pool2d(TRUTH.mean(1, keepdim=True), 8), scale_factor=8
    ).expand(-1, 3, -1, -1),
    "resized": lambda: tensor([crop(i).resize((24, 24), 3).resize((96, 96), 3) for i in SOURCES]),
    "flat": lambda: TRUTH.mean((2, 3), keepdim=True).expand_as(TRUTH).contiguous(),
    "noise": lambda: torch.rand(TRUTH.shape, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("what", GOOD)
def test_a_bad_model_is_no_mistake(what: str) -> None:
    found = names(GOOD[what]())
    assert found == ([] if what != "noise" else found) and "flip" not in found and "offset" not in found


def squashed() -> torch.Tensor:
    return tensor([i.resize((96, 96), Image.Resampling.BICUBIC) for i in SOURCES])


MISTAKES: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "bgr": ("channel-swap", lambda x: x.flip(1)),
    "mirrored": ("flip", lambda x: x.flip(3)),
    "upside down": ("flip", lambda x: x.flip(2)),
    "half": ("range-slip", lambda x: (x + 1) / 2),
    "cut": ("range-slip", lambda x: (2 * x - 1).clamp_min(0)),
    "right": ("offset", lambda x: torch.roll(x, 1, 3)),
    "up": ("offset", lambda x: torch.roll(x, -1, 2)),
    "shuffled": ("shuffled-pairs", lambda x: torch.roll(x, 1, 0)),
    "brighter": ("colour-shift", lambda x: (x + 0.06).clamp(0, 1)),
    "bluer": ("colour-shift", lambda x: (x + torch.tensor([0, 0, 0.08]).view(1, 3, 1, 1)).clamp(0, 1)),
    "copies": ("repeated-images", lambda x: torch.cat([x[:-1], x[:1]])),
}


@pytest.mark.parametrize("what", MISTAKES)
@pytest.mark.parametrize("model", ["identity", "blurred and noisy"])
def test_a_mistake_raises_exactly_its_alarm(what: str, model: str) -> None:
    wanted, spoil = MISTAKES[what]
    assert names(spoil(GOOD[model]())) == [wanted]


@pytest.mark.parametrize(("grey", "made"), [(0.2, 0.6), (0.8, 0.6), (0.0, 0.5), (1.0, 0.0)])
def test_of_constant_images_no_range_can_be_told(grey: float, made: float) -> None:
    flat = torch.full_like(TRUTH, made)
    assert "range-slip" not in names(flat, torch.full_like(TRUTH, grey))
    assert "range-slip" not in names(flat, 0.1 * TRUTH + grey * 0.9)  # a model that has collapsed to one grey
    assert "range-slip" not in names(0.1 * TRUTH + made * 0.9, torch.full_like(TRUTH, grey))
    seen = {h: r.values for h, r in SetLook({})(Batch([None] * N, images=flat), SET_HEADS).items()}
    real = {h: r.values for h, r in SetLook({})(Batch([None] * N, images=TRUTH), SET_HEADS).items()}
    assert "range-slip" not in [a.name for a in of_sets(seen, real)]


def test_images_that_are_merely_brighter_have_shifted_and_not_slipped() -> None:
    dark = TRUTH * 0.3 + 0.05
    assert names(dark + 0.4, dark) == ["colour-shift"]
    assert names((dark + 1) / 2, dark) == ["range-slip"]


def test_a_reference_that_was_squashed_is_not_cropped_alike() -> None:
    assert names(TRUTH, squashed()) == ["crop"]
    assert names(noisy(TRUTH), squashed()) == ["crop"]


def test_two_swapped_pairs_are_named() -> None:
    fake = TRUTH.clone()
    fake[[2, 5]] = fake[[5, 2]]
    rows = PairLook({})(Batch([None] * N, images=fake, reference=TRUTH), PAIR_HEADS)
    (alarm,) = of_pairs({h: r.values for h, r in rows.items()}, IDS)
    assert alarm.data["count"] == 2 and "'image_02' shows what 'image_05' should" in alarm.message


def test_offsets_say_which_way() -> None:
    rows = PairLook({})(Batch([None] * N, images=torch.roll(TRUTH, (1, -1), (2, 3)), reference=TRUTH), PAIR_HEADS)
    (alarm,) = of_pairs({h: r.values for h, r in rows.items()}, IDS)
    assert (alarm.data["down"], alarm.data["right"]) == (1, -1) and "1 pixel down and 1 pixel left" in alarm.message


def test_batches_do_not_matter() -> None:
    fake = noisy(TRUTH)
    whole = PairLook({})(Batch([None] * N, images=fake, reference=TRUTH), PAIR_HEADS)
    parts = [
        PairLook({})(Batch([None] * 4, images=fake[i : i + 4], reference=TRUTH[i : i + 4]), PAIR_HEADS)
        for i in range(0, N, 4)
    ]
    for head in PAIR_HEADS:
        together = np.concatenate([p[head].values for p in parts])
        assert np.allclose(whole[head].values, together, rtol=1e-4, atol=1e-7)


def look(images: torch.Tensor) -> dict[str, np.ndarray]:
    return {h: r.values for h, r in SetLook({})(Batch([None] * len(images), images=images), SET_HEADS).items()}


def test_sets_that_are_not_paired() -> None:
    other = tensor([crop(scene(100 + i)) for i in range(N)])
    truth = look(TRUTH)
    assert of_sets(look(other), truth) == []
    for spoil in (lambda x: (x + 1) / 2, lambda x: (2 * x - 1).clamp_min(0)):
        assert [a.name for a in of_sets(look(spoil(other)), truth)] == ["range-slip"]
    assert [a.name for a in of_sets(look(other.flip(1)), truth)] == ["channel-swap"]


def test_ids_and_counts() -> None:
    assert of_ids(IDS, IDS) == []
    (dropped,) = of_ids(IDS[:12], IDS)
    assert dropped.name == "dropped-last-batch" and dropped.data["missing"] == 4
    (missing,) = of_ids([i for i in IDS if i != "image_03"], IDS)
    assert missing.name == "missing-ids" and "'image_03'" in missing.message
    assert [a.name for a in of_ids([*IDS, "more"], IDS)] == ["extra-ids"]
    assert [a.name for a in of_counts(49984, 50000)] == ["dropped-last-batch"]
    assert of_counts(50000, 50000) == [] and of_counts(10000, 50000) == [] and of_counts(50000, 10000) == []


def test_copies_and_shared_files() -> None:
    assert of_digests({"a": "1", "b": "2"}, {"x": "3"}) == []
    assert [a.name for a in of_digests({"a": "1", "b": "1"}, {"x": "3"})] == ["repeated-images"]
    assert [a.name for a in of_digests({"a": "1", "b": "3"}, {"x": "3"})] == ["shared-images"]


def test_a_reference_of_other_images() -> None:
    validation = [f"ILSVRC2012_val_{i:08d}" for i in range(10)]
    training = [f"n01440764_{i}" for i in range(10)]
    (alarm,) = of_reference(validation, training, None, reconstructions=False)
    assert alarm.name == "other-reference" and "10 of 10 ids of the reference are ImageNet's training" in alarm.message
    assert [a.name for a in of_reference(IDS, ["x"], None, reconstructions=True)] == ["other-reference"]
    assert of_reference(IDS, training, None, reconstructions=False) == []


def test_sorted_classes_under_blocks() -> None:
    classes = np.repeat(np.arange(10), 20)
    assert [a.name for a in of_order(classes.tolist(), 50)] == ["class-sorted"]
    assert of_order(np.random.default_rng(0).permutation(classes).tolist(), 50) == []
    assert of_order(classes.tolist(), 200) == []
    assert of_order([-1] * 200, 50) == []


def test_alarms_reach_the_record_of_any_run(photos: Path, tmp_path: Path) -> None:
    from vtbench import tokenizer
    from vtbench.evaluation import Evaluator

    def run(out: str, decode: Callable[[torch.Tensor], torch.Tensor], **options: object) -> list[str]:
        model = tokenizer(reconstruct=decode, name=out)
        evaluator = Evaluator(str(tmp_path / "toy.toml"), data=str(photos), out=str(tmp_path / out), **options)
        return [a.name for a in evaluator(model).record.alarms]

    (tmp_path / "toy.toml").write_text(
        'name = "toy"\nversion = 1\ntask = "reconstruct"\nresolutions = [32]\n[[metrics]]\nname = "psnr"\nprotocols = ["vtbench"]\n'
    )
    assert run("same", lambda x: x) == []
    assert run("swapped", lambda x: x.flip(1)) == ["channel-swap"]
    assert run("unwatched", lambda x: x.flip(1), alarms=False) == []
