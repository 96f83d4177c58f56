"""`vtbench compare`: results side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vtbench.console import echo, screen

if TYPE_CHECKING:
    from vtbench.comparison import Line, Pair


def compare(
    results: list[str] = typer.Argument(
        help="Two results or more: ids, models' names, paths. The first is what the others are held against."
    ),
    everything: bool = typer.Option(False, "--all", help="Every protocol, not the recommended ones alone."),
    format: str = typer.Option("text", "--format", help="text, md (for a pull request) or json."),
    out: str = typer.Option("results", envvar="VTBENCH_OUT", help="The results folder."),
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


def _print(pairs: list[Pair]) -> None:
    from rich.table import Table
    from rich.text import Text

    from vtbench.comparison import title
    from vtbench.report.delta import remarks, shown
    from vtbench.report.numbers import arrow, signed, with_interval

    console = screen()
    styles = {"better": "green", "higher": "cyan", "lower": "cyan", "worse": "red", "not comparable": "yellow"}
    for pair in pairs:
        table = Table(header_style="bold")
        for heading in ("metric", "slice", "at", "protocol", title(pair.a), title(pair.b), "difference", "", "how"):
            table.add_column(
                Text(heading), justify="right" if heading in (title(pair.a), title(pair.b), "difference") else "left"
            )
        for line in shown(pair):
            a, b = line.a.row, line.b.row
            protocol = a.protocol if a.protocol == b.protocol else f"{a.protocol} / {b.protocol}"
            tokens = "/".join(dict.fromkeys(str(r.tokens) for r in (a, b) if r.tokens is not None))
            name = " ".join(filter(None, (a.metric, arrow(a.higher_is_better))))
            where = ", ".join(
                filter(None, (f"{a.resolution} px" if a.resolution else "", f"{tokens} tokens" if tokens else ""))
            )
            change = "" if line.difference is None else signed(line.difference, line.low, line.high)
            cells = (
                name,
                "" if a.slice == "all" else a.slice,
                where,
                protocol,
                with_interval(a),
                with_interval(b),
                change,
            )
            table.add_row(
                *map(Text, cells),
                Text(line.verdict, style=styles.get(line.verdict, "dim")),
                Text(line.how or line.why, "dim"),
            )
        console.print(table)
        for remark in remarks(pair):
            console.print(Text(remark, "dim"), soft_wrap=True)
