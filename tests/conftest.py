"""What the tests share: the assets, small images, a toy tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of two threads each would wait on each other
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ["VTBENCH_ENVIRONMENTS"] = os.devnull  # what was set up on this machine plays no part


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real weights and images; tests that want it are skipped without it."""
    where = os.environ.get("VTBENCH_ASSETS")
    if not where or not Path(where).is_dir():
        pytest.skip("real weights and images: set VTBENCH_ASSETS and VTBENCH_WEIGHTS to their folder")
    os.environ.setdefault("VTBENCH_WEIGHTS", where)
    return Path(where)


def picture(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """A smooth random picture."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of ten small PNGs."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(10):
        picture(i).save(folder / f"image_{i:02d}.png")
    return folder
