"""`vtbench score`: images that exist already, against a reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vtbench.cli import options as opt
from vtbench.cli.measuring import all_records, fail_without_values, keywords, print_rows, say_where

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
    given = locals()
    from vtbench.errors import UsageError
    from vtbench.progress import talker
    from vtbench.prompted import alone, score_alone
    from vtbench.scorer import Scorer

    talk = talker()
    options = keywords(given, without=("reference", "reference_protocol"))
    results: list[Result] = []
    if reference is None and save_statistics is None:
        if not alone(suite):
            if "dpg-bench" in suite:
                raise UsageError(
                    "dpg-bench judges images by the questions to their prompts",
                    f"vtbench generate --model images:{images} --suite dpg-bench --data dpg_bench.csv",
                )
            raise UsageError(
                "score needs --reference", "A folder, a tar, an .npz; or --save-statistics FILE.npz of the images"
            )
        results.append(score_alone(images, suite, name=name, talk=talk, **options))
        _tell(results, talk, out, json, everything=bool(protocol))
    else:
        scorer = Scorer(
            images,
            reference or images,
            suite,
            pairing="none" if reference is None else pairing,  # type: ignore[arg-type]
            reference_protocol=reference_protocol,
            name=name,
            talk=talk,
            **options,
        )
        if reference is None:
            scorer.measure_reference()
        else:
            results.append(scorer())
            _tell(results, talk, out, json, everything=bool(protocol))
        if save_statistics:
            for path in scorer.save_statistics(Path(save_statistics), with_features=with_features):
                talk.say(f"statistics: {path}")
    if results:
        fail_without_values([row for result in results for row in result.rows()])


def _tell(results: list[Result], talk: Silent, out: str, as_json: bool, *, everything: bool) -> None:
    print_rows(all_records(results), as_json=as_json, everything=everything)
    say_where(results, talk, out)
