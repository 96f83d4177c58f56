"""The tidy table: its columns, its numbers, its locks, and text that would like to be a formula."""

from __future__ import annotations

import io
import math
import multiprocessing

import numpy as np
import pytest
from records_for_tests import make
from rich.console import Console

from vtbench import samples, table
from vtbench.errors import BadData
from vtbench.intervals import bootstrap_mean
from vtbench.report.numbers import number
from vtbench.report.terminal import show


def test_the_columns_are_the_design_s():
    expected = (
        "model, revision, params, suite, suite_version, dataset, dataset_revision, resolution, tokens, bpp, protocol, metric, "
        "metric_version, slice, value, ci_low, ci_high, n, unit, higher_is_better, status, source, run_id"
    )
    assert ", ".join(table.COLUMNS) == expected


def test_a_table_reads_back_as_the_records_rows(tmp_path):
    first = make(tmp_path, tokens=(64, 256))
    second = make(tmp_path, "jpeg", params={"quality": 30, "b": 1}, tokens=(None,), bpp=None, seed=1)
    path, problems = table.write_table(tmp_path)
    assert problems == []
    back = table.read_csv(path)
    assert back == [line for record in (second, first) for line in table.rows(record)]
    assert back[0]["params"] == "b=1;quality=30"
    assert len({tuple(line[k] for k in table.KEY) for line in back}) == len(back)


def test_numbers_round_trip_and_text_is_never_a_formula(tmp_path):
    evil = '=HYPERLINK("http://x")'
    for name in (evil, "+1", "-2", "@x", "'quoted", "'=x", 'a"b,c\nd', "<script>"):
        record = make(tmp_path, name, n=6)
    record.rows[0].value, record.rows[0].ci_low, record.rows[0].ci_high = math.inf, -math.inf, 0.1 + 0.2
    from vtbench.record import write

    write(record, tmp_path)
    path, _ = table.write_table(tmp_path)
    back = table.read_csv(path)
    assert {line["model"] for line in back} == {evil, "+1", "-2", "@x", "'quoted", "'=x", 'a"b,c\nd', "<script>"}
    row = next(line for line in back if line["model"] == "<script>" and line["metric"] == "psnr")
    assert (row["value"], row["ci_low"], row["ci_high"]) == (math.inf, -math.inf, 0.1 + 0.2)
    assert not [line for line in path.read_text().splitlines() if line.startswith(("=", "+", "-", "@"))]


def test_pandas_opens_it_with_the_right_types(tmp_path):
    pandas = pytest.importorskip("pandas")
    record = make(tmp_path)
    path, _ = table.write_table(tmp_path)
    frame = pandas.read_csv(path)
    assert list(frame.columns) == list(table.COLUMNS)
    assert frame["value"].dtype == float
    assert frame["run_id"][0] == record.run_id
    assert frame.loc[frame.metric == "psnr", "value"].item() == record.rows[0].value


def test_a_csv_that_does_not_fit_is_named_by_line(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(BadData, match="tidy columns"):
        table.read_csv(path)
    lines = table.csv_text(table.rows(make())).splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace("0.", "zero", 1), *lines[3:]]))
    with pytest.raises(BadData, match="line 3"):
        table.read_csv(path)


def _writer(out, name):
    for seed in range(5):
        make(out, f"{name}{seed}", n=6)
        table.write_table(out)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_writer, args=(tmp_path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    back = table.read_csv(tmp_path / "table.csv")
    assert {line["model"] for line in back} == {f"{name}{seed}" for name in "ab" for seed in range(5)}
    assert not list(tmp_path.rglob("*.tmp"))


def test_samples_carry_what_the_rows_are_made_of(tmp_path):
    record = make(tmp_path, tokens=(64, 256))
    read = samples.read(tmp_path, record.run_id, metric="t_acc")
    assert tuple(read.column_names) == samples.COLUMNS
    frame = read.to_pandas()
    chosen = frame[(frame["slice"] == "small") & (frame["tokens"] == 64)]
    row = next(r for r in record.rows if r.metric == "t_acc" and r.slice == "small" and r.tokens == 64)
    again = bootstrap_mean(chosen["value"].to_numpy(), chosen["id"].cat.codes.to_numpy())
    assert again.value == pytest.approx(row.value, rel=1e-12)
    assert not chosen.duplicated(["id", "instance"]).any()
    assert samples.read(tmp_path, "nothing") is None


def test_instances_count_within_an_image():
    assert samples.instances(np.array([3, 1, 3, 3, 1])).tolist() == [0, 0, 1, 2, 1]
    assert samples.instances(np.array([], dtype=int)).tolist() == []


def _shown(records, width=220, **options) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(records, console, **options)
    return console.file.getvalue()


def test_show_puts_controls_beside_the_model_and_reasons_below():
    text = _shown([make(None, "tiny", tokens=(64, 256)), make(None, "jpeg", params={"quality": 30}, tokens=(None,))])
    heading = next(line for line in text.splitlines() if "tokens" in line)
    assert "64 tokens" in heading
    assert "jpeg:quality=30" in text
    assert "the weights have no logits" in text
    assert "clean" not in text
    assert "clean" in _shown(make(), everything=True)


def test_show_says_what_a_value_warns_of_and_leaves_out_columns_without_words():
    record = make(None, "tiny")
    rows = [r.model_copy(update={"notes": {"warning": "24 images for 2048 dimensions"}}) for r in record.rows]
    plain = [r for r in rows if r.slice == "all"]
    text = _shown(record.model_copy(update={"rows": plain}), width=80)
    assert "psnr" in text and ": 24 images for 2048 dimensions" in text
    assert " slice " not in text and " slice " in _shown(record)


def test_show_prints_markup_as_text():
    text = _shown(make(None, "[red]x[/red]", status="partial"))
    assert "[red]x[/red]" in text
    assert "truncated JPEG" in text


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (21.8312, 21.61, 22.04, "21.8"),
        (21.8312, 21.80, 21.86, "21.83"),
        (0.0412345, 0.0402, 0.0423, "0.0412"),
        (93.02, None, None, "93.02"),
        (math.inf, math.inf, math.inf, "inf"),
        (math.nan, None, None, "nan"),
        (256.0, None, None, "256"),
        (0.0, None, None, "0"),
        (None, None, None, "-"),
    ],
)
def test_digits_are_cut_at_the_interval(value, low, high, text):
    assert number(value, low, high) == text
