"""`vtbench suites`: what can be measured."""

from __future__ import annotations

import typer

from vtbench.console import echo, screen, wide

app = typer.Typer(help="The suites: list them, show one.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(json: bool = typer.Option(False, "--json", help="Print JSON on stdout.")) -> None:
    """Every suite with its task, resolutions and what it measures (`show` names its metrics and protocols)."""
    from vtbench.suite import load_suite, suite_names

    suites = [load_suite(name) for name in suite_names()]
    if json:
        import json as text

        rows = [
            {
                "name": s.name,
                "version": s.version,
                "task": s.task,
                "title": s.title,
                "resolutions": s.resolutions,
                "metrics": [m.name for m in s.metrics],
            }
            for s in suites
        ]
        echo(text.dumps(rows, indent=1))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("suite", "task", "resolutions", ""):
        table.add_column(heading, no_wrap=heading == "suite")
    for s in suites:
        sizes = ", ".join(str(r) if r else "native" for r in s.resolutions)
        table.add_row(s.name, s.task, sizes, s.title)
    wide().print(table)


@app.command("show")
def show(name: str = typer.Argument(help="A suite's name, or the path of its TOML file.")) -> None:
    """A suite in full: data, controls, every metric with its protocols and their fields."""
    from vtbench.suite import PARTS, load_suite

    suite = load_suite(name)
    out = screen(highlight=False, markup=False)
    out.print(
        f"{suite.name} (version {suite.version}, digest {suite.digest()})\n{suite.title}\n{suite.description}".rstrip()
    )
    out.print(f"resolutions: {', '.join(str(r) if r else 'native' for r in suite.resolutions)}; chunk {suite.chunk}")
    out.print(f"controls: {', '.join(suite.controls) or 'none'}")
    for key, value in suite.data.items():
        out.print(f"data.{key}: {value}")
    for metric in suite.metrics:
        slices = f"; sliced by {', '.join(metric.slices)}" if metric.slices else ""
        others = [p for p in metric.protocols if p != metric.recommended]
        also = f", also {', '.join(others)}" if others else ""
        out.print(f"{metric.name}: {metric.recommended} (recommended){also}{slices}")
    for protocol in suite.protocols.values():
        out.print(f"\nprotocol {protocol.name} (digest {protocol.digest()}): {protocol.title}")
        if protocol.source:
            out.print(f"  source: {protocol.source}")
        for part in PARTS:
            for key, value in getattr(protocol, part).items():
                out.print(f"  {part}.{key} = {value}")
