"""Whatever happens to a run, the same command ends with identical rows or says exactly why not; nothing complete is lost or counted twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import forks
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, signals and limits of Linux")

MODEL = """
import importlib.util, os, time
spec = importlib.util.spec_from_file_location("toys", {toys!r})
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)

class Slow(toys.Patches):
    def encode(self, images, *, condition=None, **more):
        time.sleep({pause})
        handle = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, "".join(c.id + "\\n" for c in condition).encode())
        os.close(handle)
        return super().encode(images, condition=condition, **more)

def build():
    return Slow()
"""
SUITE = """
name = "faults"
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


class Bed:
    """A folder with a model that writes down what it encodes, a suite, ten photographs, and what an undisturbed run gives."""

    def __init__(self, folder: Path, photos: Path) -> None:
        self.folder, self.photos, self.log = folder, photos, folder / "log"
        toys = str(Path(__file__).with_name("toys.py"))
        (folder / "slow.py").write_text(MODEL.format(toys=toys, pause=0.02, log=str(self.log)))
        (folder / "suite.toml").write_text(SUITE)
        done = forks.run(self.command("clean"))
        assert done.code == 0, done.err
        self.rows = self.of(done)
        self.encoded()

    def command(self, out: str, *more: str) -> list[str]:
        return [
            "reconstruct", "--model", f"{self.folder / 'slow.py'}:build", "--suite", str(self.folder / "suite.toml"), "--data", str(self.photos),
            "--out", str(self.folder / out), "--batch-size", "2", "--device", "cpu", "--json", *more,
        ]  # fmt: skip

    def of(self, done: forks.Done) -> list[dict[str, Any]]:
        """The rows that a run printed."""
        return [row for row in json.loads(done.out) if row["model"] != "resize"]

    def encoded(self) -> list[str]:
        """The ids that were encoded since the last look."""
        found = self.log.read_text().split() if self.log.is_file() else []
        self.log.unlink(missing_ok=True)
        return found

    def ends_alike(self, out: str, *more: str) -> list[str]:
        """The same command ends with the rows of an undisturbed run; what it encoded on the way."""
        before = self.encoded()
        done = forks.run(self.command(out, *more))
        assert done.code == 0, done.err
        assert self.of(done) == self.rows
        assert len(list((self.folder / out / "records").glob("*.json"))) == len(
            list((self.folder / "clean" / "records").glob("*.json"))
        )
        table = (self.folder / out / "table.csv").read_text()
        assert table == (self.folder / "clean" / "table.csv").read_text()
        return before + self.encoded()


