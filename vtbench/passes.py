"""Runs one chunk: load, prepare, encode, decode, view, extract. The only place where a model and the extractors meet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vtbench.api import GENERATED, OUTPUT, Batch, Model, Rows
from vtbench.calling import Caller, unmade
from vtbench.data.reading import LIMIT
from vtbench.engine.chunks import Chunk
from vtbench.engine.store import Measured
from vtbench.errors import BadSample, LostBatch, Unread
from vtbench.feed import Feed, Order, Ready, Refused
from vtbench.forward import Forward
from vtbench.keep import Keep
from vtbench.memory import full
from vtbench.plan import Plan, Prepared, Station
from vtbench.spent import Spent
from vtbench.view import Item
from vtbench.work import Work, by_prepared


@dataclass
class Bench:
    """A model and the extractors of a plan on one device; measures chunks for the engine. by_area: larger images than 256 x 256 go in smaller batches.
    opened: extractors whose networks are loaded already, by `id`. elsewhere: loading seconds of workers."""

    model: Model
    plan: Plan
    seed: int = 0
    batch_size: int = 16
    by_area: bool = False
    device: str = "cpu"
    workers: int = 2
    keep: Keep | None = None
    strict: bool = False
    read_timeout: float | None = LIMIT
    opened: set[int] = field(default_factory=set)
    backed_off: bool = False
    lost: dict[str, str] = field(default_factory=dict)
    by: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _most: dict[Any, int] = field(default_factory=dict)
    _feeding: Feed | None = None

    def __post_init__(self) -> None:
        self.spent = Spent(self.device)
        self._caller = Caller(self.model, self.seed, self.device, self.spent)

    # -------------------------------------------------------------------------------- the engine's side

    def wants(self, chunk: Chunk) -> bool:
        """Whether kept images of a chunk are still to be written."""
        return self.keep is not None and any(self.keep.lacks(s) for s in chunk.samples)

    def expect(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> None:
        """Begin to load what `measure` will be asked for next."""
        order = self._order(chunk, wanted)
        if order.stations:
            self._feed().expect(order)

    def close(self) -> None:
        """Let the loading threads go."""
        if self._feeding is not None:
            self._feeding.close()

    @property
    def loading(self) -> dict[str, float]:
        """Seconds that the loading threads worked, all together (`elsewhere`: in workers), by what they did."""
        own = self._feeding.seconds if self._feeding is not None else {}
        return {what: own.get(what, 0.0) + self.elsewhere.get(what, 0.0) for what in {**own, **self.elsewhere}}

    def limit(self, size: int) -> None:
        """Try no larger batch than this."""
        self._most[None] = min(size, self._most.get(None, size))

    @property
    def fitting(self) -> int:
        """The largest batch that is tried: `batch_size`, or less once memory ran out."""
        return min([self.batch_size, *self._most.values()])

    def measure(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> dict[Station, Measured]:
        """Measure stations on a chunk; a bad sample is recorded as failed and the rest goes on."""
        keeping = self.keep if self.wants(chunk) else None
        work = Work(chunk, wanted, keeping, self.strict)
        with torch.inference_mode():
            for prepared in [p for p in work.stations if p.generated]:
                made = unmade(chunk.samples)
                for start in range(0, len(made), self.batch_size):
                    self._split(work, prepared, made[start : start + self.batch_size], None)
            for got in self._fed(self._order(chunk, wanted)):
                if isinstance(got, Refused):
                    for prepared in got.prepared:
                        work.fail(
                            got.position, got.problem, work.stations[prepared], lost=isinstance(got.problem, Unread)
                        )
                else:
                    got.settle()
                    images = None if got.images is None else got.images.to(self.device)
                    self._split(work, got.prepared, got.items, images)
        return work.measured(self.environment())

    def measure_model(self, wanted: Mapping[Station, set[str]], chunk: Chunk) -> dict[Station, Measured]:
        """Measure what belongs to the model itself, on one batch of the first chunk's inputs."""
        out: dict[Station, Measured] = {}
        for station, heads in wanted.items():
            batch: list[Item] = []
            if station.prepared.generated:
                batch = unmade(chunk.samples[: self.batch_size])
            order = Order(
                chunk, {station.prepared: [station]}, frozenset([station.prepared]), self.batch_size, self.by_area
            )
            for position, sample in enumerate(() if batch else chunk.samples):
                try:
                    (ready,) = self._feed().load(order, position, sample, order.rules()[0], [station.prepared]).values()
                except BadSample:
                    continue  # counted where the sample itself is measured
                if not isinstance(ready, Item) or ready.pixels is None:
                    continue
                if not batch or ready.pixels.shape == batch[0].pixels.shape:  # type: ignore[union-attr]
                    batch.append(ready)
                if len(batch) == order.most(batch[0].pixels.shape):  # type: ignore[union-attr]
                    break
            if not batch:
                out[station] = Measured(failed={0: "no sample of the first chunk could be read"})
                continue
            images = None if station.prepared.generated else self._stack(batch)
            extractor = self._extractor(station)
            extractor.model, extractor.budget = self.model, station.budget  # type: ignore[attr-defined]
            try:
                with self.spent.stage("costs"):
                    found = extractor(Batch([i.sample for i in batch], images=images), sorted(heads))
            except LostBatch as error:
                out[station] = Measured(failed={0: str(error)}, lost=True)
                continue
            except BadSample as error:
                out[station] = Measured(failed={0: str(error)})
                continue
            zero = {head: (rows.values, np.zeros(len(rows.values), np.int64)) for head, rows in found.items()}
            out[station] = Measured(zero, environment=self.environment())
        return out

    def environment(self) -> dict[str, Any]:
        """What made a chunk file, for its header."""
        return {
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "batch_size": self.batch_size,
        }

    # -------------------------------------------------------------------------------- inputs

    def _order(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> Order:
        """What the feed is asked for: nothing for what a generator makes."""
        keeping = self.keep if self.wants(chunk) else None
        stations = {p: s for p, s in by_prepared(wanted, keeping).items() if not p.generated}
        kept = frozenset(p for p, _ in keeping.points) if keeping else frozenset()
        return Order(chunk, stations, kept, self.batch_size, self.by_area)

    def _feed(self) -> Feed:
        if self._feeding is None:
            self._feeding = Feed(self.device, self.workers, self.read_timeout)
        return self._feeding

    def _fed(self, order: Order) -> Iterator[Ready | Refused]:
        """An order's batches; waiting for them is the stage `load`."""
        if not order.stations:
            return
        coming = self._feed().take(order)
        while True:
            with self.spent.stage("load"):
                got = next(coming, None)
            if got is None:
                return
            yield got

    def _stack(self, items: Sequence[Item]) -> torch.Tensor:
        stacked = np.stack([i.pixels for i in items if i.pixels is not None])
        return torch.from_numpy(stacked).to(self.device)

    # -------------------------------------------------------------------------------- one batch

    def _split(self, work: Work, prepared: Prepared, items: list[Item], images: torch.Tensor | None) -> None:
        """Run a batch; in halves when memory runs out (and from then on at once), one by one when a sample in it is bad, not at all when the
        model is lost."""

        def parts(size: int) -> None:
            for start in range(0, len(items), size):
                part = None if images is None else images[start : start + size]
                self._split(work, prepared, items[start : start + size], part)

        kind = (prepared, None if images is None else tuple(images.shape[1:]))
        most = min(self._most.get(kind, len(items)), self._most.get(None, len(items)))
        if len(items) > most:
            parts(most)
            return
        try:
            found = self._batch(work, prepared, items, images, work.stations[prepared], work.keeping)
        except LostBatch as error:
            for item in items:
                work.fail(item.position, error, work.stations[prepared], lost=True)
            return
        except BadSample as error:
            if len(items) == 1:
                self._spoilt(work, prepared, items, images, error)
                return
            most = 1
        except (RuntimeError, MemoryError) as error:
            if len(items) == 1 or not full(error):
                raise
            most = self._most[kind] = len(items) // 2
            self.backed_off = True
        else:
            most = 0
        if most:  # out of the handler: the failure's traceback holds the batch's memory
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            parts(most)
            return
        work.add(items, found)

    def _spoilt(
        self, work: Work, prepared: Prepared, items: list[Item], images: torch.Tensor | None, why: BadSample
    ) -> None:
        """A single sample that cannot be measured. The model's fault is none of the ground truth's, which all models share: that is measured without it."""
        (position,) = (item.position for item in items)
        truth = [s for s in work.stations[prepared] if not s.at.model()]
        of_model = [s for s in work.stations[prepared] if s.at.model()]
        work.fail(position, why, of_model or truth, lost=isinstance(why, Unread))
        if of_model and truth:
            try:
                work.add(items, self._batch(work, prepared, items, images, truth, None))
            except BadSample as error:
                work.fail(position, error, truth)

    def _batch(
        self,
        work: Work,
        prepared: Prepared,
        items: Sequence[Item],
        images: torch.Tensor | None,
        stations: Sequence[Station],
        keeping: Keep | None,
    ) -> dict[Station, Mapping[str, Rows]]:
        forward = Forward(self._caller, items, images, prepared.resolution, self._each)
        found: dict[Station, Mapping[str, Rows]] = {}
        for at, budget, sample in dict.fromkeys((s.at, s.budget, s.sample) for s in stations):
            for station in stations:
                if (station.at, station.budget, station.sample) != (at, budget, sample):
                    continue
                extractor = self._extractor(station)
                if extractor.takes == "encoder":
                    extractor.model = self.model
                batch = forward.batch(station, extractor.takes)
                with self.spent.stage(station.extractor):
                    found[station] = extractor(batch, sorted(work.wanted[station]))
                self.spent.forwards[station.extractor] += len(items)
            if keeping and at in (OUTPUT, GENERATED) and keeping.wants((prepared, budget), items):
                with self.spent.stage("keep images"):
                    keeping.write((prepared, budget), items, forward.pixels(at, budget, sample))
            forward.forget(at, budget, sample)
        for point in keeping.points if keeping else ():
            if keeping and point[0] == prepared and keeping.wants(point, items):
                pixels = forward.pixels(GENERATED if prepared.generated else OUTPUT, point[1], False)
                with self.spent.stage("keep images"):
                    keeping.write(point, items, pixels)
        return found

    def _each(self, work: Callable[[Any], Any], things: Iterable[Any]) -> Iterable[Any]:
        """`map` by as many threads as load."""
        if self.workers == 1:
            return map(work, things)
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(work, things))

    # -------------------------------------------------------------------------------- the model and the extractors

    def _extractor(self, station: Station) -> Any:
        extractor = self.plan.extractor(station)
        if id(extractor) not in self.opened:
            with self.spent.stage("open networks"):
                extractor.open(self.device)
            self.opened.add(id(extractor))
        return extractor
