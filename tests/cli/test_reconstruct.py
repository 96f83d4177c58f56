"""`vtbench reconstruct` as a person meets it: exit codes, one-line errors, JSON on stdout."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from vtbench import cli

SUITE = """
name = "small"
version = 1
task = "reconstruct"
resolutions = [32]
controls = ["jpeg:quality=30"]
[[metrics]]
name = "psnr"
protocols = ["vtbench"]
"""


@pytest.fixture
def vtbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run a command line in this process: (exit code, stdout, stderr)."""
    (tmp_path / "small.toml").write_text(SUITE)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vtbench", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        code = stopped.value.code
        return int(code or 0), out, err

    return run


def _measure(vtbench, *more: str):
    return vtbench("reconstruct", "--suite", "small.toml", "--data", "photos", "--device", "cpu", *more)


def test_the_main_job(vtbench, photos: Path) -> None:
    code, out, err = _measure(vtbench, "--model", "resize", "--model", "jpeg:quality=1")
    assert code == 0, err
    assert "psnr" in out and "jpeg:quality=30" in out and "inf" in out
    assert "results/table.csv" in err and "took longest" in err
    assert Path("results/table.csv").is_file()


def test_json_owns_stdout(vtbench, photos: Path) -> None:
    code, out, _ = _measure(vtbench, "--model", "resize", "--no-baselines", "--json")
    assert code == 0
    (row,) = json.loads(out)
    assert (row["model"], row["metric"], row["value"], row["status"]) == ("resize", "psnr", "inf", "ok")


def test_a_dry_run_measures_nothing(vtbench, photos: Path) -> None:
    code, out, _ = _measure(vtbench, "--model", "jpeg", "--dry-run")
    assert code == 0
    assert "encoder forwards" in out and "MB" in out
    assert not Path("results/records").exists()


def test_keep_images_and_a_figure(vtbench, photos: Path) -> None:
    code, _, err = _measure(vtbench, "--model", "jpeg:quality=5", "--grid", "figure.png", "--no-baselines")
    assert code == 0, err
    figure = Image.open("figure.png")
    assert figure.width > 256 * 3 and figure.height > 256
    assert len(list(Path("results/images").rglob("reconstruction/*.png"))) == 10


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "tiney"], 2, "Did you mean tiny"),
        (["--model", "flextok"], 1, "models setup flextok"),
        (["--model", "jpeg:quality=high"], 2, "quality"),
        (["--model", "jpeg:qualty=30"], 2, "quality"),
        (["--model", "resize", "--suite", "demoo"], 2, "Did you mean demo"),
        (["--model", "resize", "--protocol", "cleann"], 2, "Did you mean clean"),
        (["--model", "resize", "--data", "nowhere"], 1, "nowhere"),
        (["--model", "resize", "--device", "cuda:7"], 2, "cpu"),
        (["--model", "resize", "--resolution", "big"], 2, "--resolution"),
        (["--model", "resize", "--limit", "0"], 2, "at least 1"),
        (["--model", "resize", "--out", "in_the_way"], 1, "in_the_way"),
        (["--model", "nofile.py:build"], 2, "nofile.py"),
        (["--model", "broken.py:build"], 2, "ZeroDivisionError: division by zero (broken.py, line 2)"),
        (["--model", "broken.py:other"], 2, "broken.py:other raised KeyError"),
        (["--model", "resize", "--grid", "figure.xyz"], 2, ".png"),
        (["--model", "resize", "--resolution", "99999"], 2, "10000"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(
    vtbench, photos: Path, arguments: list[str], code: int, message: str
) -> None:
    Path("in_the_way").write_text("a file")
    Path("broken.py").write_text("def build():\n    return 1 / 0\n\ndef other():\n    return {}['a']\n")
    base = ["reconstruct", "--device", "cpu"]
    if "--suite" not in arguments:
        base += ["--suite", "small.toml"]
    if "--data" not in arguments:
        base += ["--data", "photos"]
    got, _, err = vtbench(*base, *arguments)
    assert (got, "Traceback" in err) == (code, False), err
    lines = [line for line in err.splitlines() if line.startswith("vtbench:")]
    assert len(lines) == 1 and message in lines[0]


def test_an_empty_folder(vtbench) -> None:
    Path("photos").mkdir()
    code, _, err = _measure(vtbench, "--model", "resize")
    assert code == 1 and "no images" in err


def test_a_full_disk_keeps_what_was_measured(vtbench, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vtbench.engine.store as store

    real, calls = store.replace_file, []

    def full(path: Path, data: bytes, **how: bool) -> None:
        calls.append(path)
        if len(calls) > 3:
            raise OSError(28, "No space left on device", str(path))
        real(path, data, **how)

    with monkeypatch.context() as patch:
        patch.setattr(store, "replace_file", full)
        code, _, err = _measure(vtbench, "--model", "resize")
    assert code == 1
    assert "No space left" in err and "kept" in err
    assert len(list(Path("results/measurements").rglob("*"))) > 2
    assert _measure(vtbench, "--model", "resize")[0] == 0
