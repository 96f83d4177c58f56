"""Comparisons: paired, honest about direction, and silent about nothing that makes two numbers incomparable."""

from __future__ import annotations

import math

import numpy as np
import pytest
from records_for_tests import make

from vtbench import samples, table
from vtbench.comparable import Entry
from vtbench.comparison import _difference, _Samples, compare
from vtbench.errors import UnknownName, UsageError
from vtbench.intervals import jackknife
from vtbench.record import Row, write
from vtbench.report.delta import markdown
from vtbench.reproduction import last_digit, reproduce


def by_metric(pair):
    return {(line.a.row.metric, line.a.row.slice): line for line in pair.lines}


def test_a_better_model_is_better_in_the_metrics_own_direction(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", quality=0.5, seed=3)
    (pair,) = compare(a.run_id, "big", out=tmp_path)
    lines = by_metric(pair)
    assert lines["psnr", "all"].verdict == "better"
    assert lines["psnr", "all"].how == "paired by image"
    assert lines["lpips", "all"].verdict == "better"
    assert lines["lpips", "all"].difference < 0
    assert lines["entropy", "all"].verdict == "higher"
    assert lines["fid", "all"].how == "paired by group"
    (back,) = compare(b, a, out=tmp_path)
    assert by_metric(back)["psnr", "all"].verdict == "worse"
    value = by_metric(back)["psnr", "all"].difference
    assert value == pytest.approx(-lines["psnr", "all"].difference)
    assert value == pytest.approx(a.rows[0].value - b.rows[0].value)


def test_equal_models_are_the_same_and_noise_is_no_difference(tmp_path):
    a = make(tmp_path, "one")
    twin = make(tmp_path, "two")
    noise = make(tmp_path, "three", seed=5)
    same, other = compare(a, twin, noise, out=tmp_path)
    assert {line.verdict for line in same.lines if line.how.startswith("paired")} == {"same"}
    assert by_metric(other)["psnr", "all"].verdict == "no difference shown"


def test_without_samples_the_intervals_are_taken_as_independent(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", quality=0.5, seed=3)
    paired = by_metric(compare(a, b, out=tmp_path)[0])["psnr", "all"]
    for record in (a, b):
        samples.path_of(tmp_path, record.run_id).unlink()
    alone = by_metric(compare(a, b, out=tmp_path)[0])["psnr", "all"]
    assert alone.how == "unpaired"
    assert alone.high - alone.low > 2 * (paired.high - paired.low)


def test_samples_that_only_one_model_has_are_left_out_and_counted(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", quality=0.5, seed=3)
    frame = samples.read(tmp_path, b.run_id).to_pandas()
    lost = frame["id"].astype(str) == frame["id"].astype(str).iloc[0]
    blocks = (
        {
            **dict(zip(("resolution", "tokens", "protocol", "metric", "slice"), key)),
            **part[["id", "instance", "value"]].astype({"id": str}),
        }
        for key, part in frame[~lost].groupby(["resolution", "tokens", "protocol", "metric", "slice"], observed=True)
    )
    samples.write(tmp_path, b.run_id, blocks)
    line = by_metric(compare(a, b, out=tmp_path)[0])["psnr", "all"]
    assert line.how == "paired by image, 1 left out"
    assert line.verdict == "better"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"protocol_digest": "other"}, "changed between the runs"),
        ({"metric_version": 2}, "versions 1 and 2"),
        ({"status": "skipped", "why": "no weights"}, "no weights"),
        ({"value": math.nan}, "not a number"),
        ({"protocol": "mine"}, "protocols rgb8 and mine"),
        ({"status": "partial", "n": 59}, "n = 60 and 59"),
    ],
)
def test_incomparable_rows_are_never_ranked_and_say_why(tmp_path, change, said):
    a, b = make(tmp_path), make(tmp_path, "big", quality=0.5, seed=3)
    b.rows[0] = b.rows[0].model_copy(update=change)
    (pair,) = compare(a, b, out=tmp_path)
    line = pair.lines[0]
    assert line.verdict == "not comparable"
    assert line.difference is None
    assert said in line.why
    text = markdown([pair])
    assert "🟢 better" not in "".join(r for r in text.splitlines() if r.startswith("| psnr"))
    assert "not comparable" in text


def test_an_interval_that_was_cut_at_its_scale_narrows_no_difference(tmp_path):
    groups = [0.2, 0.1, 0.4, 0.3, 0.25]
    wide = jackknife(0.25, np.array(groups))
    row = Row(protocol="p", metric="fid", value=0.25, ci_low=0.0, ci_high=wide.high, n=60, groups=groups)
    other = row.model_copy(update={"value": 0.5, "n": 61, "groups": None, "ci_low": 0.4, "ci_high": 0.6})
    assert wide.low < 0
    records = [make(None, "a"), make(None, "b", seed=1)]
    _, low, high, how = _difference(*(Entry(r, x) for r, x in zip((row, other), records)), _Samples(tmp_path))
    assert how == "unpaired"
    assert (high - low) / 2 == pytest.approx(math.hypot(wide.high - 0.25, 0.1))


