"""Scale on paper, checked by simulation: a million images and 64 workers' chunks through the real reader, planner, crew, store and reducer.

    python benchmarks/scale.py [--images 1200000] [--workers 64] [--dimensions 2048] [--suite reconstruction-256] [--out FOLDER] [--json FILE]

Only the networks are missing: measurements are random numbers of the real shapes (`--dimensions` of the feature network's), made by 64
workers that live in this one process, each with a store of its own on the shared folder. Everything else is what a run does: the data set
is listed and identified twice (with and without remembered digests), planned, cut, handed out, written, checked again, reduced to rows
with intervals, and recorded with its samples and table. Prints time, memory (`anonymous`: what cannot be paged out to a file), bytes and files of
every step. Needs VTBENCH_WEIGHTS for the digests of the feature networks, and free disk: about 17 KB an image at 2048 dimensions, and as much
again of pool3 while it is reduced.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtbench.api import Capabilities, Stream, Tokenizer
from vtbench.data import open as reading
from vtbench.data import open_dataset
from vtbench.data.sample import Entry, Listing
from vtbench.engine.chunks import Chunk
from vtbench.engine.crew import Crew, Event
from vtbench.engine.run import fill_chunk, fill_model, missing
from vtbench.engine.store import Measured, Store
from vtbench.evaluation import Evaluator
from vtbench.opened import Opened
from vtbench.plan import Plan, Station
from vtbench.reduce import Reducer
from vtbench.suite import load_suite
from vtbench.tokens.spelled import spell
from vtbench.worker import Report, Task

CLASSES = 1000
TOKENS, CODEBOOK = 256, 16384


@dataclass(frozen=True)
class Made:
    """A picture that is not there: its bytes are its name."""

    name: str

    def stamp(self) -> tuple[str, int, int]:
        return self.name, 100_000, 1

    def read(self) -> bytes:
        return b"\xff\xd8\xff" + self.name.encode()


def listed(where: str, options: Mapping[str, Any]) -> Listing:
    """As many pictures as `where` says, in class folders as ImageNet's training set has them."""
    names = [f"n{i % CLASSES:08d}/n{i % CLASSES:08d}_{i}" for i in range(int(where))]
    entries = [Entry(name, Made(name), label=i % CLASSES) for i, name in enumerate(names)]
    return Listing("synthetic", "scale", entries)


class Nothing(Tokenizer):
    """A tokenizer that only says what it would be."""

    name, revision = "nothing", "sha256:0"
    capabilities = Capabilities(resolution=256, any_resolution=False, max_tokens=TOKENS)


