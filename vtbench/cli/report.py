"""`vtbench report`: results as one self-contained page."""

from __future__ import annotations

from pathlib import Path

import typer

from vtbench.cli import options as opt
from vtbench.console import echo
from vtbench.places import place


def report(
    results: list[str] = typer.Argument(
        None, help="Results: ids, models' names, paths (default: the latest of each model)."
    ),
    html: str = typer.Option("report.html", "--html", help="The file to write."),
    suite: str | None = typer.Option(None, "--suite", "-s", help="Only results of this suite."),
    title: str = typer.Option("", help="The page's title."),
    max_images: int = typer.Option(200, min=1, help="The most samples in the gallery."),
    out: opt.Out = "results",
) -> None:
    """Numbers, rate and quality, pictures, words and faces, and where everything came from, in one page that needs no network.

    Pictures are there when the runs kept them (`--keep-images sample` or `all`)."""
    from vtbench.atomic import replace_file
    from vtbench.cli.results import gathered
    from vtbench.record import NoResults
    from vtbench.report.html import page
    from vtbench.report.paper import latest

    records = [r for r in gathered(results or [], out) if suite in (None, r.suite.name)]
    if not records:
        raise NoResults(f"no results of the suite {suite} in {out}")
    chosen = records if results else latest(records)
    pictures = chosen if results else latest(records, each_seed=True)
    text = page(chosen, place(out), title=title, limit=max_images, pictures=pictures)
    replace_file(Path(html), text.encode())
    echo(f"{html}: {len(chosen)} runs, {len(text) / 1e6:.1f} MB", err=True)
