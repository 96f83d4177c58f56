"""The loop that fills the store: chunk by chunk, only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from vtbench.engine.chunks import Chunk
from vtbench.engine.rows import stack
from vtbench.engine.store import Measured, Reads, Store
from vtbench.plan import Plan, Station

MODEL_CHUNK = "model"


class Executor(Protocol):
    """What measures a chunk: torch lives behind it (`vtbench.passes.Bench`)."""

    def measure(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> Mapping[Station, Measured]: ...

    def measure_model(self, wanted: Mapping[Station, set[str]], chunk: Chunk) -> Mapping[Station, Measured]: ...

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
    for station in plan.stations:
        store.describe(plan.keys[station], plan.descriptions[station])
    worked = 0
    for chunk in chunks:
        wanted = (
            {s: set(h) for s, h in plan.stations.items() if plan.extractor(s).takes != "model"}
            if fresh
            else missing(plan, store, chunk.key, model=False)
        )
        if wanted or executor.wants(chunk):
            worked += 1
            for station, measured in executor.measure(chunk, wanted).items():
                store.put(plan.keys[station], chunk.key, measured)
        advance(len(chunk.samples), bool(wanted))
    return worked


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


class StoredColumn:
    """One head of one station over all chunks, restricted to the samples that every column has.

    alive: for every sample of the run its index among those kept, or -1."""

    def __init__(self, store: Reads, key: str, head: str, chunks: Sequence[Chunk], alive: np.ndarray) -> None:
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        for chunk in chunks:
            measured = store.get(key, chunk.key)
            if measured is None or head not in measured.heads:
                raise KeyError(f"{head} is not measured for chunk {chunk.index}")
            values, image = measured.heads[head]
            index = alive[chunk.start + image]
            keep = index >= 0
            self._blocks.append((index[keep], values[keep] if not keep.all() else values))
        self.image = np.concatenate([b[0] for b in self._blocks]) if self._blocks else np.zeros(0, np.int64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, values) chunk by chunk."""
        yield from self._blocks

    def array(self) -> np.ndarray:
        """All values in sample order."""
        return stack([values for _, values in self._blocks])
