"""`vtbench reconstruct`: run tokenizers through reconstruction suites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from vtbench.evaluation import Evaluator
    from vtbench.result import Result


def _numbers(text: str | None, option: str) -> tuple[int, ...]:
    from vtbench.errors import UsageError

    try:
        return tuple(int(part) for part in (text or "").split(",") if part)
    except ValueError as error:
        raise UsageError(f"{option} takes numbers separated by commas, not '{text}'") from error


def reconstruct(
    model: list[str] = typer.Option(
        ...,
        "--model",
        "-m",
        envvar="VTBENCH_MODEL",
        help="A model: NAME, NAME:param=value, FILE.py:build, pkg.mod:attr. Repeatable.",
    ),
    suite: list[str] = typer.Option(
        ["reconstruction-256"],
        "--suite",
        "-s",
        envvar="VTBENCH_SUITE",
        help="A suite, or the path of its TOML file. Repeatable.",
    ),
    data: str | None = typer.Option(
        None, envvar="VTBENCH_DATA", help="Images: a folder, a tar, shards, hf:NAME, parquet or .npz."
    ),
    protocol: str | None = typer.Option(
        None, envvar="VTBENCH_PROTOCOL", help="Protocols to add to the suite's metrics: NAME,NAME+field=value."
    ),
    resolution: str | None = typer.Option(
        None, envvar="VTBENCH_RESOLUTION", help="Resolutions in pixels, separated by commas."
    ),
    tokens: str | None = typer.Option(
        None,
        envvar="VTBENCH_TOKENS",
        help="Token budgets of a prefix model, separated by commas: one encode, several decodes.",
    ),
    subset: str | None = typer.Option(
        None, envvar="VTBENCH_SUBSET", help="A named subset, such as 5k: balanced, by hash of the id."
    ),
    limit: int | None = typer.Option(
        None, envvar="VTBENCH_LIMIT", help="Only the first N samples; its rows are never ranked."
    ),
    metadata: str | None = typer.Option(
        None, envvar="VTBENCH_METADATA", help="A CSV of facts about the samples, joined on the id."
    ),
    slice_by: list[str] = typer.Option(
        [], envvar="VTBENCH_SLICE_BY", help="Slice every metric by a column of the metadata. Repeatable."
    ),
    weights: str | None = typer.Option(None, help="A checkpoint file for the model, instead of its card's."),
    state_key: str = typer.Option(
        "auto",
        envvar="VTBENCH_STATE_KEY",
        help="Which state of a checkpoint: auto (an EMA where there is one), ema, model, both (two rows).",
    ),
    device: str | None = typer.Option(
        None,
        envvar="VTBENCH_DEVICE",
        help="cpu, cuda:0 (default: a GPU if there is one); all or cuda:0,cuda:1: one process a device.",
    ),
    dtype: str = typer.Option(
        "float32", envvar="VTBENCH_DTYPE", help="The model's precision: float32, bfloat16, float16."
    ),
    batch_size: int | None = typer.Option(
        None, envvar="VTBENCH_BATCH_SIZE", help="Images per batch (default: 16 on a CPU, 64 on a GPU)."
    ),
    workers: int | None = typer.Option(
        None,
        envvar="VTBENCH_WORKERS",
        help="Processes that measure (default: one a device; with ray, one a GPU of the cluster); moves no value.",
    ),
    engine: str = typer.Option(
        "local", envvar="VTBENCH_ENGINE", help="Where the workers are: local, ray (a cluster; RAY_ADDRESS says which)."
    ),
    loaders: int | None = typer.Option(
        None,
        envvar="VTBENCH_LOADERS",
        help="Threads that decode and prepare images, in each worker (default: by the cores); moves no value.",
    ),
    seed: int = typer.Option(0, envvar="VTBENCH_SEED", help="Seed of whatever a model samples."),
    keep_images: str = typer.Option(
        "none", envvar="VTBENCH_KEEP_IMAGES", help="Keep reconstructions as PNG: none, sample, all."
    ),
    grid: str | None = typer.Option(
        None, envvar="VTBENCH_GRID", help="Write a figure: original, reconstruction and difference per model."
    ),
    strict: bool = typer.Option(
        False, "--strict", envvar="VTBENCH_STRICT", help="Stop at the first sample that fails."
    ),
    no_baselines: bool = typer.Option(
        False, "--no-baselines", envvar="VTBENCH_NO_BASELINES", help="Leave the suite's controls away."
    ),
    no_alarms: bool = typer.Option(
        False, "--no-alarms", envvar="VTBENCH_NO_ALARMS", help="Do not look for common mistakes in the pixels."
    ),
    allow_code: bool = typer.Option(False, "--allow-code", help="Permit checkpoints that execute code (TorchScript)."),
    upstream: str | None = typer.Option(
        None,
        envvar="VTBENCH_UPSTREAM",
        help="A checkout of the authors' code, for models that run through it (vtbench models setup makes one).",
    ),
    dry_run: bool = typer.Option(
        False, "--dry-run", help="Say what would be done, with counts of passes, forwards and bytes."
    ),
    chunks: str | None = typer.Option(
        None,
        envvar="VTBENCH_CHUNKS",
        help="Measure only chunks A:B (array jobs); the same command without it reduces.",
    ),
    fresh: bool = typer.Option(False, "--fresh", envvar="VTBENCH_FRESH", help="Measure anew what is already measured."),
    out: str = typer.Option("results", envvar="VTBENCH_OUT", help="The results folder."),
    json: bool = typer.Option(False, "--json", help="Print the rows as JSON on stdout, and nothing else."),
) -> None:
    """Encode and decode images, and measure what came back.

    The suite's controls are measured beside the model. The same command resumes where it was stopped, and a second run over
    complete measurements runs no network."""
    from vtbench import zoo
    from vtbench.evaluation import Evaluator
    from vtbench.progress import Silent, talker
    from vtbench.ranks import join
    from vtbench.zoo.spec import with_states

    for spec in model:
        zoo.check(spec)

    group = join()
    talk = talker() if group.first else Silent()
    evaluator = Evaluator(
        suite,
        talk=talk,
        data=data,
        out=out,
        protocol=tuple(p for p in (protocol or "").split(",") if p),
        resolution=_numbers(resolution, "--resolution"),
        tokens=_numbers(tokens, "--tokens"),
        subset=subset,
        limit=limit,
        metadata=metadata,
        slice_by=tuple(slice_by),
        weights=weights,
        state_key="auto" if state_key == "both" else state_key,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
        loaders=loaders,
        seed=seed,
        keep_images=keep_images,
        grid=grid,
        strict=strict,
        baselines=not no_baselines,
        alarms=not no_alarms,
        allow_code=allow_code,
        upstream=upstream,
        fresh=fresh,
        chunks=chunks,
    )
    if dry_run:
        _dry_run(evaluator, model)
        return
    results = [evaluator(spec) for spec in with_states(model, state_key)]
    if not group.first:
        return
    if chunks is not None:
        talk.say(f"chunks {chunks} are measured; the same command without --chunks writes the results")
        return
    if grid:
        from vtbench.report.grid import write_grid

        talk.say(
            f"figure: {write_grid(grid, [r for result in results for r in (*result.records, *result.controls)], out)}"
        )
    if json:
        _json(results)
    else:
        _print(results)
    _last_line(results, talk, out)
    if all(row.status in ("skipped", "failed") for result in results for row in result.rows()):
        raise typer.Exit(1)


def _records(results: list[Result]) -> list[Any]:
    seen: dict[str, Any] = {}
    for result in results:
        for record in (*result.records, *result.controls):
            seen[record.run_id] = record
    return list(seen.values())


def _json(results: list[Result]) -> None:
    import json

    from vtbench.record import plain
    from vtbench.table import rows

    typer.echo(json.dumps(plain([line for record in _records(results) for line in rows(record)]), indent=1))


def _print(results: list[Result]) -> None:
    from rich.console import Console

    from vtbench.report.terminal import show

    show(_records(results), Console())


def _last_line(results: list[Result], talk: Any, out: str) -> None:
    from collections import Counter

    stages: Counter[str] = Counter()
    for record in _records(results):
        stages.update(record.stages)
    runs = ", ".join(dict.fromkeys(record.run_id for result in results for record in result.records))
    slowest = max(stages, key=lambda s: stages[s], default="")
    total = sum(stages.values())
    longest = f"; {slowest} took longest ({stages[slowest]:.1f} of {total:.1f} s)" if slowest else ""
    talk.say(f"{out}/table.csv, run {runs}{longest}")


def _dry_run(evaluator: Evaluator, models: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for spec in models:
        model = evaluator.load(spec)
        for opened in evaluator.opened:
            plan = evaluator.plan(model, opened)
            n = len(opened.dataset.samples)
            table = Table(
                title=f"{spec} · {opened.suite.name}: {len(plan.cells)} cells, {n} images", title_justify="left"
            )
            for heading in ("what", "times", "where"):
                table.add_column(heading, justify="right" if heading == "times" else "left")
            for what, times, where in plan.count(n):
                table.add_row(what, str(times), where)
            table.add_row("store", f"{plan.bytes(n) / 1e6:.1f} MB", "measurements of a full run")
            console.print(table)
            for why in dict.fromkeys(c.skip for c in plan.cells if c.skip):
                console.print(f"skipped: {why}", markup=False, highlight=False)
