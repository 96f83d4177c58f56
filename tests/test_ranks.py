"""Two gloo ranks give the rows of one process, bit for bit, and call a sharded model equally often."""

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
import dataclasses, importlib.util, os, pathlib
import torch.distributed as dist
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
build = toys.build

class Sharded(toys.Patches):
    "As FSDP: every call is a meeting of all ranks, and hangs when one of them does not come."
    def __init__(self):
        super().__init__()
        self.name, self.revision = "sharded", str(os.getpid())  # a rank cannot tell the whole's weights: the first rank's word counts
        self.capabilities = dataclasses.replace(self.capabilities, sharded=True)
        self.met = 0

    def meet(self, half):
        if dist.is_initialized():
            halves = [None] * dist.get_world_size()
            dist.all_gather_object(halves, half)
            assert len(set(halves)) == 1, halves
            self.met += 1
            pathlib.Path({folder!r}, f"met-{{dist.get_rank()}}").write_text(str(self.met))

    def encode(self, images, **more):
        self.meet("encode")
        return super().encode(images, **more)

    def decode(self, tokens, **more):
        self.meet("decode")
        return super().decode(tokens, **more)

def build_sharded():
    return Sharded()
"""


def test_two_ranks_equal_one_process(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "ranks.toml").write_text(SUITE)
    model = tmp_path / "model.py"
    model.write_text(MODEL.format(toys=str(Path(__file__).with_name("toys.py")), folder=str(tmp_path)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(launcher: list[str], out: str) -> list[dict[str, object]]:
        command = [
            *launcher, "-m", "vtbench", "reconstruct", "--model", f"{model}:build", "--model", f"{model}:build_sharded", "--suite", str(tmp_path / "ranks.toml"),
            "--data", str(photos), "--out", str(tmp_path / out), "--device", "cpu", "--batch-size", "2", "--json",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        rows: list[dict[str, object]] = json.loads(done.stdout)
        return rows

    (photos / "image_09.png").unlink()  # nine images in chunks of two: the ranks get three and two
    one = run([sys.executable], "one")
    two = run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], "two")
    own = ("revision", "run_id")  # of the sharded model, which calls itself by its process
    assert [{k: v for k, v in row.items() if k not in own} for row in two] == [
        {k: v for k, v in row.items() if k not in own} for row in one
    ]
    assert [row for row in two if row["model"] == "patches"] == [row for row in one if row["model"] == "patches"]
    met = [int((tmp_path / f"met-{rank}").read_text()) for rank in (0, 1)]
    assert met[0] == met[1] == 6, "every rank meets for three encodes and three decodes"
