"""A run's chunks over several processes or machines: what is sent, who is asked, what comes back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench.engine.crew import Crew, Hands
from vtbench.engine.run import MODEL_CHUNK, describe, lacking, missing
from vtbench.errors import BadSample, UsageError
from vtbench.places import shared_by_processes
from vtbench.ranks import ranks
from vtbench.worker import Job, Named, Report, Task, bare, numerics

if TYPE_CHECKING:
    from vtbench.api import Model
    from vtbench.engine.chunks import Chunk
    from vtbench.engine.store import Store
    from vtbench.options import Options
    from vtbench.passes import Bench
    from vtbench.plan import Plan
    from vtbench.progress import Silent


@dataclass
class Apart:
    """What came of a run's chunks. worked: how many needed work. lost: key of a chunk -> why it could not be measured. by: chunks of each worker."""

    worked: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    by: Counter[str] = field(default_factory=Counter)


def apart(options: Options) -> bool:
    """Whether the options ask for workers of their own. Raises `UsageError` inside a process group, where every rank is a worker already."""
    asked = options.engine != "local" or len(options.slots()) > 1
    if asked and ranks().world > 1:
        raise UsageError(
            "several devices or workers inside a process group: each of its ranks is a worker already",
            "Leave --device, --workers and --engine away under torchrun",
        )
    return asked


def named(spec: str, weights: str | None, options: Options, task: str = "") -> Named:
    """How another process loads a model, from wherever it stands."""
    name, colon, rest = spec.partition(":")
    if name.endswith(".py"):
        spec = f"{Path(name).resolve()}{colon}{rest}"
    return Named(
        spec,
        weights=str(Path(weights).expanduser().resolve()) if weights else None,
        state_key=options.state_key,
        allow_code=options.allow_code,
        upstream=options.upstream,
        task=task,
    )


def sendable(model: Model, plan: Plan) -> Named | Model:
    """What workers are told of a model, with the revision that the plan has of it. Raises `UsageError` for one that exists in this process alone."""
    named: Named | None = getattr(model, "named", None)
    if named is not None:
        facts = next((d["model"] for d in plan.descriptions.values() if d["model"]), {"revision": ""})
        named = replace(named, revision=str(facts["revision"]))
        if named.revision.startswith("unknown"):
            raise UsageError(
                f"{model.name} cannot tell its weights, so workers could not know whether they load the same ones",
                "Name its networks: vtbench.tokenizer(..., modules=network); or measure in one process",
            )
        return named
    if getattr(model, "travels", False):
        return model
    raise UsageError(
        f"the model {model.name} is an object of this process, which cannot be sent to workers",
        "Name it (FILE.py:build, or a name of the zoo), or run your script under torchrun: every rank then measures its share",
    )


def fill_apart(
    model: Model,
    plan: Plan,
    chunks: Sequence[Chunk],
    store: Store,
    bench: Bench,
    options: Options,
    talk: Silent,
    *,
    advance: Callable[[int], None],
    costs: Chunk | None = None,
) -> Apart:
    """Have workers measure whatever the store lacks of these chunks; `bench` counts their time and forwards, and measures nothing.

    costs: the chunk on whose inputs the model itself is measured, last and alone. Nothing is started when nothing is lacking."""
    out = Apart()
    describe(plan, store)
    todo = lacking(plan, chunks, store, bench, fresh=options.fresh)
    whole = {id(c) for c in todo}
    for chunk in chunks:
        if id(chunk) not in whole:
            advance(len(chunk.samples))
    alone = costs if costs is not None and _lacks_costs(plan, store, options.fresh) else None
    if not todo and alone is None:
        return out
    if not shared_by_processes(store.root):
        raise UsageError(
            f"{store.root} lies in the memory of this process, and workers cannot share it", "Name a folder"
        )
    job = Job(
        model=sendable(model, plan),
        plan=bare(plan),
        store=str(store.root.resolve()),
        batch_size=bench.batch_size,
        by_area=bench.by_area,
        seed=options.seed,
        dtype=options.dtype,
        loaders=options.resolved_loaders(),
        read_timeout=options.read_limit(),
        keep=None if bench.keep is None else replace(bench.keep, folder=bench.keep.folder.resolve()),
        strict=options.strict,
        fresh=options.fresh,
        compile=options.compile,
        threads=_threads(),
        numerics=numerics(),
    )

    def add(report: Report) -> None:
        for stage, seconds in report.stages.items():
            bench.spent.stages[stage] += seconds
        for what, count in report.forwards.items():
            bench.spent.forwards[what] += count
        for what, seconds in report.loading.items():
            bench.elsewhere[what] += seconds
        if report.fitting is not None and report.fitting < bench.fitting:
            bench.backed_off = True
            bench.limit(report.fitting)

    def done(number: int, report: Report) -> None:
        add(report)
        out.worked += report.measured
        advance(len(todo[number].samples))

    with started(job, options, min(len(todo) or 1, len(options.slots()))) as (hands, count):
        crew = Crew(hands, count, warn=talk.warn)
        outcome = crew.do([Task("chunk", c) for c in todo], done=done)
        out.by.update(hands.name(slot) for slot in outcome.slots.values())
        for number, why in sorted(outcome.lost.items()):
            chunk = todo[number]
            out.lost[chunk.key] = why
            first, last = chunk.samples[0].id, chunk.samples[-1].id
            talk.warn(f"chunk {chunk.index} ({first} to {last}) could not be measured: {why}")
            advance(len(chunk.samples))
        if out.lost and options.strict:
            raise BadSample(next(iter(out.lost.values())))
        if alone is not None:
            crew.do([Task("model", alone)], done=lambda number, report: add(report))
    return out


def _lacks_costs(plan: Plan, store: Store, fresh: bool) -> bool:
    of_model = any(plan.extractor(s).takes == "model" for s in plan.stations)
    return of_model and (fresh or bool(missing(plan, store, MODEL_CHUNK, model=True)))


def _threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def started(job: Job, options: Options, most: int) -> Iterator[tuple[Any, int]]:
    """The workers that the options ask for, and their number (no more than `most`)."""
    if options.engine == "ray":
        from vtbench.engine.actors import Actors

        with Actors(job, options) as actors:
            yield actors, actors.count
        return
    from vtbench.engine.processes import Processes

    devices = options.slots()[: max(1, most)]
    hands: Hands
    with Processes(job, devices) as hands:
        yield hands, len(devices)
