"""`vtbench results` and `vtbench check` as a user meets them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest
from records_for_tests import make

from vtbench import baseline as baselines
from vtbench import table
from vtbench.cli import main
from vtbench.record import write
from vtbench.registry import metrics
from vtbench.report.numbers import digits_of
from vtbench.suite import suite_names
from vtbench.zoo.catalogue import cards


@pytest.fixture
def vtbench(monkeypatch, capsys, tmp_path):
    """Run a command line in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS", "VTBENCH_OUT"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["vtbench", *words])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        return code, *capsys.readouterr()

    return run


def test_an_empty_store_is_said_in_one_line(vtbench):
    code, out, err = vtbench("results", "list")
    assert (code, out) == (0, "")
    assert "no results" in err
    code, out, err = vtbench("results", "show", "abcd")
    assert code == 2
    assert err.count("\n") == 1
    code, _, err = vtbench("check", "--baseline", "b.toml")
    assert code == 1
    assert "no results" in err


def test_list_filters_and_names_damaged_records(vtbench, tmp_path):
    good = make(tmp_path / "results")
    make(tmp_path / "results", "[b]jpeg", params={"quality": 30}, seed=1)
    (tmp_path / "results/records/broken.json").write_text("{")
    code, out, err = vtbench("results", "list")
    assert code == 0
    assert good.run_id in out
    assert "[b]jpeg:quality=30" in out
    assert "broken.json" in err
    code, out, _ = vtbench("results", "list", "--model", "jpeg", "--json")
    assert [line["model"] for line in json.loads(out)] == ["[b]jpeg:quality=30"]


def test_show_prints_numbers_and_provenance(vtbench, tmp_path):
    record = make(tmp_path / "results")
    code, out, _ = vtbench("results", "show", record.run_id[:6])
    assert code == 0
    for words in ("psnr", "abc1234", "sha256:6726825d", "filter=lanczos", "vtbench reconstruct --model tiny"):
        assert words in out
    code, out, _ = vtbench("results", "show", "tiny", "--json")
    assert json.loads(out)["run_id"] == record.run_id


def test_delete_by_id_removes_everything_of_a_run_and_its_rows(vtbench, tmp_path):
    out_dir = tmp_path / "results"
    keep, drop = make(out_dir), make(out_dir, "other", seed=1)
    (out_dir / "images" / drop.run_id).mkdir(parents=True)
    table.write_table(out_dir)
    code, out, _ = vtbench("results", "delete", drop.run_id, "--yes")
    assert code == 0
    assert not [p for p in out_dir.rglob("*") if drop.run_id in p.name]
    assert {line["run_id"] for line in table.read_csv(out_dir / "table.csv")} == {keep.run_id}
    (out_dir / f"records/{keep.run_id}.json").write_text("{")
    code, out, _ = vtbench("results", "delete", keep.run_id, "-y")
    assert code == 0
    assert "unreadable" in out
    code, _, err = vtbench("results", "delete", "feedbeef", "-y")
    assert code == 2
    assert "unknown result" in err


def _moved(record, metric, by, **changes):
    rows = [
        r.model_copy(update={"value": r.value + by, **changes}) if r.metric == metric and r.value is not None else r
        for r in record.rows
    ]
    return record.model_copy(update={"rows": rows})


@pytest.fixture
def baseline(vtbench, tmp_path):
    record = make(tmp_path / "results")
    code, out, _ = vtbench("check", "--baseline", "b.toml", "--update")
    assert code == 0
    assert out == f"b.toml: {len(record.rows)} rows\n"
    return record


def test_an_unchanged_result_passes(vtbench, baseline):
    code, out, _ = vtbench("check", "--baseline", "b.toml")
    assert code == 0
    assert f"{len(baseline.rows)} same" in out


@pytest.mark.parametrize(
    ("metric", "by", "state", "code"),
    [
        ("psnr", -0.1, "regressed", 3),
        ("psnr", 0.1, "improved", 0),
        ("psnr", -1e-4, "within", 0),
        ("lpips", 0.1, "regressed", 3),
        ("lpips", -0.1, "improved", 0),
        ("entropy", 0.1, "changed", 3),
        ("entropy", -0.1, "changed", 3),
        ("psnr", float("nan"), "regressed", 3),
        ("psnr", float("-inf"), "regressed", 3),
    ],
)
def test_directions_count(vtbench, baseline, tmp_path, metric, by, state, code):
    write(_moved(baseline, metric, by), tmp_path / "results")
    found, out, _ = vtbench("check", "--baseline", "b.toml", "--json")
    states = {(f["key"][5], f["state"]) for f in json.loads(out)}
    assert (metric, state) in states
    assert found == code


def test_tolerances_survive_an_update_and_decide(vtbench, baseline, tmp_path):
    path = tmp_path / "b.toml"
    tolerances = (
        "# ours [of old]\n[tolerances]\npsnr = {abs = 0.2}  # dB\nfid = {interval = true}\nentropy = {ignore = true}\n"
    )
    path.write_text(path.read_text().replace("[tolerances]\n", tolerances))
    changed = _moved(_moved(_moved(baseline, "psnr", -0.15), "fid", 0.5), "entropy", 1.0)
    write(changed, tmp_path / "results")
    code, out, _ = vtbench("check", "-b", "b.toml")
    assert code == 0, out
    write(_moved(changed, "psnr", -0.1), tmp_path / "results")
    assert vtbench("check", "-b", "b.toml")[0] == 3
    assert vtbench("check", "-b", "b.toml", "--update")[0] == 0
    text = path.read_text()
    assert "psnr = {abs = 0.2}  # dB" in text
    assert "# ours [of old]" in text
    assert vtbench("check", "-b", "b.toml")[0] == 0
    assert baselines.load(path)["tolerances"] == {
        "psnr": {"abs": 0.2},
        "fid": {"interval": True},
        "entropy": {"ignore": True},
    }


