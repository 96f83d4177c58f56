"""Sweeps of a sampling parameter: metrics over guidance, steps or temperature, and two metrics against each other along the way."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vtbench.record import Record, Row, params_text, plain
from vtbench.records import piece
from vtbench.report.numbers import number
from vtbench.report.plots import Point, Series, chart

LEAST = 3
"""Values of a parameter that make a sweep."""
TRADES = (("fid", "inception_score"), ("fid", "clip_score"), ("fid", "recall"), ("precision", "recall"))
"""Pairs of metrics of which guidance gives one for the other: (upwards, across)."""


@dataclass(frozen=True)
class Sweep:
    """Records of one generator that differ in one number alone, by that number. rest: its other params. data: what all of them were made from and held
    against, spelled."""

    model: str
    param: str
    rest: str
    data: str
    points: tuple[tuple[float, Record], ...]

    @property
    def name(self) -> str:
        """The model with the params that stay."""
        return f"{self.model}:{self.rest.replace(';', ',')}" if self.rest else self.model


def sweeps(records: Sequence[Record]) -> list[Sweep]:
    """Every sweep of `LEAST` values among generators' records of one suite, data and rule for seeds and subsets."""
    found: dict[tuple[str, ...], list[tuple[float, Record]]] = {}
    for record in records:
        for param, value in record.model.params.items() if record.generated else ():
            at = _number(value)
            if at is not None:
                rest = {k: v for k, v in record.model.params.items() if k != param}
                data = json.dumps([record.suite.digest, record.dataset.revision, plain(record.options)], sort_keys=True)
                key = (record.model.name, param, params_text(rest), data, record.model.revision)
                found.setdefault(key, []).append((at, record))
    made = [Sweep(k[0], k[1], k[2], k[3], tuple(sorted(p, key=lambda q: q[0]))) for k, p in found.items()]
    return [sweep for sweep in made if len({at for at, _ in sweep.points}) >= LEAST]


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


@dataclass(frozen=True)
class Place:
    """What one axis shows: a metric, with its slice, under a protocol."""

    suite: str
    resolution: int | None
    protocol: str
    metric: str

    def where(self) -> str:
        """The suite and the resolution."""
        return f"{self.suite}, {self.resolution} px" if self.resolution else self.suite


def plots(records: Sequence[Record]) -> list[str]:
    """A chart for each metric over the parameter, and one for each pair of `TRADES`; only what was made from and held against the same shares one."""
    over: dict[tuple[str, str, Place], dict[str, list[tuple[float, Row]]]] = {}
    titles: dict[str, str] = {}
    for sweep in sweeps(records):
        for at, record in sweep.points:
            titles[sweep.data] = record.dataset.counted()
            for place, tokens, row in _rows(record):
                name = sweep.name + (f", {tokens} tokens" if tokens else "")
                over.setdefault((sweep.param, sweep.data, place), {}).setdefault(name, []).append((at, row))
    out = []
    for (param, data, place), models in over.items():
        series = [
            Series(name, [_point(at, row, _label(param, at, row)) for at, row in rows]) for name, rows in models.items()
        ]
        unit = next(iter(models.values()))[0][1].unit
        title = f"{place.metric} ({place.protocol}), {place.where()}, {titles[data]}"
        out.append(chart(title, param, f"{place.metric} ({unit})" if unit else place.metric, series))
    for (param, data, place), models in over.items():
        for (other, its, there), others in over.items():
            if (param, data, place.where()) == (other, its, there.where()) and (place.metric, there.metric) in TRADES:
                series = [
                    Series(name, _against(param, rows, dict(others[name])))
                    for name, rows in models.items()
                    if name in others
                ]
                title = f"{place.metric} and {there.metric} over {param}, {place.where()}, {titles[data]}"
                out.append(chart(title, there.metric, place.metric, series))
    return [svg for svg in out if svg]


def _rows(record: Record) -> Iterator[tuple[Place, int | None, Row]]:
    several = len({r.tokens for r in record.rows if r.tokens is not None}) > 1
    for row in record.rows:
        part = piece(row.slice)
        told = row.recommended and row.value is not None and row.higher_is_better is not None and "=" not in part
        if told and not row.volatile and not row.metric.startswith("params_"):
            metric = row.metric if part == "all" else f"{row.metric} {part}"
            yield Place(record.suite.name, row.resolution, row.protocol, metric), row.tokens if several else None, row


def _point(x: float, row: Row, label: str) -> Point:
    return Point(x, row.value or 0.0, row.ci_low, row.ci_high, label)


def _against(param: str, rows: Sequence[tuple[float, Row]], others: dict[float, Row]) -> list[Point]:
    both = [(at, row, others[at]) for at, row in rows if at in others]
    return [_point(other.value or 0.0, row, _label(param, at, other, row)) for at, row, other in both]


def _label(param: str, at: float, *rows: Row) -> str:
    return f"{param}={at:g}: " + ", ".join(f"{r.metric} {number(r.value, r.ci_low, r.ci_high)}" for r in rows)
