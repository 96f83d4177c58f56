"""Inputs made ready ahead of the model: decoded, prepared, stacked and on their way to the device while it computes.

Loader threads decode and prepare; one thread deals their results into batches, always in the samples' order, and starts the copy to the
device from pinned memory; the caller takes batches that are ready. What is ahead is bounded in batches and in bytes. Which sample is in which
batch depends on the order alone, never on who was faster.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vtbench.data import prepare
from vtbench.data.reading import LIMIT, Readers, Reading
from vtbench.errors import BadSample
from vtbench.view import Item

if TYPE_CHECKING:
    from vtbench.engine.chunks import Chunk
    from vtbench.plan import Prepared, Station

DEPTH = 2
"""Batches of a chunk that may lie ready."""

UNIT = 256 * 256
"""Pixels of the images that a batch size by area counts."""

HELD = 512 << 20
"""Bytes of samples that loaders may be ahead by (one sample a loader at least)."""

_NOTHING = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Order:
    """What is wanted of a chunk: its samples, prepared in these ways for these stations, in batches of `batch`. kept: preparations whose
    images are kept. by_area: `batch` is of images of 256 x 256."""

    chunk: Chunk
    stations: Mapping[Prepared, Sequence[Station]]
    kept: frozenset[Prepared]
    batch: int
    by_area: bool = False

    def most(self, shape: Sequence[int]) -> int:
        """How many images ``[3, H, W]`` make a batch (`shape` is empty where they are not stacked)."""
        if not self.by_area or not shape:
            return self.batch
        return max(1, min(self.batch, self.batch * UNIT // (shape[-2] * shape[-1])))

    def rules(self) -> list[str]:
        """The EXIF rules by which samples are decoded."""
        return list(dict.fromkeys(_rule(p) for p in self.stations))


@dataclass
class Ready:
    """A batch of one preparation and shape. images: ``[B, 3, H, W]`` on the device (None where no station wants them prepared). copied: what to wait
    for before they are read there."""

    prepared: Prepared
    items: list[Item]
    images: torch.Tensor | None
    copied: Any = None

    def settle(self) -> None:
        """Make the present stream wait for the copy."""
        if self.copied is not None and self.images is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.copied)
            self.images.record_stream(stream)


@dataclass
class Refused:
    """A sample that cannot be used, by these preparations."""

    position: int
    prepared: list[Prepared]
    problem: BadSample


@dataclass
class _Served:
    order: Order
    out: queue.Queue[Any] = field(default_factory=lambda: queue.Queue(DEPTH))
    dropped: threading.Event = field(default_factory=threading.Event)

    def put(self, what: Any) -> bool:
        """Hand something on; False when nobody wants it any more."""
        while not self.dropped.is_set():
            try:
                self.out.put(what, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


_END = object()


class Feed:
    """Serves orders one after the other. device: where batches go. loaders: threads. limit: seconds that one sample may take."""

    def __init__(self, device: str, loaders: int, limit: float | None = LIMIT) -> None:
        self.device, self.loaders, self.limit = device, max(1, loaders), limit
        self.seconds: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()
        self._orders: queue.SimpleQueue[_Served | None] = queue.SimpleQueue()
        self._expected: deque[_Served] = deque()
        self._thread: threading.Thread | None = None

    def expect(self, order: Order) -> None:
        """Begin with an order as soon as those before it are served."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(self._orders,), name="vtbench-feed", daemon=True)
            self._thread.start()
        served = _Served(order)
        self._expected.append(served)
        self._orders.put(served)

    def take(self, order: Order) -> Iterator[Ready | Refused]:
        """An order's batches and refusals, in order. What was expected before it and never taken is dropped. Raises what loading raised."""
        while self._expected and self._expected[0].order != order:
            self._expected.popleft().dropped.set()
        if not self._expected:
            self.expect(order)
        served = self._expected.popleft()
        try:
            while (what := served.out.get()) is not _END:
                if isinstance(what, BaseException):
                    raise what
                yield what
        finally:
            served.dropped.set()

    def close(self) -> None:
        """Let the threads go; whatever is asked later starts new ones."""
        while self._expected:
            self._expected.popleft().dropped.set()
        if self._thread is not None:
            self._orders.put(None)
            self._thread, self._orders = None, queue.SimpleQueue()

    # ------------------------------------------------------------------------------------ in the feed's thread

    def _run(self, orders: queue.SimpleQueue[_Served | None]) -> None:
        copying = torch.cuda.Stream(self.device) if self.device.startswith("cuda") else None
        with Readers(self.loaders, self.limit) as readers:
            while (served := orders.get()) is not None:
                try:
                    self._serve(served, readers, copying)
                except BaseException as error:  # noqa: BLE001 - it is raised again where the batches are taken
                    served.put(error)
                served.put(_END)

    def _serve(self, served: _Served, readers: Readers, copying: Any) -> None:
        order = served.order
        jobs = [(i, s, exif) for i, s in enumerate(order.chunk.samples) for exif in order.rules()]
        wanted = {exif: [p for p in order.stations if _rule(p) == exif] for exif in order.rules()}
        buckets: dict[tuple[Prepared, tuple[int, ...]], list[Item]] = defaultdict(list)
        asked: deque[tuple[int, str, Reading[Any]]] = deque()
        ahead, given = max(2 * self.loaders, order.batch), 0
        while (given < len(jobs) or asked) and not served.dropped.is_set():
            while given < len(jobs) and len(asked) < ahead:
                position, sample, exif = jobs[given]
                asked.append((position, exif, self._ask(readers, order, position, sample, exif, wanted[exif])))
                given += 1
            position, exif, reading = asked.popleft()
            try:
                made: dict[Prepared, Item | BadSample] = readers.result(reading)
            except BadSample as error:
                made = dict.fromkeys(wanted[exif], error)
            size = sum(_bytes(m) for m in made.values() if isinstance(m, Item))
            ahead = max(self.loaders, min(ahead, HELD // max(1, size)))
            for prepared, item in made.items():
                if isinstance(item, BadSample):
                    served.put(Refused(position, [prepared], item))
                    continue
                shape = item.pixels.shape if item.pixels is not None else ()
                bucket = buckets[prepared, shape]
                bucket.append(item)
                if len(bucket) == order.most(shape):
                    served.put(self._batched(prepared, buckets.pop((prepared, shape)), copying))
        for (prepared, _), bucket in buckets.items():
            served.put(self._batched(prepared, bucket, copying))

    def _ask(
        self, readers: Readers, order: Order, position: int, sample: Any, exif: str, prepared: Sequence[Prepared]
    ) -> Reading[Any]:
        def work() -> dict[Prepared, Item | BadSample]:
            return self.load(order, position, sample, exif, prepared)

        return readers.submit(getattr(sample.source, "name", sample.id), work)

    def _batched(self, prepared: Prepared, items: list[Item], copying: Any) -> Ready:
        if items[0].pixels is None:
            return Ready(prepared, items, None)
        start = time.perf_counter()
        host = torch.empty((len(items), *items[0].pixels.shape), pin_memory=copying is not None)
        there = host.numpy()
        for row, item in zip(there, items):
            row[...] = item.pixels
            item.pixels = row
        self._spent("stack", start)
        if copying is None:
            return Ready(prepared, items, host)
        with torch.cuda.stream(copying):
            images = host.to(self.device, non_blocking=True)
            return Ready(prepared, items, images, copying.record_event())

    # ------------------------------------------------------------------------------------ in a loader's thread

    def load(
        self, order: Order, position: int, sample: Any, exif: str, prepared: Sequence[Prepared]
    ) -> dict[Prepared, Item | BadSample]:
        """Decode a sample and prepare it in every way that is wanted. Raises `BadSample` when it cannot be decoded."""
        start = time.perf_counter()
        source = np.asarray(sample.image(exif=exif))
        start = self._spent("decode", start)
        out: dict[Prepared, Item | BadSample] = {}
        for how in prepared:
            out[how] = self._prepared(order, Item(position, sample, source), how)
        self._spent("prepare", start)
        return out

    def _prepared(self, order: Order, item: Item, how: Prepared) -> Item | BadSample:
        from PIL import Image

        stations, kept = order.stations[how], how in order.kept
        if not kept and stations and all(s.at.op == "load" and s.view.frame == "source" for s in stations):
            return item
        try:
            pixels, placement = prepare(Image.fromarray(item.source), how.mapping(), how.resolution)
        except BadSample as error:
            return error
        source = item.source if kept or any(s.view.frame == "source" for s in stations) else _NOTHING
        return replace(item, pixels=pixels, placement=placement, source=source)

    def _spent(self, what: str, start: float) -> float:
        now = time.perf_counter()
        with self._lock:
            self.seconds[what] += now - start
        return now


def _rule(prepared: Prepared) -> str:
    return str(prepared.mapping().get("exif", "ignore"))


def _bytes(item: Item) -> int:
    return item.source.nbytes + (item.pixels.nbytes if item.pixels is not None else 0)
