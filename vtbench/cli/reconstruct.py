"""`vtbench reconstruct`: run tokenizers through reconstruction suites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtbench.cli import options as opt
from vtbench.console import echo, screen

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
    model: opt.Models,
    suite: opt.Suites = ["reconstruction-256"],  # noqa: B006 - typer copies it
    data: Annotated[
        opt.Text, typer.Option(envvar="VTBENCH_DATA", help="Images: a folder, a tar, shards, hf:NAME, parquet or .npz.")
    ] = None,
    protocol: opt.Protocol = None,
    resolution: opt.Resolution = None,
    tokens: Annotated[
        opt.Text,
        typer.Option(
            envvar="VTBENCH_TOKENS",
            help="Token budgets of a prefix model, separated by commas: one encode, several decodes.",
        ),
    ] = None,
    subset: opt.Subset = None,
    limit: opt.Limit = None,
    metadata: opt.Metadata = None,
    slice_by: opt.SliceBy = [],  # noqa: B006
    weights: opt.Weights = None,
    state_key: opt.StateKey = "auto",
    device: opt.Device = None,
    dtype: opt.Dtype = "float32",
    batch_size: opt.BatchSize = None,
    compile: opt.Compile = False,
    workers: opt.Workers = None,
    engine: opt.Engine = "local",
    loaders: opt.Loaders = None,
    read_timeout: opt.ReadTimeout = 300.0,
    seed: opt.Seed = 0,
    keep_images: Annotated[
        str, typer.Option(envvar="VTBENCH_KEEP_IMAGES", help="Keep reconstructions as PNG: none, sample, all.")
    ] = "none",
    grid: Annotated[
        opt.Text,
        typer.Option(envvar="VTBENCH_GRID", help="Write a figure: original, reconstruction and difference per model."),
    ] = None,
    strict: opt.Strict = False,
    no_baselines: opt.NoBaselines = False,
    no_alarms: opt.NoAlarms = False,
    allow_code: opt.AllowCode = False,
    upstream: opt.Upstream = None,
    dry_run: opt.DryRun = False,
    chunks: opt.Chunks = None,
    fresh: opt.Fresh = False,
    out: opt.Out = "results",
    json: opt.Json = False,
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
        batch_size=batch_size,  # type: ignore[arg-type]
        compile=compile,
        workers=workers,
        engine=engine,
        loaders=loaders,
        read_timeout=read_timeout,
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

    echo(json.dumps(plain([line for record in _records(results) for line in rows(record)]), indent=1))


def _print(results: list[Result]) -> None:

    from vtbench.report.terminal import show

    show(_records(results), screen())


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
    from rich.table import Table

    console = screen()
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
