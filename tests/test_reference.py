"""The project's own records: valid, with the table and the baseline that follow from them, and still what this code measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from vtbench import baseline as baselines
from vtbench import check, record, table
from vtbench.records import read_all

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
pytestmark = pytest.mark.skipif(not (REFERENCE / "records").is_dir(), reason="results/reference/make has not been run")


def test_the_records_are_valid_complete_and_name_no_machine():
    records, problems = read_all(REFERENCE)
    assert problems == []
    assert {r.suite.name for r in records} >= {"demo"}
    assert {r.model.name for r in records} >= {"tiny", "jpeg", "resize"}
    for r in records:
        assert r.status == "ok"
        assert not r.dataset.where.startswith("/")
        assert "/work" not in record.dumps(r)
        assert "/tmp" not in record.dumps(r)


def test_the_table_follows_from_the_records():
    records, _ = read_all(REFERENCE)
    lines = [line for r in sorted(records, key=lambda r: (r.model.name, r.run_id)) for line in table.rows(r)]
    assert table.csv_text(lines) == (REFERENCE / "table.csv").read_text("utf-8")


def test_the_baseline_is_of_these_records():
    records, _ = read_all(REFERENCE)
    report = check.check(records, baselines.load(REFERENCE / "demo.toml"))
    assert report.failed == []
    assert set(report.counts()) <= {"same", "ignored"}


@pytest.mark.slow
def test_this_code_still_measures_tiny_as_the_baseline_says(tmp_path, monkeypatch, capsys):
    """The project's own use of `vtbench check`: the demo is measured, and held against the baseline."""
    pytest.importorskip("rapidocr")
    from vtbench.cli import main

    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["vtbench", *words])
        try:
            main()
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    out = str(tmp_path / "results")
    assert run("reconstruct", "--model", "tiny", "--suite", "demo", "--no-baselines", "--out", out) == 0
    baseline = baselines.load(REFERENCE / "demo.toml")
    mine = [row for row in baseline["rows"] if row["model"] == "tiny"]
    (measured,) = read_all(tmp_path / "results")[0]
    made = {r.model.revision for r in read_all(REFERENCE)[0] if r.model.name == "tiny"}
    assert made == {measured.model.revision}, "tiny has other weights now: run results/reference/make"
    tokens = {row.tokens for row in measured.rows}
    baseline["rows"] = [row for row in mine if row.get("tokens") in tokens]
    report = check.check([measured], baseline)
    assert len(report.findings) > 10
    assert report.failed == [], "\n".join(f.name() for f in report.failed)
