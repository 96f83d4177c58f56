"""`vtbench generate` as a person meets it: rows, kept images, one-line errors."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench import cli

SUITE = """
name = "small-generation"
version = 1
task = "generate"
chunk = 4
resolutions = [32]
[data]
reader = "READER"
classes = 4
images = 8
exact = true
needs_reference = false
[[metrics]]
name = "params_generator"
protocols = ["generation-costs"]
[[metrics]]
name = "sampling_steps"
protocols = ["generation-costs"]
[[metrics]]
name = "tokens_per_second"
protocols = ["generation-costs"]
"""


@pytest.fixture
def vtbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    """Run `vtbench generate` in this process: (exit code, stdout, stderr)."""
    (tmp_path / "labels.toml").write_text(SUITE.replace("READER", "labels"))
    (tmp_path / "prompts.toml").write_text(SUITE.replace("READER", "prompts"))
    (tmp_path / "toys.py").write_text((Path(__file__).parent.parent / "toys.py").read_text())
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["vtbench", "generate", "--device", "cpu", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


def test_the_main_job(vtbench) -> None:
    code, out, err = vtbench(
        "--model", "toys.py:build_blots", "--suite", "labels.toml", "--tokens", "2,4", "--keep-images", "all", "--json"
    )
    assert code == 0, err
    cells = {(r["metric"], r["tokens"]): r for r in json.loads(out)}
    assert cells["tokens_per_second", 2]["value"] > 0 and cells["tokens_per_second", 4]["status"] == "ok"
    assert cells["params_generator", 4]["status"] == "skipped"
    assert len(list(Path("results/images").rglob("generated/*.png"))) == 16


def test_a_dry_run_makes_nothing(vtbench) -> None:
    code, out, _ = vtbench("--model", "toys.py:build_blots", "--suite", "labels.toml", "--dry-run")
    assert code == 0 and "images generated" in out and not Path("results/records").exists()


def test_a_dry_run_counts_what_is_made_apart_from_the_reference(vtbench, tmp_path) -> None:
    (tmp_path / "real").mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / "real" / f"{i}.png")
    with open("labels.toml", "a") as file:
        file.write(
            '[[metrics]]\nname = "mse"\nprotocols = ["vtbench"]\n[[metrics]]\nname = "codebook_usage"\nprotocols = ["tokens"]\n'
        )
    code, out, err = vtbench("--model", "toys.py:build_blots", "--suite", "labels.toml", "-r", "real", "--dry-run")
    assert code == 0, err
    assert "8 images against folder:real (n = 3)" in " ".join(out.split()) and "1 x 8" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--model", "toys.py:build_blots", "--suite", "prompts.toml"], 2, "needs --data"),
        (
            ["--model", "toys.py:build_blots", "--suite", "prompts.toml", "--data", "nowhere.txt"],
            1,
            "no file of prompts",
        ),
        (["--model", "toys.py:build_blots", "--suite", "prompts.toml", "--data", "bad.jsonl"], 1, "line 1 is not JSON"),
        (["--model", "toys.py:build_blots", "--suite", "labels.toml", "--labels", "sorted"], 2, "balanced"),
        (["--model", "tiny", "--suite", "labels.toml"], 2, "vtbench reconstruct"),
        (["--model", "images:few", "--suite", "labels.toml"], 2, "--limit 2"),
        (["--model", "images:nowhere", "--suite", "labels.toml"], 1, "nothing at nowhere"),
        (["--model", "images:few", "--suite", "labels.toml", "--seeds", "2"], 2, "draws nothing"),
        (["--model", "rar-b", "--suite", "labels.toml"], 1, "weights fetch rar-b"),
        pytest.param(
            ["--model", "diffusers:few", "--suite", "prompts.toml", "--data", "p.txt"],
            1,
            "no pipeline of diffusers",
            marks=pytest.mark.skipif(find_spec("diffusers") is None, reason="needs diffusers, of [zoo]"),
        ),
        (["--model", "toys.py:build", "--suite", "labels.toml"], 2, "is a tokenizer"),
        (["--model", "toys.py:build_blots", "--suite", "generation-imagenet-256"], 2, "VIRTUAL_imagenet256_labeled"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(
    vtbench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    Path("bad.jsonl").write_text("{\n")
    Path("p.txt").write_text("a cat\n")
    Path("few").mkdir()
    for i in range(2):
        Image.fromarray(np.full((32, 32, 3), i, np.uint8)).save(f"few/{i}.png")
    got, _, err = vtbench(*arguments)
    assert (got, "Traceback" in err) == (code, False), err
    lines = [line for line in err.splitlines() if line.startswith("vtbench:")]
    assert len(lines) == 1 and message in lines[0], lines
