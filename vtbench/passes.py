"""Runs one chunk: load, prepare, encode, decode, view, extract. The only place where a model and the extractors meet."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from vtbench import perturb
from vtbench.api import (
    GENERATED,
    INPUT,
    OUTPUT,
    Batch,
    Generated,
    Model,
    Pass,
    Rows,
    Tokenizer,
    Tokens,
    View,
)
from vtbench.data.reading import LIMIT
from vtbench.engine.chunks import Chunk, seed_of
from vtbench.engine.rows import stack
from vtbench.engine.store import Measured
from vtbench.errors import BadSample, LostBatch, Unread, VtbenchError
from vtbench.feed import Feed, Order, Ready, Refused
from vtbench.generating import conditions_of, generate, unmade
from vtbench.keep import Keep
from vtbench.memory import full
from vtbench.plan import Plan, Prepared, Station
from vtbench.view import Item, pad, see


class _Forward:
    """The passes over one batch, each made once: encodes shared by budgets, decodes by views, views by extractors."""

    def __init__(
        self, bench: Bench, items: Sequence[Item], images: torch.Tensor | None, side: int | None = None
    ) -> None:
        self.bench, self.items, self.images, self.side = bench, items, images, side
        self._tokens: dict[tuple[Pass, bool], Tokens] = {}
        self._images: dict[tuple[Pass, int | None, bool], torch.Tensor] = {}
        self._made: dict[int | None, Tokens] = {}
        self._views: dict[tuple[Pass, int | None, bool, View], torch.Tensor] = {}

    def pixels(self, at: Pass, budget: int | None, sample: bool) -> torch.Tensor:
        """Images of a pass, float32 in [0, 1], on the bench's device."""
        if at.op == "load":
            assert self.images is not None, "a pass without prepared inputs"
            return self.images
        key = (at, budget, sample)
        if key not in self._images:
            if at == GENERATED:
                made = self.bench.generate(self.items, budget, self.side)
                self._images[key] = made.images
                if made.tokens is not None:
                    self._made[budget] = made.tokens
            elif at.op == "run":
                with self.bench.stage("decode"):
                    self._images[key] = self.bench.decode(
                        self.tokens(at, budget, sample), self.items, at, self._size(at)
                    )
            elif at.op in perturb.IMAGE_OPS and at.of is not None:
                base = self.pixels(at.of, budget, sample)
                seeds = self.bench._seeds(self.items, at, at.op)
                with self.bench.stage("perturb"):
                    self._images[key] = perturb.images(base, at, seeds)
            elif at.op == "decode" and at.of is not None:
                seeds = self.bench._seeds(self.items, at, "tokens")
                with self.bench.stage("decode"):
                    changed = perturb.tokens(self.tokens(at.of, budget, sample), at, self.bench.tokenizer, seeds)
                    self._images[key] = self.bench.decode(changed, self.items, at, self._size(at))
            else:
                raise VtbenchError(f"the pass '{at.op}' is not one that this version can make")
        return self._images[key]

    def _size(self, at: Pass) -> tuple[int, int]:
        assert self.images is not None
        return int(self.images.shape[2]), int(self.images.shape[3])

    def tokens(self, at: Pass, budget: int | None, sample: bool) -> Tokens:
        """The tokens of a `run` pass, cut to the budget; encoded once for all budgets. Of a generator, those that it made."""
        if at == GENERATED:
            self.pixels(at, budget, sample)
            if budget not in self._made:
                raise VtbenchError(f"{self.bench.model.name} says that it gives tokens, and gave none")
            return self._made[budget]
        if at.op != "run" or at.of is None:
            raise VtbenchError(f"the pass '{at.spelled()}' has no tokens")
        key = (at, sample)
        if key not in self._tokens:
            base = self.pixels(at.of, budget, sample)
            with self.bench.stage("encode"):
                self._tokens[key] = self.bench.encode(base, self.items, at, sample)
        tokens = self._tokens[key]
        return tokens if budget is None else self.bench.tokenizer.prefix(tokens, budget)

    def seen(self, at: Pass, budget: int | None, sample: bool, view: View) -> Any:
        """A pass through a view. Tensors are kept for the next extractor with an equal view; images put back on their sources are not."""
        key = (at, budget, sample, replace(view, reference=""))
        if key in self._views:
            return self._views[key]
        pixels = self.pixels(at, budget, sample) if at.op != "load" or self.images is not None else None
        with self.bench.stage("view"):
            seen = see(pixels, self.items, view, truth=not at.model(), each=self.bench._each)
        if isinstance(seen, torch.Tensor):
            self._views[key] = seen
        return seen

    def forget(self, at: Pass, budget: int | None, sample: bool) -> None:
        """Free the images of a pass that no later station wants. (Ground truth stands beside every pass.)"""
        self._images.pop((at, budget, sample), None)
        self._views = {k: v for k, v in self._views.items() if k[0] == INPUT or k[:3] != (at, budget, sample)}


