"""The loop that fills the store: chunk by chunk, only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from vtbench.engine.chunks import Chunk
from vtbench.engine.store import Measured, Store
from vtbench.plan import Plan, Station

MODEL_CHUNK = "model"


class Executor(Protocol):
    """What measures a chunk: torch lives behind it (`vtbench.passes.Bench`)."""

    def measure(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> Mapping[Station, Measured]: ...

    def measure_model(self, wanted: Mapping[Station, set[str]], chunk: Chunk) -> Mapping[Station, Measured]: ...

    def expect(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> None:
        """Told of what it will probably be asked to measure, so that it can load ahead."""
        ...

    def wants(self, chunk: Chunk) -> bool:
        """Whether the executor has something of its own to do for a chunk that is measured (keep its images)."""
        ...


def missing(plan: Plan, store: Store, chunk_key: str, *, model: bool) -> dict[Station, set[str]]:
    """The heads of each station that the store lacks for a chunk."""
    out: dict[Station, set[str]] = {}
    for station, heads in plan.stations.items():
        if (plan.extractor(station).takes == "model") != model:
            continue
        there = store.get(plan.keys[station], chunk_key)
        lacking = heads - set(there.heads) if there is not None and not there.lost else set(heads)
        if lacking:
            out[station] = lacking
    return out


def describe(plan: Plan, store: Store) -> None:
    """Write down what every station is."""
    for station in plan.stations:
        store.describe(plan.keys[station], plan.descriptions[station])


def fill(
    plan: Plan,
    chunks: Sequence[Chunk],
    store: Store,
    executor: Executor,
    *,
    fresh: bool = False,
    advance: Callable[[int, bool], None] = lambda samples, measured: None,
) -> int:
    """Measure whatever the store lacks. Returns how many chunks needed any work; a complete store needs none.

    advance: called after each chunk with its number of samples and whether it was measured now."""
    describe(plan, store)
    worked = 0
    for chunk, upcoming in zip(chunks, [*chunks[1:], None]):
        measured = fill_chunk(plan, chunk, store, executor, fresh=fresh, upcoming=upcoming)
        worked += measured
        advance(len(chunk.samples), measured)
    return worked


def fill_chunk(
    plan: Plan,
    chunk: Chunk,
    store: Store,
    executor: Executor,
    *,
    fresh: bool = False,
    upcoming: Chunk | None = None,
) -> bool:
    """Measure whatever the store lacks of one chunk; whether that was anything. upcoming: what will probably be asked for next."""
    wanted = _all(plan) if fresh else missing(plan, store, chunk.key, model=False)
    if not wanted and not executor.wants(chunk):
        return False
    executor.expect(chunk, wanted)
    if upcoming is not None:
        executor.expect(upcoming, _all(plan) if fresh else missing(plan, store, upcoming.key, model=False))
    for station, measured in executor.measure(chunk, wanted).items():
        store.put(plan.keys[station], chunk.key, measured)
    return True


def lacking(
    plan: Plan, chunks: Sequence[Chunk], store: Store, executor: Executor, *, fresh: bool = False
) -> list[Chunk]:
    """The chunks that need any work; what is there is checked, and damage said."""
    return [c for c in chunks if fresh or missing(plan, store, c.key, model=False) or executor.wants(c)]


def _all(plan: Plan) -> dict[Station, set[str]]:
    return {s: set(h) for s, h in plan.stations.items() if plan.extractor(s).takes != "model"}


def fill_model(plan: Plan, chunk: Chunk, store: Store, executor: Executor, *, fresh: bool = False) -> None:
    """Measure what belongs to the model itself (costs), on inputs from one chunk."""
    wanted = (
        {s: set(h) for s, h in plan.stations.items() if plan.extractor(s).takes == "model"}
        if fresh
        else missing(plan, store, MODEL_CHUNK, model=True)
    )
    if wanted:
        for station, measured in executor.measure_model(wanted, chunk).items():
            store.put(plan.keys[station], MODEL_CHUNK, measured)
