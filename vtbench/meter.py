"""`Meter`: the metrics for people with their own loop; they bring originals and reconstructions, vtbench measures."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vtbench import registry
from vtbench.api import Batch, Capabilities, Stream, Tokenizer, Tokens
from vtbench.engine.chunks import Chunk
from vtbench.engine.store import Measured
from vtbench.errors import UsageError
from vtbench.isolation import plain, untouched
from vtbench.plan import Plan, Station, make_plan
from vtbench.record import DatasetInfo, ModelInfo, Record, SuiteInfo, run_id
from vtbench.reduce import Reducer
from vtbench.result import Result
from vtbench.suite import Suite, SuiteMetric, load_protocol, load_suite


@dataclass(frozen=True)
class GivenSample:
    """A sample of which only pixels were given."""

    id: str
    digest: str = ""
    label: int | None = None
    caption: str | None = None
    set: str = ""
    words: tuple[Any, ...] = ()
    faces: tuple[Any, ...] = ()
    stored_as: str = "array"
    meta: Mapping[str, Any] = field(default_factory=dict)


class _Memory:
    """The store's reading side, in memory."""

    def __init__(self) -> None:
        self.measured: dict[tuple[str, str], Measured] = {}

    def get(self, station: str, chunk: str) -> Measured | None:
        return self.measured.get((station, chunk))

    def failed(self, station: str, chunk: str) -> Mapping[int, str] | None:
        measured = self.measured.get((station, chunk))
        return None if measured is None else measured.failed


def protocol_of(metric: str) -> str:
    """The protocol under which the reconstruction suites recommend a metric."""
    for entry in load_suite("reconstruction-256").metrics:
        if entry.name == metric:
            return entry.recommended
    raise UsageError(f"no protocol is recommended for '{metric}'", f"Name one: Meter(['{metric}@PROTOCOL'])")


def _into_range(low: float, high: float) -> str:
    """How images of a range come to [0, 1]."""
    if not math.isfinite(high - low):
        return "The model gave values that are not finite"
    if high > 2:
        return "Convert: x / 255 from 8 bits"
    return "Clamp: x.clamp(0, 1)" if low > -0.5 else "Convert: (x + 1) / 2 from [-1, 1], and clamp to [0, 1]"


