"""Rate against distortion: what each bit buys, prefix lengths and codec qualities as curves, and BD-rate between curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vtbench.comparable import Entry, entries, why_apart
from vtbench.record import Record
from vtbench.report.numbers import number
from vtbench.report.plots import Point, Series, chart


@dataclass(frozen=True)
class Saving:
    """Bits that `model` needs for the same quality as `baseline`, in percent (negative: fewer), over the qualities that both reach."""

    metric: str
    model: str
    baseline: str
    percent: float
    low: float
    high: float


def curves(records: Sequence[Record]) -> dict[tuple[str, str, str, int | None, str], dict[str, list[Entry]]]:
    """Comparable values by bits: (suite, metric, slice, resolution, protocol) to the curves of each model's name, by bits.

    A codec's qualities make one curve, a model's token budgets another; a curve may be a single point."""
    out: dict[tuple[str, str, str, int | None, str], dict[str, list[Entry]]] = {}
    firsts: dict[tuple[str, str, str, int | None, str], Entry] = {}
    for entry in entries(records):
        row = entry.row
        if row.bpp is None or row.value is None or not row.recommended or row.volatile or row.higher_is_better is None:
            continue
        key = (entry.suite, row.metric, row.slice, row.resolution, row.protocol)
        if "=" in row.slice or (key in firsts and why_apart(firsts[key], entry)):
            continue
        firsts.setdefault(key, entry)
        assert entry.record is not None
        out.setdefault(key, {}).setdefault(entry.record.model.name, []).append(entry)
    for models in out.values():
        for points in models.values():
            points.sort(key=lambda e: e.row.bpp or 0.0)
    return {key: models for key, models in out.items() if sum(map(len, models.values())) > 1}


def is_codec(entry: Entry) -> bool:
    """Whether an entry is of a codec: a baseline."""
    return bool(
        entry.record
        and (entry.record.model.card.get("form") == "codec" or entry.record.model.card.get("kind") == "bytes")
    )


def plots(records: Sequence[Record]) -> list[str]:
    """A chart for each metric and slice with two points or more."""
    out = []
    for (suite, metric, piece, resolution, protocol), models in curves(records).items():
        series = []
        for name, points in models.items():
            shown = [
                Point(
                    e.row.bpp or 0.0,
                    e.row.value or 0.0,
                    e.row.ci_low,
                    e.row.ci_high,
                    f"{e.model}{_budget(e)}: {number(e.row.bpp)} bpp, {e.text()}",
                )
                for e in points
            ]
            series.append(Series(name, shown, dashed=is_codec(points[0])))
        unit = next(iter(models.values()))[0].row.unit
        name = metric if piece == "all" else f"{metric} {piece}"
        where = f"{suite}, {resolution} px" if resolution else suite
        out.append(
            chart(
                f"{name} ({protocol}), {where}",
                "bits per pixel",
                f"{name}{f' ({unit})' if unit else ''}",
                series,
                log_x=True,
            )
        )
    return [svg for svg in out if svg]


def _budget(entry: Entry) -> str:
    return f", {entry.row.tokens} tokens" if entry.row.tokens else ""


def savings(records: Sequence[Record]) -> list[Saving]:
    """BD-rate of each model against each codec that shares a range of quality with it."""
    out = []
    for (_, metric, piece, _, _), models in curves(records).items():
        baselines = {n: p for n, p in models.items() if is_codec(p[0])}
        for name, points in models.items():
            for base, theirs in baselines.items():
                if name == base:
                    continue
                found = bd_rate(_points(theirs), _points(points))
                if found is not None:
                    out.append(Saving(metric if piece == "all" else f"{metric} {piece}", name, base, *found))
    return out


def _points(curve: Sequence[Entry]) -> list[tuple[float, float]]:
    return [(e.row.bpp or 0.0, e.row.value or 0.0) for e in curve]


def bd_rate(
    baseline: Sequence[tuple[float, float]], curve: Sequence[tuple[float, float]]
) -> tuple[float, float, float] | None:
    """Bjøntegaard's delta rate in percent and the range of quality it holds for: the mean difference of log rate over the qualities
    that both curves reach. Log rate is interpolated linearly in quality (no polynomial is fitted to few points).

    Points are (bits per pixel, quality). None when either curve has fewer than two points, is not monotone, or they share no range."""
    import numpy as np

    sides = []
    for points in (baseline, curve):
        ordered = sorted((q, math.log(r)) for r, q in points if r > 0 and math.isfinite(q))
        if len(ordered) < 2:
            return None
        qualities, rates = np.array(ordered).T
        steps = np.diff(rates)
        if (np.diff(qualities) <= 0).any() or not ((steps > 0).all() or (steps < 0).all()):
            return None
        sides.append((qualities, rates))
    low = max(q[0] for q, _ in sides)
    high = min(q[-1] for q, _ in sides)
    if not high > low:
        return None
    grid = np.unique(np.concatenate([[low, high], *(q[(q > low) & (q < high)] for q, _ in sides)]))
    (q0, r0), (q1, r1) = sides
    difference = np.interp(grid, q1, r1) - np.interp(grid, q0, r0)
    mean = float(((difference[1:] + difference[:-1]) / 2 * np.diff(grid)).sum() / (high - low))
    return 100 * (math.exp(mean) - 1), float(low), float(high)
