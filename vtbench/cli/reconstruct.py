"""`vtbench reconstruct`: run tokenizers through reconstruction suites."""

from __future__ import annotations

from typing import Annotated

import typer

from vtbench.cli import measuring
from vtbench.cli import options as opt
from vtbench.cli.measuring import all_records, elsewhere, fail_without_values, keywords, print_rows, say_where


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
    given = locals()
    from vtbench import zoo
    from vtbench.evaluation import Evaluator
    from vtbench.memory import keep_freed
    from vtbench.progress import Silent, talker
    from vtbench.ranks import join
    from vtbench.zoo.spec import with_states

    keep_freed()
    for spec in model:
        zoo.check(spec)
    talk = talker() if join().first else Silent()
    evaluator = Evaluator(suite, talk=talk, **keywords(given))
    if dry_run:
        measuring.dry_run(evaluator, model)
        return
    results = [evaluator(spec) for spec in with_states(model, state_key)]
    if elsewhere(talk, chunks):
        return
    records = all_records(results)
    if grid:
        from vtbench.report.grid import write_grid

        talk.say(f"figure: {write_grid(grid, records, out)}")
    print_rows(records, as_json=json)
    say_where(results, talk, out)
    fail_without_values([row for result in results for row in result.rows()])
