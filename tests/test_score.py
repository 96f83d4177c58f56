"""`score`: pairs, sets and statistics on a tiny feature network of the test's own; bad input; saved statistics."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vtbench import api
from vtbench.api import Batch, Rows
from vtbench.errors import BadData, UsageError
from vtbench.pairing import paired
from vtbench.reference import read_statistics
from vtbench.scorer import Scorer

SIDE = 32


class Small:
    """Stands in for the Inception: 8 x 8 averages of the pixels, under the same heads, of the same width."""

    name, version, takes = "inception", 1, "images"
    seen, logits = 0, 0

    def __init__(self, args: Any) -> None:
        self.args = args

    def identity(self) -> dict[str, str]:
        return {"trunk": "sha256:small"}

    def open(self, device: str) -> None:
        pass

    def __call__(self, batch: Batch, heads: Any) -> dict[str, Rows]:
        Small.seen += len(batch.images)
        small = torch.nn.functional.adaptive_avg_pool2d(batch.images, 4).flatten(1)
        small = small * (2 if self.args["resize"] == "clean" else 1)
        wide = {"pool3": 2048, "sfid": 2023, "logits": Small.logits}
        padded = {
            h: torch.nn.functional.pad(small, (0, n - small.shape[1])) if n else small[:, :0] for h, n in wide.items()
        }
        return {h: Rows(padded[h].numpy().astype(np.float32)) for h in heads}


@pytest.fixture(autouse=True)
def _small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api.EXTRACTORS, "inception", Small)
    monkeypatch.setattr(Small, "seen", 0)


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "few.toml"
    metrics = [("psnr", "vtbench"), *((m, "torch-fidelity") for m in ("fid", "kid", "precision", "inception_score"))]
    rows = "".join(f'[[metrics]]\nname = "{m}"\nprotocols = ["{p}"]\n' for m, p in metrics)
    path.write_text(f'name = "few"\nversion = 1\ntask = "score"\nchunk = 5\nresolutions = [0]\n{rows}')
    return str(path)


def folder(where: Path, seeds: range, noise: float = 0, names: str = "image_{:02d}", side: int = SIDE) -> Path:
    where.mkdir(parents=True)
    for i in seeds:
        rng = np.random.default_rng(i)
        base = np.asarray(
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((side, side), 3), float
        )
        array = np.clip(base + np.random.default_rng(1000 + i).normal(0, 1, base.shape) * noise, 0, 255).astype(
            np.uint8
        )
        Image.fromarray(array).save(where / f"{names.format(i)}.png")
    return where


def run(tmp_path: Path, fake: Any, truth: Any, suite: str, **options: Any) -> Any:
    return Scorer(str(fake), str(truth), suite, out=str(tmp_path / "out"), device="cpu", **options)()


def rows(result: Any) -> dict[tuple[str, str], Any]:
    return {(r.metric, r.protocol): r for r in result.rows()}


def closed_form(a: np.ndarray, b: np.ndarray) -> float:
    """The Fréchet distance, by eigenvalues of the product of covariances."""
    s, t = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.clip(np.linalg.eigvals(s @ t).real, 0, None)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root)


def features(where: Path) -> np.ndarray:
    images = np.stack([np.asarray(Image.open(p), np.float64) / 255 for p in sorted(where.glob("*.png"))])
    n = len(images)
    return images.reshape(n, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(n, -1)


def test_pairs_by_id(tmp_path: Path, suite: str) -> None:
    truth = folder(tmp_path / "truth", range(60))
    fake = folder(tmp_path / "fake", range(60), noise=9)
    found = run(tmp_path, fake, truth, suite)
    record, cells = found.record, rows(found)
    assert (record.model.name, record.dataset.n, record.alarms) == ("fake", 60, [])
    a, b = (np.stack([np.asarray(Image.open(p), float) for p in sorted(d.glob("*.png"))]) for d in (fake, truth))
    expected = (10 * np.log10(255**2 / ((a - b) ** 2).mean((1, 2, 3)))).mean()
    assert cells["psnr", "vtbench"].value == pytest.approx(expected, abs=1e-4)
    fid = cells["fid", "torch-fidelity"]
    assert fid.value == pytest.approx(closed_form(features(fake), features(truth)), rel=1e-4)
    assert cells["kid", "torch-fidelity"].status == "skipped" and "1000" in cells["kid", "torch-fidelity"].why


def test_an_array_and_a_folder_of_the_same_images_agree(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(30)), folder(tmp_path / "fake", range(100, 130), names="g{}")
    stacked = np.stack([np.asarray(Image.open(p)) for p in sorted(fake.glob("*.png"))])
    np.savez(tmp_path / "fake.npz", stacked)
    a, b = (rows(run(tmp_path, f, truth, suite))["fid", "torch-fidelity"] for f in (fake, tmp_path / "fake.npz"))
    assert a.value == pytest.approx(b.value, rel=1e-9)


def test_sets_without_common_ids(tmp_path: Path, suite: str) -> None:
    truth = folder(tmp_path / "truth", range(40))
    fake = folder(tmp_path / "fake", range(200, 230), names="sample_{}")
    found = run(tmp_path, fake, truth, suite)
    cells = rows(found)
    assert cells["fid", "torch-fidelity"].value == pytest.approx(closed_form(features(fake), features(truth)), rel=1e-4)
    assert cells["fid", "torch-fidelity"].ci_low < cells["fid", "torch-fidelity"].ci_high
    assert 0 <= cells["precision", "torch-fidelity"].value <= 1
    psnr = cells["psnr", "vtbench"]
    assert psnr.status == "skipped" and "not paired" in psnr.why
    assert found.record.alarms == [] and Small.seen == 70
    run(tmp_path, fake, truth, suite)
    assert Small.seen == 70  # the second run measures nothing
    other = folder(tmp_path / "other", range(300, 310), names="other_{}")
    run(tmp_path, other, truth, suite)
    assert Small.seen == 80  # the reference is measured once


def test_saved_statistics_stand_for_the_images(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(40)), folder(tmp_path / "fake", range(200, 230), names="s{}")
    scorer = Scorer(str(fake), str(truth), suite, out=str(tmp_path / "out"), protocol=("clean",))
    whole = rows(scorer())
    with pytest.raises(UsageError, match="protocol"):
        scorer.save_statistics(tmp_path / "one.npz")
    paths = {p.name: p for p in scorer.save_statistics(tmp_path / "ref-{protocol}.npz")}
    assert set(paths) == {"ref-clean.npz", "ref-torch-fidelity.npz"}
    found = run(tmp_path, fake, paths["ref-torch-fidelity.npz"], suite)
    cells = rows(found)
    assert cells["fid", "torch-fidelity"].value == pytest.approx(whole["fid", "torch-fidelity"].value, rel=1e-6)
    assert "statistics" in cells["precision", "torch-fidelity"].why and cells["psnr", "vtbench"].status == "skipped"
    with pytest.raises(UsageError, match=r"under the protocol clean, not torch-fidelity"):
        run(tmp_path, fake, paths["ref-clean.npz"], suite)
    both = rows(run(tmp_path, fake, paths["ref-clean.npz"], suite, protocol=("clean",)))
    assert both["fid", "clean"].value == pytest.approx(whole["fid", "clean"].value, rel=1e-6)
    assert both["fid", "torch-fidelity"].status == "skipped" and "clean" in both["fid", "torch-fidelity"].why
    with pytest.raises(UsageError, match="not clean"):
        read_statistics(str(paths["ref-torch-fidelity.npz"]), "clean")


def test_statistics_of_the_images_alone_and_other_resolutions(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(20)), folder(tmp_path / "fake", range(60, 80), names="s{}")
    alone = Scorer(str(truth), str(truth), suite, pairing="none", out=str(tmp_path / "out"))
    alone.measure_reference()
    assert Small.seen == 20
    (path,) = alone.save_statistics(tmp_path / "ref.npz")
    assert rows(run(tmp_path, fake, path, suite))["fid", "torch-fidelity"].status == "ok"
    with pytest.raises(UsageError, match="at 32 px, not 16"):
        run(tmp_path, fake, path, suite, resolution=(16,))


def test_kept_features_stand_for_the_images_in_every_metric_of_sets(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(40)), folder(tmp_path / "fake", range(200, 230), names="s{}")
    scorer = Scorer(str(fake), str(truth), suite, out=str(tmp_path / "out"))
    whole = rows(scorer())
    (path,) = scorer.save_statistics(tmp_path / "ref.npz", with_features=True)
    seen = Small.seen
    found = run(tmp_path, fake, path, suite)
    cells = rows(found)
    for metric in ("fid", "precision"):
        ours, theirs = cells[metric, "torch-fidelity"], whole[metric, "torch-fidelity"]
        assert (ours.value, ours.n, ours.ci_low) == (theirs.value, theirs.n, theirs.ci_low), metric
    assert Small.seen == seen and found.record.dataset.n == 40
    with pytest.raises(UsageError, match="not clean"):
        run(tmp_path, fake, path, suite, reference_protocol="clean")


def test_foreign_statistics_need_a_protocol(tmp_path: Path, suite: str) -> None:
    fake = folder(tmp_path / "fake", range(30), names="s{}")
    path = tmp_path / "custom.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(UsageError, match="does not say under which protocol"):
        run(tmp_path, fake, path, suite)
    cell = rows(run(tmp_path, fake, path, suite, reference_protocol="torch-fidelity"))["fid", "torch-fidelity"]
    x = np.pad(features(fake), ((0, 0), (0, 2048 - 48)))
    expected = (
        (x.mean(0) ** 2).sum()
        + np.trace(np.cov(x.T))
        + 2048
        - 2 * np.linalg.svd(x - x.mean(0), compute_uv=False).sum() / np.sqrt(29)
    )
    assert cell.value == pytest.approx(expected, rel=1e-5) and cell.notes["reference"] == "statistics"


def test_adm_files_with_images_and_statistics(tmp_path: Path, suite: str) -> None:
    truth = folder(tmp_path / "truth", range(20))
    images = np.stack([np.asarray(Image.open(p)) for p in sorted(truth.glob("*.png"))])
    fake = folder(tmp_path / "ILSVRC", range(60, 80), names="ILSVRC2012_val_{:08d}")
    path = tmp_path / "VIRTUAL.npz"
    np.savez(path, arr_0=images, mu=np.zeros(2048), sigma=np.eye(2048), mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    with pytest.raises(UsageError, match="images to use its images alone"):
        run(tmp_path, fake, path, suite)
    found = run(tmp_path, fake, path, suite, reference_protocol="adm", protocol=("adm",))
    cells = rows(found)
    assert cells["fid", "adm"].notes["reference"] == "statistics"
    assert cells["precision", "adm"].status == "ok" and "reference" not in cells["fid", "torch-fidelity"].notes
    assert [a.name for a in found.record.alarms] == ["other-reference"] and "ADM" in found.record.alarms[0].message
    images_alone = rows(run(tmp_path, fake, path, suite, reference_protocol="images"))
    assert images_alone["fid", "torch-fidelity"].value == cells["fid", "torch-fidelity"].value


class Trap:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("pwned"),))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"mu": np.zeros(2048)}, "without sigma"),
        ({"mu": np.zeros(64), "sigma": np.eye(64)}, r"\[2048\]"),
        ({"mu": np.zeros(2048), "sigma": np.zeros((2048, 4))}, r"\[2048, 2048\]"),
        ({"mu": np.full(2048, np.nan), "sigma": np.eye(2048)}, "not finite"),
        ({"mu": np.zeros(2048), "sigma": np.diag([-1.0, *[1.0] * 2047])}, "indefinite"),
        ({"mu": np.array([Trap()], dtype=object), "sigma": np.eye(2048)}, "never executed"),
    ],
)
def test_bad_statistics_are_refused(tmp_path: Path, arrays: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(BadData, match=said):
        read_statistics(str(tmp_path / "bad.npz"), "clean")
    assert not (tmp_path / "pwned").exists()


def test_pickles_and_odd_arrays_as_images(tmp_path: Path, suite: str) -> None:
    truth = folder(tmp_path / "truth", range(8))
    (tmp_path / "raw.npz").write_bytes(pickle.dumps([1, 2]))
    np.savez(tmp_path / "floats.npz", np.zeros((4, 8, 8, 3)))
    np.savez(tmp_path / "nothing.npz", other=np.zeros(3))
    for name in ("raw", "floats", "nothing"):
        with pytest.raises(BadData):
            run(tmp_path, tmp_path / f"{name}.npz", truth, suite)


def test_what_pairs_are() -> None:
    a = [f"a{i}" for i in range(10)]
    assert paired(a, a) and paired(a[:8], a) and not paired(a, [f"b{i}" for i in range(10)])
    assert not paired(["000", "001"], ["000", "001", "002"])  # positions in arrays
    assert not paired(a, a, "none")
    with pytest.raises(UsageError, match="neither pairs nor two sets"):
        paired(a[:2] + [f"x{i}" for i in range(8)], a)
    with pytest.raises(UsageError, match="no id is on both sides"):
        paired(["x"], a, "ids")


def test_missing_and_differing_pairs(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(12)), folder(tmp_path / "fake", range(12), noise=5)
    (fake / "image_10.png").unlink()
    (fake / "image_11.png").unlink()
    found = run(tmp_path, fake, truth, suite)
    assert [a.name for a in found.record.alarms] == ["dropped-last-batch"]
    assert {r.status for r in found.rows() if r.status != "skipped"} == {"partial"}
    assert [f.id for f in found.record.failures] == ["image_10", "image_11"]
    Image.open(fake / "image_03.png").resize((16, 16)).save(fake / "image_03.png")
    failures = run(tmp_path, fake, truth, suite).record.failures
    assert any("16 x 16" in f.reason and "32 x 32" in f.reason for f in failures if f.id == "image_03")


def test_a_limit_keeps_pairs_together(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(12)), folder(tmp_path / "fake", range(12), noise=5)
    (fake / "image_01.png").unlink()
    record = run(tmp_path, fake, truth, suite, limit=6).record
    assert [a.name for a in record.alarms] == ["missing-ids"] and [f.id for f in record.failures] == ["image_01"]
    assert {r.n for r in record.rows if r.metric == "psnr"} == {5} and record.status == "limited"


def test_one_image(tmp_path: Path, suite: str) -> None:
    truth, fake = folder(tmp_path / "truth", range(1)), folder(tmp_path / "fake", range(1), noise=5)
    cells = rows(run(tmp_path, fake, truth, suite))
    assert cells["psnr", "vtbench"].status == "ok"
    assert cells["fid", "torch-fidelity"].status == "skipped" and "at least 2" in cells["fid", "torch-fidelity"].why


def test_sets_raise_alarms(tmp_path: Path, suite: str) -> None:
    truth = folder(tmp_path / "truth", range(20))
    fake = folder(tmp_path / "fake", range(60, 80), names="s{}")
    for path in fake.glob("*.png"):
        array = np.asarray(Image.open(path))
        Image.fromarray((array // 2 + 128).astype(np.uint8)).save(path)
    assert [a.name for a in run(tmp_path, fake, truth, suite).record.alarms] == ["range-slip"]
    assert run(tmp_path, fake, truth, suite, alarms=False).record.alarms == []
    mixed = folder(tmp_path / "mixed", range(60, 78), names="m{}")
    for i in range(2):
        (mixed / f"copy{i}.png").write_bytes((truth / f"image_{i:02d}.png").read_bytes())
    assert [a.name for a in run(tmp_path, mixed, truth, suite).record.alarms] == ["shared-images"]


@pytest.mark.parametrize("labelled", [True, False])
def test_samples_sorted_by_class_under_blocks(
    tmp_path: Path, suite: str, labelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Small, "logits", 60)
    truth = folder(tmp_path / "truth", range(8))
    # four kinds of image one after the other; the stand-in's class is the brightest band
    levels = np.repeat(np.arange(4), 10)
    images = np.zeros((40, SIDE, SIDE, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    for image, level in zip(images, levels):
        image[8 * level : 8 * level + 8] += 150
    kept = {"arr_1": levels} if labelled else {}
    np.savez(tmp_path / "sorted.npz", arr_0=images, **kept)
    mixed = np.random.default_rng(1).permutation(40)
    np.savez(tmp_path / "mixed.npz", arr_0=images[mixed], **{k: v[mixed] for k, v in kept.items()})
    how = {"protocol": ("adm+is_block=10",)}
    found = run(tmp_path, tmp_path / "sorted.npz", truth, suite, **how).record
    assert [a.name for a in found.alarms] == ["class-sorted"] and "10 images" in found.alarms[0].message
    assert run(tmp_path, tmp_path / "mixed.npz", truth, suite, **how).record.alarms == []
    assert run(tmp_path, tmp_path / "sorted.npz", truth, suite).record.alarms == []


def test_the_command_line(tmp_path: Path, suite: str) -> None:
    import json

    from typer.testing import CliRunner

    from vtbench.cli import COMMANDS, _mount, app

    assert "score" in COMMANDS
    if not app.registered_commands:
        _mount()
    truth, fake = folder(tmp_path / "truth", range(12)), folder(tmp_path / "fake", range(12), noise=5)
    out = str(tmp_path / "out")
    done = CliRunner().invoke(app, ["score", str(fake), "--reference", str(truth), "-s", suite, "--json", "--out", out])
    assert done.exit_code == 0, done.output
    lines = json.loads(done.stdout)
    assert {line["metric"] for line in lines} >= {"psnr", "fid"} and {line["model"] for line in lines} == {"fake"}
    done = CliRunner().invoke(
        app, ["score", str(truth), "-s", suite, "--save-statistics", str(tmp_path / "r.npz"), "--out", out]
    )
    assert done.exit_code == 0 and (tmp_path / "r.npz").is_file()
