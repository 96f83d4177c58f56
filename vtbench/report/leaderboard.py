"""Ranks: per metric, slice, data and protocol. A rank is one plus the number of models whose interval lies wholly on the better side."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vtbench.comparable import Entry, rankable, span, why_apart
from vtbench.records import piece
from vtbench.report.numbers import arrow
from vtbench.report.sheet import Cell, Heading, Mark, Section, Sheet

COLUMNS = (
    "suite", "dataset", "resolution", "metric", "slice", "protocol", "rank", "model", "tokens", "bpp", "value", "ci_low",
    "ci_high", "n", "unit", "higher_is_better", "pareto", "status", "source", "run_id",
)  # fmt: skip


@dataclass
class Board:
    """Entries that may be ranked against each other, best first, with their ranks; those that may not, with the reason."""

    entries: list[Entry]
    ranks: list[int]
    frontier: list[bool | None]
    left_out: list[tuple[Entry, str]]

    @property
    def head(self) -> Entry:
        """Any entry: what all of them share."""
        return self.entries[0]


def boards(everything: Iterable[Entry], *, all_protocols: bool = False) -> list[Board]:
    """Group entries into boards. Measured ones come first, so that published ones join a board of the same protocol and data."""
    chosen = [e for e in everything if all_protocols or e.row.recommended]
    chosen.sort(key=lambda e: e.record is None)
    groups: dict[tuple[Any, ...], list[list[Entry]]] = {}
    reasons: dict[tuple[Any, ...], list[tuple[Entry, str]]] = {}
    for entry in chosen:
        row = entry.row
        where = (row.metric, piece(row.slice), row.resolution)
        reason = rankable(entry)
        if reason:
            reasons.setdefault((*where, entry.dataset, row.protocol), []).append((entry, reason))
            continue
        place = (*where, entry.dataset, row.protocol)
        for group in groups.setdefault(place, []):
            if not why_apart(group[0], entry):
                group.append(entry)
                break
        else:
            groups[place].append([entry])
    return [_ranked(group, reasons.get(place, [])) for place, found in groups.items() for group in found]


def _ranked(group: list[Entry], left_out: list[tuple[Entry, str]]) -> Board:
    up = bool(group[0].row.higher_is_better)
    group = sorted(_latest(group), key=lambda e: (-_value(e) if up else _value(e), e.model))
    spans = [span(e.row) for e in group]
    # A model is ahead when its whole interval lies on the better side: count them in the sorted list of inner ends.
    inner = sorted(low for low, _ in spans) if up else sorted(high for _, high in spans)
    if up:
        ranks = [1 + len(inner) - bisect_right(inner, high) for _, high in spans]
    else:
        ranks = [1 + bisect_left(inner, low) for low, _ in spans]
    return Board(group, ranks, _frontier(group, up), left_out)


def _latest(group: Sequence[Entry]) -> list[Entry]:
    """One entry a model, operating point and revision: the latest."""
    kept: dict[tuple[Any, ...], Entry] = {}
    for e in group:
        revision = e.record.model.revision if e.record else e.row.source
        key = (e.model, revision, e.row.tokens, _options(e), e.record is None)
        if key not in kept or (e.record and kept[key].record and e.record.started >= kept[key].record.started):  # type: ignore[union-attr]
            kept[key] = e
    return list(kept.values())


_CHOOSING = ("tokens", "resolution", "protocol", "slice_by")
"""Options that choose which rows a run has, and move none of their values."""


def _options(entry: Entry) -> str:
    options = entry.record.options.items() if entry.record else ()
    return str(sorted((k, v) for k, v in options if k not in _CHOOSING))


def _value(entry: Entry) -> float:
    assert entry.row.value is not None
    return entry.row.value


def _frontier(group: Sequence[Entry], up: bool) -> list[bool | None]:
    """For each entry whether nothing costs at most as many bits and is better (None: bits unknown)."""
    priced = [(e.row.bpp, -_value(e) if up else _value(e), i) for i, e in enumerate(group) if e.row.bpp is not None]
    out: list[bool | None] = [None] * len(group)
    best, at = math.inf, -math.inf
    for bits, loss, i in sorted(priced):
        out[i] = loss < best or (loss == best and bits == at)
        if loss < best:
            best, at = loss, bits
    return out


def lines(found: Sequence[Board], *, pareto: bool = False) -> list[dict[str, Any]]:
    """Boards as flat rows of `COLUMNS`; with `pareto`, those on the frontier alone, by bits."""
    out = []
    for board in found:
        ranked = list(zip(board.entries, board.ranks, board.frontier))
        if pareto:
            ranked = sorted((r for r in ranked if r[2]), key=lambda r: r[0].row.bpp or 0.0)
        for entry, rank, frontier in ranked:
            row = entry.row
            cells = {c: getattr(row, c) for c in COLUMNS if hasattr(row, c)}
            cells |= {
                "suite": entry.suite,
                "dataset": entry.dataset,
                "model": entry.model,
                "rank": rank,
                "pareto": frontier,
            }
            cells["run_id"] = entry.record.run_id if entry.record else ""
            cells["status"] = row.status if entry.record else "published"
            out.append({c: cells[c] for c in COLUMNS})
    return out


def csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Flat rows as CSV with stable columns."""
    from vtbench.table import csv_text

    def text(row: Mapping[str, Any]) -> dict[str, Any]:
        pareto = {None: "", True: "true", False: "false"}[row["pareto"]]
        return {**row, "pareto": pareto, "rank": str(row["rank"])}

    return csv_text(map(text, rows), COLUMNS)


