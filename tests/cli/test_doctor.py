"""`vtbench doctor`: complete, on one screen, and honest about the demo."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vtbench import cli
from vtbench.cli import doctor

FOUND: dict[str, Any] = {
    "vtbench": "0.1.0", "python": "3.11.7", "core": {"torch": "2.14.1", "numpy": "2.4.6"}, "devices": ["NVIDIA H100", "cpu (2 cores, 1 threads)"],
    "driver": "550.54", "cuda": "13.0", "packages": {**dict.fromkeys(doctor.OPTIONAL, "1.0"), "ray": ""},
    "caches": {"weights /w": 5_000_000, "hub /h": None, "results results": 1_500_000_000, "measurements results/measurements": 7},
    "free": {"results": 60_000_000_000}, "environments": {},
    "suites": {
        "demo": [], "reconstruction-256": [], "reconstruction-512": [], "tokbench": ["no weights of PARSeq (a or b) on the search path. Put it there"],
        "tokbench-2": ["no weights of PARSeq (a or b) on the search path. Put it there", "x needs the package 'y'. pip install y"],
    },
    "models": {"tiny": "", "jpeg": "", **{f"model-{i}": "no weights here (a.pth)" for i in range(90)}, "other": "needs the package z: pip install z"},
}  # fmt: skip


@pytest.fixture
def vtbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run `vtbench doctor` in a terminal of some width: (exit code, stdout)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, columns: int = 80) -> tuple[int, str]:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["vtbench", "doctor", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    return run


@pytest.mark.parametrize("columns", [80, 120])
def test_one_screen(vtbench, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setattr(doctor, "examine", lambda out: FOUND)
    code, out = vtbench(columns=columns)
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 23 and max(map(len, lines)) <= columns
    for words in ("H100", "driver 550.54", "reconstruction-{256,512}", "tokbench without weights of PARSeq", "90 without weights", "pip install 'vtbench[ray]'",
                  "1.5 GB", "absent: hub /h", "60.0 GB at results"):  # fmt: skip
        assert words in out, out


def test_full_gives_every_reason(vtbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda out: FOUND)
    _, out = vtbench("--full", columns=300)
    assert "Put it there" in out and "model-77: no weights here (a.pth)" in out and "pip install z" in out


def test_exit_1_when_the_demo_could_not_run(vtbench, monkeypatch: pytest.MonkeyPatch) -> None:
    suites = {**FOUND["suites"], "demo": ["t_acc needs the package 'rapidocr'. pip install 'vtbench[demo]'"]}
    monkeypatch.setattr(doctor, "examine", lambda out: {**FOUND, "suites": suites})
    code, out = vtbench()
    assert code == 1 and "demo without t_acc needs the package 'rapidocr'" in out and "cannot run" in out


def test_what_is_here(vtbench) -> None:
    """The real thing, as data."""
    code, out = vtbench("--json")
    found = json.loads(out)
    assert code == bool(found["suites"]["demo"])
    assert found["models"]["resize"] == "" and len(found["models"]) > 90
    assert set(found["packages"]) == set(doctor.OPTIONAL) and found["core"]["numpy"]
    assert all(size is None or size >= 0 for size in found["caches"].values()) and min(found["free"].values()) > 0
    assert set(FOUND) == set(found)
