"""`vtbench results`: what has been measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import typer

from vtbench.console import echo, screen, wide
from vtbench.places import place

if TYPE_CHECKING:
    from vtbench.record import Record

app = typer.Typer(
    help="The results: list them, show one with its provenance, delete.", no_args_is_help=True, rich_markup_mode=None
)
OUT = typer.Option("results", envvar="VTBENCH_OUT", help="The results folder.")
JSON = typer.Option(False, "--json", help="Print JSON on stdout.")


def gathered(which: Sequence[str], out: str) -> list[Record]:
    """The named records, or all; damaged ones are named on stderr and the rest goes on. `NoResults` when there is none."""
    from vtbench.record import NoResults
    from vtbench.records import find, read_all

    folder = place(out)
    if which:
        return [find(folder, name) for name in which]
    records, problems = read_all(folder)
    for problem in problems:
        echo(f"vtbench: {problem}", err=True)
    if not records:
        raise NoResults(f"no results in {folder}", "vtbench reconstruct --model tiny --suite demo makes the first")
    return records


@app.command("list")
def list_(
    model: str | None = typer.Option(None, help="Only models whose name contains this."),
    suite: str | None = typer.Option(None, "--suite", "-s", help="Only this suite."),
    dataset: str | None = typer.Option(None, help="Only data whose name contains this."),
    status: str | None = typer.Option(None, help="Only this status: ok, partial, limited, skipped, failed."),
    out: str = OUT,
    json: bool = JSON,
) -> None:
    """Every run: when, what, on what, how it went."""
    from vtbench.record import NoResults, plain
    from vtbench.records import label

    try:
        records = gathered([], out)
    except NoResults:  # an empty store is an answer here, not a mistake
        records = []
    records = [
        r
        for r in records
        if (model is None or model in label(r))
        and (suite is None or suite == r.suite.name)
        and (dataset is None or dataset in r.dataset.name)
        and (status is None or status == r.status)
    ]
    if json:
        import json as text

        keys = ("run_id", "status", "started", "finished", "command")
        lines = [
            {
                **{k: getattr(r, k) for k in keys},
                "model": label(r),
                "suite": r.suite.name,
                "dataset": r.dataset.name,
                "n": r.dataset.n,
                "made": r.dataset.made,
            }
            for r in records
        ]
        echo(text.dumps(plain(lines), indent=1))
        return
    if not records:
        echo(f"no results in {out}" if not any((model, suite, dataset, status)) else "no result fits", err=True)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("run", "model", "suite", "data", "n", "rows", "status", "started"):
        whole = heading in ("run", "n", "rows", "status", "started")
        justify: Literal["left", "right"] = "right" if heading in ("n", "rows") else "left"
        table.add_column(heading, justify=justify, no_wrap=whole, overflow="fold")
    for r in records:
        cells = (
            r.run_id,
            label(r),
            f"{r.suite.name} v{r.suite.version}",
            r.dataset.name,
            f"{r.dataset.made} against {r.dataset.n}" if r.dataset.made else str(r.dataset.n),
            str(len(r.rows)),
        )
        table.add_row(*map(Text, (*cells, r.status, r.started[:16].replace("T", " "))))
    wide().print(table)


@app.command("show")
def show(
    run: str = typer.Argument(help="An id or its start, a model's name (the latest run), or a record's path."),
    everything: bool = typer.Option(False, "--all", help="Every protocol, not the recommended ones alone."),
    out: str = OUT,
    json: bool = JSON,
) -> None:
    """One run: its numbers, where they came from, and the protocols in full."""
    from vtbench.record import dumps

    (record,) = gathered([run], out)
    if json:
        echo(dumps(record), nl=False)
        return
    from rich.text import Text

    from vtbench.comparable import flat
    from vtbench.report.terminal import provenance
    from vtbench.report.terminal import show as table

    console = screen()
    table(record, console, everything=everything)
    for key, text in provenance(record).items():
        console.print(Text.assemble((f"{key:>9}  ", "dim"), text), soft_wrap=True)
    for name, fields in record.protocols.items():
        text = ", ".join(f"{k}={v}" for k, v in flat(fields).items())
        console.print(Text.assemble((" protocol  ", "dim"), (name, "bold"), f"  {text}"), soft_wrap=True)


@app.command("delete")
def delete(
    run: list[str] = typer.Argument(help="Ids (or their starts, at least four digits)."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
    out: str = OUT,
) -> None:
    """Delete runs: record, samples and images. Measurements stay: the same command brings the numbers back at once."""
    from vtbench.errors import BadRecord
    from vtbench.record import read
    from vtbench.records import delete as remove
    from vtbench.records import ids, label
    from vtbench.table import write_table

    folder = place(out)
    for which in run:
        run_id = ids(folder, which)
        path = folder / "records" / f"{run_id}.json"
        name = run_id
        try:
            name = f"{run_id} ({label(read(path))})"
        except BadRecord:  # must be deletable too
            name = f"{run_id} (unreadable)"
        if not yes:
            typer.confirm(f"Delete {name}?", abort=True)
        remove(folder, run_id)
        echo(f"deleted {name}")
    write_table(folder)
