"""One worker of several: a model and the extractors on its device, measuring the chunks that it is handed into the shared store.

`main` is run by `vtbench.engine.processes`, and a `Workbench` is held by an actor in `vtbench.engine.actors`. It is sent a
`Job`, never code: the model by what stands after ``--model``, so that it is loaded here from the same weights, and refused when they differ.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from vtbench.errors import BadSample, MissingPackage, MissingWeights, UsageError, VtbenchError
from vtbench.memory import keep_freed
from vtbench.places import place

if TYPE_CHECKING:
    from vtbench.api import Model
    from vtbench.engine.chunks import Chunk
    from vtbench.engine.store import Store
    from vtbench.keep import Keep
    from vtbench.plan import Plan


@dataclass(frozen=True)
class Named:
    """A model as it was asked for. revision: what it must be where it is loaded ("": whatever it is)."""

    spec: str
    revision: str = ""
    weights: str | None = None
    state_key: str = "auto"
    allow_code: bool = False
    upstream: str | None = None
    task: str = ""


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told. model: named, or images that exist already. plan: its stations and keys alone.

    threads: of torch, the same in every worker and never derived from their number. numerics: torch's flags that move a value."""

    model: Named | Model
    plan: Plan
    store: str
    batch_size: int
    by_area: bool
    seed: int = 0
    dtype: str = "float32"
    loaders: int = 2
    read_timeout: float | None = None
    keep: Keep | None = None
    strict: bool = False
    fresh: bool = False
    compile: bool = False
    threads: int = 1
    numerics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A chunk to measure, or (`model`) the model itself on inputs of this chunk."""

    kind: Literal["chunk", "model"]
    chunk: Chunk


@dataclass
class Report:
    """What a task came to. measured: whether anything was missing. fitting: the largest batch that memory held so far. The rest is what the task added."""

    measured: bool
    stages: dict[str, float] = field(default_factory=dict)
    forwards: dict[str, int] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    fitting: int | None = None


class Workbench:
    """A worker's model, networks and store; loads everything once. Raises what loading raises, and `VtbenchError` for other weights."""

    def __init__(self, job: Job, device: str, say: Callable[[str], None]) -> None:
        import torch

        from vtbench.compiling import compiled
        from vtbench.passes import Bench

        self.job = job
        torch.set_num_threads(job.threads)
        set_numerics(job.numerics)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        model = load(job.model, device, job.dtype)
        if job.compile:
            self._compiled = compiled(model, say)
            self._compiled.__enter__()
        self.store = open_store(job.store, say)
        self.bench = Bench(
            model,
            equipped(job.plan),
            seed=job.seed,
            batch_size=job.batch_size,
            by_area=job.by_area,
            device=device,
            workers=job.loaders,
            keep=job.keep,
            strict=job.strict,
            read_timeout=job.read_timeout,
        )

    def do(self, task: Task, upcoming: Task | None = None) -> Report:
        """Measure what the store lacks of a task, into the store; upcoming: what probably follows, to load ahead."""
        from vtbench.engine.run import fill_chunk, fill_model

        bench, plan = self.bench, self.bench.plan
        before, ran, loaded = dict(bench.spent.stages), dict(bench.spent.forwards), bench.loading
        if task.kind == "model":
            fill_model(plan, task.chunk, self.store, bench, fresh=self.job.fresh)
            measured = True
        else:
            measured = fill_chunk(
                plan,
                task.chunk,
                self.store,
                bench,
                fresh=self.job.fresh,
                upcoming=None if upcoming is None else upcoming.chunk,
            )
        return Report(
            measured,
            {k: v - before.get(k, 0.0) for k, v in bench.spent.stages.items()},
            {k: v - ran.get(k, 0) for k, v in bench.spent.forwards.items()},
            {k: v - loaded.get(k, 0.0) for k, v in bench.loading.items()},
            bench.fitting,
        )


