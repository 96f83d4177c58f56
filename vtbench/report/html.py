"""The HTML report: one self-contained page that opens from disk without a network."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtbench.comparable import flat
from vtbench.errors import MissingPackage
from vtbench.record import Record, Row, plain
from vtbench.records import label, piece
from vtbench.report import correlations, rates, sweeps
from vtbench.report.gallery import gather
from vtbench.report.numbers import arrow, number, with_interval
from vtbench.report.plots import Point, Series, chart
from vtbench.report.terminal import provenance

PAGE = Path(__file__).parent / "page"


def page(
    records: Sequence[Record], out: Path, *, title: str = "", limit: int = 200, pictures: Sequence[Record] | None = None
) -> str:
    """The report of some records as HTML text.

    out: the results folder, for samples and kept pictures. limit: the most samples in the gallery. pictures: the records whose pictures are shown, where
    they are others (the seeds of a summary). Everything from records is
    escaped; the page loads nothing, and says so in its content security policy."""
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingPackage("jinja2", "report", "the HTML report") from error

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    gallery = gather(records if pictures is None else pictures, out, limit=limit)
    pairs, clouds = correlations.correlate(records, out)
    heading = title or " · ".join(dict.fromkeys(label(r) for r in records))
    return environment.from_string((PAGE / "page.html").read_text("utf-8")).render(
        title=heading,
        style=Markup((PAGE / "page.css").read_text("utf-8")),
        script=Markup((PAGE / "page.js").read_text("utf-8")),
        tables=tables(records),
        rates=[Markup(svg) for svg in rates.plots(records)],
        savings=rates.savings(records),
        sweeps=[Markup(svg) for svg in sweeps.plots(records)],
        curves=[Markup(svg) for svg in curve_plots(records)],
        correlations=pairs,
        clouds=[Markup(svg) for svg in clouds],
        gallery=gallery,
        data=Markup(json_for_script(gallery.data)),
        runs=[run_facts(r) for r in records],
        protocols=protocol_table(records),
        remarks=remarks(records),
        number=number,
        correlation=lambda r: "constant" if math.isnan(r) else f"{r:+.2f}",
    )


def json_for_script(value: Any) -> str:
    """JSON that cannot end the script element that it stands in."""
    text = json.dumps(plain(value), separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def tables(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One table a suite and resolution: metrics by models; rows beyond the recommended protocols and plain slices are `more`."""
    places: dict[tuple[str, int | None], dict[tuple[str, str, str], dict[tuple[Any, ...], Row]]] = {}
    columns: dict[tuple[str, int | None], dict[tuple[Any, ...], Record]] = {}
    for record in records:
        for row in record.rows:
            place, column = (record.suite.name, row.resolution), (record.run_id, row.tokens, row.params)
            if row.status == "skipped":
                continue
            places.setdefault(place, {}).setdefault((row.metric, row.protocol, piece(row.slice)), {})[column] = row
            columns.setdefault(place, {})[column] = record
    out = []
    for (suite, resolution), lines in places.items():
        heads = [_head(column, record, lines) for column, record in columns[suite, resolution].items()]
        body = []
        for (metric, protocol, part), cells in lines.items():
            row = next(iter(cells.values()))
            body.append(
                {
                    "metric": metric,
                    "arrow": arrow(row.higher_is_better),
                    "unit": row.unit,
                    "slice": "" if part == "all" else part,
                    "protocol": protocol,
                    "more": not row.recommended or "=" in part,
                    "cells": [_cell(cells.get(column)) for column in columns[suite, resolution]],
                }
            )
        data = ", ".join(dict.fromkeys(r.dataset.counted() for r in columns[suite, resolution].values()))
        where = f"{suite} at {resolution} px" if resolution else f"{suite} at native size"
        out.append(
            {"title": where, "data": data, "heads": heads, "rows": body, "more": sum(bool(r["more"]) for r in body)}
        )
    return out


def _head(column: tuple[Any, ...], record: Record, lines: Mapping[Any, Mapping[Any, Row]]) -> dict[str, str]:
    name = f"{record.model.name}:{column[2].replace(';', ',')}" if column[2] else label(record)
    bpp = next(
        (cells[column].bpp for cells in lines.values() if column in cells and cells[column].bpp is not None), None
    )
    facts = [f"{column[1]} tokens" if column[1] else "", f"{bpp:.3g} bpp" if bpp is not None else ""]
    return {"name": name, "facts": ", ".join(filter(None, facts))}


def _cell(row: Row | None) -> dict[str, str]:
    if row is None:
        return {"value": "", "interval": "", "status": "", "why": ""}
    text = with_interval(row)
    value, _, interval = text.partition(" ")
    why = f"{row.status}: {row.why}" if row.why else ("" if row.status == "ok" else row.status)
    return {"value": value, "interval": interval, "status": row.status, "why": f"n = {row.n}. {why}".strip()}


