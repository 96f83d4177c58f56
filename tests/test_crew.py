"""Chunks over several workers: handed out as they finish, retried elsewhere, and never worth another row than one process gives."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forks
import pytest
import toys
from PIL import Image

import vtbench
from vtbench.engine.crew import Crew, Event
from vtbench.errors import UsageError, VtbenchError
from vtbench.memory import full, poisoned
from vtbench.options import Options

# ------------------------------------------------------------------------------------------------ the scheduling alone


class Scripted:
    """Workers without processes. act(slot, task, attempt) says what comes of a task: `done`, `failed`, `final` or `lost`."""

    def __init__(self, act: Callable[[int, Any, int], str]) -> None:
        self.act = act
        self.events: deque[Event] = deque()
        self.given: list[tuple[int, Any]] = []
        self.started: list[int] = []

    def start(self, slot: int) -> None:
        self.started.append(slot)
        self.events.append(Event(slot, "ready"))

    def give(self, slot: int, task: Any, upcoming: Any) -> None:
        attempt = sum(t == task for _, t in self.given)
        self.given.append((slot, task))
        how = self.act(slot, task, attempt)
        if how == "done":
            self.events.append(Event(slot, "done", f"{task} by {slot}"))
        elif how == "lost":
            self.events.append(Event(slot, "lost", "was killed"))
        else:
            self.events.append(Event(slot, "failed", f"{task} broke", final=how == "final"))
            if how == "final":
                self.events.append(Event(slot, "lost", "ended"))

    def wait(self) -> Sequence[Event]:
        assert self.events, "the crew waits for nothing"
        return [self.events.popleft()]

    def name(self, slot: int) -> str:
        return f"worker {slot}"


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_every_task_is_done_once(slots: int) -> None:
    hands = Scripted(lambda slot, task, attempt: "done")
    out = Crew(hands, slots).do(list(range(7)))
    assert sorted(out.reports) == list(range(7)) and not out.lost
    assert sorted(task for _, task in hands.given) == list(range(7))


@pytest.mark.parametrize("how", ["lost", "failed"])
def test_a_lost_workers_task_is_tried_elsewhere(how: str) -> None:
    hands = Scripted(lambda slot, task, attempt: how if task == 3 and attempt == 0 else "done")
    out = Crew(hands, 2).do(list(range(6)))
    assert sorted(out.reports) == list(range(6)) and not out.lost
    first, second = [slot for slot, task in hands.given if task == 3]
    assert first != second
    assert hands.started.count(first) == (2 if how == "lost" else 1)


def test_a_lone_worker_is_started_anew_and_tries_again() -> None:
    hands = Scripted(lambda slot, task, attempt: "lost" if task == 1 and attempt < 2 else "done")
    out = Crew(hands, 1).do(list(range(3)))
    assert sorted(out.reports) == [0, 1, 2] and hands.started == [0, 0, 0]


@pytest.mark.parametrize("how", ["lost", "failed"])
def test_what_fails_three_times_is_set_aside_and_the_rest_is_done(how: str) -> None:
    said: list[str] = []
    hands = Scripted(lambda slot, task, attempt: how if task == 2 else "done")
    out = Crew(hands, 2, warn=said.append).do(list(range(6)))
    assert sorted(out.reports) == [0, 1, 3, 4, 5]
    assert "failed 3 times" in out.lost[2]
    assert sum(task == 2 for _, task in hands.given) == 3 and len(said) == 2


def test_an_illegal_access_is_not_tried_again() -> None:
    hands = Scripted(lambda slot, task, attempt: "final" if task == 2 else "done")
    out = Crew(hands, 2).do(list(range(6)))
    assert sum(task == 2 for _, task in hands.given) == 1 and sorted(out.lost) == [2]
    assert sorted(out.reports) == [0, 1, 3, 4, 5]


def test_when_nothing_succeeds_it_stops_early() -> None:
    hands = Scripted(lambda slot, task, attempt: "failed")
    with pytest.raises(VtbenchError, match="Nothing could be measured"):
        Crew(hands, 2).do(list(range(50)))
    assert len(hands.given) <= 20


def test_when_every_worker_dies_it_says_so() -> None:
    hands = Scripted(lambda slot, task, attempt: "lost")
    with pytest.raises(VtbenchError, match=r"no worker is left|Nothing could be measured"):
        Crew(hands, 2).do(list(range(50)))


def test_which_failures_are_worth_a_smaller_batch() -> None:
    import torch

    assert full(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert full(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not full(RuntimeError("CUDA error: an illegal memory access was encountered")) and not full(ValueError("x"))
    wrapped = VtbenchError("the model failed")
    wrapped.__cause__ = RuntimeError("CUDA error: an illegal memory access was encountered\nout of memory")
    assert poisoned(wrapped) and not full(wrapped)


# ------------------------------------------------------------------------------------------------ real processes

SUITE = """
name = "crew"
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
MODEL = """
import importlib.util, os, pathlib, signal
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)

class Deadly(toys.Patches):
    def encode(self, images, *, condition=(), **more):
        print("a model that talks on stdout")
        ids = [c.id for c in condition]
        if "image_04" in ids and not os.path.exists({once!r}):
            pathlib.Path({once!r}).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if {bad!r} in ids:
            raise RuntimeError("a bad day")
        return super().encode(images, condition=condition, **more)

def build():
    return Deadly()
"""


