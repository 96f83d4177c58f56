"""TAEF2 from its published files, on real photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import weights, zoo

ASSETS = Path(os.environ.get("VTBENCH_ASSETS", "/nowhere"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ASSETS / "taef2").is_dir(), reason="VTBENCH_ASSETS does not point at the assets"),
]


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Eight photographs: short side to 256 (Pillow bicubic), centre crop."""
    crops = []
    for path in sorted((ASSETS / "imagenet-200").glob("*.JPEG"))[::25]:
        image = Image.open(path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - 256) // 2, (image.height - 256) // 2
        crops.append(np.asarray(image.crop((left, top, left + 256, top + 256))))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255


def psnr(model, images: torch.Tensor) -> float:
    with torch.inference_mode():
        out = torch.cat([model.decode(model.encode(image[None])) for image in images])
    out = (out * 255).round() / 255
    return float((-10 * torch.log10((out - images).square().flatten(1).mean(1))).mean())


def test_the_files_are_the_published_ones_and_reconstruct(
    photographs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(ASSETS))
    model = zoo.load("taef2")
    for file in model.card.files:
        assert weights.digest(weights.find(file.wanted())) == file.digest
    # 28.7 dB over 100 photographs; these eight are within a decibel and a half of that.
    assert psnr(model, photographs) == pytest.approx(28.7, abs=1.5)


def test_its_quantised_latents_lose_little_and_cost_96_bits_a_position(
    photographs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(ASSETS))
    plain, model = zoo.load("taef2"), zoo.load("taef2-q")
    few = photographs[:3]
    assert model.encode(few[:1]).bits().tolist() == [1024 * 96.0]
    loss = psnr(plain, few) - psnr(model, few)
    assert 0.5 < loss < 4
    assert psnr(zoo.load("taef2-q:levels=3"), few) < psnr(model, few)
