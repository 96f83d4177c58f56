"""`vtbench reproduce`: is the paper's number there?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

if TYPE_CHECKING:
    from vtbench.reproduction import Claim


def reproduce(
    model: str = typer.Option(..., "--model", "-m", help="The model, as it was measured."),
    published: str = typer.Option("", "--published", help="The name that the publications use, where it is another."),
    tolerance: list[str] = typer.Option(
        [], "--tolerance", help="How far is still the same: 0.02 (of the value), or fid=0.05 (absolute). Repeatable."
    ),
    data_is: str = typer.Option(
        "", "--data-is", help="Your word for the data, by the papers' name: imagenet-val, imagenet-256."
    ),
    out: opt.Out = "results",
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout."),
) -> None:
    """Hold a model's results against its published numbers, protocol by protocol: exit code 3 on a mismatch, 1 when nothing counts.

    Limited runs, subsets and other data never count. Data are known by their digest; those of which no suite declares one count on your word alone (--data-is), which
    is printed beside the verdict. A value whose protocol the paper does not state is reproduced when any
    measured protocol gives it; the others are listed with what differs."""
    from vtbench.cli.results import gathered
    from vtbench.errors import UnknownName, VtbenchError
    from vtbench.records import label
    from vtbench.reproduction import RELATIVE, names_of, spelled
    from vtbench.reproduction import reproduce as judge
    from vtbench.table import published as tables

    records = gathered([], out)
    chosen = [r for r in records if model in (r.model.name, label(r), r.run_id) or spelled(model) in names_of(r)]
    if not chosen:
        from vtbench.zoo.catalogue import card, names

        name = model.partition(":")[0]
        if name not in names():
            raise UnknownName("result", model, {label(r) for r in records})
        verb = "generate" if card(name).form == "generator" else "reconstruct"
        raise VtbenchError(
            f"nothing of {model} is measured in {out}", f"vtbench {verb} --model {model} ... comes first"
        )
    relative, absolute = _tolerances(tolerance, RELATIVE)
    claims = judge(chosen, tables(), called=published, relative=relative, tolerances=absolute, data_is=data_is)
    if not claims:
        raise VtbenchError(
            f"no published number of {published or model} is known", "--published gives the papers' name for it"
        )
    if json:
        import json as text

        from vtbench.record import plain

        echo(text.dumps(plain([_as_data(c) for c in claims]), indent=1))
    else:
        _print(claims)
    if any(c.state == "mismatch" for c in claims):
        raise typer.Exit(3)
    if not any(c.state == "reproduced" for c in claims):
        wanted = ", ".join(dict.fromkeys(c.published.dataset for c in claims))
        raise VtbenchError(
            "nothing measured counts against the published numbers",
            f"They need the whole data that the papers used ({wanted}); --data-is NAME says that yours are those",
        )


def _tolerances(given: list[str], relative: float) -> tuple[float, dict[str, float]]:
    from vtbench.errors import UsageError

    absolute = {}
    for text in given:
        metric, equals, value = text.rpartition("=")
        try:
            if equals:
                absolute[metric] = float(value)
            else:
                relative = float(value)
        except ValueError as error:
            raise UsageError(f"--tolerance takes 0.02 or METRIC=0.05, not '{text}'") from error
    return relative, absolute


def _as_data(claim: Claim) -> dict[str, Any]:
    row = claim.published.row
    return {
        "metric": row.metric,
        "slice": row.slice,
        "resolution": row.resolution,
        "dataset": claim.published.dataset,
        "published": row.value,
        "protocol": row.protocol,
        "source": row.source,
        "state": claim.state,
        "allowed": claim.allowed,
        "remarks": list(claim.remarks),
        "measured": [
            {
                "run_id": t.measured.record.run_id if t.measured.record else "",
                "protocol": t.measured.row.protocol,
                "value": t.measured.row.value,
                "difference": t.difference,
                "within": t.within,
                "excluded": t.excluded,
            }
            for t in claim.trials
        ],
    }


def _print(claims: list[Claim]) -> None:
    from rich.text import Text

    from vtbench.report.numbers import signed, with_interval
    from vtbench.report.terminal import ruled

    console = screen()
    table = ruled()
    for heading in ("metric", "px", "published", "stated protocol, source", "measured", "protocol", "difference", ""):
        table.add_column(
            heading,
            justify="right" if heading in ("px", "published", "measured", "difference") else "left",
            overflow="fold",
        )
    marks = {"reproduced": ("reproduced", "green"), "mismatch": ("mismatch", "red")}
    absent: dict[str, int] = {}
    for claim in claims:
        row = claim.published.row
        if not claim.trials:
            absent[claim.published.dataset] = absent.get(claim.published.dataset, 0) + 1
            continue
        name = row.metric if row.slice == "all" else f"{row.metric} {row.slice}"
        first = (name, str(row.resolution or ""), f"{row.value:g}", f"{row.protocol}, {row.source}")
        for i, trial in enumerate(sorted(claim.trials, key=lambda t: (bool(t.excluded), abs(t.difference)))[:6]):
            text, style = (
                ("within" if trial.within else "off", "") if i else marks.get(claim.state, (claim.state, "dim"))
            )
            if trial.excluded:
                text, style = f"not counted: {trial.excluded}", "dim"
            mine = trial.measured.row
            lead = ("", "", "", "") if i else first
            cells = (*lead, with_interval(mine), mine.protocol, signed(trial.difference))
            table.add_row(*map(Text, cells), Text(text, style=style))
    console.print(table)
    for dataset, count in absent.items():
        console.print(Text(f"{count} published values on {dataset}: not measured", "dim"))
    for claim in claims:
        for remark in claim.remarks:
            console.print(
                Text(f"{claim.published.row.metric} {claim.published.row.value:g}: {remark}", "dim"),
                soft_wrap=True,
            )
