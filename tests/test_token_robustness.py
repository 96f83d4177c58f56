"""The suites of a model's tokens on a toy whose answers are known: patches of mean grey."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import registry
from vtbench.api import Batch, Measurements
from vtbench.suite import load_protocol
from vtbench.tokens.files import HeldColumn

sys.path.insert(0, str(Path(__file__).parent))
import toys


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(6):
        coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((128, 128), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def _measure(
    suite: str, photos: Path, out: Path, model: Any = None, resolution: int = 128
) -> dict[tuple[str, str], Any]:
    from vtbench.evaluation import Evaluator

    evaluator = Evaluator(
        suite, data=str(photos), out=str(out), device="cpu", resolution=(resolution,), baselines=False
    )
    record = evaluator(model or toys.Patches()).records[0]
    return {(row.metric, row.slice): row for row in record.rows}


def test_a_tokenizer_of_patches_is_idempotent_equivariant_and_local(photos: Path, tmp_path: Path) -> None:
    rows = _measure("token-robustness", photos, tmp_path / "out")
    for name in ("all", "round=2", "round=3", "step=2"):
        assert rows["idempotency", name].value == 1
    assert rows["idempotent_images", "all"].value == 100
    assert rows["shift_equivariance", "shift=right"].value == 1
    assert rows["shift_equivariance", "shift=down"].value == 1
    assert 0 < rows["token_stability", "shift=0x1"].value <= 1
    assert rows["token_stability", "noise=0.05"].value <= rows["token_stability", "noise=0.01"].value
    assert rows["token_sensitivity", "change=own"].value == pytest.approx(1)
    assert rows["token_sensitivity", "change=l1"].n == 4
    assert rows["prefix_psnr", "k=256"].value > rows["prefix_psnr", "k=64"].value
    assert rows["adaptive_length", "eps=0.07"].status in ("ok", "skipped")
    assert rows["ambiguity", "all"].status == "skipped"
    assert "deterministic" in rows["ambiguity", "all"].why


def test_a_second_run_measures_nothing(photos: Path, tmp_path: Path) -> None:
    first, second = toys.Patches(), toys.Patches()
    a = _measure("token-robustness", photos, tmp_path / "out", first)
    b = _measure("token-robustness", photos, tmp_path / "out", second)
    assert first.encoded > 0
    assert (second.encoded, second.decoded) == (0, 0)
    assert {k: row.value for k, row in a.items()} == {k: row.value for k, row in b.items()}


def test_statistics_of_a_model_are_those_of_its_ids(photos: Path, tmp_path: Path) -> None:
    lines = ['name = "few"', "version = 1", 'task = "reconstruct"']
    for metric in ("entropy", "bits_per_pixel", "codes_seen", "mutual_information", "kn_bits_per_token"):
        lines += ["[[metrics]]", f'name = "{metric}"', 'protocols = ["tokens"]']
    suite = tmp_path / "few.toml"
    suite.write_text("\n".join(lines))
    rows = _measure(str(suite), photos, tmp_path / "out", resolution=64)
    ids = []
    for path in sorted(photos.glob("*.png")):
        import torch

        array = np.asarray(Image.open(path).resize((64, 64), Image.Resampling.BICUBIC), np.float32) / 255
        ids.append(toys.Patches().encode(torch.from_numpy(array).permute(2, 0, 1)[None]).data["grey"].numpy())
    counts = np.bincount(np.concatenate(ids).ravel())
    p = counts[counts > 0] / counts.sum()
    assert rows["entropy", "estimator=plugin"].value == pytest.approx(-(p * np.log2(p)).sum(), abs=1e-9)
    assert rows["codes_seen", "all"].value == (counts > 0).sum()
    assert rows["bits_per_pixel", "bits=nominal"].value == pytest.approx(4 * 64 / 4096)
    assert rows["kn_bits_per_token", "order=1;scan=raster"].status == "ok"


def test_a_model_without_a_codebook_is_told_so(photos: Path, tmp_path: Path) -> None:
    rows = _measure("token-semantics", photos, tmp_path / "out", resolution=64)
    assert "no codebook of 16 vectors" in rows["procrustes_residual", "all"].why
    assert "no labels" in rows["linear_accuracy", "all"].why


def test_all_five_plots_are_drawn_as_pictures_and_in_the_report(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from vtbench.evaluation import Evaluator
    from vtbench.report.html import page
    from vtbench.tokens.plots import write_plots

    suite = tmp_path / "plots.toml"
    laws = ("zipf_exponent", "heaps_slope", "entropy_per_position")
    entries = [f'{{ name = "{name}", protocols = ["tokens"] }}' for name in laws]
    entries += [
        f'{{ name = "{name}", protocols = ["token-robustness"] }}' for name in ("prefix_psnr", "token_sensitivity")
    ]
    suite.write_text(
        'name = "plots"\nversion = 1\ntask = "reconstruct"\ntitle = "plots"\nresolutions = [64]\ncontrols = []\n'
        f'data = {{ reader = "images" }}\nmetrics = [{", ".join(entries)}]\n'
    )
    run = Evaluator(str(suite), data=str(photos), out=str(tmp_path / "out"), device="cpu", baselines=False)
    record = run(toys.Patches()).records[0]
    names = {path.stem for path in write_plots([record], tmp_path / "plots")}
    assert names == {"zipf-exponent", "heaps-slope", "entropy-per-position", "prefix-psnr", "token-sensitivity"}
    assert all((tmp_path / "plots" / f"{name}.png").stat().st_size > 5000 for name in names)
    (row,) = (r for r in record.rows if r.metric == "token_sensitivity" and r.slice == "change=l1")
    assert row.notes["grid"] == [8, 8] and len(row.notes["profile"]) == 64
    (curve,) = (r.notes["curve"] for r in record.rows if r.metric == "prefix_psnr" and r.slice == "all")
    assert curve["tokens"][-1] == 64 and curve["PSNR"][-1] == max(curve["PSNR"])
    text = page([record], tmp_path / "out")
    for name in (*laws, "prefix_psnr", "token_sensitivity"):
        assert f"<figcaption>{name}" in text, name


class Noisy(toys.Patches):
    """Patches whose decoder adds Gaussian noise of a known spread, drawn from each image's seed."""

    spread = 0.05

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, stochastic=True)

    def decode(self, tokens: Any, *, seeds: Any = None) -> torch.Tensor:
        clean = super().decode(tokens).clamp(0.3, 0.7)
        drawn = [torch.randn(clean.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
        return clean + self.spread * torch.stack(drawn)


def test_ambiguity_is_the_variance_of_a_decoder_that_samples(photos: Path) -> None:
    from vtbench.extractors.token_probes import TokenProbes

    probes = TokenProbes({"seeds": 8})
    probes.model = Noisy()
    images = torch.stack([torch.from_numpy(np.array(Image.open(photos / f"{i}.png"))) for i in range(2)])
    found = probes(Batch([], images=images.permute(0, 3, 1, 2).float() / 255), ["ambiguity", "ambiguity_map"])
    np.testing.assert_allclose(found["ambiguity"].values, Noisy.spread**2, rtol=0.03)
    assert found["ambiguity_map"].values.shape == (1, 128, 128)


def test_plain_images_need_fewer_tokens_than_complex_ones() -> None:
    from vtbench.extractors.token_probes import TokenProbes

    rng = np.random.default_rng(0)
    amounts = np.linspace(0, 1, 8)
    flat, noise = np.full((8, 3, 64, 64), 0.5), rng.random((8, 3, 64, 64))
    # the toy decodes absent tokens as mid-grey, so an image is complex and far from it by the same amount
    images = torch.from_numpy(flat + amounts[:, None, None, None] * (np.round(noise) - 0.5)).float()
    probes = TokenProbes({})
    probes.model = toys.Patches()
    heads = ["prefix_budgets", "prefix_mse", "prefix_l1", "complexity"]
    rows = probes(Batch([], images=images), heads)
    assert (np.diff(rows["complexity"].values) > 0).sum() >= 6
    columns = {name: HeldColumn(row.values) for name, row in rows.items()}
    m = Measurements(columns, {}, np.arange(8))
    fields = {**load_protocol("token-robustness").fields(64), "length_errors": [0.2]}
    found = {v.slice: v for v in registry.metric("adaptive_length").compute(m, fields)}
    lengths = found["eps=0.2"]
    assert lengths.samples is not None and lengths.samples[0] == 1 and 0 in lengths.image
    assert lengths.notes["reached"] < 8  # black and white pixels are out of reach for patches of grey
