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
    """Ten photographs: short side to 256 (Pillow bicubic), centre crop."""
    crops = []
    for path in sorted((ASSETS / "imagenet-200").glob("*.JPEG"))[:100:10]:
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


def test_published_files_reconstruct_and_the_quantiser_costs_little(
    photographs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(ASSETS))
    model, quantised = zoo.load("taef2"), zoo.load("taef2-q")
    for file in model.card.files:
        assert weights.digest(weights.find(file.wanted())) == file.digest
    exact = psnr(model, photographs)
    assert exact == pytest.approx(
        28.7, abs=2.0
    )  # 28.7 dB over the folder's first 100 photographs; these are four of them
    assert quantised.encode(photographs[:1]).bits().tolist() == [1024 * 96.0]
    few = photographs[:3]
    assert 0.5 < psnr(model, few) - psnr(quantised, few) < 4