@dataclass
class Bench:
    """A model and the extractors of a plan on one device; measures chunks for the engine. by_area: larger images than 256 x 256 go in smaller batches."""

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
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    forwards: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    backed_off: bool = False
    lost: dict[str, str] = field(default_factory=dict)
    by: Counter[str] = field(default_factory=Counter)
    elsewhere: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _open: set[int] = field(default_factory=set)
    _most: dict[Any, int] = field(default_factory=dict)
    _feeding: Feed | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model, where it encodes and decodes."""
        if not isinstance(self.model, Tokenizer):
            raise VtbenchError(f"{self.model.name} is a generator: it does not encode images")
        return self.model

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Account the time of a block to a stage (nested stages count once, in the inner one). A GPU's work counts where it was asked for."""
        start, inner = time.perf_counter(), sum(self.stages.values())
        try:
            yield
            if self.device.startswith("cuda"):
                torch.cuda.current_stream(self.device).synchronize()
        finally:
            nested = sum(self.stages.values()) - inner
            self.stages[name] += time.perf_counter() - start - nested

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
        out = {station: Measured(environment=self.environment()) for station in wanted}
        rows: dict[Station, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {
            station: {head: [] for head in heads} for station, heads in wanted.items()
        }
        keeping = self.keep if self.wants(chunk) else None
        by_prepared = self._by_prepared(wanted, keeping)

        def fail(position: int, reason: str, stations: Sequence[Station], *, lost: bool = False) -> None:
            if self.strict:
                raise BadSample(f"{chunk.samples[position].id}: {reason}")
            for station in stations:
                out[station].failed[position] = reason
                out[station].lost |= lost

        def flush(prepared: Prepared, items: list[Item], images: torch.Tensor | None) -> None:
            self._split(prepared, items, images, by_prepared[prepared], wanted, rows, fail, keeping)

        with torch.inference_mode():
            for prepared in [p for p in by_prepared if p.generated]:
                made = unmade(chunk.samples)
                for start in range(0, len(made), self.batch_size):
                    flush(prepared, made[start : start + self.batch_size], None)
            for got in self._fed(self._order(chunk, wanted)):
                if isinstance(got, Refused):
                    for prepared in got.prepared:
                        lost = isinstance(got.problem, Unread)
                        fail(got.position, str(got.problem), by_prepared[prepared], lost=lost)
                else:
                    got.settle()
                    flush(got.prepared, got.items, None if got.images is None else got.images.to(self.device))
        for station, heads in rows.items():
            for head, parts in heads.items():
                out[station].heads[head] = _merge(parts)
        return out

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
                with self.stage("costs"):
                    found = extractor(Batch([i.sample for i in batch], images=images), sorted(heads))
            except LostBatch as error:
                out[station] = Measured(failed={0: str(error)}, lost=True)
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

    def _by_prepared(self, wanted: Mapping[Station, set[str]], keeping: Keep | None) -> dict[Prepared, list[Station]]:
        out: dict[Prepared, list[Station]] = defaultdict(list)
        for station in wanted:
            out[station.prepared].append(station)
        for prepared, _ in keeping.points if keeping else ():
            out[prepared] += []
        return out

    def _order(self, chunk: Chunk, wanted: Mapping[Station, set[str]]) -> Order:
        """What the feed is asked for: nothing for what a generator makes."""
        keeping = self.keep if self.wants(chunk) else None
        stations = {p: s for p, s in self._by_prepared(wanted, keeping).items() if not p.generated}
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
            with self.stage("load"):
                got = next(coming, None)
            if got is None:
                return
            yield got

    def _stack(self, items: Sequence[Item]) -> torch.Tensor:
        stacked = np.stack([i.pixels for i in items if i.pixels is not None])
        return torch.from_numpy(stacked).to(self.device)

    # -------------------------------------------------------------------------------- one batch

    def _split(
        self,
        prepared: Prepared,
        items: list[Item],
        images: torch.Tensor | None,
        stations: Sequence[Station],
        wanted: Mapping[Station, set[str]],
        rows: dict[Station, dict[str, list[tuple[np.ndarray, np.ndarray]]]],
        fail: Callable[..., None],
        keeping: Keep | None,
    ) -> None:
        """Run a batch; in halves when memory runs out (and from then on at once), one by one when a sample in it is bad, not at all when the
        model is lost."""

        def parts(size: int) -> None:
            for start in range(0, len(items), size):
                part = None if images is None else images[start : start + size]
                self._split(prepared, items[start : start + size], part, stations, wanted, rows, fail, keeping)

        kind = (prepared, None if images is None else tuple(images.shape[1:]))
        most = min(self._most.get(kind, len(items)), self._most.get(None, len(items)))
        if len(items) > most:
            parts(most)
            return
        try:
            found = self._batch(prepared, items, images, stations, wanted, keeping)
        except LostBatch as error:
            for item in items:
                fail(item.position, str(error), stations, lost=True)
            return
        except BadSample as error:
            if len(items) == 1:
                fail(items[0].position, str(error), stations)
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
        positions = np.array([i.position for i in items], dtype=np.int64)
        for station, heads in found.items():
            for head, got in heads.items():
                image = positions if got.image is None else positions[np.asarray(got.image, dtype=np.int64)]
                if len(got.values) != len(image):
                    raise VtbenchError(
                        f"the extractor {station.extractor} gave {len(got.values)} rows for {len(image)} samples ({head})"
                    )
                rows[station][head].append((np.asarray(got.values), image))

    def _batch(
        self,
        prepared: Prepared,
        items: Sequence[Item],
        images: torch.Tensor | None,
        stations: Sequence[Station],
        wanted: Mapping[Station, set[str]],
        keeping: Keep | None,
    ) -> dict[Station, Mapping[str, Rows]]:
        forward = _Forward(self, items, images, prepared.resolution)
        found: dict[Station, Mapping[str, Rows]] = {}
        samples = [i.sample for i in items]
        for at, budget, sample in dict.fromkeys((s.at, s.budget, s.sample) for s in stations):
            for station in stations:
                if (station.at, station.budget, station.sample) != (at, budget, sample):
                    continue
                extractor = self._extractor(station)
                batch = Batch(samples)
                if extractor.takes == "tokens":
                    batch.tokens = forward.tokens(at, budget, sample)
                    seen = forward.pixels(at, budget, sample) if prepared.generated else images
                    batch.pixels = self._input_pixels(seen) if seen is not None else 0
                elif extractor.takes == "encoder":
                    assert at.of is not None, "only a run pass has an encoder"
                    batch.images = pad(forward.pixels(at.of, budget, sample), self.model.capabilities.multiple)
                    extractor.model = self.model
                else:
                    batch.images = forward.seen(at, budget, sample, station.view)
                    if extractor.takes == "pair":
                        how = station.view.reference or station.view.quantise
                        batch.reference = forward.seen(INPUT, None, False, replace(station.view, quantise=how))
                with self.stage(station.extractor):
                    found[station] = extractor(batch, sorted(wanted[station]))
                self.forwards[station.extractor] += len(items)
            if keeping and at in (OUTPUT, GENERATED) and keeping.wants((prepared, budget), items):
                with self.stage("keep images"):
                    keeping.write((prepared, budget), items, forward.pixels(at, budget, sample))
            forward.forget(at, budget, sample)
        for point in keeping.points if keeping else ():
            if keeping and point[0] == prepared and keeping.wants(point, items):
                pixels = forward.pixels(GENERATED if prepared.generated else OUTPUT, point[1], False)
                with self.stage("keep images"):
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
        if id(extractor) not in self._open:
            with self.stage("open networks"):
                extractor.open(self.device)
            self._open.add(id(extractor))
        return extractor

    def _input_pixels(self, images: torch.Tensor) -> int:
        """Pixels of one image as the model sees it, padding included."""
        multiple = self.model.capabilities.multiple
        height, width = (int(n) + -int(n) % multiple for n in images.shape[2:])
        return height * width

    def _seeds(self, items: Sequence[Item], at: Pass, half: str) -> list[int]:
        return [seed_of(self.seed, i.sample.id, f"{at.spelled()}/{half}") for i in items]

    def encode(self, images: torch.Tensor, items: Sequence[Item], at: Pass, sample: bool) -> Tokens:
        """Encode, padded by edge replication to the model's multiple."""
        conditions = conditions_of(items)
        seeds = self._seeds(items, at, "encode")
        self.forwards["encode"] += len(items)
        try:
            return self.tokenizer.encode(
                pad(images, self.model.capabilities.multiple), condition=conditions, sample=sample, seeds=seeds
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._blame(error, "encode", images) from error

    def decode(self, tokens: Tokens, items: Sequence[Item], at: Pass, size: tuple[int, int]) -> torch.Tensor:
        """Decode, crop the padding off, clamp."""
        seeds = self._seeds(items, at, "decode")
        self.forwards["decode"] += len(items)
        try:
            out = self.tokenizer.decode(tokens, seeds=seeds)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._blame(error, "decode", None) from error
        if out.ndim != 4 or out.shape[0] != len(items) or out.shape[1] != 3:
            raise VtbenchError(f"{self.model.name} decodes to shape {tuple(out.shape)}, not [{len(items)}, 3, H, W]")
        out = out[:, :, : size[0], : size[1]]
        if tuple(out.shape[2:]) != size:
            raise VtbenchError(f"{self.model.name} decodes to {tuple(out.shape[2:])} from an input of {size}")
        if not bool(torch.isfinite(out).all()):
            raise BadSample(f"{self.model.name} decoded to values that are not finite")
        return out.float().clamp(0, 1).to(self.device)

    def generate(self, items: Sequence[Item], budget: int | None, side: int | None) -> Generated:
        """Make one image per condition, each from its own seed. side: what the images must measure, where that matters."""
        self.forwards["generate"] += len(items)
        with self.stage("generate"):
            try:
                made = generate(self.model, items, self.seed, budget, side)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise self._blame(error, "generate", None) from error
        return replace(made, images=made.images.to(self.device))

    def _blame(self, error: Exception, half: str, images: torch.Tensor | None) -> Exception:
        if full(error):
            return error
        what = f" on an input of shape {tuple(images.shape)}" if images is not None else ""
        return VtbenchError(
            f"the model {self.model.name} failed to {half}{what}: {type(error).__name__}: {error}",
            "Set VTBENCH_DEBUG=1 for its traceback",
        )


def _merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several batches in sample order."""
    image = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(image, kind="stable")
    return stack([p[0] for p in parts])[order], image[order]
