"""What the commands that measure share: arguments as options, the dry run, and what is said at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

from vtbench.console import echo, screen

if TYPE_CHECKING:
    from vtbench.evaluation import Evaluator
    from vtbench.progress import Silent
    from vtbench.record import Record, Row
    from vtbench.result import Result


def numbers(text: str | None, option: str, separator: str = ",") -> tuple[int, ...]:
    """Whole numbers of an option's text. Raises `UsageError`."""
    from vtbench.errors import UsageError

    try:
        return tuple(int(part) for part in (text or "").split(separator) if part)
    except ValueError as error:
        between = "commas" if separator == "," else f"'{separator}'"
        raise UsageError(f"{option} takes numbers separated by {between}, not '{text}'") from error


def names(text: str | None) -> tuple[str, ...]:
    """Names of an option's text, separated by commas."""
    return tuple(part for part in (text or "").split(",") if part)


def keywords(arguments: Mapping[str, Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """A command's arguments (its `locals()`) as keywords of `vtbench.options.Options`: those that bear the name of one, texts taken apart,
    ``no_baselines`` and ``no_alarms`` turned round. Raises `UsageError`."""
    from vtbench.options import Options

    known = {f.name for f in fields(Options)} - set(without)
    out = {name: value for name, value in arguments.items() if name in known}
    for name in out.keys() & {"resolution", "tokens"}:
        out[name] = numbers(out[name], f"--{name}")
    if "protocol" in out:
        out["protocol"] = names(out["protocol"])
    if out.get("state_key") == "both":  # each state is a model of its own then
        out["state_key"] = "auto"
    for name in ("baselines", "alarms"):
        if f"no_{name}" in arguments:
            out[name] = not arguments[f"no_{name}"]
    return out


def elsewhere(talk: Silent, chunks: str | None) -> bool:
    """Whether results are shown by another: rank 0 of the group, or the command without ``--chunks``."""
    from vtbench.ranks import ranks

    if not ranks().first:
        return True
    if chunks is not None:
        talk.say(f"chunks {chunks} are measured; the same command without --chunks writes the results")
    return chunks is not None


def all_records(results: Sequence[Result]) -> list[Record]:
    """Every record of some results once, the controls' among them."""
    return list({r.run_id: r for result in results for r in (*result.records, *result.controls)}.values())


def print_rows(records: Sequence[Record], *, as_json: bool, everything: bool = False) -> None:
    """The rows of records on stdout, as a table or as JSON. everything: rows of all protocols, not only of recommended ones."""
    if as_json:
        from vtbench.record import plain
        from vtbench.table import rows

        echo(json.dumps(plain([line for record in records for line in rows(record)]), indent=1))
        return
    from vtbench.records import without_single_seeds
    from vtbench.report.terminal import show

    show(without_single_seeds(records), screen(), everything=everything, beside=records)


def say_where(results: Sequence[Result], talk: Silent, out: str) -> None:
    """The last line: where the table is, the runs' ids, what took longest."""
    stages: Counter[str] = Counter()
    for record in all_records(results):
        stages.update(record.stages)
    runs = ", ".join(dict.fromkeys(record.run_id for result in results for record in result.records))
    slowest = max(stages, key=lambda s: stages[s], default="")
    longest = f"; {slowest} took longest ({stages[slowest]:.1f} of {sum(stages.values()):.1f} s)" if slowest else ""
    talk.say(f"{out}/table.csv, run {runs}{longest}")


def fail_without_values(rows: Sequence[Row]) -> None:
    """Exit code 1 when nothing could be measured."""
    if all(row.status in ("skipped", "failed") for row in rows):
        raise typer.Exit(1)


def dry_run(evaluator: Evaluator, models: Sequence[str]) -> None:
    """Print what would be done: passes, forwards, bytes, and what is skipped why."""
    from rich.text import Text

    from vtbench.report.terminal import ruled

    console = screen()
    for spec in models:
        model = evaluator.load(spec)
        for opened in evaluator.opened:
            plan = evaluator.plan(model, opened)
            n, truth = len((opened.conditions or opened.dataset).samples), None
            images = f"{n} images"
            if opened.conditions is not None and opened.reference is not None:
                truth = len(opened.dataset.samples)
                images = f"{n} images against {opened.dataset.name} (n = {truth})"
            title = f"{spec} · {opened.suite.name}: {len(plan.cells)} cells, {images}"
            console.print(Text(title, style="italic"), soft_wrap=True)
            table = ruled()
            for heading in ("what", "times", "where"):
                table.add_column(heading, justify="right" if heading == "times" else "left", overflow="fold")
            for what, times, where in plan.count(n, truth):
                table.add_row(what, str(times), where)
            table.add_row("store", f"{plan.bytes(n, truth) / 1e6:.1f} MB", "measurements of a full run")
            console.print(table)
            for why in dict.fromkeys(c.skip for c in plan.cells if c.skip):
                console.print(f"skipped: {why}", markup=False, highlight=False)
