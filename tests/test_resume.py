"""Killed at any moment, the same command goes on and ends with bit-identical rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SLOW = """
import importlib.util, pathlib, time
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)

class Slow(toys.Patches):
    def encode(self, images, **more):
        time.sleep({pause})
        with open({log!r}, "a") as log:
            log.write("encoded\\n" * len(images))
        return super().encode(images, **more)

def build():
    return Slow()
"""
SUITE = """
name = "resume"
version = 1
task = "reconstruct"
chunk = 2
resolutions = [32]
[[metrics]]
name = "psnr"
protocols = ["vtbench"]
[[metrics]]
name = "codebook_perplexity"
protocols = ["vtbench"]
"""


def _command(folder: Path, photos: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "vtbench", "reconstruct", "--model", f"{folder / 'slow.py'}:build", "--suite", str(folder / "resume.toml"),
        "--data", str(photos), "--out", str(out), "--batch-size", "2", "--device", "cpu", "--json",
    ]  # fmt: skip


def _rows(text: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(text) if row["model"] != "resize"]


def _prepare(folder: Path, pause: float) -> Path:
    log = folder / "log"
    toys = str(Path(__file__).with_name("toys.py"))
    (folder / "slow.py").write_text(SLOW.format(toys=toys, pause=pause, log=str(log)))
    (folder / "resume.toml").write_text(SUITE)
    return log


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_and_ends_alike(tmp_path: Path, photos: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    log = _prepare(tmp_path, 0.15)
    clean = subprocess.run(
        _command(tmp_path, photos, tmp_path / "clean"), capture_output=True, text=True, env=environment, check=True
    )
    log.unlink()
    stopped = subprocess.Popen(
        _command(tmp_path, photos, tmp_path / "out"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    while not log.is_file() or log.read_text().count("encoded") < 6:
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(number)
    _, said = stopped.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert stopped.returncode == -signal.SIGKILL
    else:
        assert stopped.returncode == 130, said
        assert "goes on from there" in said and "Traceback" not in said
    before = log.read_text().count("encoded")
    assert before < 10
    again = subprocess.run(
        _command(tmp_path, photos, tmp_path / "out"), capture_output=True, text=True, env=environment, check=True
    )
    assert _rows(again.stdout) == _rows(clean.stdout)
    redone = log.read_text().count("encoded") - before
    assert redone <= 10 - before + 2, "a complete chunk was measured twice"