def _write(folder: Path, bad: str = "", once: str = "once") -> tuple[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "crew.toml").write_text(SUITE)
    script = MODEL.format(toys=toys.__file__, once=str(folder / once), bad=bad)
    (folder / "deadly.py").write_text(script)
    return f"{folder / 'deadly.py'}:build", str(folder / "crew.toml")


def test_a_killed_worker_changes_no_row(tmp_path: Path, photos: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (photos / "image_09.png").unlink()  # nine images in chunks of two: one chunk more than divides
    spec, suite = _write(tmp_path / "model")
    how: dict[str, Any] = {"data": str(photos), "batch_size": 2, "keep_images": "all"}
    two = vtbench.evaluate(spec, [suite], out=str(tmp_path / "two"), device="cpu,cpu", **how)
    assert (tmp_path / "model" / "once").exists()
    one = vtbench.evaluate(spec, [suite], out=str(tmp_path / "one"), device="cpu", **how)
    assert two.record.rows == one.record.rows and two.record.run_id == one.record.run_id
    by = two.record.environment.more["chunks_by_worker"]
    assert sum(by.values()) == 5 and set(by) <= {"worker 0 (cpu)", "worker 1 (cpu)"}
    assert {"load", "encode", "decode", "pixels"} <= set(two.record.stages)
    kept = [
        sorted(p.relative_to(tmp_path / o).as_posix() for p in (tmp_path / o).rglob("*.png")) for o in ("one", "two")
    ]
    assert kept[0] == kept[1] and len(kept[0]) == 18
    assert "talks" in capfd.readouterr().err
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.vtm")}
    again = vtbench.evaluate(spec, [suite], out=str(tmp_path / "two"), workers=3, device="cpu", **how)
    assert again.record.rows == one.record.rows and again.record.environment.more["chunks_measured"] == 0
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.vtm")}


def test_a_chunk_that_fails_three_times_is_reported_and_the_rest_completes(tmp_path: Path, photos: Path) -> None:
    spec, suite = _write(tmp_path / "model", bad="image_06")
    (tmp_path / "model" / "once").touch()
    how: dict[str, Any] = {"data": str(photos), "batch_size": 2, "out": str(tmp_path / "out")}
    result = vtbench.evaluate(spec, [suite], device="cpu", workers=2, **how)
    record = result.record
    assert [f.id for f in record.failures] == ["image_06", "image_07"] and record.status == "partial"
    assert all("failed 3 times" in f.reason and "a bad day" in f.reason for f in record.failures)
    assert result["psnr"].row.n == 8 and result["psnr"].row.status == "partial"
    _write(tmp_path / "model")  # mended: the same command fills the gap
    mended = vtbench.evaluate(spec, [suite], device="cpu", **how).record
    assert not mended.failures and mended.environment.more["chunks_measured"] == 1


def test_what_cannot_be_sent_is_said(tmp_path: Path, photos: Path) -> None:
    _, suite = _write(tmp_path / "model")
    with pytest.raises(UsageError, match="an object of this process"):
        vtbench.evaluate(toys.Patches(), [suite], data=str(photos), out=str(tmp_path), device="cpu,cpu")


def test_devices_are_told_apart() -> None:
    assert Options(device="cpu,cpu").slots() == ("cpu", "cpu")
    assert Options(device="cpu", workers=3).slots() == ("cpu",) * 3
    assert Options(device="cpu").slots() == ("cpu",)
    assert len(Options(device="all").slots()) >= 1
    for wrong in ("gpu", "cpu,what", ",", "cuda:99"):
        with pytest.raises(UsageError, match="--device"):
            Options(device=wrong).slots()
    with pytest.raises(UsageError, match="--workers 0"):
        Options(workers=0)
    assert Options(loaders=3).resolved_loaders() == 3
    assert 2 <= Options(device="cpu").resolved_loaders() <= max(8, os.cpu_count() or 1)


def test_images_that_are_scored_travel_to_workers(tmp_path: Path, photos: Path) -> None:
    _, suite = _write(tmp_path / "model")
    (tmp_path / "model" / "crew.toml").write_text(SUITE.partition('[[metrics]]\nname = "codebook')[0])
    fake = tmp_path / "fake"
    fake.mkdir()
    for path in photos.iterdir():
        Image.open(path).resize((32, 32)).save(fake / path.name)
        Image.open(path).transpose(Image.Transpose.ROTATE_180).resize((32, 32)).save(path)
    how: dict[str, Any] = {"device": "cpu", "batch_size": 2, "alarms": False}
    two = vtbench.score(str(fake), str(photos), suites=[suite], out=str(tmp_path / "two"), workers=2, **how)
    one = vtbench.score(str(fake), str(photos), suites=[suite], out=str(tmp_path / "one"), **how)
    assert two.record.rows == one.record.rows and two["psnr"].row.n == 10


SLOW = """
import importlib.util, os, time
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)

class Slow(toys.Patches):
    def encode(self, images, **more):
        time.sleep({pause})
        with open({log!r}, "a") as log:
            log.write(str(os.getpid()) + "\\n")
        return super().encode(images, **more)

def build():
    return Slow()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_leaves_no_worker_behind_and_goes_on(
    tmp_path: Path, photos: Path, number: signal.Signals
) -> None:
    _, suite = _write(tmp_path / "model")
    log = tmp_path / "log"
    (tmp_path / "slow.py").write_text(SLOW.format(toys=toys.__file__, pause=0.3, log=str(log)))
    command = ["reconstruct", "--model", f"{tmp_path / 'slow.py'}:build", "--suite", suite, "--data", str(photos)]
    command += ["--batch-size", "2", "--device", "cpu", "--no-alarms", "--json", "--out", str(tmp_path / "out")]
    stopped = forks.Run([*command, "--workers", "2"])
    deadline = time.monotonic() + 120
    while (not log.is_file() or len(log.read_text().split()) < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.kill(number)
    done = stopped.end()
    assert done.code == (130 if number == signal.SIGTERM else -signal.SIGKILL) and not done.out, done.err
    workers = {int(pid) for pid in log.read_text().split()}
    while any(_alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in workers), "a worker outlived its run"
    before = len(log.read_text().split())
    again = forks.run(command)
    clean = forks.run([*command[:-1], str(tmp_path / "clean")])
    assert again.code == clean.code == 0 and again.out == clean.out
    resumed = len(log.read_text().split()) - before - 5  # the clean run's are five
    assert resumed <= 5 - before + 2, "a complete chunk was measured twice"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