def curve_plots(records: Sequence[Record]) -> list[str]:
    """Charts of the curves that rows carry in their notes: a mapping of lists of one length, the first of which is the abscissa, or plain
    lists of numbers, one per position.
    Curves of one metric, slice and note share a chart."""
    found: dict[tuple[str, str, str], list[tuple[Record, Row, Mapping[str, list[float]]]]] = {}
    for record in records:
        for row in record.rows:
            for key, note in {**row.notes, **_profiles(row.notes)}.items():
                if _is_curve(note):
                    found.setdefault((row.metric, row.slice, key), []).append((record, row, note))
    out = []
    for (metric, part, key), curves in found.items():
        series, across, lines = [], "", []
        for record, row, note in curves:
            across, *lines = list(note)
            point = f", {row.tokens} tokens" if row.tokens else ""
            for line in lines:
                values = [Point(_float(x), _float(y)) for x, y in zip(note[across], note[line])]
                name = f"{label(record)}{point}: {line}" if len(lines) > 1 else f"{label(record)}{point}"
                dashed = line in ("fit", "uniform", "shuffled", "null")
                series.append(Series(name, values, dashed=dashed, markers=len(values) <= 40 and not dashed))
        spans = [[p.x for s in series for p in s.points if p.x > 0], [p.y for s in series for p in s.points if p.y > 0]]
        log_x, log_y = (across != "position" and len(v) > 0 and max(v) / min(v) > 50 for v in spans)
        name = " ".join(filter(None, (metric, "" if part == "all" else part, "" if key == "curve" else key)))
        out.append(
            chart(name, across, lines[0] if len(lines) == 1 else " ".join(lines[:1]), series, log_x=log_x, log_y=log_y)
        )
    return [svg for svg in out if svg]


def _profiles(notes: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Plain lists of eight numbers or more, one per position: those of one length make a curve over the position."""
    lists = {
        k: v
        for k, v in notes.items()
        if isinstance(v, list) and len(v) >= 8 and all(isinstance(x, (int, float)) for x in v)
    }
    out: dict[str, dict[str, list[Any]]] = {}
    for key, values in lists.items():
        place = f"by position, {len(values)}" if len({len(v) for v in lists.values()}) > 1 else "by position"
        out.setdefault(place, {"position": list(range(1, len(values) + 1))})[key] = values
    return out


def _is_curve(note: Any) -> bool:
    if not isinstance(note, Mapping) or len(note) < 2:
        return False
    lists = list(note.values())
    return all(isinstance(v, list) and v for v in lists) and len({len(v) for v in lists}) == 1 and len(lists[0]) > 1


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def run_facts(record: Record) -> dict[str, Any]:
    """A run's provenance, its card, and its failures in full."""
    card = {
        k: v if isinstance(v, str) else json.dumps(plain(v), ensure_ascii=False) for k, v in record.model.card.items()
    }
    return {
        "name": label(record),
        "facts": dict(provenance(record)),
        "card": card,
        "failures": [f.model_dump() for f in record.failures],
        "alarms": [a.model_dump() for a in record.alarms],
        "skipped": skipped(record.rows),
    }


def skipped(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """(metrics, reason) of what was not measured."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.status in ("skipped", "failed"):
            reasons.setdefault(row.why or row.status, {})[row.metric] = None
    return [(", ".join(names), why) for why, names in reasons.items()]


def protocol_table(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every protocol with its fields; where records disagree about one, each version stands there."""
    out: dict[tuple[str, str], dict[str, Any]] = {}
    for record in records:
        for name, fields in record.protocols.items():
            text = {k: v if isinstance(v, str) else json.dumps(plain(v)) for k, v in flat(fields).items()}
            metrics = dict.fromkeys(r.metric for r in record.rows if r.protocol == name)
            entry = out.setdefault(
                (name, json.dumps(text, sort_keys=True)), {"name": name, "fields": text, "metrics": {}, "models": {}}
            )
            entry["metrics"] |= metrics
            entry["models"][label(record)] = None
    return list(out.values())


def remarks(records: Sequence[Record]) -> list[str]:
    """What a reader must know before the numbers."""
    out = []
    limited = [label(r) for r in records if r.status == "limited"]
    if limited:
        out.append(f"{', '.join(limited)}: a limited run; its numbers stand for nothing but themselves.")
    for record in records:
        if record.failures:
            out.append(f"{label(record)}: {len(record.failures)} samples failed and are left out.")
        out += [f"{label(record)}: {alarm.name}: {alarm.message}" for alarm in record.alarms]
    if len({r.dataset.revision for r in records}) > 1:
        out.append("These runs are of different images: their numbers do not compare.")
    if any(r.environment.vtbench.dirty for r in records):
        out.append("Some of these runs were made with changed vtbench sources.")
    return out
