"""`vtbench compare`: results side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

if TYPE_CHECKING:
    from rich.table import Table

    from vtbench.comparison import Line, Pair


def compare(
    results: list[str] = typer.Argument(
        help="Two results or more: ids, models' names, paths. The first is what the others are held against."
    ),
    everything: bool = typer.Option(False, "--all", help="Every protocol, not the recommended ones alone."),
    format: str = typer.Option("text", "--format", help="text, md (for a pull request) or json."),
    out: opt.Out = "results",
    json: bool = typer.Option(False, "--json", help="As --format json."),
) -> None:
    """Differences with 95% intervals: means paired by image, FID and the like by deleting the same images from both.

    "better" and "worse" are said only when the interval excludes no difference; what may not be compared is listed with the reason."""
    from vtbench.comparison import compare as judge
    from vtbench.errors import UnknownName

    formats = ("text", "md", "json")
    if format not in formats:
        raise UnknownName("format", format, formats)
    pairs = judge(*results, out=out, everything=everything)
    if json or format == "json":
        import json as text

        from vtbench.record import plain

        echo(text.dumps(plain([_as_data(p) for p in pairs]), indent=1))
    elif format == "md":
        from vtbench.report.delta import markdown

        echo(markdown(pairs), nl=False)
    else:
        _print(pairs)


def _as_data(pair: Pair) -> dict[str, Any]:
    return {
        "a": pair.a.run_id,
        "b": pair.b.run_id,
        "lines": [_line(line) for line in pair.lines],
        "only_a": [[r.metric, r.protocol, r.slice] for r in pair.only_a],
        "only_b": [[r.metric, r.protocol, r.slice] for r in pair.only_b],
        "protocols": pair.protocols,
        "environment": pair.environment,
    }


def _line(line: Line) -> dict[str, Any]:
    a, b = line.a.row, line.b.row
    facts: dict[str, Any] = {
        "metric": a.metric,
        "slice": a.slice,
        "resolution": a.resolution,
        "protocol": [a.protocol, b.protocol],
    }
    facts |= {"tokens": [a.tokens, b.tokens], "a": a.value, "b": b.value, "difference": line.difference}
    return {**facts, "low": line.low, "high": line.high, "how": line.how, "verdict": line.verdict, "why": line.why}


STYLES = {"better": "green", "higher": "cyan", "lower": "cyan", "worse": "red", "not comparable": "yellow"}


def _print(pairs: list[Pair]) -> None:
    from rich.text import Text

    from vtbench.report.delta import remarks
    from vtbench.report.terminal import fits

    console = screen()
    for pair in pairs:
        table = _table(pair, narrow=False)
        console.print(table if fits(table, console) else _table(pair, narrow=True))
        for remark in (*_of_lines(pair), *remarks(pair)):
            console.print(Text(remark, "dim"), soft_wrap=True)


def _table(pair: Pair, *, narrow: bool) -> Table:
    """One line a metric and slice. narrow: intervals below their values."""
    from rich.text import Text

    from vtbench.comparison import title
    from vtbench.report.delta import shown
    from vtbench.report.numbers import arrow, signed, with_interval
    from vtbench.report.terminal import ruled

    def number(text: str) -> Text:
        return Text(text.replace(" [", "\n[") if narrow else text)

    lines = shown(pair)
    places = dict.fromkeys(map(_where, lines))
    above = Text(f"at {next(iter(places))}") if len(places) == 1 and any(places) else None
    table = ruled()
    table.title, table.title_justify = above, "left"
    table.add_column("metric", overflow="fold")
    if len(places) > 1:
        table.add_column("at", overflow="fold")
    for heading in (title(pair.a), title(pair.b), "difference"):
        table.add_column(Text(heading.replace(" (", "\n(") if narrow else heading), justify="right", overflow="fold")
    table.add_column("", overflow="fold")
    for line in lines:
        a, b = line.a.row, line.b.row
        name = " ".join(filter(None, (a.metric, "" if a.slice == "all" else a.slice, arrow(a.higher_is_better))))
        change = "" if line.difference is None else signed(line.difference, line.low, line.high)
        table.add_row(
            Text(name),
            *([Text(_where(line))] if len(places) > 1 else []),
            *(number(text) for text in (with_interval(a), with_interval(b), change)),
            Text(line.verdict, style=STYLES.get(line.verdict, "dim")),
        )
    return table


def _where(line: Line) -> str:
    a, b = line.a.row, line.b.row
    tokens = "/".join(dict.fromkeys(str(r.tokens) for r in (a, b) if r.tokens is not None))
    return ", ".join(filter(None, (f"{a.resolution} px" if a.resolution else "", f"{tokens} tokens" if tokens else "")))


def _of_lines(pair: Pair) -> list[str]:
    """What belongs to many lines, said once: the protocols, how differences were taken, and why some could not be."""
    from vtbench.report.delta import shown

    protocols: dict[str, dict[str, None]] = {}
    hows: dict[str, dict[str, None]] = {}
    for line in shown(pair):
        a, b = line.a.row, line.b.row
        under = a.protocol if a.protocol == b.protocol else f"{a.protocol} / {b.protocol}"
        protocols.setdefault(under, {})[a.metric] = None
        if line.how or line.why:
            hows.setdefault(line.how or line.why, {})[a.metric if a.slice == "all" else f"{a.metric} {a.slice}"] = None
    out = [f"under {protocol}: {', '.join(names)}" for protocol, names in protocols.items()]
    return out + [f"{how}: {', '.join(names)}" for how, names in hows.items()]
