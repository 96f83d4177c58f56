"""`vtbench table`: results as a table for a paper, a page, a model card or a pull request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtbench.cli import options as opt
from vtbench.console import echo
from vtbench.places import place

if TYPE_CHECKING:
    from vtbench.record import Record


def table(
    results: list[str] = typer.Argument(None, help="Results: ids, models' names, paths (default: all of --out)."),
    columns: str = typer.Option(
        "",
        "--columns",
        help="Facts (tokens, codebook, bpp, params, resolution, licence, trained_on) and metrics: fid, fid@clean, t_acc:small.",
    ),
    published: str = typer.Option(
        "", "--published", help="Published models to show beside, by the start of their names, separated by commas."
    ),
    suite: str | None = typer.Option(None, "--suite", "-s", help="Only results of this suite."),
    format: str = typer.Option(
        "md", "--format", help="latex, md, csv, html, model-card or pr (the others against the first)."
    ),
    bib: str | None = typer.Option(
        None, help="Write the BibTeX of every model, data set and metric used to this file."
    ),
    output: str | None = typer.Option(None, "--output", "-o", help="Write to this file instead of stdout."),
    out: opt.Out = "results",
) -> None:
    """Models by columns: best in bold and second underlined among comparable rows, published rows with a dagger, a caption that states the methods."""
    from vtbench.cli.results import gathered
    from vtbench.errors import UnknownName
    from vtbench.records import without_single_seeds

    formats = ("latex", "md", "csv", "html", "model-card", "pr")
    if format not in formats:
        raise UnknownName("format", format, formats)
    records = [r for r in gathered([], out) if suite in (None, r.suite.name)]
    records = _named(results, records, out) if results else without_single_seeds(records)
    bibliography = ""
    if format == "pr":
        from vtbench.comparison import compare
        from vtbench.report.delta import markdown

        text = markdown(compare(*records, out=out))
    elif format == "model-card":
        from vtbench.report.model_card import model_card

        text = model_card(records)
    else:
        text, bibliography = _paper(records, columns, published, format)
    if bib:
        from vtbench.atomic import replace_file

        replace_file(Path(bib), (bibliography + "\n").encode())
    elif bibliography and format == "latex":
        text += "\n" + "\n".join(f"% {line}".rstrip() for line in bibliography.splitlines()) + "\n"
    if output:
        from vtbench.atomic import replace_file

        replace_file(Path(output), text.encode())
    else:
        echo(text, nl=False)


def _named(names: list[str], records: list[Record], out: str) -> list[Record]:
    """The named results: a model's name means all its latest results, one a suite."""
    from vtbench.records import find, label
    from vtbench.report.paper import latest

    chosen = []
    for name in names:
        mine = latest([r for r in records if name in (r.model.name, label(r))])
        chosen += mine or [find(place(out), name)]
    return list({r.run_id: r for r in chosen}.values())


def _paper(records: list[Record], columns: str, published: str, format: str) -> tuple[str, str]:
    from vtbench.report import paper
    from vtbench.report import sheet as spell
    from vtbench.table import published as tables

    # gFID is not rFID: published generators stand beside generators only
    names = ("generation", "geneval") if all(r.generated for r in records) else ("reconstruction", "tokbench")
    lines = paper.pick_published(tables(names), [p for p in published.split(",") if p]) if published else []
    found = paper.subjects(records, lines)
    default = paper.GENERATORS if names[0] == "generation" else paper.DEFAULT
    wanted = [paper.Column.of(c) for c in (columns or default).split(",") if c.strip()]
    if not columns:  # the default names what there may be
        known = {e.row.metric for s in found for e in s.found if e.row.value is not None} | set(paper.FACTS)
        if names[0] == "generation":
            known -= {f for f in paper.FACTS if all(paper.fact(s, f) == "-" for s in found)}
        wanted = [c for c in wanted if c.name in known]
    made, bibliography = paper.sheet(found, wanted)
    if format == "html":
        return spell.html_page([made], "vtbench"), bibliography
    return {"md": spell.markdown, "latex": spell.latex, "csv": spell.csv}[format](made), bibliography