def sheets(found: Sequence[Board], *, pareto: bool = False) -> list[Sheet]:
    """A sheet for each data and resolution: models by metrics, ranks in brackets, best in bold and second underlined."""
    places: dict[tuple[str, str, int | None], list[Board]] = {}
    for board in found:
        head = board.head
        data = head.record.dataset.counted() if head.record else head.dataset
        places.setdefault((head.suite, data, head.row.resolution), []).append(board)
    return [_sheet(place, boards_of, pareto) for place, boards_of in places.items()]


def _sheet(place: tuple[str, str, int | None], found: Sequence[Board], pareto: bool) -> Sheet:
    suite, dataset, resolution = place
    headings = [Heading("model", left=True), Heading("tokens"), Heading("bpp")]
    names = [b.head.row for b in found]
    several = {
        r.metric for r in names if sum(o.metric == r.metric and piece(o.slice) == piece(r.slice) for o in names) > 1
    }
    for row in names:
        extra = " ".join(
            filter(
                None,
                (
                    "" if piece(row.slice) == "all" else piece(row.slice),
                    row.protocol if row.metric in several else "",
                ),
            )
        )
        headings.append(Heading(" ".join(filter(None, (row.metric, extra))), arrow(row.higher_is_better), row.unit))
    table: dict[tuple[Any, ...], list[Cell]] = {}
    order: dict[tuple[Any, ...], tuple[int, ...]] = {}
    for i, board in enumerate(found):
        seconds = min((r for r in board.ranks if r > 1), default=0)
        for at, (entry, rank, frontier) in enumerate(zip(board.entries, board.ranks, board.frontier)):
            if pareto and not frontier:
                continue
            row = entry.row
            key = (entry.model, row.tokens, entry.record.run_id if entry.record else row.source)
            bpp = f"{row.bpp:.3g}" if row.bpp is not None else "-"
            cells = table.setdefault(
                key, [Cell(entry.model), Cell(str(row.tokens or "-")), Cell(bpp), *[Cell("-")] * len(found)]
            )
            if cells[2].text == "-" and row.bpp is not None:
                cells[2] = Cell(bpp)
            mark: Mark = "best" if rank == 1 else ("second" if rank == seconds else "")
            alone = len(board.entries) < 2
            text = entry.text()
            cells[3 + i] = Cell(text if alone else f"{text} ({rank})", "" if alone else mark, entry.record is None)
            order.setdefault(key, (i, at))
    lines = [table[key] for key in sorted(table, key=lambda k: order[k])]
    known = [i for i in range(len(headings)) if i not in (1, 2) or any(line[i].text != "-" for line in lines)]
    headings, body = [headings[i] for i in known], Section("", [[line[i] for i in known] for line in lines])
    where = f"{suite or dataset} at {resolution} px" if resolution else f"{suite or dataset} at native size"
    notes = [
        "In brackets: one plus the number of models whose 95% interval lies wholly on the better side. † as published."
    ]
    reasons: dict[str, list[str]] = {}
    for board in found:
        for entry, reason in board.left_out:
            reasons.setdefault(reason, []).append(entry.model)
    notes += [f"Not ranked: {', '.join(dict.fromkeys(models))} ({reason})." for reason, models in reasons.items()]
    protocols = ", ".join(dict.fromkeys(f"{r.metric} under {r.protocol}" for r in names))
    return Sheet(headings, [body], f"{where}, {dataset}", f"Protocols: {protocols}.", notes)
