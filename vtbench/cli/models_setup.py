"""`vtbench models setup`: an environment for a system that runs through its authors' code."""

from __future__ import annotations

from pathlib import Path

import typer

from vtbench.console import echo


def setup(
    name: str = typer.Argument(help="A model's name."),
    yes: bool = typer.Option(False, "--yes", help="Do it under these licences; do not ask."),
    upstream: Path | None = typer.Option(None, "--upstream", help="A checkout that you have, instead of a clone."),
    python: str | None = typer.Option(
        None, "--python", help="An interpreter that has the packages already: nothing is installed."
    ),
    exact: bool = typer.Option(True, help="Ask pip for the exact versions first (needs a network)."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be done."),
) -> None:
    """Say what a model's authors' code needs, from where and under which licence; make an environment for it when told.

    Environments lie in the platform's cache, or in the folder that VTBENCH_ENVIRONMENTS names. Weights are fetched apart: vtbench weights fetch NAME."""
    from vtbench.errors import VtbenchError
    from vtbench.zoo.catalogue import card
    from vtbench.zoo.upstream.place import recorded
    from vtbench.zoo.upstream.setup import make, plan, resolved, told

    planned = plan(card(name), upstream, python)
    versions: list[str] = []
    if exact and planned.venv:
        try:
            versions = resolved(planned)
        except VtbenchError as error:
            echo(f"the exact versions are not known: {error}", err=True)
    for line in told(planned, versions):
        echo(line)
    if there := recorded(planned.recipe.driver):
        echo(f"there already: {there}; it would be replaced")
    if dry_run or (not yes and not typer.confirm("Do this?", err=True)):
        raise typer.Exit(0 if dry_run else 1)
    made = make(planned, versions, lambda line: echo(line, err=True))
    echo(f"ready: {made}")
