"""The whole path on a toy tokenizer: rows, resume, sharing, failures, identity."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vtbench.errors import BadSample, UsageError
from vtbench.evaluation import Evaluator
from vtbench.record import read
from vtbench.records import read_all
from vtbench.table import read_csv

_spec = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("toys.py"))
assert _spec is not None and _spec.loader is not None
toys = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toys)

SUITE = """
name = "toy"
version = 1
task = "reconstruct"
chunk = 4
resolutions = [32]
[[metrics]]
name = "psnr"
protocols = ["toy"]
[[metrics]]
name = "tokens_used"
protocols = ["toy"]
"""
PROTOCOL = """
name = "toy"
title = "squash to S, rounded"
metrics = ["psnr", "tokens_used"]
[input]
exif = "ignore"
fit = "squash"
library = "pil"
filter = "bicubic"
antialias = true
encode = "mode"
[view]
quantise = "round"
reference = "round"
[reduce]
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "toy.toml").write_text(PROTOCOL)
    (tmp_path / "toy.toml").write_text(SUITE)
    return str(tmp_path / "toy.toml")


def _run(suite: str, photos: Path, out: Path, model: Any = None, **options: Any) -> Any:
    options = {"batch_size": 3, "device": "cpu", **options}
    return Evaluator(suite, data=str(photos), out=str(out), **options)(model or toys.Patches())


def _values(result: Any) -> list[tuple[Any, ...]]:
    return [(r.metric, r.slice, r.value, r.ci_low, r.ci_high, r.n, r.status) for r in result.rows()]


def test_psnr_is_what_numpy_says(suite: str, photos: Path, tmp_path: Path) -> None:
    result = _run(suite, photos, tmp_path / "out")
    expected = []
    for path in sorted(photos.glob("*.png")):
        truth = np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BICUBIC), np.float64)
        grey = truth.mean(2).reshape(4, 8, 4, 8).mean((1, 3)) / 255
        tokens = np.round((grey * 15).astype(np.float32))
        back = np.round(np.repeat(np.repeat(tokens / 15, 8, 0), 8, 1) * 255)[..., None]
        expected.append(10 * np.log10(255**2 / ((truth - back) ** 2).mean()))
    cell = result["psnr"]
    assert cell.value == pytest.approx(np.mean(expected), abs=1e-4)
    assert cell.ci is not None and cell.ci[0] < cell.value < cell.ci[1]
    row = cell.row
    assert (row.n, row.tokens, row.unit, row.status) == (10, 16, "dB", "ok")
    assert row.bpp == pytest.approx(16 * 4 / 32**2)


def test_a_second_run_does_no_forward_pass(suite: str, photos: Path, tmp_path: Path) -> None:
    first, again = toys.Patches(), toys.Patches()
    a = _run(suite, photos, tmp_path / "out", first)
    b = _run(suite, photos, tmp_path / "out", again)
    assert (first.encoded, first.decoded) == (10, 10)
    assert (again.encoded, again.decoded) == (0, 0)
    assert _values(a) == _values(b)
    assert a.record.run_id == b.record.run_id
    assert len(read_all(tmp_path / "out")[0]) == 1


def test_a_lost_chunk_is_made_again_alone_and_rows_are_bit_identical(suite: str, photos: Path, tmp_path: Path) -> None:
    whole = _values(_run(suite, photos, tmp_path / "out"))
    for path in sorted((tmp_path / "out" / "measurements").rglob("*.vtm"))[::2]:
        path.unlink()
    again = toys.Patches()
    assert _values(_run(suite, photos, tmp_path / "out", again)) == whole
    assert 0 < again.encoded <= 10


def test_budgets_share_one_encode(suite: str, photos: Path, tmp_path: Path) -> None:
    model = toys.Patches()
    result = _run(suite, photos, tmp_path / "out", model, tokens=(4, 8, 16))
    assert (model.encoded, model.decoded) == (10, 30)
    by_tokens = {r.tokens: r.value for r in result.rows() if r.metric == "psnr"}
    assert set(by_tokens) == {4, 8, 16} and by_tokens[4] < by_tokens[16]
    assert "psnr/8-tokens" in result.flat()