@pytest.fixture
def bed(tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Bed:
    monkeypatch.delenv("VTBENCH_STORE", raising=False)
    return Bed(tmp_path, photos)


def one_line(done: forks.Done) -> str:
    """What a failed run said: one line, no traceback."""
    assert "Traceback" not in done.err, done.err
    (line,) = [text for text in done.err.splitlines() if text.startswith("vtbench:")]
    return line


# ------------------------------------------------------------------------------------------------ killed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_at_random_moments(bed: Bed, number: signal.Signals) -> None:
    """SIGKILL twenty times, the others six times each, at moments drawn over a run's length."""
    draw = random.Random(int(number))
    start = time.monotonic()
    forks.run(bed.command("measured"))
    length = time.monotonic() - start
    bed.encoded()
    stops, out, left = 0, 0, 20 if number == signal.SIGKILL else 6
    while left:
        running = forks.Run(bed.command(f"out{out}"))
        time.sleep(draw.uniform(0, length))
        running.kill(number)
        done = running.end()
        left -= 1
        if done.code != 0:
            stops += 1
            # one that comes before the command has begun ends it as the system does
            assert done.code == 130 or (done.code == -number and (number == signal.SIGKILL or not done.err)), done
            assert "Traceback" not in done.err
        if done.code == 0 or left == 0:
            encoded = bed.ends_alike(f"out{out}")
            assert set(encoded) == {f"image_{i:02d}" for i in range(10)}
            # a chunk that was complete is never measured again: at most the one at hand, once a stop
            assert len(encoded) <= 10 + 2 * stops
            stops, out = 0, out + 1


def test_a_real_model_killed(tmp_path: Path, photos: Path) -> None:
    def command(out: str) -> list[str]:
        return ["reconstruct", "--model", "tiny", "--tokens", "4,16", "--suite", str(suite), "--data", str(photos), "--resolution", "64", "--limit", "6",
                "--out", str(tmp_path / out), "--batch-size", "2", "--device", "cpu", "--json"]  # fmt: skip

    suite = tmp_path / "suite.toml"
    suite.write_text(SUITE)
    start = time.monotonic()
    clean = forks.run(command("clean"))
    assert clean.code == 0, clean.err
    length = time.monotonic() - start
    draw = random.Random(0)
    for _ in range(4):
        running = forks.Run(command("out"))
        time.sleep(draw.uniform(0.3, 0.9) * length)
        running.kill()
        running.end()
    done = forks.run(command("out"))
    assert done.code == 0, done.err
    assert json.loads(done.out) == json.loads(clean.out)


# ------------------------------------------------------------------------------------------------ disks


@pytest.mark.parametrize("most", [0, 300, 1500, 2500])
def test_files_that_cannot_grow(bed: Bed, most: int) -> None:
    """A quota: no file may be longer than so many bytes."""
    done = forks.run(bed.command("out"), limits={"RLIMIT_FSIZE": most})
    assert done.code == 1
    assert "too large" in one_line(done) and str(bed.folder / "out") in one_line(done)
    assert not list((bed.folder / "out").rglob("*.tmp"))
    bed.ends_alike("out")


def test_a_disk_full_at_every_write(bed: Bed) -> None:
    """From the n-th file on there is no space: chunks, records, samples, the table."""
    failures = 0
    for write in range(1, 60):
        done = forks.run(bed.command(f"out{write}"), before=forks.no_space_from, told=[write])
        if done.code == 0:
            break
        failures += 1
        assert done.code == 1 and "No space left" in one_line(done), done.err
        if write % 5 == 0:
            bed.ends_alike(f"out{write}")
    assert failures > 12 and done.code == 0


def test_output_that_cannot_be_written(bed: Bed) -> None:
    (bed.folder / "file").write_text("in the way")
    places = ["file", "file/below"]
    if os.geteuid():
        (bed.folder / "closed").mkdir(mode=0o555)
        places.append("closed")
    for out in [*places, "/proc/nowhere"]:
        done = forks.run(bed.command(out))
        assert done.code == 1, done.err
        assert Path(out).name in one_line(done), done.err
    assert not bed.encoded(), "it was known before anything was measured"


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_chunk_is_made_anew_and_said(bed: Bed, harm: str) -> None:
    bed.ends_alike("out")
    path = max((bed.folder / "out" / "measurements").rglob("*.vtm"), key=lambda p: (p.stat().st_size, p.name))
    raw = bytearray(path.read_bytes())
    raw[-7] ^= 1
    path.write_bytes(bytes(raw) if harm == "flip" else b"" if harm == "empty" else bytes(raw[: len(raw) // 2]))
    done = forks.run(bed.command("out"))
    assert done.code == 0 and bed.of(done) == bed.rows
    assert "measured anew" in done.err and path.name in done.err
    assert len(bed.encoded()) in (0, 2), "more than the damaged chunk was measured"


@pytest.mark.parametrize("what", ["records", "samples", "table.csv", "digests-v1.jsonl"])
def test_damage_beside_the_measurements(bed: Bed, what: str) -> None:
    bed.ends_alike("out")
    found = bed.folder / "out" / what
    for path in found.iterdir() if found.is_dir() else [found] if found.exists() else (bed.folder / "out").rglob(what):
        path.write_bytes(path.read_bytes()[:40])
    assert bed.ends_alike("out") == []


def test_a_damaged_record_of_another_run_is_said(bed: Bed) -> None:
    forks.run(bed.command("out"))
    (bed.folder / "out" / "records" / "c0ffee000000.json").write_text("{")
    done = forks.run(bed.command("out"))
    assert done.code == 0 and "c0ffee000000" in done.err


# ------------------------------------------------------------------------------------------------ the rest


def test_two_identical_runs_at_once(bed: Bed) -> None:
    runs = [forks.Run(bed.command("out")) for _ in range(2)]
    done = [running.end() for running in runs]
    assert [d.code for d in done] == [0, 0], done
    assert all(bed.of(d) == bed.rows for d in done)
    assert sum("waiting" in d.err for d in done) <= 1
    assert sorted(bed.encoded()) == [f"image_{i:02d}" for i in range(10)]
    bed.ends_alike("out")


@pytest.mark.parametrize("looks", [1, 2])
def test_a_reader_that_hangs(bed: Bed, looks: int) -> None:
    """While it is hashed, and while it is measured."""
    start = time.monotonic()
    done = forks.run(
        bed.command("out", "--read-timeout", "0.5"), before=forks.reader_that_hangs, told=["image_03.png", looks]
    )
    assert time.monotonic() - start < 30
    assert done.code == 0, done.err
    assert "image_03" in done.err and "not read within 0.5 s" in done.err
    assert all(row["status"] == "partial" and row["n"] == 9 for row in bed.of(done) if row["metric"] == "psnr")
    bed.ends_alike("out2" if looks == 1 else "out")


def test_a_disk_that_fails_for_a_while(bed: Bed) -> None:
    done = forks.run(bed.command("out"), before=forks.disk_that_fails, told=["image_05.png"])
    assert done.code == 0 and "image_05" in done.err
    assert {row["status"] for row in bed.of(done)} == {"partial"}
    bed.ends_alike("out")


def test_out_of_memory(bed: Bed) -> None:
    done = forks.run(bed.command("out", "--resolution", "6000"), before=forks.little_memory, told=[200 << 20])
    assert done.code == 1
    assert "memory" in one_line(done).lower()
    bed.ends_alike("out")


@pytest.mark.parametrize("seconds", [86400.0, -86400.0 * 365])
def test_a_clock_that_jumps(bed: Bed, seconds: float) -> None:
    done = forks.run(bed.command("out"), before=forks.clock_that_jumps, told=[seconds])
    assert done.code == 0, done.err
    assert bed.of(done) == bed.rows
    (record,) = [p for p in (bed.folder / "out" / "records").glob("*.json") if '"patches"' in p.read_text()]
    assert all(spent >= 0 for spent in json.loads(record.read_text())["stages"].values())
    bed.ends_alike("out")


def test_leftovers_of_the_killed_are_swept(bed: Bed) -> None:
    bed.ends_alike("out")
    station = next((bed.folder / "out" / "measurements").rglob("*.vtm")).parent
    old, young = station / ".a.vtm.x.tmp", station / ".b.vtm.y.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    assert bed.ends_alike("out") == []
    assert not old.exists() and young.exists()