def load(model: Named | Model, device: str, dtype: str) -> Model:
    """A job's model on a device, in eval mode. Raises `VtbenchError` when its weights are not those of the process that asked."""
    from vtbench import zoo

    if not isinstance(model, Named):
        return model.to(device, dtype)
    made = zoo.load_model(
        model.spec,
        weights=model.weights,
        state_key=model.state_key,
        device=device,
        dtype=dtype,
        allow_code=model.allow_code,
        upstream=model.upstream,
        task=model.task,
    )
    if model.revision and made.revision != model.revision:
        raise VtbenchError(
            f"a worker on {socket.gethostname()} loads other weights for {model.spec}: {made.revision} instead of {model.revision}",
            "Every machine needs the same files and packages",
        )
    for module in made.modules().values():
        module.eval()
    return made


def equipped(plan: Plan) -> Plan:
    """A job's plan with extractors made here. Raises `VtbenchError` when one is of another version or has other weights than planned."""
    from vtbench import registry

    made: dict[Any, Any] = {}
    for station in plan.stations:
        key = (station.extractor, station.args)
        if key in made:
            continue
        made[key] = registry.extractor(station.extractor, dict(station.args))
        planned = plan.descriptions[station]
        found = {"version": made[key].version, "identity": dict(made[key].identity())}
        if found != {k: planned[k] for k in found}:
            raise VtbenchError(
                f"a worker on {socket.gethostname()} has another {station.extractor} than the process that planned: {found}",
                "Every machine needs the same files and packages",
            )
    return replace(plan, extractors=made)


def bare(plan: Plan) -> Plan:
    """A plan that can be sent: its stations, keys and descriptions."""
    return replace(plan, cells=[], extractors={}, weights={})


def numerics() -> dict[str, Any]:
    """Torch's flags that move a value, as they are in this process."""
    import torch

    cudnn = torch.backends.cudnn
    return {
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32),
    }


def set_numerics(flags: Mapping[str, Any]) -> None:
    """Take another process's flags over."""
    import torch

    if flags:
        torch.set_float32_matmul_precision(flags["precision"])
        cudnn = torch.backends.cudnn
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = flags["cudnn"]


def open_store(where: str, say: Callable[[str], None]) -> Store:
    """The shared store of a job."""
    from vtbench.engine.store import Store

    return Store(place(where), say)


def hopeless(error: BaseException) -> bool:
    """Whether an error says that no worker can do this run: wrong usage, a missing package or file, a bad sample under `--strict`."""
    return isinstance(error, (UsageError, MissingPackage, MissingWeights, BadSample))


def main() -> None:
    """Serve one parent over the socket whose number is the first argument, until it closes it."""
    from multiprocessing.connection import Connection

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and stops its workers
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    keep_freed()
    pipe: Connection[Any, Any] = Connection(int(sys.argv[1]))
    try:
        job, device = pipe.recv()
        try:
            bench = Workbench(job, device, lambda text: pipe.send(("said", text)))
        except Exception as error:  # noqa: BLE001 - the parent raises it
            pipe.send(("refused", plainly(error)))
            return
        pipe.send(("ready", None))
        while True:
            task, upcoming = pipe.recv()
            try:
                pipe.send(("done", bench.do(task, upcoming)))
            except Exception as error:  # noqa: BLE001 - the parent decides whether another worker tries
                from vtbench.memory import poisoned

                pipe.send(("hopeless" if hopeless(error) else "failed", plainly(error)))
                if poisoned(error):
                    return  # this process can use its device no more
    except (EOFError, OSError):
        return  # the parent is gone


def plainly(error: BaseException) -> VtbenchError:
    """An error as it can be sent to another process: its line, its way out and its exit code."""
    if isinstance(error, VtbenchError):
        plain = VtbenchError(error.message, error.way_out)
        plain.code = error.code
        return plain
    if os.environ.get("VTBENCH_DEBUG"):
        import traceback

        traceback.print_exception(error)
    return VtbenchError(f"{type(error).__name__}: {' '.join(str(error).split())}")
