"""`vtbench audit`: do we agree with the field's packages, here and on these images?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

if TYPE_CHECKING:
    from vtbench.audit import Certificate


def audit(
    places: list[str] = typer.Argument(None, help="Outputs and their ground truth. Leave away with --model."),
    model: str | None = typer.Option(None, "--model", "-m", envvar="VTBENCH_MODEL", help="A model instead."),
    data: str | None = typer.Option(None, envvar="VTBENCH_DATA", help="The images to run the model on."),
    peer: list[str] = typer.Option(
        [],
        "--peer",
        help="torch-fidelity, clean-fid, pytorch-fid, torchmetrics, lpips, scikit-image (default: all). Repeatable.",
    ),
    limit: int = typer.Option(64, envvar="VTBENCH_LIMIT", help="Images a side; 0 for all. The peers are slow."),
    resolution: int | None = typer.Option(None, envvar="VTBENCH_RESOLUTION", help="Pixels (default: the images' own)."),
    device: str | None = typer.Option(None, envvar="VTBENCH_DEVICE", help="cpu, cuda:0: of our side."),
    weights: str | None = typer.Option(None, help="A checkpoint file for the model, instead of its card's."),
    out: opt.Out = "results",
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout, and nothing else."),
) -> None:
    """Run whichever packages are installed on your images, beside ours, and print both values, their difference and the tolerance.

    Exit code 3 when any disagrees. The certificate is kept in the record of the run."""
    from vtbench.audit import audit as hold
    from vtbench.errors import UsageError
    from vtbench.progress import talker

    places = places or []
    if (model is None) == (not places) or len(places) not in (0, 2):
        raise UsageError(
            "audit takes outputs and their ground truth, or --model with --data", "vtbench audit FAKE REFERENCE"
        )
    talk = talker()
    options: dict[str, Any] = {"device": device} | ({"data": data, "weights": weights} if model else {})
    pair = (places[0], places[1]) if places else (None, None)
    found = hold(
        *pair, model=model, which=peer, limit=limit or None, resolution=resolution, out=out, talk=talk, **options
    )
    if json:
        import json as text

        from vtbench.record import plain

        held = {"run_id": found.record.run_id, "n": found.n, "paired": found.paired, "agrees": found.agrees()}
        echo(text.dumps(plain({**held, "checks": [asdict(c) for c in found.checks]}), indent=1))
    else:
        _print(found)
    talk.say(f"{out}/records/{found.record.run_id}.json holds the certificate")
    if any(c.ok is False for c in found.checks):
        raise typer.Exit(3)
    if not any(c.ok for c in found.checks):
        raise typer.Exit(1)


def _print(found: Certificate) -> None:
    from rich.text import Text

    from vtbench.report.terminal import ruled

    console = screen()
    kind = "pairs" if found.paired else "images a side, not paired"
    console.print(Text(f"ours beside the packages', {found.n} {kind}; tolerances are relative", style="italic"))
    table = ruled()
    for heading in ("metric (protocol)", "ours", "theirs", "difference", "tolerance", ""):
        table.add_column(heading, justify="left" if heading in ("metric (protocol)", "") else "right", overflow="fold")
    last = ""
    for c in found.checks:
        if c.ok is None and c.theirs is None:
            continue
        peer = f"{c.peer} {c.version}"
        if peer != last:
            table.add_row(Text(peer, "bold"))
            last = peer
        verdict = {True: "agrees", False: "DISAGREES", None: "not measured"}[c.ok]
        numbers = [f"{v:.6g}" if v is not None else "" for v in (c.ours, c.theirs)]
        difference = f"{c.difference:.2g}" if c.difference is not None else ""
        tolerance = f"{c.tolerance:g}" if c.tolerance is not None else ""
        style = "bold red" if c.ok is False else ""
        table.add_row(Text(f"  {c.metric} ({c.protocol})"), *numbers, difference, tolerance, verdict, style=style)
    console.print(table)
    for peer, why in dict.fromkeys((f"{c.peer} {c.version}".strip(), c.why) for c in found.checks if c.why):
        console.print(Text(f"{peer}: {why}", style="dim"), soft_wrap=True)
    if any(c.ok is not None for c in found.checks):
        console.print(Text("all agree" if found.agrees() else "not all agree", style="bold"))
