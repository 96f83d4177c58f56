"""Options that several commands share, each said once."""

from __future__ import annotations

from typing import Annotated

import typer

Text = str | None

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        "-m",
        envvar="VTBENCH_MODEL",
        help="A model: NAME, NAME:param=value, FILE.py:build, pkg.mod:attr. Repeatable.",
    ),
]
Suites = Annotated[
    list[str],
    typer.Option("--suite", "-s", envvar="VTBENCH_SUITE", help="A suite, or the path of its TOML file. Repeatable."),
]
Protocol = Annotated[
    Text,
    typer.Option(envvar="VTBENCH_PROTOCOL", help="Protocols to add to the suite's metrics: NAME,NAME+field=value."),
]
ReferenceProtocol = Annotated[
    Text,
    typer.Option(
        envvar="VTBENCH_REFERENCE_PROTOCOL",
        help="The protocol of statistics that do not say it (clean, pytorch-fid, adm); images: use the file's images alone.",
    ),
]
Resolution = Annotated[
    Text, typer.Option(envvar="VTBENCH_RESOLUTION", help="Resolutions in pixels, separated by commas.")
]
Subset = Annotated[
    Text, typer.Option(envvar="VTBENCH_SUBSET", help="A named subset, such as 5k: balanced, by hash of the id.")
]
Limit = Annotated[
    int | None,
    typer.Option(envvar="VTBENCH_LIMIT", help="Only the first N samples; its rows are never ranked."),
]
Metadata = Annotated[
    Text, typer.Option(envvar="VTBENCH_METADATA", help="A CSV of facts about the samples, joined on the id.")
]
SliceBy = Annotated[
    list[str],
    typer.Option(envvar="VTBENCH_SLICE_BY", help="Slice every metric by a column of the metadata. Repeatable."),
]
Weights = Annotated[Text, typer.Option(help="A checkpoint file for the model, instead of its card's.")]
StateKey = Annotated[
    str,
    typer.Option(
        envvar="VTBENCH_STATE_KEY",
        help="Which state of a checkpoint: auto (an EMA where there is one), ema, model, both (two rows).",
    ),
]
Device = Annotated[
    Text,
    typer.Option(
        envvar="VTBENCH_DEVICE",
        help="cpu, cuda:0 (default: a GPU if there is one); all or cuda:0,cuda:1: one process a device.",
    ),
]
Dtype = Annotated[str, typer.Option(envvar="VTBENCH_DTYPE", help="The model's precision: float32, bfloat16, float16.")]
BatchSize = Annotated[
    Text,
    typer.Option(
        envvar="VTBENCH_BATCH_SIZE",
        help="Images per batch (default: 16 on a CPU, 64 on a GPU, fewer of images above 256 x 256); auto: as many as memory holds, found once and remembered.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option("--compile", envvar="VTBENCH_COMPILE", help="Put the model's networks through torch.compile."),
]
Workers = Annotated[
    int | None,
    typer.Option(
        envvar="VTBENCH_WORKERS",
        help="Processes that measure (default: one a device; with ray, one a GPU of the cluster); moves no value.",
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        envvar="VTBENCH_ENGINE", help="Where the workers are: local, ray (a cluster; RAY_ADDRESS says which)."
    ),
]
Loaders = Annotated[
    int | None,
    typer.Option(
        envvar="VTBENCH_LOADERS",
        help="Threads that decode and prepare images, in each worker (default: by the cores); moves no value.",
    ),
]
ReadTimeout = Annotated[
    float,
    typer.Option(
        envvar="VTBENCH_READ_TIMEOUT",
        help="Seconds that one image may take to be read; a slower one fails, and is tried again by the next run. 0: for ever.",
    ),
]
Seed = Annotated[int, typer.Option(envvar="VTBENCH_SEED", help="Seed of whatever a model samples.")]
Strict = Annotated[bool, typer.Option("--strict", envvar="VTBENCH_STRICT", help="Stop at the first sample that fails.")]
NoBaselines = Annotated[
    bool, typer.Option("--no-baselines", envvar="VTBENCH_NO_BASELINES", help="Leave the suite's controls away.")
]
NoAlarms = Annotated[
    bool, typer.Option("--no-alarms", envvar="VTBENCH_NO_ALARMS", help="Do not look for common mistakes.")
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Permit checkpoints that execute code (TorchScript).")]
Upstream = Annotated[
    Text,
    typer.Option(
        envvar="VTBENCH_UPSTREAM",
        help="A checkout of the authors' code, for models that run through it (vtbench models setup makes one).",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what would be done, with counts of passes, forwards and bytes."),
]
Chunks = Annotated[
    Text,
    typer.Option(
        envvar="VTBENCH_CHUNKS",
        help="Measure only chunks A:B (array jobs); the same command without it reduces.",
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", envvar="VTBENCH_FRESH", help="Measure anew what is already measured.")]
Out = Annotated[str, typer.Option(envvar="VTBENCH_OUT", help="The results folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print the rows as JSON on stdout, and nothing else.")]
