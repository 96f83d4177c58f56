"""What the pipeline costs beside the networks themselves, and how fast whole runs are.

    python benchmarks/pipeline.py [--device cuda:0] [--model tiny] [--images FOLDER] [--count 256] [--json FILE]
    python benchmarks/pipeline.py --end-to-end 10000 --device cuda:0
    python benchmarks/pipeline.py --score 12000 --device cuda:0 [--tokbench FOLDER]

The first holds a run's measuring (files decoded, prepared, copied, encoded, decoded, seen by every network, written to the store) against the bare
forwards of the same model and the same networks on tensors that lie on the device already, in turn, best of `--rounds`; and says images per second
of the tokenizer's halves and of every network. The second times the suite reconstruction-256 from the command to the table. The third times the scoring of
reconstructions that exist: of TokBench's layout with tokbench-light where its folder is given, else of the suite images, squares of 256. Without --images, photograph-sized
JPEGs are made. Networks whose weights are not on VTBENCH_WEIGHTS are left away, and named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import vtbench
from vtbench import zoo
from vtbench.api import Batch
from vtbench.data import open_dataset
from vtbench.engine.chunks import cut
from vtbench.engine.run import fill
from vtbench.engine.store import Store
from vtbench.feed import Feed, Order, Ready
from vtbench.options import Options
from vtbench.passes import Bench
from vtbench.plan import Plan, make_plan
from vtbench.sets import only
from vtbench.suite import load_suite
from vtbench.view import quantise


def made(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> Path:
    """A folder of JPEGs, smooth with some grain, as photographs are."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        grain = rng.normal(0, 6, (size[1], size[0], 1))
        pixels = np.clip(np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)) + grain, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:06d}.jpg", quality=90)
    return folder


class Timed:
    """One clock, with the device idle at both ends. cpu: what the last job took of this process's CPU time."""

    def __init__(self, device: str) -> None:
        self.device, self.cpu = device, 0.0

    def __call__(self, job: Callable[[], Any]) -> float:
        self._wait()
        start, cpu = time.perf_counter(), time.process_time()
        job()
        self._wait()
        self.cpu = time.process_time() - cpu
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


class Bare:
    """The model and the networks of a plan on batches that lie on the device."""

    def __init__(self, model: Any, plan: Plan, bench: Bench, batches: list[torch.Tensor], samples: list[Any]) -> None:
        self.model, self.plan, self.bench, self.batches = model, plan, bench, batches
        self.samples, self.seconds, self.clock = samples, defaultdict(float), Timed(bench.device)

    def run(self, each: bool = False) -> None:
        """Everything once. each: with a clock on every part, which keeps the device from running ahead."""
        start = 0
        with torch.inference_mode():
            for images in self.batches:
                samples = self.samples[start : start + len(images)]
                start += len(images)
                held: dict[str, Any] = {}

                def part(name: str, job: Callable[[], Any], held: dict[str, Any] = held) -> Any:
                    def keep() -> None:
                        held[name] = job()

                    if each:
                        self.seconds[name] += self.clock(keep)
                    else:
                        keep()
                    return held[name]

                tokens = part("encode", lambda images=images: self.model.encode(images, seeds=[0] * len(images)))
                out = part("decode", lambda tokens=tokens: self.model.decode(tokens, seeds=[0] * len(tokens)))
                out = out.float().clamp(0, 1)
                for station, heads in self.plan.stations.items():
                    extractor = self.bench._extractor(station)
                    batch = Batch(samples, tokens=tokens, pixels=int(images.shape[2] * images.shape[3]))
                    if extractor.takes != "tokens":
                        batch.images = quantise(out if station.at.model() else images, station.view.quantise)
                        batch.reference = images
                    part(station.extractor, lambda e=extractor, b=batch, h=heads: e(b, sorted(h)))


