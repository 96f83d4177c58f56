"""From the store to rows: which samples count, slices, metrics, intervals. Needs no torch and no model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from vtbench.api import Measurements, Value
from vtbench.engine.chunks import Chunk
from vtbench.engine.columns import StoredColumn
from vtbench.engine.run import MODEL_CHUNK
from vtbench.engine.store import Reads
from vtbench.hashing import groups_of
from vtbench.intervals import bootstrap_mean, jackknife
from vtbench.plan import Cell, Plan, Station
from vtbench.record import Failure, Row, worst
from vtbench.samples import instances

LARGE = 8 << 20
"""Bytes of a column that is rather read again than held, should somebody want it after the last metric that reads it."""


@dataclass
class SampleValues:
    """Per-sample values of one row, for samples/RUN.parquet and for pairing."""

    row: Row
    ids: np.ndarray
    instance: np.ndarray
    values: np.ndarray


@dataclass
class Reduced:
    """Everything that a run's measurements say."""

    rows: list[Row] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    samples: list[SampleValues] = field(default_factory=list)
    n: int = 0


@dataclass
class _Picked:
    """A column restricted to a slice of the samples."""

    column: Any
    index: np.ndarray

    def __post_init__(self) -> None:
        moved = self.index[self.column.image]
        self._keep = moved >= 0
        self.image = moved[self._keep]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, values) block by block."""
        for image, values in self.column.blocks():
            moved = self.index[image]
            keep = moved >= 0
            yield moved[keep], values[keep]

    def array(self) -> np.ndarray:
        """All values in sample order."""
        whole: np.ndarray = self.column.array()
        return whole[self._keep]


@dataclass
class _ModelColumn:
    """A head measured on the model itself: rows that belong to no sample."""

    values: np.ndarray

    def __post_init__(self) -> None:
        self.image = np.zeros(len(self.values), np.int64)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The only block."""
        yield self.image, self.values

    def array(self) -> np.ndarray:
        """The values."""
        return self.values

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self.values.nbytes


