"""`vtbench watch`: measure each new checkpoint of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vtbench.cli import options as opt
from vtbench.cli.measuring import keywords

if TYPE_CHECKING:
    from vtbench.record import Record


def watch(
    pattern: str = typer.Argument(help="Checkpoints, in quotes: 'ckpts/*.pt' (** crosses folders)."),
    model: str = typer.Option(
        ..., "--model", "-m", help="What reads them: FILE.py:build (called with weights=...) or a name of the zoo."
    ),
    suite: opt.Suites = ["reconstruction-256"],  # noqa: B006 - typer copies it
    data: str | None = typer.Option(None, envvar="VTBENCH_DATA", help="Images; of a generator a file of prompts."),
    reference: str | None = typer.Option(
        None, "--reference", "-r", envvar="VTBENCH_REFERENCE", help="What a generator's images are held against."
    ),
    reference_protocol: opt.ReferenceProtocol = None,
    protocol: opt.Protocol = None,
    resolution: opt.Resolution = None,
    tokens: str | None = typer.Option(None, envvar="VTBENCH_TOKENS", help="Token budgets, separated by commas."),
    subset: opt.Subset = None,
    limit: opt.Limit = None,
    state_key: str = typer.Option(
        "auto", envvar="VTBENCH_STATE_KEY", help="Which state of a checkpoint: auto, ema, model."
    ),
    device: str | None = typer.Option(None, envvar="VTBENCH_DEVICE", help="cpu, cuda:0."),
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = None,
    seed: opt.Seed = 0,
    keep_images: str = typer.Option(
        "none", envvar="VTBENCH_KEEP_IMAGES", help="Keep images of every step as PNG: none, sample, all."
    ),
    no_baselines: opt.NoBaselines = False,
    log: list[str] = typer.Option(
        [], "--log", help="Where numbers go: tensorboard:DIR, wandb:PROJECT, trackio:PROJECT. Repeatable."
    ),
    html: str = typer.Option("watch.html", "--html", help="The page with the curves, rewritten after each checkpoint."),
    every: float = typer.Option(30.0, min=0.1, help="Seconds between looks."),
    settle: float = typer.Option(10.0, min=0.0, help="Seconds that a file must not have changed."),
    once: bool = typer.Option(False, "--once", help="Measure what is there, then stop."),
    out: opt.Out = "results",
) -> None:
    """Wait for checkpoints and measure each under the suites, with its training step; draw the curves, the controls as horizontal lines.

    A checkpoint that cannot be read is named and the next one is waited for. Stop with Ctrl-C; started again, it goes on: what is measured
    already costs nothing."""
    given = locals()
    from vtbench import zoo
    from vtbench.atomic import replace_file
    from vtbench.errors import OwnCode, UsageError, VtbenchError
    from vtbench.evaluation import Evaluator
    from vtbench.logs import open_sink
    from vtbench.progress import talker
    from vtbench.watching import new_checkpoints, page

    talk = talker()
    sinks = [open_sink(spec) for spec in log]
    evaluator = Evaluator(suite, talk=talk, **keywords(given))
    options = evaluator.options
    task = "generate" if all(opened.conditions is not None for opened in evaluator.opened) else ""
    records: dict[tuple[str, int], Record] = {}
    controls: dict[str, Record] = {}
    for checkpoint in new_checkpoints(pattern, every=every, settle=settle, once=once):
        try:
            subject = zoo.load_model(
                model,
                weights=str(checkpoint.path),
                state_key=options.state_key,
                device=options.resolved_device(),
                dtype=options.dtype,
                task=task,
            )
        except UsageError as error:
            if not isinstance(error, OwnCode):
                raise
            talk.warn(f"{checkpoint.path}: {error}")
            continue
        except Exception as error:  # noqa: BLE001  the user's own function may raise anything, and the next checkpoint may be fine
            talk.warn(f"{checkpoint.path}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        result = evaluator(subject, step=checkpoint.step)
        records |= {(r.suite.name, checkpoint.step): r for r in result.records}
        controls |= {r.run_id: r for r in result.controls}
        for sink in sinks:
            sink(result.flat(), checkpoint.step)
        replace_file(Path(html), page(list(records.values()), list(controls.values()), f"{model}: {pattern}").encode())
        shown = ", ".join(f"{name} {value:.5g}" for name, value in list(result.flat().items())[:6])
        talk.say(f"step {checkpoint.step}: {shown}")
    if once and not records:
        raise VtbenchError(f"no checkpoint matches {pattern}, or none could be read")