def test_missing_and_new_rows_are_reported(vtbench, baseline, tmp_path):
    rows = [r for r in baseline.rows if r.metric != "ssim"]
    rows.append(rows[0].model_copy(update={"metric": "dists"}))
    write(baseline.model_copy(update={"rows": rows}), tmp_path / "results")
    code, out, _ = vtbench("check", "-b", "b.toml")
    assert code == 3
    assert "1 missing" in out
    assert "1 new" in out


def test_a_baseline_of_another_suite_data_or_version_is_an_error(vtbench, baseline, tmp_path):
    path = tmp_path / "b.toml"
    good = path.read_text()
    for old, new, said in (
        ('suite = "demo"', 'suite = "tokbench"', "of the suite tokbench"),
        ("digest-of-demo", "other", "another version of the suite"),
        ("sha256:demo", "sha256:x", "other data"),
        ("version = 1", "version = 9", "version 9"),
        ("[tolerances]", "[tolerances]\npsnr = {absolute = 1}", "no field 'absolute'"),
        ("[tolerances]", "[tolerances", "is not a TOML file"),
    ):
        assert old in good
        path.write_text(good.replace(old, new, 1))
        code, _, err = vtbench("check", "-b", "b.toml")
        assert code == 1, err
        assert said in err
    code, _, err = vtbench("check", "-b", "absent.toml")
    assert code == 1
    assert "--update" in err


def test_ci_outputs_hold_hostile_names(vtbench, tmp_path, monkeypatch):
    name = '<img src=x onerror="a">|\n::error::x%]]>\x01'
    record = make(tmp_path / "results", name)
    assert vtbench("check", "-b", "b.toml", "--update")[0] == 0
    write(_moved(record, "psnr", -5), tmp_path / "results")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    code, out, _ = vtbench("check", "-b", "b.toml", "--junit", "junit.xml")
    assert code == 3
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    assert suite.get("failures") == "1"
    assert len(suite) == int(suite.get("tests")) == len(record.rows)
    summary = (tmp_path / "summary.md").read_text()
    assert "<img" not in summary
    assert "❌" in summary
    commands = [line for line in out.splitlines() if line.startswith("::")]
    assert len(commands) == 1
    assert "%25" in commands[0]


def test_a_json_baseline_works_too(vtbench, tmp_path):
    record = make(tmp_path / "results")
    record.rows[0].value = float("inf")
    write(record, tmp_path / "results")
    assert vtbench("check", "-b", "b.json", "--update")[0] == 0
    assert vtbench("check", "-b", "b.json")[0] == 0
    write(_moved(record, "ssim", -0.1), tmp_path / "results")
    assert vtbench("check", "-b", "b.json")[0] == 3


def test_a_start_that_several_ids_share_is_said(vtbench, tmp_path):
    for name in ("abcd11111111", "abcd22222222"):
        record = make(None, name).model_copy(update={"run_id": name})
        write(record, tmp_path / "results")
    for words in (("results", "show", "abcd"), ("results", "delete", "abcd", "--yes")):
        code, _, err = vtbench(*words)
        assert (code, err.count("\n")) == (2, 1)
        assert "'abcd' begins 2 results: abcd11111111, abcd22222222" in err
    assert vtbench("results", "show", "abcd1")[0] == 0


def test_a_model_that_is_not_measured_yet_is_told_from_one_that_nobody_knows(vtbench, tmp_path):
    make(tmp_path / "results", "tiny")
    code, _, err = vtbench("reproduce", "--model", "rar-b")
    assert code == 1 and "nothing of rar-b is measured" in err and "vtbench generate --model rar-b" in err
    code, _, err = vtbench("reproduce", "--model", "tinny")
    assert code == 2 and "Did you mean tiny" in err


def test_tables_fit_eighty_columns_and_lose_nothing(vtbench, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    a = make(tmp_path / "results", "tiny", tokens=(64, 256, 1600))
    b = make(tmp_path / "results", "codec-of-a-long-name", params={"quality": 30}, seed=1)
    for words in (("results", "show", a.run_id), ("compare", a.run_id, b.run_id)):
        code, out, _ = vtbench(*words)
        table = [
            line for line in out.splitlines() if not line.startswith(("under ", "paired ", "not comparable", "  "))
        ]
        assert code == 0 and "…" not in out
        assert max(map(len, (line for line in table if "] " in line or "─" in line))) <= 80
    _, out, _ = vtbench("results", "show", a.run_id)
    assert all(f"{n} tokens" in out for n in (64, 256, 1600))
    for row in a.rows:
        if row.recommended and row.ci_low is not None and "=" not in row.slice:
            places = digits_of(row.ci_low, row.ci_high)
            assert f"[{row.ci_low:.{places}f}, {row.ci_high:.{places}f}]" in out


def test_lists_name_every_entry_whole_at_eighty_columns(vtbench, monkeypatch):
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: True))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # no styles
    for words, names in (("suites", suite_names()), ("models", [c.name for c in cards()]), ("metrics", metrics())):
        code, out, _ = vtbench(words, "list")
        listed = {line.split(" ")[0] for line in out.splitlines()}
        assert code == 0 and not set(names) - listed
        assert max(map(len, out.splitlines())) <= 80
