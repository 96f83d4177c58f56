"""Watching a training run: checkpoints by step, each once, none half-written; curves with the controls; trackers."""

from __future__ import annotations

import contextlib
import os
import sys
import types

import numpy as np
import pytest
from PIL import Image
from records_for_tests import make

from vtbench import logs, watching
from vtbench.errors import MissingPackage, UnknownName, UsageError
from vtbench.result import Result


def touch(path, size=4, age=100.0, now=1e9):
    path.write_bytes(b"x" * size)
    os.utime(path, (now - age, now - age))


def test_steps_are_the_last_number_of_the_name(tmp_path):
    names = {"step-25000.pt": 25000, "model2_0001000.safetensors": 1000, "last.pt": None, "ckpt_e3_s42.pt": 42}
    assert {n: watching.step_of(tmp_path / n) for n in names} == names


def test_checkpoints_come_in_order_each_once_and_again_when_written_over(tmp_path):
    for name in ("s-10.pt", "s-9.pt", "s-100.pt"):
        touch(tmp_path / name)
    touch(tmp_path / "s-200.pt", age=1.0)  # still being written
    touch(tmp_path / "s-300.pt", size=0)
    seen, rounds = [], iter(range(4))

    def sleep(_):
        number = next(rounds)
        if number == 0:
            touch(tmp_path / "s-9.pt", size=5, age=50.0)
        if number == 1:
            touch(tmp_path / "s-200.pt", age=60.0)
        if number == 2:
            raise KeyboardInterrupt

    found = watching.new_checkpoints(str(tmp_path / "*.pt"), settle=10, sleep=sleep, now=lambda: 1e9)
    with contextlib.suppress(KeyboardInterrupt):
        for checkpoint in found:
            seen.append(checkpoint.step)
    assert seen == [9, 10, 100, 9, 200]


def test_once_takes_what_is_there_and_stops(tmp_path):
    touch(tmp_path / "a1.pt", age=0)
    assert [c.step for c in watching.new_checkpoints(str(tmp_path / "*"), once=True)] == [1]
    assert list(watching.new_checkpoints(str(tmp_path / "none*"), once=True)) == []


def test_curves_join_steps_and_draw_controls_across():
    records = [
        make(None, "mine", quality=q, seed=q).model_copy(update={"options": {"step": 1000 * q}}) for q in (2, 1, 3)
    ]
    control = make(None, "jpeg", tokens=(None,), seed=9)
    plots = watching.curves(records, [control])
    psnr = next(p for p in plots if "psnr" in p)
    assert psnr.count("<circle") == 3
    assert psnr.count("dashed") == 1
    xs = [float(part.split('"')[0]) for part in psnr.split('cx="')[1:]]
    assert xs == sorted(xs)
    assert watching.curves([make(None, "no step")]) == []
    assert "<script" not in watching.page(records, [control], "<script>")


def test_numbers_reach_the_trackers(monkeypatch):
    said = []
    fake = types.ModuleType("wandb")
    fake.run = object()
    fake.define_metric = lambda *a, **k: None
    fake.log = said.append
    monkeypatch.setitem(sys.modules, "wandb", fake)
    result = Result([make()])
    logs.log(result, "wandb", step=7)
    assert said == [{f"vtbench/{k}": v for k, v in result.flat().items()} | {"vtbench/step": 7}]
    rows = []
    logs.log(result, lambda numbers, step: rows.append((numbers, step)), step=3, prefix="val/")
    assert rows == [(result.flat("val/"), 3)]


def test_ranks_without_a_result_open_no_tracker(monkeypatch):
    monkeypatch.setattr(logs, "open_sink", lambda spec: pytest.fail("a tracker was opened"))
    logs.log(Result([]), "wandb", step=1)


def test_an_absent_or_unknown_tracker_has_a_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(MissingPackage, match=r"pip install 'vtbench\[log\]'"):
        logs.open_sink("trackio")
    with pytest.raises(UnknownName, match="wandb"):
        logs.open_sink("wandbb")
    with pytest.raises(UsageError, match="nothing after the colon"):
        logs.open_sink("tensorboard:")


MODEL = """
import torch
from toys import Patches

def build(weights=None):
    levels = int(torch.load(weights, weights_only=True)["levels"])
    return Patches(levels=levels, revision=f"toy-{levels}")
"""


def test_watch_measures_every_checkpoint(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    from vtbench.cli import main

    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(tmp_path / "data" / f"{i}.png")
    for step, levels in ((10, 2), (20, 64)):
        torch.save({"levels": torch.tensor(levels)}, tmp_path / f"step-{step}.pt")
    (tmp_path / "step-30.pt").write_bytes(b"not a checkpoint")
    (tmp_path / "model.py").write_text(MODEL)
    suite = 'name = "s"\nversion = 1\ntask = "reconstruct"\nresolutions = [32]\ncontrols = ["resize"]\n'
    (tmp_path / "s.toml").write_text(suite + '[[metrics]]\nname = "psnr"\nprotocols = ["vtbench"]\n')
    words = ["watch", "step-*.pt", "--model", "model.py:build", "--suite", "s.toml", "--data", "data", "--once"]
    monkeypatch.setattr("sys.argv", ["vtbench", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    page = (tmp_path / "watch.html").read_text()
    assert page.count("<circle") == 2
    assert "dashed" in page
    said = capsys.readouterr().err
    assert "step-30.pt" in said
    from vtbench.records import read_all

    records, problems = read_all(tmp_path / "results")
    assert problems == []
    psnr = {r.options["step"]: r.rows[0].value for r in records if "step" in r.options}
    assert sorted(psnr) == [10, 20]
    assert psnr[20] > psnr[10]


PAINTER = """
import torch
from toys import Blots

def build(weights):
    return Blots(revision=f"toy-{float(torch.load(weights)['grey'])}")
"""


def test_watch_measures_generators_too(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from vtbench.cli import main
    from vtbench.records import read_all

    monkeypatch.chdir(tmp_path)
    for step in (10, 20):
        torch.save({"grey": torch.tensor(step / 100)}, tmp_path / f"step-{step}.pt")
    (tmp_path / "model.py").write_text(PAINTER)
    suite = 'name = "s"\nversion = 1\ntask = "generate"\nresolutions = [32]\n[data]\nreader = "labels"\nclasses = 4\nimages = 8\n'
    suite += 'needs_reference = false\n[[metrics]]\nname = "codebook_usage"\nprotocols = ["tokens"]\n'
    (tmp_path / "s.toml").write_text(suite)
    words = ["watch", "step-*.pt", "--model", "model.py:build", "--suite", "s.toml", "--once", "--keep-images", "all"]
    monkeypatch.setattr("sys.argv", ["vtbench", *words, "--device", "cpu"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    records, _ = read_all(tmp_path / "results")
    assert sorted(r.options["step"] for r in records) == [10, 20]
    assert (tmp_path / "watch.html").read_text().count("<circle") == 2
    assert len(list((tmp_path / "results/images").rglob("generated/*.png"))) == 16
