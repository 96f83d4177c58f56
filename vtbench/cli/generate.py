"""`vtbench generate`: run image generators through suites of generation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench.cli import measuring
from vtbench.cli import options as opt
from vtbench.cli.measuring import all_records, elsewhere, fail_without_values, keywords, print_rows, say_where

if TYPE_CHECKING:
    from vtbench.record import Record


def generate(
    model: opt.Models,
    suite: opt.Suites = ["generation-demo"],  # noqa: B006 - typer copies it
    reference: Annotated[
        opt.Text,
        typer.Option(
            "--reference",
            "-r",
            envvar="VTBENCH_REFERENCE",
            help="What images are held against: a folder, a tar, an .npz, or statistics in an .npz (default: the suite's own).",
        ),
    ] = None,
    reference_protocol: opt.ReferenceProtocol = None,
    data: Annotated[
        opt.Text, typer.Option(envvar="VTBENCH_DATA", help="A file of prompts: .txt, .jsonl, .csv or .json.")
    ] = None,
    labels: Annotated[
        opt.Text, typer.Option(envvar="VTBENCH_LABELS", help="Class labels: balanced, random (default: the suite's).")
    ] = None,
    guidance: Annotated[
        opt.Text,
        typer.Option(
            envvar="VTBENCH_GUIDANCE",
            help="Guidance of the models, separated by commas, rows of each: none, best (the card's), a number.",
        ),
    ] = None,
    decoder: Annotated[
        opt.Text,
        typer.Option(
            envvar="VTBENCH_DECODER", help="Another tokenizer of the zoo to decode a token generator's tokens."
        ),
    ] = None,
    protocol: opt.Protocol = None,
    resolution: opt.Resolution = None,
    tokens: Annotated[
        opt.Text,
        typer.Option(
            envvar="VTBENCH_TOKENS", help="Token budgets of a prefix generator, separated by commas: rows of each."
        ),
    ] = None,
    subset: opt.Subset = None,
    limit: opt.Limit = None,
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
    seeds: Annotated[
        int,
        typer.Option(
            envvar="VTBENCH_SEEDS",
            help="Measure with N seeds from --seed on; rows say the mean, the spread and the diversity over them.",
        ),
    ] = 1,
    keep_images: Annotated[
        str, typer.Option(envvar="VTBENCH_KEEP_IMAGES", help="Keep the images as PNG: none, sample, all.")
    ] = "none",
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
    """Make images from class labels or prompts, and measure them.

    Every image has a seed of its own, so it does not depend on the batch or on who made it. The same command resumes where it was stopped; a second run over
    complete measurements generates nothing. A folder of images, or an .npz, stands for a model that is not at hand: --model images:PATH."""
    given = locals()
    from vtbench import zoo
    from vtbench.evaluation import Evaluator
    from vtbench.memory import keep_freed
    from vtbench.progress import Silent, talker
    from vtbench.ranks import join
    from vtbench.seeds import over_seeds
    from vtbench.zoo.spec import with_states

    keep_freed()
    for spec in model:
        zoo.check(spec, "generate")
    talk = talker() if join().first else Silent()
    evaluator = Evaluator(suite, talk=talk, **keywords(given))
    specs = variants(with_states(model, state_key), guidance, decoder)
    if dry_run:
        measuring.dry_run(evaluator, specs)
        return
    results = [evaluator(spec) if seeds == 1 else over_seeds(evaluator, spec, seeds) for spec in specs]
    if elsewhere(talk, chunks):
        return
    print_rows(all_records(results), as_json=json)
    if not json:
        for line in beside([r for result in results for r in result.records], Path(out)):
            typer.echo(line)
    say_where(results, talk, out)
    fail_without_values([row for result in results for row in result.rows()])


def beside(records: Sequence[Record], out: Path) -> list[str]:
    """A line for every token generator whose decoder has an rFID among the results: what the decoder alone loses."""
    from vtbench.records import label, read_all
    from vtbench.report.numbers import number

    kept, lines = read_all(out)[0], []
    for record in records:
        decoder = record.model.params.get("decoder")
        for other in kept if decoder else ():
            rows = [r for r in other.rows if r.metric == "fid" and r.slice == "all" and r.value is not None]
            if other.model.name != decoder or other.suite.name == record.suite.name:
                continue
            for row in rows:
                value = number(row.value, row.ci_low, row.ci_high)
                lines.append(
                    f"{label(record)} decodes with {decoder}: rFID {value} ({row.protocol}, {other.dataset.name}, n = {row.n})"
                )
    return list(dict.fromkeys(lines))


def variants(specs: Sequence[str], guidance: str | None, decoder: str | None) -> list[str]:
    """Every spec with the decoder, and once for every guidance; `best` leaves the card's own."""

    def added(spec: str, pair: str) -> str:
        return f"{spec}{',' if ':' in spec else ':'}{pair}"

    out = [added(spec, f"decoder={decoder}") for spec in specs] if decoder else list(specs)
    values = [v.strip() for v in (guidance or "best").split(",") if v.strip()]
    return [spec if value == "best" else added(spec, f"guidance={value}") for spec in out for value in values]
