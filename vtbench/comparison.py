"""Two or more results side by side: differences with intervals, paired by image; "better" only when the interval says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vtbench.comparable import Entry, environment_differences, field_differences, why_not
from vtbench.errors import UsageError
from vtbench.places import place
from vtbench.record import Record, Row
from vtbench.records import find, label, piece

Verdict = Literal["better", "worse", "higher", "lower", "same", "no difference shown", "no interval", "not comparable"]
Point = tuple[int | None, int | None, str]
"""An operating point: resolution, tokens, params."""


@dataclass(frozen=True)
class Line:
    """One metric of B against A. difference: B - A. how: `paired by image`, `paired by group`, `unpaired`, or empty."""

    a: Entry
    b: Entry
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    how: str = ""
    verdict: Verdict = "not comparable"
    why: str = ""


@dataclass(frozen=True)
class Pair:
    """B against A. only_a, only_b: what one of them measured alone. protocols, environment: (field, in A, in B) where they differ."""

    a: Record
    b: Record
    lines: list[Line] = field(default_factory=list)
    only_a: list[Row] = field(default_factory=list)
    only_b: list[Row] = field(default_factory=list)
    protocols: list[tuple[str, Any, Any]] = field(default_factory=list)
    environment: list[tuple[str, Any, Any]] = field(default_factory=list)


def compare(*which: str | Record, out: str | Path = "results", everything: bool = False) -> list[Pair]:
    """Compare results with the first: ids, models' names or records. Recommended protocols and plain slices only, unless `everything`.

    Means are paired by image and instance over what both measured (`samples/`), set metrics by deleting the same groups of
    images from both; without either, the two intervals are taken as independent, and the line says `unpaired`."""
    if len(which) < 2:
        raise UsageError("compare needs two results or more", "vtbench results list shows them")
    folder = place(out)
    records = [w if isinstance(w, Record) else find(folder, w) for w in which]
    return [compare_two(records[0], other, folder, everything=everything) for other in records[1:]]


def compare_two(a: Record, b: Record, folder: Path, *, everything: bool = False) -> Pair:
    """B against A, every shared metric at matching operating points."""
    pairs, only_a, only_b = _matched(a, b, everything)
    reader = _Samples(folder)
    lines = [_line(Entry(x, a), Entry(y, b), reader) for x, y in pairs]
    return Pair(a, b, lines, only_a, only_b, _protocol_differences(a, b, lines), environment_differences(a, b))


def _matched(a: Record, b: Record, everything: bool) -> tuple[list[tuple[Row, Row]], list[Row], list[Row]]:
    """Rows of one metric, slice and resolution; of one protocol where both have it, else of the recommended ones. Budgets match when
    both have several; a model with one operating point is held against each of the other's."""
    rows_a, rows_b = (
        [r for r in x.rows if everything or (r.recommended and "=" not in piece(r.slice))] for x in (a, b)
    )
    several = len({r.tokens for r in rows_a}) > 1 and len({r.tokens for r in rows_b}) > 1

    def key(row: Row) -> tuple[Any, ...]:
        return (row.metric, piece(row.slice), row.resolution, row.tokens if several else None)

    found: list[tuple[Row, Row]] = []
    theirs: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows_b:
        theirs.setdefault(key(row), []).append(row)
    used_a, used_b = set(), set()
    for row in rows_a:
        candidates = theirs.get(key(row), [])
        same = [c for c in candidates if c.protocol == row.protocol]
        for other in same or ([] if everything else candidates):
            found.append((row, other))
            used_a.add(id(row))
            used_b.add(id(other))
    return found, [r for r in rows_a if id(r) not in used_a], [r for r in rows_b if id(r) not in used_b]


