"""`vtbench check`: a regression gate for CI."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from vtbench.cli import options as opt
from vtbench.console import echo


def check(
    run: list[str] | None = typer.Argument(None, help="Results to check: ids, names, paths (default: all of --out)."),
    baseline: str = typer.Option(..., "--baseline", "-b", help="The baseline: TOML or JSON."),
    out: opt.Out = "results",
    suite: str | None = typer.Option(None, "--suite", "-s", help="With --update: the suite whose results are written."),
    update: bool = typer.Option(False, "--update", help="Rewrite the baseline from the results, on purpose."),
    junit: str | None = typer.Option(None, help="Write JUnit XML to this file."),
    summary: str | None = typer.Option(
        None, envvar="GITHUB_STEP_SUMMARY", help="Append Markdown to this file (GitHub's step summary)."
    ),
    json: bool = typer.Option(False, "--json", help="Print every finding as JSON on stdout."),
) -> None:
    """Compare results with a baseline: exit code 3 when something regressed, 1 when they cannot be compared.

    Directions count: a better value is no regression; a metric without a direction may not move either way."""
    from vtbench import baseline as baselines
    from vtbench import check as gate
    from vtbench.cli.results import gathered
    from vtbench.report import gate as show

    records = gathered(run or [], out)
    path = Path(baseline)
    if update:
        echo(f"{path}: {baselines.update(records, path, suite=suite)} rows")
        return
    report = gate.check(records, baselines.load(path), path)
    if junit:
        from vtbench.atomic import replace_file

        replace_file(Path(junit), show.junit(report).encode())
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(show.markdown(report))
    if json:
        import json as text

        from vtbench.record import plain

        echo(text.dumps(plain([{**vars(f), "name": f.name()} for f in report.findings]), indent=1))
    else:
        echo(show.screen(report))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in show.workflow_commands(report, baseline):
                echo(line)
    if report.failed:
        raise typer.Exit(3)