def test_other_images_and_other_networks_are_not_compared(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", seed=3)
    other = b.model_copy(update={"dataset": b.dataset.model_copy(update={"revision": "sha256:else"})})
    assert "other images" in compare(a, other, out=tmp_path)[0].lines[0].why
    other = b.model_copy(update={"weights": {"inception": "sha256:else"}})
    pair = compare(a, other, out=tmp_path)[0]
    assert "weights" in pair.lines[0].why
    assert ("weights of inception", "sha256:6726825d", "sha256:else") in pair.environment


def test_protocol_fields_that_differ_are_listed(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", seed=3)
    protocols = {
        **b.protocols,
        "rgb8": {"input": {"fit": "squash", "filter": "lanczos"}, "view": {"quantise": "round"}},
    }
    (pair,) = compare(a, b.model_copy(update={"protocols": protocols}), out=tmp_path)
    assert pair.protocols == [("rgb8: fit", "short-side-crop", "squash")]


def test_without_any_interval_nothing_is_called_better(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", seed=3)
    for record, value in ((a, 1e6), (b, 2e6)):
        row = record.rows[0].model_copy(
            update={"metric": "params_encoder", "value": value, "ci_low": None, "ci_high": None}
        )
        record.rows.append(row)
    line = by_metric(compare(a, b, out=tmp_path)[0])["params_encoder", "all"]
    assert (line.verdict, line.difference) == ("no interval", 1e6)


def test_bad_names_have_a_way_out(tmp_path):
    make(tmp_path, "tiny")
    with pytest.raises(UsageError, match="two results"):
        compare("tiny", out=tmp_path)
    with pytest.raises(UnknownName, match="tiny"):
        compare("tiny", "tinny", out=tmp_path)


# ------------------------------------------------------------------------------------ reproduce


def published(metric="fid", value=2.21, **changes):
    line = dict.fromkeys(table.COLUMNS)
    line |= {
        "model": "TiTok-L-32",
        "params": "",
        "suite": "",
        "dataset": "imagenet-val",
        "resolution": 256,
        "protocol": "unstated",
    }
    line |= {
        "metric": metric,
        "slice": "all",
        "value": value,
        "unit": "",
        "status": "published",
        "source": "its README",
        "run_id": "",
    }
    return {**line, **changes}


@pytest.fixture
def titok(tmp_path):
    record = make(tmp_path, "titok", params={"variant": "L-32"}, tokens=(32,), dataset="imagenet-val", seed=2)
    values = {"torch-fidelity": 2.20, "clean": 2.35}
    rows = [r.model_copy(update={"value": values[r.protocol]}) if r.metric == "fid" else r for r in record.rows]
    return record.model_copy(update={"rows": rows})


def test_a_value_is_reproduced_under_the_protocol_that_gives_it(titok):
    (claim,) = reproduce([titok], [published()])
    assert claim.state == "reproduced"
    assert [(t.measured.row.protocol, t.within) for t in claim.trials] == [("torch-fidelity", True), ("clean", False)]
    assert any("network_resize bicubic instead of tf1" in remark for remark in claim.remarks)


def test_a_mismatch_says_what_was_spanned(titok):
    (claim,) = reproduce([titok], [published(value=1.5)])
    assert claim.state == "mismatch"
    assert any("none gives 1.5" in remark for remark in claim.remarks)
    assert reproduce([titok], [published(value=1.5)], tolerances={"fid": 0.8})[0].state == "reproduced"


def test_a_named_protocol_is_reproduced_only_under_itself(titok):
    assert reproduce([titok], [published(protocol="clean")])[0].state == "mismatch"
    assert reproduce([titok], [published(protocol="adm")])[0].state == "not counted"


def test_data_whose_digest_nobody_declares_count_on_the_users_word(titok):
    mine = titok.model_copy(update={"dataset": titok.dataset.model_copy(update={"name": "folder:val"})})
    (claim,) = reproduce([mine], [published()], data_is="imagenet-val")
    assert claim.state == "reproduced"
    assert any(r.startswith("on your word folder:val") and r.endswith("is imagenet-val") for r in claim.remarks)
    assert reproduce([mine], [published()], data_is="coco")[0].state == "not counted"


@pytest.mark.parametrize("change", ["limited", "subset", "data", "tokens"])
def test_what_does_not_count_never_counts(titok, change):
    line = published()
    if change == "limited":
        titok = titok.model_copy(update={"rows": [r.model_copy(update={"status": "limited"}) for r in titok.rows]})
    elif change == "subset":
        titok = titok.model_copy(update={"options": {"subset": "5k"}})
    elif change == "data":
        titok = titok.model_copy(update={"dataset": titok.dataset.model_copy(update={"name": "folder:val"})})
    else:
        line = published(tokens=64)
    (claim,) = reproduce([titok], [line])
    assert claim.state == "not counted"
    assert all(t.excluded for t in claim.trials)


def test_the_papers_own_name_can_be_given(titok, tmp_path):
    line = published(model="Something-Else")
    assert reproduce([titok], [line]) == []
    assert reproduce([titok], [line], called="something else")[0].state == "reproduced"


def test_other_weights_than_the_cards_are_named(titok):
    card = {
        "files": [{"digest": "sha256:published"}],
        "published": {"rfid@imagenet-val": 2.2, "psnr@imagenet-val": 99.0},
    }
    record = titok.model_copy(update={"model": titok.model.model_copy(update={"card": card})})
    claims = {c.published.row.metric: c for c in reproduce([record], [])}
    assert claims["fid"].state == "reproduced"
    assert claims["psnr"].state == "mismatch"
    assert any("digest" in remark for remark in claims["psnr"].remarks)


def test_the_last_printed_digit():
    assert [last_digit(v) for v in (2.21, 0.9, 101.0, 0.0729)] == pytest.approx([0.01, 0.1, 1.0, 0.0001])


def test_records_on_disk_stay_as_they_are(tmp_path):
    a, b = make(tmp_path), make(tmp_path, "big", seed=3)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    compare(a.run_id, b.run_id, out=tmp_path)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert write(a, tmp_path).read_bytes() == before[tmp_path / "records" / f"{a.run_id}.json"]