class _Samples:
    """Per-sample values of the records in hand, read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._frames: dict[str, Any] = {}

    def of(self, entry: Entry) -> Any:
        """id, instance, value of one row, indexed by (id, instance); None when the run kept none."""
        from vtbench import samples

        assert entry.record is not None
        run = entry.record.run_id
        if run not in self._frames:
            table = samples.read(self.folder, run)
            self._frames[run] = {} if table is None else _by_row(table.to_pandas())
        row = entry.row
        return self._frames[run].get((row.resolution, row.tokens, row.protocol, row.metric, row.slice))


def _by_row(frame: Any) -> dict[tuple[Any, ...], Any]:
    keys = ["resolution", "tokens", "protocol", "metric", "slice"]
    out = {}
    for key, part in frame.groupby(keys, dropna=False, observed=True, sort=False):
        plain = tuple(None if k != k else (int(k) if i < 2 else str(k)) for i, k in enumerate(key))
        series = part.assign(id=part["id"].astype(str)).set_index(["id", "instance"])["value"]
        out[plain] = series
    return out


def _line(a: Entry, b: Entry, samples: _Samples) -> Line:
    reason = why_not(a, b)
    if reason:
        return Line(a, b, why=reason)
    x, y = a.row.value, b.row.value
    if x is None or y is None or math.isnan(x) or math.isnan(y):
        return Line(a, b, why="a value is missing or not a number")
    difference, low, high, how = _difference(a, b, samples)
    return Line(a, b, difference, low, high, how, _verdict(a.row, difference, low, high))


def _difference(a: Entry, b: Entry, samples: _Samples) -> tuple[float, float | None, float | None, str]:
    from vtbench.intervals import paired_difference, paired_groups

    x, y = a.row, b.row
    assert x.value is not None
    assert y.value is not None
    plain = 0.0 if x.value == y.value else y.value - x.value
    if x.groups is not None and y.groups is not None and len(x.groups) == len(y.groups) and x.n == y.n:
        interval = paired_groups(y.value, _array(y.groups), x.value, _array(x.groups))
        if not math.isnan(interval.low):
            return interval.value, interval.low, interval.high, "paired by group"
    mine, theirs = samples.of(a), samples.of(b)
    if mine is not None and theirs is not None:
        joined = mine.to_frame("a").join(theirs.to_frame("b"), how="inner")
        if len(joined) and not joined.isna().any(axis=None):
            image = joined.index.get_level_values("id").to_numpy()
            both = paired_difference(joined["b"].to_numpy(), joined["a"].to_numpy(), image)
            missing = max(len(mine), len(theirs)) - len(joined)
            how = "paired by image" + (f", {missing} left out" if missing else "")
            bounds = (None, None) if math.isnan(both.low) else (both.low, both.high)
            return both.value, *bounds, how
    spread = 0.0
    for row in (x, y):
        if row.ci_low is None or row.ci_high is None:
            return plain, None, None, ""
        spread += _half(row, row.ci_low, row.ci_high) ** 2
    if not math.isfinite(spread) or not math.isfinite(plain):
        return plain, None, None, ""
    return plain, plain - math.sqrt(spread), plain + math.sqrt(spread), "unpaired"


def _half(row: Row, low: float, high: float) -> float:
    """Half the width of a row's interval: of the jackknife's own, where the shown one was cut at the end of its scale."""
    from vtbench.intervals import jackknife

    if row.groups is not None and row.value is not None:
        whole = jackknife(row.value, _array(row.groups))
        if math.isfinite(whole.high):
            return whole.high - whole.value
    return (high - low) / 2


def _array(values: Sequence[float]) -> Any:
    import numpy as np

    return np.asarray(values, dtype=np.float64)


def _verdict(row: Row, difference: float, low: float | None, high: float | None) -> Verdict:
    if difference == 0 and (low is None or (low == 0 and high == 0)):
        return "same"
    if low is None or high is None:
        return "no interval"
    if low <= 0 <= high:
        return "no difference shown"
    up = low > 0
    if row.higher_is_better is None:
        return "higher" if up else "lower"
    return "better" if up == row.higher_is_better else "worse"


def _protocol_differences(a: Record, b: Record, lines: Sequence[Line]) -> list[tuple[str, Any, Any]]:
    """Of the protocols that the lines use: fields that differ under one name, or between the two names of a metric."""
    out: list[tuple[str, Any, Any]] = []
    seen = set()
    for line in lines:
        left, right = line.a.row.protocol, line.b.row.protocol
        if (left, right) in seen or left not in a.protocols or right not in b.protocols:
            continue
        seen.add((left, right))
        for key, x, y in field_differences(a.protocols[left], b.protocols[right]):
            out.append((f"{left}: {key}" if left == right else f"{left} / {right}: {key}", x, y))
    return out


def title(record: Record) -> str:
    """A record's heading in a comparison."""
    return f"{label(record)} ({record.run_id[:6]})"
