"""`vtbench weights`: which weights are here, where they are looked for, and fetching them when told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtbench.console import echo

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

app = typer.Typer(
    help="The models' weights: list them, show one's files, fetch them when told.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(
    everything: bool = typer.Option(False, "--all", help="Also those that are not here."),
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """The folders that are searched, and the models whose weights are in them."""
    from vtbench import weights
    from vtbench.zoo.catalogue import cards

    rows = [row for card in cards() for row in _files(card) if everything or row["path"]]
    if json:
        import json as text

        echo(
            text.dumps(
                {"folders": [str(f) for f in (*weights.folders(), weights.hub_cache())], "files": rows}, indent=1
            )
        )
        return
    for folder in (*weights.folders(), weights.hub_cache()):
        echo(f"searched: {folder}{'' if folder.is_dir() else ' (not there)'}")
    for row in rows:
        echo(f"{row['model']} {row['role']}: {row['path'] or 'not here'}")


def _files(card: Card) -> list[dict[str, str]]:
    from vtbench import weights
    from vtbench.errors import MissingWeights

    rows = []
    for file in card.files_for():
        try:
            path = str(weights.find(file.wanted()))
        except MissingWeights:
            path = ""
        rows.append({"model": card.name, "role": file.role, "path": path})
    return rows


@app.command("show")
def show(name: str = typer.Argument(help="A model's name.")) -> None:
    """A model's files: where they are, their digests, where they come from and under which licence."""
    from vtbench.cli.models import _file
    from vtbench.zoo.catalogue import card
    from vtbench.zoo.spec import parse

    found = card(parse(name).name)
    echo(f"{found.title or found.name}; code: {found.code_licence or 'not stated'}; weights: {_licence(found)}")
    if not found.files:
        echo(f"hub repository: {found.hub}" if found.hub else "no weights of its own")
    for file in found.files_for(parse(name).params):
        echo("; ".join(f"{k} {v}" for k, v in _file(file).items()))


def _licence(card: Card) -> str:
    return card.weights_licence or "licence not stated on the card"


@app.command("fetch")
def fetch(
    name: str = typer.Argument(help="A model's name, or hub:OWNER/NAME for a whole repository in diffusers' layout."),
    yes: bool = typer.Option(False, "--yes", help="The licence is accepted; do not ask."),
    out: Path | None = typer.Option(None, "--out", help="A folder of its own instead of the hub's cache."),
) -> None:
    """Fetch a model's files from the Hugging Face hub, its licence shown first. Nothing else in vtbench fetches anything."""
    from vtbench.hub import licence_of, plan_fetch, retrieve

    planned = plan_fetch(name)
    for wanted in planned:
        whole = "all of it" if wanted.whole else "the autoencoder (config.json and weights)"
        echo(f"from: huggingface.co/{wanted.repository}", err=True)
        echo(f"files: {whole if wanted.whole or not wanted.files else ', '.join(wanted.files)}", err=True)
        echo(f"licence on the card: {wanted.licence}", err=True)
        echo(f"licence on the hub: {licence_of(wanted.repository)}", err=True)
    if not yes and not typer.confirm("Fetch under this licence?", err=True):
        raise typer.Exit(1)
    for wanted in planned:
        for path in retrieve(wanted, out):
            echo(str(path))