class Reducer:
    """Reads one run's columns from the store, restricted to the samples that nothing failed on.

    lost: chunks that could not be measured (key -> why): all their samples have failed."""

    def __init__(
        self,
        plan: Plan,
        store: Reads,
        chunks: Sequence[Chunk],
        *,
        facts: Mapping[str, Any],
        limited: bool = False,
        lost: Mapping[str, str] | None = None,
    ) -> None:
        self.lost = dict(lost or {})
        self.plan, self.store, self.chunks, self.limited = plan, store, list(chunks), limited
        self.facts = dict(facts)
        self.samples = [s for c in self.chunks for s in c.samples]
        self.failures = self._failures()
        failed = {f.id for f in self.failures}
        self.alive = np.full(len(self.samples), -1, np.int64)
        kept = [i for i, s in enumerate(self.samples) if s.id not in failed]
        self.alive[kept] = np.arange(len(kept))
        self.kept = [self.samples[i] for i in kept]
        self.table = _table(self.kept)
        self._columns: dict[tuple[Station, str], Any] = {}
        self._grouped: dict[int, np.ndarray] = {}

    def chunks_of(self, station: Station) -> Sequence[Chunk]:
        """The chunks that a station is measured on: all of them, where every sample is both encoded and ground truth."""
        return self.chunks

    def _there(self, station: Station) -> Sequence[Chunk]:
        return [c for c in self.chunks_of(station) if c.key not in self.lost]

    def _failures(self) -> list[Failure]:
        reasons: dict[str, tuple[str, str]] = {
            s.id: ("worker", self.lost[c.key]) for c in self.chunks if c.key in self.lost for s in c.samples
        }
        for station in self.plan.stations:
            if self.plan.extractor(station).takes == "model":
                continue
            stage = "model" if station.at.model() else "load"
            for chunk in self._there(station):
                for position, reason in (self.store.failed(self.plan.keys[station], chunk.key) or {}).items():
                    name = chunk.samples[position].id
                    if name not in reasons or stage == "load":
                        reasons[name] = (stage, reason)
        return [Failure(id=name, stage=stage, reason=reason) for name, (stage, reason) in sorted(reasons.items())]

    def column(self, station: Station, head: str) -> Any:
        """One head of one station over the kept samples."""
        key = (station, head)
        if key not in self._columns:
            where = self.plan.keys[station]
            if self.plan.extractor(station).takes == "model":
                measured = self.store.get(where, MODEL_CHUNK)
                if measured is None or head not in measured.heads:
                    raise KeyError(f"{head} of the model is not measured")
                self._columns[key] = _ModelColumn(measured.heads[head][0])
            else:
                self._columns[key] = StoredColumn(
                    self.store,
                    where,
                    head,
                    self._there(station),
                    self.alive,
                    spill=getattr(self.store, "spill", None),
                )
        return self._columns[key]

    def reduce(self) -> Reduced:
        """Every row of the plan's cells. Large columns are let go after the last cell that reads them."""
        out = Reduced(failures=self.failures, n=len(self.kept))
        last = {need: place for place, cell in enumerate(self.plan.cells) for need in cell.needs.values()}
        for place, cell in enumerate(self.plan.cells):
            for row, values in self._cell(cell):
                out.rows.append(row)
                if values is not None:
                    out.samples.append(values)
            for need in cell.needs.values():
                if last[need] == place and need in self._columns and self._columns[need].held > LARGE:
                    del self._columns[need]
        return out

    # ------------------------------------------------------------------------------------ one cell

    def _cell(self, cell: Cell) -> Iterator[tuple[Row, SampleValues | None]]:
        base = self._base(cell)
        if cell.skip or not self.kept:
            why = cell.skip or "no sample could be used"
            status = "skipped" if cell.skip else "failed"
            yield base.model_copy(update={"status": status, "why": why}), None
            return
        tokens, bpp = self._costs(cell)
        base = base.model_copy(update={"tokens": tokens, "bpp": bpp})
        fields = cell.protocol.fields(cell.resolution)
        columns = {key: self.column(station, head) for key, (station, head) in cell.needs.items()}
        for outer, index in self._slices(cell.entry.slices):
            part = columns if index is None else {k: _Picked(c, index) for k, c in columns.items()}
            kept = np.arange(len(self.kept)) if index is None else np.flatnonzero(index >= 0)
            table = {name: values[kept] for name, values in self.table.items()}
            count = min(cell.metric.groups, max(1, len(self.kept)))
            groups = self._groups(count)[kept]
            context = {**self.facts, "resolution": cell.resolution, "budget": cell.budget, "n": len(kept)}
            measurements = Measurements(part, table, groups, context)
            with threadpool_limits(1):
                values = list(cell.metric.compute(measurements, fields))
            for value in values:
                if outer == "all" or value.status != "skipped":  # a set without words has no row for words
                    yield self._row(base, cell, value, outer, table)

    def _groups(self, count: int) -> np.ndarray:
        """The jackknife group of every kept sample; one sort serves all metrics."""
        if count not in self._grouped:
            self._grouped[count] = np.array(groups_of([s.id for s in self.kept], count))
        return self._grouped[count]

    def _slices(self, facts: Sequence[str]) -> Iterator[tuple[str, np.ndarray | None]]:
        yield "all", None
        for fact in facts:
            if fact not in self.table:
                continue
            names, of = np.unique([str(v) for v in self.table[fact]], return_inverse=True)
            members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of, minlength=len(names)))[:-1])
            for name, chosen in zip(names.tolist(), members):
                if name:
                    index = np.full(len(of), -1, np.int64)
                    index[chosen] = np.arange(len(chosen))
                    yield f"{fact}={name}", index

    def _base(self, cell: Cell) -> Row:
        better = {"higher": True, "lower": False}.get(cell.metric.better)
        status = worst(["limited" if self.limited else "ok", "partial" if self.failures else "ok"])
        return Row(
            resolution=cell.resolution,
            tokens=cell.budget,
            protocol=cell.protocol.name,
            protocol_digest=cell.protocol.digest(),
            metric=cell.metric.name,
            metric_version=cell.metric.version,
            unit=cell.metric.unit,
            higher_is_better=better,
            status=status,
            why=f"{len(self.failures)} samples failed" if self.failures else "",
            recommended=cell.protocol.name == cell.entry.recommended,
            volatile=cell.metric.volatile,
            tolerance=cell.metric.tolerance,
        )

    def _costs(self, cell: Cell) -> tuple[int | None, float | None]:
        """The tokens and bits-per-pixel columns of a cell's operating point."""
        if not cell.costs or any(station not in self.plan.keys for station, _ in cell.costs.values()):
            return cell.budget, None
        used = self.column(*cell.costs["used"]).array()
        bits, pixels = self.column(*cell.costs["bits"]).array(), self.column(*cell.costs["pixels"]).array()
        tokens = cell.budget
        if tokens is None and used.size and np.isfinite(used).all() and (used == used[0]).all() and used[0] > 0:
            tokens = int(used[0])
        bpp = float(np.mean(bits / pixels)) if bits.size and np.isfinite(bits).all() else None
        return tokens, bpp

    def _row(
        self, base: Row, cell: Cell, value: Value, outer: str, table: Mapping[str, np.ndarray]
    ) -> tuple[Row, SampleValues | None]:
        name = _join(outer, value.slice)
        update: dict[str, Any] = {"slice": name, "notes": dict(value.notes)}
        kept: SampleValues | None = None
        if value.status == "skipped":
            update |= {"status": worst([base.status, "skipped"]), "why": value.why, "n": value.n}
        elif value.samples is not None:
            samples = np.asarray(value.samples, np.float64)
            image = np.asarray(value.image if value.image is not None else np.arange(len(samples)))
            if not samples.size:
                update |= {"status": worst([base.status, "skipped"]), "why": value.why or "nothing to measure", "n": 0}
            else:
                interval = bootstrap_mean(samples, image)
                update |= {"value": interval.value, "ci_low": interval.low, "ci_high": interval.high, "n": samples.size}
        else:
            number = float("nan") if value.value is None else float(value.value)
            update |= {"value": number, "n": value.n or len(table["id"])}
            if value.groups is not None:
                groups = np.asarray(value.groups, np.float64)
                interval = jackknife(number, groups)
                update |= {"ci_low": interval.low, "ci_high": interval.high, "groups": groups.tolist()}
        if value.interval is not None:
            update |= dict(zip(("ci_low", "ci_high"), value.interval))
        if value.why and "why" not in update:
            update["why"] = value.why
        for bound in ("ci_low", "ci_high"):
            end = update.get(bound)
            if isinstance(end, float):
                low, high = value.bounds or cell.metric.bounds
                end = min(max(end, low), high)  # a symmetric interval may pass the ends of the scale
                update[bound] = None if math.isnan(end) else end + 0.0  # -0.0 is 0
        if isinstance(update.get("value"), float):
            update["value"] += 0.0
        row = base.model_copy(update=update)
        if value.keep and outer == "all" and value.samples is not None and np.size(value.samples):
            kept = SampleValues(row, table["id"][image], instances(image), samples)
        return row, kept


def _join(outer: str, inner: str) -> str:
    """`set=ic13` and `small` make `set=ic13;size=small`; `mean` and `all` add nothing to an outer slice."""
    if outer == "all":
        return inner
    if inner in ("all", "mean"):
        return outer
    return f"{outer};{inner}" if "=" in inner else f"{outer};size={inner}"


def _table(samples: Sequence[Any]) -> dict[str, np.ndarray]:
    """What is known of the samples, as columns: id, set, label, and the columns of a metadata table."""
    table: dict[str, np.ndarray] = {
        "id": np.array([s.id for s in samples], dtype=object),
        "set": np.array([s.set for s in samples], dtype=object),
        "label": np.array([-1 if s.label is None else s.label for s in samples]),
    }
    for name in dict.fromkeys(k for s in samples for k in s.meta):
        table.setdefault(name, np.array([s.meta.get(name, "") for s in samples], dtype=object))
    return table
