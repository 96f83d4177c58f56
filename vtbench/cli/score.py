"""`vtbench score`: images that exist already, against a reference."""

from __future__ import annotations

from pathlib import Path

import typer

from vtbench.cli.reconstruct import _json, _last_line, _numbers


def score(
    images: str = typer.Argument(help="The images to score: a folder, a tar, shards, hf:NAME, parquet or .npz."),
    reference: str | None = typer.Option(
        None, "--reference", "-r", envvar="VTBENCH_REFERENCE", help="Images likewise, or statistics in an .npz."
    ),
    suite: list[str] = typer.Option(
        ["images"], "--suite", "-s", envvar="VTBENCH_SUITE", help="A suite, or the path of its TOML file. Repeatable."
    ),
    protocol: str | None = typer.Option(
        None, envvar="VTBENCH_PROTOCOL", help="Protocols to add to the suite's metrics: NAME,NAME+field=value."
    ),
    reference_protocol: str | None = typer.Option(
        None,
        envvar="VTBENCH_REFERENCE_PROTOCOL",
        help="The protocol of statistics that do not say it (clean, pytorch-fid, adm); images: use the file's images alone.",
    ),
    pairing: str = typer.Option("auto", envvar="VTBENCH_PAIRING", help="auto, ids (pairs by id), none (two sets)."),
    name: str | None = typer.Option(None, help="What tables call the images (default: their folder's or file's name)."),
    save_statistics: str | None = typer.Option(
        None,
        help="Write the reference's statistics to this .npz, with their protocol inside ({protocol} in the name: one file each). "
        "Without --reference, the images' own.",
    ),
    with_features: bool = typer.Option(
        False,
        "--with-features",
        help="Keep every image's features in that file too: KID, precision and recall then need no images.",
    ),
    resolution: str | None = typer.Option(
        None, envvar="VTBENCH_RESOLUTION", help="Resolutions in pixels, separated by commas (default: the images' own)."
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
    device: str | None = typer.Option(
        None,
        envvar="VTBENCH_DEVICE",
        help="cpu, cuda:0 (default: a GPU if there is one); all or cuda:0,cuda:1: one process a device.",
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
    strict: bool = typer.Option(
        False, "--strict", envvar="VTBENCH_STRICT", help="Stop at the first sample that fails."
    ),
    no_alarms: bool = typer.Option(
        False, "--no-alarms", envvar="VTBENCH_NO_ALARMS", help="Do not look for common mistakes."
    ),
    fresh: bool = typer.Option(False, "--fresh", envvar="VTBENCH_FRESH", help="Measure anew what is already measured."),
    out: str = typer.Option("results", envvar="VTBENCH_OUT", help="The results folder."),
    json: bool = typer.Option(False, "--json", help="Print the rows as JSON on stdout, and nothing else."),
) -> None:
    """Score images against a reference.

    The same ids on both sides make pairs: every metric applies. Otherwise two sets are compared: FID, KID, precision and the like. A
    reference may be statistics (mu, sigma) of vtbench, clean-fid, pytorch-fid or ADM."""
    from vtbench.errors import UsageError
    from vtbench.progress import talker
    from vtbench.scorer import Scorer

    talk = talker()
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
        talk=talk,
        out=out,
        protocol=tuple(p for p in (protocol or "").split(",") if p),
        resolution=_numbers(resolution, "--resolution"),
        subset=subset,
        limit=limit,
        metadata=metadata,
        slice_by=tuple(slice_by),
        device=device,
        batch_size=batch_size,
        workers=workers,
        engine=engine,
        loaders=loaders,
        strict=strict,
        alarms=not no_alarms,
        fresh=fresh,
    )
    if reference is None:
        scorer.measure_reference()
    else:
        results = [scorer()]
        if json:
            _json(results)
        else:
            from rich.console import Console

            from vtbench.report.terminal import show

            show([r.record for r in results], Console(), everything=bool(protocol))
        _last_line(results, talk, out)
    if save_statistics:
        for path in scorer.save_statistics(Path(save_statistics), with_features=with_features):
            talk.say(f"statistics: {path}")
    if reference is not None and all(row.status in ("skipped", "failed") for r in results for row in r.rows()):
        raise typer.Exit(1)
