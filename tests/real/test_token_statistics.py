"""Token statistics of real tokenizers on photographs, and of a k-means quantiser's file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for path in sorted((assets / "imagenet-200").glob("*.JPEG"))[::25]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> str:
    lines = ['name = "few"', "version = 1", 'task = "reconstruct"']
    for metric in ("entropy", "bits_per_pixel", "ngram_entropy", "kn_bits_per_token", "conditional_entropy"):
        lines += ["[[metrics]]", f'name = "{metric}"', 'protocols = ["tokens"]']
    lines += ["[[metrics]]", 'name = "idempotency"', 'protocols = ["token-robustness"]']
    path = tmp_path_factory.mktemp("suite") / "few.toml"
    path.write_text("\n".join(lines))
    return str(path)


def _measure(spec: str, suite: str, photos: Path, out: Path) -> dict[tuple[str, str], Any]:
    from vtbench.evaluation import Evaluator

    evaluator = Evaluator(suite, data=str(photos), out=str(out), device="cpu", resolution=(64,), baselines=False)
    return {(row.metric, row.slice): row for row in evaluator(spec).records[0].rows}


def test_tiny(suite: str, photos: Path, tmp_path: Path) -> None:
    rows = _measure("tiny", suite, photos, tmp_path)
    assert 3 < rows["entropy", "all"].value < 6.01
    assert 0 < rows["bits_per_pixel", "bits=empirical"].value <= rows["bits_per_pixel", "bits=nominal"].value
    assert 0 < rows["idempotency", "all"].value < 1
    assert rows["kn_bits_per_token", "order=1;scan=native"].value < 6.2


def test_a_product_code_of_many_channels_is_told_by_its_mean(photos: Path, tmp_path: Path) -> None:
    lines = ['name = "two"', "version = 1", 'task = "reconstruct"']
    lines += ["[[metrics]]", 'name = "entropy"', 'protocols = ["tokens"]']
    lines += ["[[metrics]]", 'name = "idempotent_images"', 'protocols = ["token-robustness+rounds=1"]']
    lines += ["[[metrics]]", 'name = "mutual_information"', 'protocols = ["tokens"]']
    suite = tmp_path / "two.toml"
    suite.write_text("\n".join(lines))
    rows = _measure("taef2-q:levels=4", str(suite), photos, tmp_path / "out")
    assert 0 < rows["entropy", "codebook=mean"].value < 2.01
    assert len(rows["entropy", "codebook=mean"].notes["codebooks"]) == 32
    assert 0 <= rows["idempotent_images", "codebook=mean"].value <= 100
    # Neighbouring latents are alike.
    assert rows["mutual_information", "codebook=mean;offset=0x1"].value > 0.02


def test_a_kmeans_quantiser_of_patches_becomes_a_file_that_is_studied(suite: str, photos: Path, tmp_path: Path) -> None:
    from vtbench.token_run import study
    from vtbench.tokens.files import open_tokens

    file = tmp_path / "kmeans.npz"
    command = [sys.executable, str(ROOT / "benchmarks" / "kmeans_tokens.py"), str(photos), str(file)]
    subprocess.run([*command, "--codes", "32", "--patch", "16", "--rounds", "3"], check=True)
    opened = open_tokens(file)
    assert (opened.shape, opened.grid, opened.codebook_size, opened.pixels) == ((8, 256), (16, 16), (32,), 65536)
    (record,) = study(opened, [suite], out=tmp_path / "out")
    rows = {(row.metric, row.slice): row for row in record.rows}
    assert 2 < rows["entropy", "all"].value < 5.01
    pairs = rows["ngram_entropy", "order=2;scan=raster"].value
    assert pairs < rows["ngram_entropy", "order=2;null=shuffled"].value - 0.3
    assert np.isfinite(rows["kn_bits_per_token", "order=2;scan=hilbert"].value)
    assert rows["idempotency", "all"].status == "skipped"
