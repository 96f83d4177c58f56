"""Two gloo ranks give the rows of one process, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SUITE = """
name = "ranks"
version = 1
task = "reconstruct"
chunk = 2
resolutions = [32]
[[metrics]]
name = "psnr"
protocols = ["vtbench"]
"""
MODEL = """
import importlib.util
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
build = toys.build
"""


def test_two_ranks_equal_one_process(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "ranks.toml").write_text(SUITE)
    (tmp_path / "model.py").write_text(MODEL.format(toys=str(Path(__file__).with_name("toys.py"))))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(launcher: list[str], out: str) -> list[dict[str, object]]:
        command = [
            *launcher, "-m", "vtbench", "reconstruct", "--model", f"{tmp_path / 'model.py'}:build", "--suite", str(tmp_path / "ranks.toml"),
            "--data", str(photos), "--out", str(tmp_path / out), "--device", "cpu", "--batch-size", "2", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows

    (photos / "image_09.png").unlink()  # nine images in chunks of two: the ranks get three and two
    one = run([sys.executable], "one")
    two = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], "two")
    assert two == one