def pipeline(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The pipeline against the bare forwards."""
    device, work = chosen.device, Path(tempfile.mkdtemp())
    suite = load_suite("reconstruction-256")
    samples = open_dataset(str(folder)).samples[: chosen.count]
    options = Options(device=device, batch_size=chosen.batch_size, loaders=chosen.loaders)
    size = options.resolved_batch(device)
    model: Any = zoo.load_model(chosen.model, device=device)
    made_: dict[Any, Any] = {}
    plan = make_plan(suite, model, resolutions=(256,), device=device, made=made_)
    plan = only(plan, lambda s: plan.extractor(s).takes != "model" and s.view.frame == "model")
    chunks = cut(samples, suite.chunk)
    bench = Bench(model, plan, batch_size=size, device=device, workers=options.resolved_loaders())
    (prepared,) = {s.prepared for s in plan.stations}
    feed = Feed(device, options.resolved_loaders())
    batches: list[torch.Tensor] = []
    for chunk in chunks:
        for got in feed.take(Order(chunk, {prepared: list(plan.stations)}, frozenset(), size)):
            if isinstance(got, Ready) and got.images is not None:
                got.settle()
                batches.append(got.images.to(device))
    feed.close()
    bare = Bare(model, plan, bench, batches, list(samples))
    clock, least = Timed(device), {"pipeline": float("inf"), "bare": float("inf")}
    cpu = dict(least)
    number = 0

    def whole() -> None:
        nonlocal number
        number += 1
        fill(plan, chunks, Store(work / str(number)), bench)

    bare.run()  # networks are opened, memory is reserved, kernels are chosen
    for _ in range(chosen.rounds):
        for name, job in (("bare", bare.run), ("pipeline", whole)):
            least[name] = min(least[name], clock(job))
            cpu[name] = min(cpu[name], clock.cpu)
    bench.close()
    bare.run(each=True)
    shutil.rmtree(work)
    n = len(samples)
    forwards = {s.extractor: sum(t.extractor == s.extractor for t in plan.stations) for s in plan.stations}
    return {
        "images": n,
        "batch": size,
        "loaders": options.resolved_loaders(),
        "seconds": least,
        "CPU seconds": cpu,
        "pipeline over bare": least["pipeline"] / least["bare"],
        "pipeline over bare, CPU seconds": cpu["pipeline"] / cpu["bare"],
        "images per second": {name: n * forwards.get(name, 1) / s for name, s in bare.seconds.items()},
        "stages (seconds, all rounds)": dict(bench.spent.stages),
        "loading threads (seconds, all rounds)": bench.loading,
        "left away": sorted({c.skip for c in make_plan(suite, model, resolutions=(256,), made=made_).cells if c.skip}),
    }


def end_to_end(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """reconstruction-256 from the command to the table, networks' loading included."""
    work = tempfile.mkdtemp()
    start, before = time.perf_counter(), time.process_time()
    result = vtbench.evaluate(chosen.model, data=str(folder), out=work, device=chosen.device, baselines=False)
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    record = result.record
    shutil.rmtree(work)
    return {
        "images": record.dataset.n,
        "seconds": seconds,
        "CPU seconds": cpu,
        "images per second": record.dataset.n / seconds,
        "stages": record.stages,
    }


def scoring(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Reconstructions that exist, scored."""
    work = Path(tempfile.mkdtemp())
    start, before = time.perf_counter(), time.process_time()
    if chosen.tokbench:
        how: dict[str, Any] = {"data": chosen.tokbench, "baselines": False, "device": chosen.device, "out": str(work)}
        record = vtbench.evaluate("resize", ["tokbench-light"], **how).record
        what = "tokbench-light, the reconstructions of resize"
    else:
        record = vtbench.score(str(folder), str(folder), device=chosen.device, out=str(work)).record
        what = "the suite images, a folder against itself"
    seconds, cpu = time.perf_counter() - start, time.process_time() - before
    shutil.rmtree(work)
    memory = torch.cuda.max_memory_allocated(chosen.device) if chosen.device.startswith("cuda") else None
    n = record.dataset.n
    return {
        "what": what,
        "images": n,
        "seconds": seconds,
        "CPU seconds": cpu,
        "images per second": n / seconds,
        "GPU bytes": memory,
        "stages": record.stages,
    }


def machine(device: str) -> str:
    """The machine in words."""
    here = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name(device)}, {here}" if device.startswith("cuda") else here


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--loaders", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--end-to-end", type=int, metavar="N")
    parser.add_argument("--score", type=int, metavar="N")
    parser.add_argument("--tokbench", help="TokBench's folder, for --score.")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    count = chosen.end_to_end or chosen.score or chosen.count
    scratch = Path(tempfile.mkdtemp())
    folder = chosen.images or made(scratch / "images", count, (256, 256) if chosen.score else (500, 375))
    job = end_to_end if chosen.end_to_end else scoring if chosen.score else pipeline
    report = {"machine": machine(chosen.device), "device": chosen.device, "model": chosen.model, **job(chosen, folder)}
    shutil.rmtree(scratch)
    print(json.dumps(report, indent=1, default=str))
    if chosen.json:
        chosen.json.write_text(json.dumps(report, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