class Meter:
    """Metrics over batches of (original, reconstruction).

    ``meter = Meter(["psnr", "fid", "fid@clean"]); meter.update(gt, rec); meter.compute().flat("val/")``

    metrics: names, each with `@PROTOCOL` where the recommended one is not meant. Images are float ``[B, 3, H, W]`` in [0, 1], as the
    protocol's preparation would have left them (the protocol's view, quantiser and network are applied here). device: of the
    metric networks. With an initialised process group every rank updates with its own images, and `compute` gathers.
    """

    def __init__(
        self, metrics: Sequence[str] = ("psnr", "ssim", "lpips", "fid"), *, device: str = "cpu", name: str = "given"
    ) -> None:
        entries: dict[str, list[str]] = {}
        for wanted in metrics:
            metric, _, protocol = wanted.partition("@")
            registry.metric(metric)
            entries.setdefault(metric, []).append(protocol or protocol_of(metric))
        protocols = {p: load_protocol(p) for names in entries.values() for p in names}
        listed = tuple(SuiteMetric(m, tuple(names), names[0]) for m, names in entries.items())
        self.suite = Suite(name="meter", version=1, task="reconstruct", metrics=listed, protocols=protocols)
        self.device, self.name = device, name
        self._made: dict[Any, Any] = {}
        self._open: set[int] = set()
        self.reset()

    def reset(self) -> None:
        """Forget everything that was updated; loaded networks stay."""
        self._plan: Plan | None = None
        self._resolution: int | None = None
        self._store, self._count = _Memory(), 0
        self._chunks: list[Chunk] = []
        self._ids: set[str] = set()

    def _plan_for(self, height: int, width: int) -> Plan:
        if self._plan is None:
            self._resolution = height if height == width else None
            model = Tokenizer()
            model.name, model.revision, model.capabilities = self.name, "given", Capabilities()
            self._plan = make_plan(
                self.suite, model, resolutions=[self._resolution], device=self.device, made=self._made
            )
            foreign = [
                s
                for s in self._plan.stations
                if s.view.frame != "model" or self._plan.extractor(s).takes in ("model", "encoder")
            ]
            if foreign:
                raise UsageError(
                    f"a Meter cannot measure {foreign[0].extractor}: it needs the source images or the model",
                    "Use Evaluator",
                )
        return self._plan

    def update(
        self,
        gt: Any,
        rec: Any,
        *,
        ids: Sequence[str] | None = None,
        tokens: Any = None,
        codebook_size: int | None = None,
    ) -> None:
        """Measure a batch.

        gt, rec: ``[B, 3, H, W]`` in [0, 1], tensors or arrays of equal shape. ids: unique names (a running number otherwise). tokens:
        integers ``[B, N]`` or ``[B, h, w]`` with `codebook_size`, for codebook metrics."""
        import torch

        with plain():
            gt, rec = (torch.as_tensor(x).detach().to(self.device, torch.float32) for x in (gt, rec))
        if gt.shape != rec.shape or gt.ndim != 4 or gt.shape[1] != 3:
            raise UsageError(
                f"originals {tuple(gt.shape)} and reconstructions {tuple(rec.shape)} are not both [B, 3, H, W]"
            )
        for what, images in (("originals", gt), ("reconstructions", rec)):
            low, high = float(images.min()), float(images.max())
            if not (low >= -0.01 and high <= 1.01):
                raise UsageError(
                    f"the {what} range from {low:.3g} to {high:.3g}, not over [0, 1]", _into_range(low, high)
                )
        plan = self._plan_for(int(gt.shape[2]), int(gt.shape[3]))
        names = list(ids) if ids is not None else [f"{self._rank()}-{self._count + i:08d}" for i in range(len(gt))]
        twice = [n for i, n in enumerate(names) if n in self._ids or n in names[:i]]
        if len(names) != len(gt) or twice:
            raise UsageError(
                f"the id '{twice[0]}' was given twice" if twice else f"{len(names)} ids for {len(gt)} images"
            )
        self._ids.update(names)
        samples = [GivenSample(n) for n in names]
        given = self._tokens(tokens, codebook_size, len(gt))
        key = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
        with untouched(), torch.inference_mode():
            for station, heads in plan.stations.items():
                found = self._extract(plan, station, heads, samples, gt, rec, given)
                self._store.measured[plan.keys[station], key] = found
        self._chunks.append(Chunk(len(self._chunks), self._count, tuple(samples), key))
        self._count += len(gt)

    def _extract(
        self,
        plan: Plan,
        station: Station,
        heads: set[str],
        samples: list[GivenSample],
        gt: Any,
        rec: Any,
        tokens: Tokens,
    ) -> Measured:
        from vtbench.view import quantise

        extractor = plan.extractor(station)
        if id(extractor) not in self._open:
            extractor.open(self.device)
            self._open.add(id(extractor))
        batch = Batch(list(samples), pixels=int(gt.shape[2] * gt.shape[3]))
        if extractor.takes == "tokens":
            batch.tokens = tokens
        else:
            view = station.view
            batch.images = quantise(rec if station.at.model() else gt, view.quantise)
            if extractor.takes == "pair":
                batch.reference = quantise(gt, view.reference or view.quantise)
        rows = extractor(batch, sorted(heads))
        everyone = np.arange(len(samples))
        return Measured(
            {h: (np.asarray(r.values), everyone if r.image is None else np.asarray(r.image)) for h, r in rows.items()}
        )

    def _tokens(self, tokens: Any, size: int | None, count: int) -> Tokens:
        if tokens is None:
            return Tokens((Stream("given", "continuous"),), {"given": np.zeros((count, 0))}, count)
        ids = np.asarray(tokens.cpu() if hasattr(tokens, "cpu") else tokens)
        if ids.dtype.kind not in "iu" or len(ids) != count or size is None:
            raise UsageError("tokens are integers [B, N] or [B, h, w], one row an image, with codebook_size=")
        shape = tuple(int(n) for n in ids.shape[1:])
        layout: Any = "grid2d" if len(shape) == 2 else "seq1d"
        return Tokens((Stream("tokens", "index", layout, (size,), shape),), {"tokens": ids.reshape(count, -1)}, count)

    @staticmethod
    def _group() -> Any:
        import torch.distributed as dist

        return dist if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 else None

    def _rank(self) -> int:
        group = self._group()
        return group.get_rank() if group else 0

    def compute(self) -> Result:
        """The values over everything updated since the last reset; on every rank, over all ranks' images."""
        chunks, measured = list(self._chunks), dict(self._store.measured)
        group = self._group()
        if group is not None:
            gathered: list[Any] = [None] * group.get_world_size()
            group.all_gather_object(gathered, (chunks, measured))
            chunks, measured = [], {}
            for theirs, values in gathered:
                measured.update(values)
                for chunk in theirs:
                    start = sum(len(c.samples) for c in chunks)
                    chunks.append(replace(chunk, index=len(chunks), start=start))
        if self._plan is None or not chunks:
            raise UsageError("nothing was measured: call update first")
        memory = _Memory()
        memory.measured = measured
        reduced = Reducer(self._plan, memory, chunks, facts={"model": self.name}).reduce()
        revision = hashlib.sha256("".join(c.key for c in chunks).encode()).hexdigest()
        record = Record(
            run_id=run_id(self.name, "given", {}, self.suite.digest(), revision, {}),
            model=ModelInfo(name=self.name, revision="given"),
            suite=SuiteInfo(name="meter", version=1, digest=self.suite.digest()),
            dataset=DatasetInfo(name="given", revision=f"sha256:{revision}", n=reduced.n),
            rows=reduced.rows,
            failures=reduced.failures,
        )
        return Result([record])