def test_equal_views_are_taken_once(suite: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixel errors of two protocols, whose SSIM differs in the window alone: two extractors, and one look at either side of the pair."""
    from vtbench import forward

    looks: list[bool] = []
    plain = forward.see
    monkeypatch.setattr(forward, "see", lambda *a, **k: looks.append(k["truth"]) or plain(*a, **k))
    more = '[[metrics]]\nname = "ssim"\nprotocols = ["toy", "toy+ssim_window=uniform7"]\n'
    fields = 'ssim_window = "gaussian11"\nssim_border = "reflect"\nssim_range = 1.0\nssim_offset = 0.0\n'
    Path(suite).write_text(SUITE + more)
    protocol = Path(suite).parent / "protocols" / "toy.toml"
    protocol.write_text(PROTOCOL.replace('"psnr", ', '"psnr", "ssim", ').replace("[reduce]\n", "[reduce]\n" + fields))
    result = _run(suite, photos, tmp_path / "out", alarms=False)
    assert [r.status for r in result.rows() if r.metric == "ssim"] == ["ok", "ok"]
    batches = 4  # chunks of 4, 4 and 2 images in batches of 3: 3 + 1, 3 + 1, 2
    assert looks.count(True) == looks.count(False) == batches + 1


def test_large_columns_are_let_go_after_their_last_metric(
    suite: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtbench import reduce

    kept: list[int] = []
    plain = reduce.Reducer.reduce

    def counting(self: reduce.Reducer) -> reduce.Reduced:
        found = plain(self)
        kept.append(sum(need in self._columns for cell in self.plan.cells for need in cell.needs.values()))
        return found

    monkeypatch.setattr(reduce.Reducer, "reduce", counting)
    rows = _values(_run(suite, photos, tmp_path / "out"))
    monkeypatch.setattr(reduce, "LARGE", -1)
    assert _values(_run(suite, photos, tmp_path / "out", fresh=True)) == rows
    assert kept[0] > 0 and kept[1] == 0


def test_other_weights_are_another_run(suite: str, photos: Path, tmp_path: Path) -> None:
    _run(suite, photos, tmp_path / "out", toys.Patches(revision="a"))
    changed = toys.Patches(revision="b")
    _run(suite, photos, tmp_path / "out", changed)
    assert changed.encoded == 10
    assert len(read_all(tmp_path / "out")[0]) == 2


def test_a_bad_sample_is_counted_and_named_and_the_rest_goes_on(suite: str, photos: Path, tmp_path: Path) -> None:
    result = _run(suite, photos, tmp_path / "out", toys.Patches(bad=["image_05"]))
    record = result.record
    assert record.status == "partial"
    assert [(f.id, f.stage) for f in record.failures] == [("image_05", "model")]
    assert {r.n for r in record.rows if r.metric == "psnr"} == {9}
    assert {r.status for r in record.rows} == {"partial"}
    with pytest.raises(BadSample, match="image_05"):
        _run(suite, photos, tmp_path / "strict", toys.Patches(bad=["image_05"]), strict=True)


def test_what_a_model_breaks_is_not_held_against_the_next_one(
    suite: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ground truth's measurements are shared by all models: one that gives nan must not spoil them."""
    from vtbench import api, registry

    registry.metrics()

    class Grey:
        name, version, takes = "grey", 1, "images"

        def __init__(self, args: Any) -> None: ...
        def open(self, device: str) -> None: ...
        def identity(self) -> dict[str, str]:
            return {}

        def __call__(self, batch: Any, heads: Any) -> Any:
            return {"mean": api.Rows(batch.images.mean((1, 2, 3)).numpy())}

    monkeypatch.setitem(api.EXTRACTORS, "grey", Grey)
    needs = {"out": api.Need("grey", "mean"), "truth": api.Need("grey", "mean", api.INPUT)}

    def moved(m: Any, p: Any) -> Any:
        yield api.Value(samples=m["out"].array() - m["truth"].array(), image=m["out"].image)

    monkeypatch.setitem(api.METRICS, "grey_shift", api.Metric("grey_shift", moved, lambda p: needs))
    Path(suite).write_text(SUITE + '[[metrics]]\nname = "grey_shift"\nprotocols = ["toy"]\n')
    protocol = Path(suite).parent / "protocols" / "toy.toml"
    protocol.write_text(PROTOCOL.replace('"psnr", ', '"psnr", "grey_shift", '))

    class Broken(toys.Patches):
        def decode(self, tokens: Any, **how: Any) -> Any:
            return super().decode(tokens, **how) * float("nan")

    broken = _run(suite, photos, tmp_path / "out", Broken(revision="broken"))
    assert {(f.stage, f.reason) for f in broken.record.failures} == {
        ("model", "patches decoded to values that are not finite")
    }
    assert len(broken.record.failures) == 10
    good = _run(suite, photos, tmp_path / "out")
    assert not good.record.failures and {r.n for r in good.rows()} == {10}
    assert good.record.rows == _run(suite, photos, tmp_path / "other").record.rows


def test_a_picture_that_changes_between_hashing_and_decoding_is_refused(
    suite: str, photos: Path, tmp_path: Path
) -> None:
    out, image = tmp_path / "out", photos / "image_03.png"
    before = image.read_bytes()
    evaluator = Evaluator(suite, data=str(photos), out=str(out), batch_size=3, device="cpu")
    image.write_bytes((photos / "image_04.png").read_bytes())
    spoilt = evaluator(toys.Patches()).record
    assert [(f.id, "changed since it was hashed" in f.reason) for f in spoilt.failures] == [("image_03", True)]
    assert spoilt.status == "partial" and {r.n for r in spoilt.rows} == {9}
    other = _run(suite, photos, out).record
    assert not other.failures and other.dataset.revision != spoilt.dataset.revision
    image.write_bytes(before)
    again = _run(suite, photos, out).record
    assert not again.failures and again.run_id == spoilt.run_id and {r.n for r in again.rows} == {10}


def test_truncated_and_empty_files_are_named(suite: str, photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").write_bytes(b"")
    whole = (photos / "image_00.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    record = _run(suite, photos, tmp_path / "out").record
    assert sorted(f.id for f in record.failures) == ["cut", "empty"]
    assert {r.n for r in record.rows if r.metric == "psnr"} == {10}


def test_limited_rows_say_so(suite: str, photos: Path, tmp_path: Path) -> None:
    record = _run(suite, photos, tmp_path / "out", limit=4).record
    assert {r.status for r in record.rows} == {"limited"} and {r.n for r in record.rows} == {4}


def test_batch_size_moves_nothing_beyond_tolerance(suite: str, photos: Path, tmp_path: Path) -> None:
    a = _run(suite, photos, tmp_path / "a", batch_size=1)
    b = _run(suite, photos, tmp_path / "b", batch_size=4)
    assert a["psnr"].value == pytest.approx(b["psnr"].value, rel=1e-6)


def test_record_table_and_samples_are_written(suite: str, photos: Path, tmp_path: Path) -> None:
    import pandas

    out = tmp_path / "out"
    result = _run(suite, photos, out, keep_images="all")
    record = read(out / "records" / f"{result.record.run_id}.json")
    assert record.environment.packages["torch"]
    assert record.dataset.name == "folder:photos"
    lines = read_csv(out / "table.csv")
    assert {line["metric"] for line in lines} == {"psnr", "tokens_used"}
    samples = pandas.read_parquet(out / "samples" / f"{record.run_id}.parquet")
    psnr = samples[samples.metric == "psnr"]
    assert psnr.value.mean() == pytest.approx(result["psnr"].value)
    kept = out / "images" / record.run_id
    assert len(list(kept.rglob("reconstruction/*.png"))) == len(list(kept.rglob("original/*.png"))) == 10
    assert json.dumps(result.flat("val/"))
    assert len(result.to_pandas()) == len(lines)


def test_kept_images_are_made_for_a_run_that_is_already_measured(suite: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _run(suite, photos, out)
    result = _run(suite, photos, out, keep_images="all")
    assert len(list((out / "images" / result.record.run_id).rglob("reconstruction/*.png"))) == 10


def test_metadata_makes_slices(suite: str, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "facts.csv"
    table.write_text("id,light\n" + "".join(f"image_{i:02d},{'day' if i < 6 else 'night'}\n" for i in range(10)))
    result = _run(suite, photos, tmp_path / "out", metadata=str(table), slice_by=("light",))
    n = {r.slice: r.n for r in result.rows() if r.metric == "psnr"}
    assert n == {"all": 10, "light=day": 6, "light=night": 4}
    day, night = result["psnr", "light=day"].value, result["psnr", "light=night"].value
    assert (6 * day + 4 * night) / 10 == pytest.approx(result["psnr"].value)


def test_a_suite_without_data_says_what_to_give(suite: str) -> None:
    with pytest.raises(UsageError, match="--data"):
        Evaluator(suite)


def test_a_step_is_part_of_the_revision(suite: str, photos: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(suite, data=str(photos), out=str(tmp_path / "out"), device="cpu")
    first = evaluator(toys.Patches(revision="w1"), step=100)
    second = evaluator(toys.Patches(revision="w2"), step=200)
    assert first.record.model.revision == "w1;step=100"
    assert second.record.options["step"] == 200
    assert len(read_all(tmp_path / "out")[0]) == 2


def test_chunks_are_measured_apart_and_reduced_together(suite: str, photos: Path, tmp_path: Path) -> None:
    whole = _values(_run(suite, photos, tmp_path / "one"))
    for chunks in ("0:1", "1:2", "2:"):
        assert not _run(suite, photos, tmp_path / "out", chunks=chunks).records
    assert not (tmp_path / "out" / "records").exists()
    again = toys.Patches()
    assert _values(_run(suite, photos, tmp_path / "out", again)) == whole
    assert again.encoded == 0
    with pytest.raises(UsageError, match="A:B"):
        _run(suite, photos, tmp_path / "out", chunks="first")


def test_two_identical_runs_at_once_take_turns(suite: str, photos: Path, tmp_path: Path) -> None:
    import threading

    results: list[Any] = []
    models = [toys.Patches(), toys.Patches()]

    def run(model: Any) -> None:
        results.append(_values(_run(suite, photos, tmp_path / "out", model)))

    threads = [threading.Thread(target=run, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 2 and results[0] == results[1]
    assert sum(model.encoded for model in models) == 10
