"""`vtbench score`: images that exist already, against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vtbench.cli import options as opt
from vtbench.cli.reconstruct import _json, _last_line, _numbers
from vtbench.console import screen

if TYPE_CHECKING:
    from vtbench.progress import Silent
    from vtbench.result import Result


def score(
    images: Annotated[
        str, typer.Argument(help="The images to score: a folder, a tar, shards, hf:NAME, parquet or .npz.")
    ],
    reference: Annotated[
        opt.Text,
        typer.Option(
            "--reference", "-r", envvar="VTBENCH_REFERENCE", help="Images likewise, or statistics in an .npz."
        ),
    ] = None,
    suite: opt.Suites = ["images"],  # noqa: B006 - typer copies it
    protocol: opt.Protocol = None,
    reference_protocol: opt.ReferenceProtocol = None,
    pairing: Annotated[
        str, typer.Option(envvar="VTBENCH_PAIRING", help="auto, ids (pairs by id), none (two sets).")
    ] = "auto",
    name: Annotated[
        opt.Text, typer.Option(help="What tables call the images (default: their folder's or file's name).")
    ] = None,
    save_statistics: Annotated[
        opt.Text,
        typer.Option(
            help="Write the reference's statistics to this .npz, with their protocol inside ({protocol} in the name: one file each). "
            "Without --reference, the images' own.",
        ),
    ] = None,
    with_features: Annotated[
        bool,
        typer.Option(
            "--with-features",
            help="Keep every image's features in that file too: KID, precision and recall then need no images.",
        ),
    ] = False,
    resolution: Annotated[
        opt.Text,
        typer.Option(
            envvar="VTBENCH_RESOLUTION", help="Resolutions in pixels, separated by commas (default: the images' own)."
        ),
    ] = None,
    subset: opt.Subset = None,
    limit: opt.Limit = None,
    metadata: opt.Metadata = None,
    slice_by: opt.SliceBy = [],  # noqa: B006
    device: opt.Device = None,
    batch_size: opt.BatchSize = None,
    workers: opt.Workers = None,
    engine: opt.Engine = "local",
    loaders: opt.Loaders = None,
    read_timeout: opt.ReadTimeout = 300.0,
    strict: opt.Strict = False,
    no_alarms: opt.NoAlarms = False,
    fresh: opt.Fresh = False,
    out: opt.Out = "results",
    json: opt.Json = False,
) -> None:
    """Score images against a reference.

    The same ids on both sides make pairs: every metric applies. Otherwise two sets are compared: FID, KID, precision and the like. A
    reference may be statistics (mu, sigma) of vtbench, clean-fid, pytorch-fid or ADM. --suite geneval judges a folder in GenEval's layout without one."""
    from vtbench.errors import UsageError
    from vtbench.progress import talker
    from vtbench.prompted import alone, score_alone
    from vtbench.scorer import Scorer

    talk = talker()
    shared: dict[str, Any] = {
        "talk": talk,
        "out": out,
        "protocol": tuple(p for p in (protocol or "").split(",") if p),
        "resolution": _numbers(resolution, "--resolution"),
        "subset": subset,
        "limit": limit,
        "slice_by": tuple(slice_by),
        "device": device,
        "batch_size": batch_size,
        "workers": workers,
        "engine": engine,
        "loaders": loaders,
        "read_timeout": read_timeout,
        "strict": strict,
        "alarms": not no_alarms,
        "fresh": fresh,
    }
    if reference is None and save_statistics is None and alone(suite):
        _tell([score_alone(images, suite, name=name, **shared)], talk, out, json, everything=bool(protocol))
        return
    if reference is None and save_statistics is None:
        raise UsageError(
            "score needs --reference", "A folder, a tar, an .npz; or --save-statistics FILE.npz of the images"
        )
    scorer = Scorer(
        images,
        reference or images,
        suite,
        pairing="none" if reference is None else pairing,  # type: ignore[arg-type]
        reference_protocol=reference_protocol,
        name=name,
        metadata=metadata,
        **shared,
    )
    if reference is None:
        scorer.measure_reference()
    else:
        result = scorer()
        _tell([result], talk, out, json, everything=bool(protocol), quit=False)
    if save_statistics:
        for path in scorer.save_statistics(Path(save_statistics), with_features=with_features):
            talk.say(f"statistics: {path}")
    if reference is not None:
        _nothing_measured([result])


def _tell(results: list[Result], talk: Silent, out: str, json: bool, *, everything: bool, quit: bool = True) -> None:
    """Print rows, as a table or as JSON. quit: end with 1 when nothing could be measured."""
    if json:
        _json(results)
    else:
        from vtbench.report.terminal import show

        show([r.record for r in results], screen(), everything=everything)
    _last_line(results, talk, out)
    if quit:
        _nothing_measured(results)


def _nothing_measured(results: list[Result]) -> None:
    if all(row.status in ("skipped", "failed") for r in results for row in r.rows()):
        raise typer.Exit(1)
