"""Real tokenizers and codecs on photographs raise no alarm; mistakes made on their output raise exactly their own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import zoo
from vtbench.alarms_pairs import of_pairs
from vtbench.api import Batch
from vtbench.extractors.alarms import PAIR_HEADS, PairLook

pytestmark = pytest.mark.real
COUNT = 8


@pytest.fixture(scope="module")
def photos(assets: Path) -> torch.Tensor:
    arrays = []
    for path in sorted((assets / "imagenet-200").glob("*.JPEG"))[::24][:COUNT]:
        arrays.append(np.asarray(Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def names(fake: torch.Tensor, truth: torch.Tensor) -> list[str]:
    fake = (fake.clamp(0, 1) * 255).round() / 255
    rows = PairLook({})(Batch([None] * len(fake), images=fake, reference=truth), PAIR_HEADS)
    return [a.name for a in of_pairs({h: r.values for h, r in rows.items()}, [str(i) for i in range(len(fake))])]


@pytest.mark.parametrize("spec", ["resize", "tiny", "taef2", "jpeg:quality=1"])
def test_real_models_and_mistakes_on_their_output(spec: str, photos: torch.Tensor) -> None:
    model = zoo.load(spec)
    with torch.inference_mode():
        parts = [model.decode(model.encode(photos[i : i + 4])) for i in range(0, COUNT, 4)]
    out = torch.cat(parts).clamp(0, 1)
    assert names(out, photos) == []
    assert names(out.flip(1), photos) == ["channel-swap"]
    assert names(out.flip(3), photos) == ["flip"]
    assert names((out + 1) / 2, photos) == ["range-slip"]
    assert names(torch.roll(out, 1, 0), photos) == ["shuffled-pairs"]
    if spec != "jpeg:quality=1":  # its blocks hide a pixel
        assert names(torch.roll(out, 1, 2), photos) == ["offset"]
