"""`vtbench metrics`: what the numbers mean."""

from __future__ import annotations

import typer

from vtbench.console import echo, screen, wide

app = typer.Typer(help="The metrics: list them, show one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(json: bool = typer.Option(False, "--json", help="Print JSON on stdout.")) -> None:
    """Every metric with its unit and direction."""
    from vtbench.registry import metrics

    known = [metrics()[name] for name in sorted(metrics())]
    if json:
        import json as text

        keys = ("name", "unit", "better", "version", "title", "source", "fields", "volatile", "fitted")
        echo(text.dumps([{k: getattr(m, k) for k in keys} for m in known], indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("metric", "unit", "better", ""):
        table.add_column(heading, no_wrap=heading == "metric")
    for m in known:
        table.add_row(m.name, m.unit, {"higher": "↑", "lower": "↓"}.get(m.better, ""), m.title)
    wide().print(table)


@app.command("show")
def show(name: str = typer.Argument(help="A metric's name.")) -> None:
    """A metric in full, with the suites and protocols that measure it."""
    from vtbench.registry import metric
    from vtbench.suite import load_suite, suite_names

    found = metric(name)
    out = screen(highlight=False, markup=False)
    out.print(f"{found.name} (version {found.version}): {found.title}")
    out.print(
        f"unit: {found.unit or 'none'}; better: {found.better or 'neither'}; agreement across devices: {found.tolerance:g} relative"
    )
    if found.source:
        out.print(f"source: {found.source}")
    if found.fields:
        out.print(f"protocol fields: {', '.join(found.fields)}")
    if found.compute.__doc__:
        out.print(" ".join(found.compute.__doc__.split()))
    for suite in map(load_suite, suite_names()):
        for entry in suite.metrics:
            if entry.name == name:
                out.print(f"suite {suite.name}: {', '.join(entry.protocols)}")
