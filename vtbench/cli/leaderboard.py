"""`vtbench leaderboard`: ranks per metric, data and protocol."""

from __future__ import annotations

from pathlib import Path

import typer

from vtbench.cli import options as opt
from vtbench.console import echo


def leaderboard(
    format: str = typer.Option("md", "--format", help="csv, md, latex, html or json."),
    suite: str | None = typer.Option(None, "--suite", "-s", help="Only this suite."),
    metric: str | None = typer.Option(None, help="Only these metrics, separated by commas."),
    slice_: str | None = typer.Option(None, "--slice", help="Only these slices, separated by commas."),
    pareto: str | None = typer.Option(None, help="bpp: only what no other model beats at as few bits."),
    published: bool = typer.Option(
        False, "--published", help="Rank published numbers too, where they state the protocol."
    ),
    everything: bool = typer.Option(False, "--all", help="Every protocol, not the recommended ones alone."),
    output: str | None = typer.Option(None, "--output", "-o", help="Write to this file instead of stdout."),
    out: opt.Out = "results",
) -> None:
    """Rank everything measured. Only values of the same protocol, images and resolution are ranked together; limited runs never are."""
    from vtbench.cli.results import gathered
    from vtbench.comparable import entries, published_entries
    from vtbench.errors import UnknownName
    from vtbench.record import NoResults
    from vtbench.records import without_single_seeds
    from vtbench.report import leaderboard as board
    from vtbench.report import sheet
    from vtbench.table import published as tables

    formats = ("csv", "md", "latex", "html", "json")
    if format not in formats:
        raise UnknownName("format", format, formats)
    if pareto not in (None, "bpp"):
        raise UnknownName("axis of --pareto", pareto, ("bpp",))
    found = entries(without_single_seeds(gathered([], out))) + (published_entries(tables()) if published else [])
    chosen = [
        e
        for e in found
        if (suite is None or e.suite == suite)
        and (metric is None or e.row.metric in metric.split(","))
        and (slice_ is None or e.row.slice in slice_.split(","))
    ]
    boards = board.boards(chosen, all_protocols=everything)
    if not boards:
        known = ", ".join(sorted({e.suite for e in found}))
        raise NoResults("nothing to rank", f"Measured suites: {known}; limited runs are never ranked")
    if format == "csv":
        text = board.csv(board.lines(boards, pareto=bool(pareto)))
    elif format == "json":
        import json

        from vtbench.record import plain

        text = json.dumps(plain(board.lines(boards, pareto=bool(pareto))), indent=1) + "\n"
    else:
        sheets = board.sheets(boards, pareto=bool(pareto))
        if format == "html":
            text = sheet.html_page(sheets, "vtbench leaderboard")
        else:
            text = "\n".join(map(sheet.markdown if format == "md" else sheet.latex, sheets))
    if output:
        from vtbench.atomic import replace_file

        replace_file(Path(output), text.encode())
    else:
        echo(text, nl=False)