@dataclass
class Synthetic:
    """What measures a chunk in the place of torch: random values of the real shapes."""

    dimensions: int

    def wants(self, chunk: Chunk) -> bool:
        return False

    def expect(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> None:
        """Nothing is loaded."""

    def measure(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> dict[Station, Measured]:
        rng = np.random.default_rng(int(chunk.key, 16))
        return {
            s: Measured({h: self._head(s, h, len(chunk.samples), rng) for h in heads}) for s, heads in wanted.items()
        }

    def measure_model(self, wanted: Mapping[Station, set[str]], chunk: Chunk) -> dict[Station, Measured]:
        return {s: Measured({h: (np.ones(1), np.zeros(1, np.int64)) for h in heads}) for s, heads in wanted.items()}

    def _head(self, station: Station, head: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        values: np.ndarray
        if head in ("pool3", "sfid", "logits", "features"):
            values = rng.standard_normal((n, self.dimensions), np.float32)
            values += 0.1 if station.at.model() else 0.0
        elif head == "ids":
            values = rng.integers(0, CODEBOOK, (n, TOKENS), np.int32)
        elif head == "streams":
            values = np.full(n, spell([Stream("ids", "index", "grid2d", (CODEBOOK,), (16, 16))]))
        elif head in ("bits", "pixels", "used"):
            values = np.full(n, {"bits": 14.0 * TOKENS, "pixels": 65536, "used": TOKENS}[head])
        elif station.extractor.startswith("alarms"):
            shape = {"maps": (6,), "means": (6,), "offsets": (9,), "zooms": (13,), "thumbs": (2, 16, 16)}[head]
            values = (rng.random((n, *shape)) * 200).astype(np.uint8 if head == "thumbs" else np.float32)
        else:
            values = rng.random(n)
        return values, np.arange(n)


class Simulated:
    """Workers that live in this process, and do one task after the other in turn (a `vtbench.engine.crew.Hands`)."""

    def __init__(self, plan: Plan, root: Path, dimensions: int, fresh: bool, slots: int) -> None:
        self.plan, self.fresh = plan, fresh
        self.stores = [Store(root) for _ in range(slots)]
        self.executor = Synthetic(dimensions)
        self.given: deque[tuple[int, Task]] = deque()
        self.events: deque[Event] = deque()

    def name(self, slot: int) -> str:
        return f"worker {slot}"

    def start(self, slot: int) -> None:
        self.events.append(Event(slot, "ready"))

    def give(self, slot: int, task: Task, upcoming: Task | None) -> None:
        self.given.append((slot, task))

    def wait(self) -> Sequence[Event]:
        if self.events:
            return [self.events.popleft()]
        slot, task = self.given.popleft()
        done = fill_chunk(self.plan, task.chunk, self.stores[slot], self.executor, fresh=self.fresh)
        return [Event(slot, "done", Report(done))]


@dataclass
class Watch:
    """Time and memory of every step; memory is looked at ten times a second."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    _now: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            now, text = self._now, Path("/proc/self/status").read_text("ascii")
            for what, line in (("anonymous", "RssAnon:"), ("resident", "VmRSS:")):
                found = next((x.split()[1] for x in text.splitlines() if x.startswith(line)), "0")
                if now:
                    now[what] = max(now.get(what, 0), int(found) * 1024)
            time.sleep(0.1)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        outer, self._now = self._now, {"step": name}
        mine, start, cpu = self._now, time.perf_counter(), time.process_time()
        try:
            yield mine
        finally:
            mine |= {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
            self.steps.append(mine)
            self._now = outer
            print(
                f"{name:48s} {mine['seconds']:9.1f} s {mine['cpu']:9.1f} s CPU {mine.get('anonymous', 0) / 1e9:7.2f} GB anonymous "
                f"{mine.get('resident', 0) / 1e9:7.2f} GB resident  {mine.get('note', '')}",
                flush=True,
            )


class Run(Evaluator):
    """An evaluation whose chunks the simulated workers measure."""

    def __init__(self, watch: Watch, opened: Opened, chosen: argparse.Namespace) -> None:
        super().__init__([], out=str(chosen.out), device="cpu", baselines=False)
        self.opened, self.watch, self.chosen = [opened], watch, chosen

    def plan(self, *given: Any, **named: Any) -> Plan:
        with self.watch.step("plan"):
            return super().plan(*given, **named)

    def _fill(self, model: Any, plan: Plan, chunks: Any, store: Store, bench: Any, task: Any, costs: Any = None) -> int:
        executor = Synthetic(self.chosen.dimensions)
        with self.watch.step("find what is lacking (a complete store is read and checked)") as step:
            todo = [c for c in chunks if missing(plan, store, c.key, model=False)]
            step["note"] = f"{len(todo)} of {len(chunks)} chunks"
        if not todo:
            return 0
        hands = Simulated(plan, store.root, self.chosen.dimensions, False, self.chosen.workers)
        with self.watch.step(f"measure and store, {self.chosen.workers} workers"):
            Crew(hands, self.chosen.workers).do([Task("chunk", c) for c in todo])
            fill_model(plan, costs, store, executor)
        return len(todo)


def timed(watch: Watch, owner: Any, name: str, label: str) -> None:
    """Make a function of a module a step."""
    plain = getattr(owner, name)

    def wrapped(*given: Any, **named: Any) -> Any:
        with watch.step(label):
            return plain(*given, **named)

    setattr(owner, name, wrapped)


def instrumented(watch: Watch) -> None:
    """Make what a run does after measuring steps of their own."""
    from vtbench import evaluation, recording, reduce

    for owner, name, label in (
        (evaluation, "cut", "cut into chunks"),
        (recording, "write", "write the record"),
        (recording, "write_samples", "write the samples"),
        (recording, "collect", "collect instances"),
        (evaluation, "write_table", "write the table"),
        (evaluation, "raised", "alarms"),
    ):
        timed(watch, owner, name, label)
    timed(watch, reduce.Reducer, "_failures", "failures, from all headers")
    cells = Reducer._cell

    def cell(self: Reducer, cell: Any) -> Iterator[Any]:
        with watch.step(f"  metric {cell.metric.name}"):
            rows = list(cells(self, cell))
        yield from rows

    reduce.Reducer._cell = cell  # type: ignore[method-assign]


def tree(folder: Path) -> tuple[int, int, int]:
    """Files, bytes and the most files in one folder."""
    files = size = most = 0
    for _, _, names in os.walk(folder):
        most, files = max(most, len(names)), files + len(names)
    for path in folder.rglob("*"):
        size += path.stat().st_size if path.is_file() else 0
    return files, size, most


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_200_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--dimensions", type=int, default=2048)
    parser.add_argument("--suite", default="reconstruction-256")
    parser.add_argument("--out", type=Path, default=Path("scale-simulation"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", action="store_true", help="Leave the folder there.")
    chosen = parser.parse_args()
    sys.argv = ["vtbench", "simulated"]
    watch = Watch()
    reading.READERS["synthetic"] = "benchmarks_scale:listed"
    sys.modules["benchmarks_scale"] = sys.modules[__name__]
    suite = load_suite(chosen.suite)
    for how in ("no digest remembered", "all digests remembered"):
        with watch.step(f"open the data ({how})"):
            dataset = open_dataset(str(chosen.images), reader="synthetic", cache=chosen.out / "measurements")
    instrumented(watch)
    records = []
    for number in ("first run", "second run"):
        with watch.step(number):
            run = Run(watch, Opened(suite, dataset, "synthetic"), chosen)
            records.append(run(Nothing()).record)
    assert records[0].rows == records[1].rows, "the second run's rows are others"
    files, size, most = tree(chosen.out / "measurements")
    report = {
        "images": chosen.images,
        "workers": chosen.workers,
        "dimensions": chosen.dimensions,
        "suite": chosen.suite,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}",
        "steps": watch.steps,
        "store": {"files": files, "bytes": size, "most files in a folder": most},
        "planned bytes": run.plan(Nothing(), run.opened[0]).bytes(chosen.images),
        "rows": {r.metric: [r.value, r.ci_low, r.ci_high, r.status] for r in records[0].rows},
        "record bytes": sum(p.stat().st_size for p in (chosen.out / "records").iterdir()),
        "samples bytes": sum(p.stat().st_size for p in (chosen.out / "samples").iterdir()),
    }
    print(json.dumps({k: v for k, v in report.items() if k != "steps"}, indent=1, default=str))
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1, default=str) + "\n")
    if not chosen.keep:
        shutil.rmtree(chosen.out)


if __name__ == "__main__":
    main()
