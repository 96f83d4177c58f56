"""`vtbench tokens`: what kind of language a tokenizer speaks, from a model or from anybody's file of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vtbench.cli import options as opt
from vtbench.cli.measuring import fail_without_values, names, numbers, print_rows

if TYPE_CHECKING:
    from vtbench.record import Record


def tokens(
    file: list[str] = typer.Option(
        [], "--tokens", "-t", help="A file of tokens: .npz, .parquet or .safetensors. Repeatable."
    ),
    text: list[str] = typer.Option([], "--text", help="A text file, for comparison with natural language. Repeatable."),
    text_unit: str = typer.Option("bytes", help="What a text's tokens are: bytes or words."),
    model: list[str] = typer.Option(
        [], "--model", "-m", envvar="VTBENCH_MODEL", help="A model, whose tokens of --data are studied. Repeatable."
    ),
    data: str | None = typer.Option(None, envvar="VTBENCH_DATA", help="Images for --model: a folder, a tar, ..."),
    suite: list[str] = typer.Option(
        ["token-statistics"],
        "--suite",
        "-s",
        envvar="VTBENCH_SUITE",
        help="token-statistics, token-models, token-robustness, token-semantics. Repeatable.",
    ),
    protocol: str | None = typer.Option(
        None, envvar="VTBENCH_PROTOCOL", help="Protocols to add: tokens+ar_tokens=1048576."
    ),
    codebook_size: str | None = typer.Option(
        None, help="K of the file's codebook, or one K each, separated by commas; overrules what the file says."
    ),
    grid: str | None = typer.Option(None, help="The file's positions as HEIGHTxWIDTH."),
    pixels: int | None = typer.Option(None, help="Pixels of one input image of the file, for bits per pixel."),
    ordered: bool = typer.Option(False, "--ordered", help="A prefix of the file's tokens means something."),
    resolution: str | None = typer.Option(None, envvar="VTBENCH_RESOLUTION", help="For --model: pixels."),
    subset: str | None = typer.Option(None, envvar="VTBENCH_SUBSET", help="For --model: a named subset, such as 5k."),
    limit: int | None = typer.Option(None, envvar="VTBENCH_LIMIT", help="For --model: only the first N samples."),
    weights: str | None = typer.Option(None, help="For --model: a checkpoint instead of its card's."),
    upstream: opt.Upstream = None,
    device: str | None = typer.Option(
        None, envvar="VTBENCH_DEVICE", help="cpu, cuda:0 (default: a GPU if there is one)."
    ),
    batch_size: int | None = typer.Option(None, envvar="VTBENCH_BATCH_SIZE", help="For --model: images per batch."),
    plots: str | None = typer.Option(None, help="Write the plots of the statistics as PNG into this folder."),
    out: opt.Out = "results",
    json: opt.Json = False,
) -> None:
    """Study tokens: frequency laws, growth, entropy, n-grams, compressibility, language models; a null beside every law.

    `--tokens FILE` needs no model: an .npz with `tokens` (integers, images x positions or images x positions x codebooks, -1 pads),
    `codebook_size`, and optionally `grid`, `ordered`, `pixels`, `codebook`, `labels`."""
    from vtbench.errors import UsageError
    from vtbench.progress import talker

    if not (file or text or model):
        raise UsageError("nothing to study", "Give --tokens FILE, --text FILE or --model NAME --data DIR")
    talk = talker()
    records: list[Record] = []
    extra = names(protocol)
    for opened in _files(file, text, text_unit, codebook_size, grid, pixels, ordered):
        records += _study(opened, suite, extra, out, device, talk)
    if model:
        records += _models(
            model,
            suite,
            talk,
            data=data,
            out=out,
            protocol=extra,
            resolution=numbers(resolution, "--resolution"),
            subset=subset,
            limit=limit,
            weights=weights,
            upstream=upstream,
            device=device,
            batch_size=batch_size,
            baselines=False,
        )
    if plots:
        from vtbench.tokens.plots import write_plots

        for path in write_plots(records, plots):
            talk.say(f"plot: {path}")
    print_rows(records, as_json=json)
    talk.say(f"{out}/table.csv, runs {', '.join(r.run_id for r in records)}")
    fail_without_values([row for record in records for row in record.rows])


def _files(
    files: list[str], texts: list[str], unit: str, size: str | None, grid: str | None, pixels: int | None, ordered: bool
) -> list[Any]:
    from vtbench.errors import UsageError
    from vtbench.tokens.files import open_tokens
    from vtbench.tokens.text import open_text

    if unit not in ("bytes", "words"):
        raise UsageError(f"--text-unit is bytes or words, not '{unit}'")
    sizes = numbers(size, "--codebook-size")
    cells = numbers(grid, "--grid", "x")
    opened: list[Any] = [
        open_tokens(f, codebook_size=sizes, grid=cells, pixels=pixels, ordered=ordered or None) for f in files
    ]
    return opened + [open_text(t, "words" if unit == "words" else "bytes") for t in texts]


def _study(opened: Any, suites: list[str], extra: tuple[str, ...], out: str, device: str | None, talk: Any) -> Any:
    import shlex
    import sys

    from vtbench.token_run import study

    command = shlex.join(["vtbench", *sys.argv[1:]])
    return study(
        opened,
        suites,
        protocols=extra,
        out=out,
        command=command,
        device=device,
        tell=lambda metric, seconds: talk.say(f"{opened.name}: {metric} ({seconds:.1f} s)"),
    )


def _models(specs: list[str], suites: list[str], talk: Any, **options: Any) -> list[Record]:
    from vtbench.evaluation import Evaluator

    evaluator = Evaluator(suites, talk=talk, **options)
    return [record for spec in specs for record in evaluator(spec).records]
