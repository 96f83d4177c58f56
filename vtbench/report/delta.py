"""A comparison as Markdown for a pull request, and what must be said beside its numbers."""

from __future__ import annotations

import html
from collections.abc import Sequence

from vtbench.comparison import Line, Pair, title
from vtbench.records import label
from vtbench.report.numbers import arrow, signed, with_interval

_SIGNS = {"better": "🟢 better", "worse": "🔴 worse", "not comparable": "⚠️ not comparable"}


def remarks(pair: Pair) -> list[str]:
    """What differs besides the models, what only one of them measured, and what the intervals are."""
    out = [f"protocol field {key}: {left} and {right}" for key, left, right in pair.protocols]
    if pair.environment:
        out.append("environment: " + ", ".join(f"{key} {left} and {right}" for key, left, right in pair.environment))
    for rows, record in ((pair.only_a, pair.a), (pair.only_b, pair.b)):
        names = ", ".join(dict.fromkeys(f"{r.metric} ({r.protocol})" for r in rows if r.status != "skipped"))
        if names:
            out.append(f"only {label(record)}: {names}")
    absent: dict[str, dict[str, None]] = {}
    for line in pair.lines:
        if _one_sided(line) and not all(r.status == "skipped" for r in (line.a.row, line.b.row)):
            absent.setdefault(line.why, {})[line.a.row.metric] = None
    out += [f"not comparable: {', '.join(metrics)} ({why})" for why, metrics in absent.items()]
    compared = sum(line.low is not None for line in pair.lines)
    if compared:
        out.append(f"95% intervals, not corrected for {compared} comparisons.")
    return out


def _one_sided(line: Line) -> bool:
    return line.a.row.value is None or line.b.row.value is None


def shown(pair: Pair) -> list[Line]:
    """The lines with a value on both sides; the others are told in `remarks`."""
    return [line for line in pair.lines if not _one_sided(line)]


def escaped(text: str) -> str:
    """Text inside a Markdown table's cell, with nothing that Markdown or HTML would obey."""
    safe = html.escape(text, quote=False).replace("\\", "\\\\")
    for character in "|*_`[]~":
        safe = safe.replace(character, f"\\{character}")
    return " ".join(safe.split())


def markdown(pairs: Sequence[Pair]) -> str:
    """One table a pair."""
    out: list[str] = []
    for pair in pairs:
        a, b = escaped(title(pair.a)), escaped(title(pair.b))
        out += [f"#### {b} against {a}", "", f"| metric | {a} | {b} | difference | |", "|---|---:|---:|---:|---|"]
        for line in shown(pair):
            x, y = line.a.row, line.b.row
            name = " ".join(filter(None, (x.metric, arrow(x.higher_is_better), "" if x.slice == "all" else x.slice)))
            points = [str(r.tokens) for r in (x, y) if r.tokens is not None]
            where = ", ".join(filter(None, (x.protocol, f"{x.resolution} px" if x.resolution else "")))
            name = escaped(f"{name} ({where}{', ' + '/'.join(dict.fromkeys(points)) + ' tokens' if points else ''})")
            change = "" if line.difference is None else signed(line.difference, line.low, line.high)
            verdict = _SIGNS.get(line.verdict, line.verdict) + (f": {escaped(line.why)}" if line.why else "")
            out.append(f"| {name} | {with_interval(x)} | {with_interval(y)} | {change} | {verdict} |")
        out += ["", *(f"- {escaped(remark)}" for remark in remarks(pair)), ""]
    return "\n".join(out)
