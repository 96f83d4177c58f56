"""`vtbench explain`: which protocol gives the published number."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

if TYPE_CHECKING:
    from vtbench.explanation import Explained


def explain(
    places: list[str] = typer.Argument(
        None, help="Folders, tars or .npz of outputs, one or more, and last the ground truth. Leave away with --model."
    ),
    model: list[str] = typer.Option([], "--model", "-m", envvar="VTBENCH_MODEL", help="A model instead. Repeatable."),
    data: str | None = typer.Option(None, envvar="VTBENCH_DATA", help="The images to run models on."),
    claim: str | None = typer.Option(None, help="The published number, as it was printed: 1.5 is 1.45 to 1.55."),
    metric: str = typer.Option("fid", help="What the claim is of; more, separated by commas: fid,psnr,ssim,lpips."),
    protocol: str | None = typer.Option(None, envvar="VTBENCH_PROTOCOL", help="Only these protocols: NAME,NAME."),
    plot: str | None = typer.Option(None, help="Write the figure to this .png, .pdf or .svg."),
    resolution: int | None = typer.Option(
        None, envvar="VTBENCH_RESOLUTION", help="Pixels (default: the outputs' own; 256 for models)."
    ),
    limit: int | None = typer.Option(None, envvar="VTBENCH_LIMIT", help="Only the first N samples."),
    device: str | None = typer.Option(None, envvar="VTBENCH_DEVICE", help="cpu, cuda:0."),
    batch_size: int | None = typer.Option(None, envvar="VTBENCH_BATCH_SIZE", help="Images per batch."),
    weights: str | None = typer.Option(None, help="A checkpoint file for the model, instead of its card's."),
    out: opt.Out = "results",
    json: bool = typer.Option(False, "--json", help="Print JSON on stdout, and nothing else."),
) -> None:
    """Measure a metric under every plausible protocol in one pass: which one gives the claim, how far the values spread, which choice
    moves it, and under which choices several models change their order."""
    from vtbench.errors import UsageError
    from vtbench.evaluation import Evaluator
    from vtbench.explanation import explain as judge
    from vtbench.explanation import half_unit, suite_of
    from vtbench.progress import talker
    from vtbench.records import label
    from vtbench.scorer import Scorer

    places = places or []
    metrics = [m for m in metric.split(",") if m]
    names = [p for p in (protocol or "").split(",") if p]
    if bool(model) == bool(places) or len(places) == 1:
        raise UsageError(
            "explain takes outputs and their ground truth, or --model with --data", "vtbench explain FAKE REFERENCE"
        )
    if claim:
        half_unit(claim)
    talk = talker()
    options: dict[str, Any] = {
        "out": out,
        "limit": limit,
        "device": device,
        "batch_size": batch_size,
        "baselines": False,
    }
    results = []
    if model:
        suite = suite_of(metrics, names, given=False, resolution=resolution or 256)
        evaluator = Evaluator(suite, talk=talk, data=data, weights=weights, **options)
        results = [evaluator(m) for m in model]
    else:
        suite = suite_of(metrics, names)
        sized: dict[str, Any] = {"resolution": (resolution,)} if resolution else {}
        results = [Scorer(fake, places[-1], suite, talk=talk, **options, **sized)() for fake in places[:-1]]
    called = [label(r.record) for r in results]
    if len(set(called)) < len(called):
        called = list(model) or places[:-1]
    found = [
        judge(
            who,
            m,
            list(result.rows()),
            suite.protocols,
            claim=(claim or "") if m == metrics[0] else "",
            given=not model,
        )
        for m in metrics
        for who, result in zip(called, results)
    ]
    if plot:
        from vtbench.report.explanation import plot as draw

        talk.say(f"figure: {draw(found, Path(plot))}")
    if json:
        import json as text

        from vtbench.record import plain

        echo(text.dumps(plain([_as_data(e) for e in found]), indent=1))
    else:
        from vtbench.report.explanation import show

        show(found, screen())
    if all(e.spread() is None for e in found):
        raise typer.Exit(1)


def _as_data(explained: Explained) -> dict[str, Any]:
    tried = [
        {"protocol": t.protocol, "value": t.value, "low": t.low, "high": t.high, "why": t.why}
        | {"differs": {key: other for key, _, other in t.differs}}
        for t in explained.tried
    ]
    moved = [{"field": k, "from": a, "to": b, "change": d} for k, a, b, d in explained.attribution()]
    return {
        "subject": explained.subject,
        "metric": explained.metric,
        "n": explained.n,
        "base": explained.base,
        "spread": explained.spread(),
        "claim": explained.claim,
        "gives": explained.gives,
        "holds": explained.holds,
        "tried": tried,
        "attribution": moved,
    }
