"""`vtbench models`: the systems that can be measured, and what is known of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.cli.models_setup import setup
from vtbench.console import echo, wide

if TYPE_CHECKING:
    from vtbench.zoo.card import Card, File

app = typer.Typer(
    help="The models: list them, show one. VTBENCH_WEIGHTS names the folders with weights.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command("setup")(setup)
NARROW = 120
"""Columns of a terminal below which a list leaves licences to `show`."""


@app.command("list")
def list_(
    runs: bool = typer.Option(False, "--runs", help="Only those that run here."),
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """Every system: form, tokens, codebook, licence, and whether it runs here, else why not."""
    from vtbench.zoo.catalogue import cards

    rows = [row for row in map(_row, cards()) if row["runs"] or not runs]
    if json:
        import json as text

        echo(text.dumps(rows, indent=1))
        return
    from rich.table import Table
    from rich.text import Text

    out = wide()
    table = Table(box=None, pad_edge=False)
    facts = {"name": "model", "form": "form", "tokens": "tokens", "codebook": "codebook", "licence": "licence"}
    if out.width < NARROW:
        del facts["licence"]
    for key, heading in facts.items():
        longest = max((len(row[key]) for row in rows), default=0)
        least = longest if key != "licence" else 0
        table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=max(len(heading), least))
    table.add_column("runs here", no_wrap=True, overflow="ellipsis", min_width=9)
    for row in rows:
        runs_here = Text("yes", "green") if row["runs"] else Text(f"no: {row['why']}", "dim")
        table.add_row(*(Text(row[key]) for key in facts), runs_here)
    out.print(table)
    echo(f"{len(rows)} models, {sum(row['runs'] for row in rows)} run here", err=True)


def _row(card: Card) -> dict[str, Any]:
    why = card.why_not()
    return {
        "name": card.name,
        "title": card.title,
        "family": card.family,
        "route": card.route,
        "form": card.form,
        "tokens": _tokens(card),
        "codebook": _codebook(card),
        "bits": card.bits,
        "licence": card.weights_licence or card.code_licence,
        "runs": not why,
        "why": why,
    }


def _tokens(card: Card) -> str:
    if card.kind == "continuous":
        return f"{card.tokens} continuous" if card.tokens else "continuous" if card.form != "pixels" else ""
    if card.tokens is None:
        return ""
    return f"{card.tokens_min}-{card.tokens}" if card.tokens_min else str(card.tokens)


def _codebook(card: Card) -> str:
    sizes = list(card.codebook)
    if not sizes:
        return ""
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} x {sizes[0]}"
    return " + ".join(map(str, sizes))


@app.command("show")
def show(
    name: str = typer.Argument(help="A model, as after --model (parameters may follow a colon)."),
    weights: str | None = typer.Option(None, "--weights", help="A checkpoint instead of the card's."),
    state_key: str = typer.Option("auto", "--state-key", help="Which entry of the checkpoint: auto, ema, model, ..."),
    allow_code: bool = typer.Option(False, "--allow-code", help="Open files that may run code."),
    upstream: opt.Upstream = None,
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """A card in full; where its weights are found, how they were taken and how many parameters each half has."""
    from vtbench.zoo.card import ROUTES
    from vtbench.zoo.catalogue import card
    from vtbench.zoo.spec import parse

    found = card(parse(name).name)
    facts: dict[str, Any] = {k: v for k, v in found.to_dict().items() if k != "files"}
    facts["route"] = f"{found.route} ({ROUTES[found.route]})"
    facts["runs here"] = "yes" if not found.why_not() else f"no: {found.why_not()}"
    if found.get:
        facts["get"] = found.get
    asked = parse(name).params
    facts["files"] = [_file(file) for file in found.files_for(asked)]
    if found.upstream:
        facts["environment"] = _environment(found)
    if (weights or upstream or not found.why_not()) and found.adapter and "at" not in _asks(found):
        facts |= _loaded(name, weights, state_key, allow_code, upstream)
    if json:
        import json as text

        echo(text.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        for line in _lines(key.replace("_", " "), value):
            echo(line)


@app.command("verify")
def verify(
    name: str = typer.Argument(help="A model, as after --model."),
    weights: Path | None = typer.Option(None, "--weights", help="A checkpoint instead of the card's."),
    state_key: str = typer.Option("auto", "--state-key", help="Which entry of the checkpoint: auto, ema, model, ..."),
    allow_code: bool = typer.Option(False, "--allow-code", help="Open files that may run code."),
    image: Path | None = typer.Option(None, "--image", help="The picture whose tokens the card knows."),
    resolution: int | None = typer.Option(None, "--resolution", help="Side of the photographs instead of the card's."),
    device: str = typer.Option("cpu", "--device"),
    upstream: opt.Upstream = None,
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """Check weights that are here: digest, keys, parameters, value range, a PSNR floor on photographs, known tokens. Exit code 3 when a check fails."""
    from dataclasses import asdict

    from vtbench.zoo.verify import verify as run

    checks = run(
        name,
        weights=weights,
        state_key=state_key,
        allow_code=allow_code,
        image=image,
        device=device,
        resolution=resolution,
        upstream=upstream,
    )
    if json:
        import json as text

        echo(text.dumps([asdict(c) for c in checks], indent=1))
    else:
        for check in checks:
            echo(f"{check.result:8}{check.name}: {check.told}")
    if any(c.result == "failed" for c in checks):
        raise typer.Exit(3)


def _asks(card: Card) -> str:
    """`at` for a model that is nothing without a path after the colon."""
    return "at" if card.name in ("diffusers", "precomputed") else ""


def _environment(card: Card) -> str:
    """The environment of an upstream system, or the command that makes it."""
    from vtbench.zoo.upstream.place import how, standing

    return str(standing(card) or f"none: {how(card)}")


def _file(file: File) -> dict[str, str]:
    from vtbench import weights
    from vtbench.errors import MissingWeights

    told = {"role": file.role, "names": " or ".join(file.wanted())}
    if file.repository:
        told["hub"] = f"{file.repository}: {file.path}"
    if file.url:
        told["from"] = file.url
    try:
        path = weights.find(file.wanted())
        told |= {"found": str(path), "sha256": weights.digest(path).removeprefix("sha256:")}
        if file.digest:
            told["digest"] = (
                "the published file's" if weights.digest(path) == file.digest else "not the published file's"
            )
    except MissingWeights:
        told["found"] = "no"
    return told


def _loaded(name: str, weights: str | None, state_key: str, allow_code: bool, upstream: str | None) -> dict[str, Any]:
    """What loading the weights says: the key report and the parameters of each half."""
    from vtbench.errors import VtbenchError
    from vtbench.zoo import load, notes

    try:
        model = load(name, weights=weights, state_key=state_key, allow_code=allow_code, upstream=upstream)
    except VtbenchError as error:
        return {"loads": f"no: {error}"}
    facts: dict[str, Any] = {"loads": "yes", "revision": model.revision, "resolved params": dict(model.params)}
    if told := notes(model):
        facts["weights notes"] = list(told)
    if halves := model.parameter_counts():
        facts["parameters counted"] = {half: f"{count / 1e6:.2f} M" for half, count in halves.items()}
    return facts


def _lines(key: str, value: Any) -> list[str]:
    if isinstance(value, dict):
        if value and all(isinstance(v, dict) for v in value.values()):
            return [f"{key}:", *(f"  {line}" for k, v in value.items() for line in _lines(k, v))]
        deep = {k: v for k, v in value.items() if isinstance(v, dict)}
        if deep:
            plain = {k: v for k, v in value.items() if k not in deep}
            return [*_lines(key, plain), *(f"  {line}" for k, v in deep.items() for line in _lines(k, v))]
        told = {k: " ".join(map(str, v)) if isinstance(v, list | tuple) else v for k, v in value.items()}
        return [f"{key}: {', '.join(f'{k} {v}' for k, v in told.items())}"] if value else []
    if isinstance(value, list):
        if not value:
            return []
        if all(isinstance(v, dict) for v in value):
            return [
                line
                for v in value
                for line in _lines(key.removesuffix("s"), "; ".join(f"{k} {w}" for k, w in v.items()))
            ]
        if any(" " in str(v) and len(str(v)) > 60 for v in value):
            return [f"{key}:", *(f"  {v}" for v in value)]
        return [f"{key}: {', '.join(map(str, value))}"]
    return [f"{key}: {value}"]
