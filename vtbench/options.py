"""The options of a measurement, one list for the command line and Python."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vtbench.errors import UnknownName, UsageError
from vtbench.places import Remote, place

MAX_SIDE = 10_000
"""Largest resolution: `vtbench.data.decode.MAX_PIXELS` as a square."""

FIGURES = (".png", ".pdf", ".jpg", ".jpeg", ".webp", ".tif")
"""What a figure's name may end in."""


@dataclass(frozen=True)
class Options:
    """How to measure. Every field is an option of `vtbench reconstruct` and a keyword of `vtbench.evaluate` and `Evaluator`.

    data: folder, tar, shards, ``hf:``, parquet or ``.npz``. out: the results folder. protocol: protocols to add. resolution: pixels
    (None: the suite's). tokens: budgets of prefix models. subset: a named subset (``5k``), balanced over labels, by hash of the id.
    limit: the first n samples (its rows are `limited`: never ranked). device: ``cpu``, ``cuda:0`` (None: a GPU if there is one); several
    (``cuda:0,cuda:1``, ``all``) have one process each. workers: how many processes measure (None: one a device; more are dealt over the
    devices in turn). engine: `local`, or `ray` (a cluster). loaders: threads that decode and prepare images, in each worker (None: by the cores).
    read_timeout: seconds that one image may take to be read (0: for ever).
    chunks: ``A:B`` measures these chunks only and writes no record (array jobs); the same without it reduces.
    upstream: a checkout of the authors' code, for models that run through it.
    reference, reference_protocol, labels: of generation: images or statistics to hold the images against; ``balanced`` or ``random`` class labels
    (None: as the suite's protocols say).
    batch_size: None chooses 16 on a CPU and 64 on a GPU, of 256 x 256 pixels (of larger images as many as have no more pixels, at least one), so that equal
    commands have equal batches; `auto` starts with a whole chunk on a GPU, halves when memory runs out, and remembers what it found. compile: the model's networks through torch.compile.
    """

    data: str | None = None
    out: str = "results"
    protocol: tuple[str, ...] = ()
    resolution: tuple[int, ...] = ()
    tokens: tuple[int, ...] = ()
    subset: str | None = None
    limit: int | None = None
    metadata: str | None = None
    slice_by: tuple[str, ...] = ()
    device: str | None = None
    engine: Literal["local", "ray"] = "local"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int | Literal["auto"] | None = None
    workers: int | None = None
    loaders: int | None = None
    compile: bool = False
    read_timeout: float = 300.0
    seed: int = 0
    keep_images: Literal["none", "sample", "all"] = "none"
    grid: str | None = None
    strict: bool = False
    baselines: bool = True
    alarms: bool = True
    fresh: bool = False
    chunks: str | None = None
    weights: str | None = None
    state_key: str = "auto"
    allow_code: bool = False
    upstream: str | None = None
    reference: str | None = None
    reference_protocol: str | None = None
    labels: Literal["balanced", "random"] | None = None

    def __post_init__(self) -> None:
        self.chunk_range()
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: at least 1")
        if isinstance(self.batch_size, str) and self.batch_size.isdigit():
            object.__setattr__(self, "batch_size", int(self.batch_size))
        if isinstance(self.batch_size, str):
            if self.batch_size != "auto":
                raise UsageError(f"--batch-size {self.batch_size}: a number, or auto")
        elif self.batch_size is not None and self.batch_size < 1:
            raise UsageError(f"--batch-size {self.batch_size}: at least 1")
        for name in ("workers", "loaders"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UsageError(f"--{name} {count}: at least 1")
        if not self.read_timeout >= 0:
            raise UsageError(f"--read-timeout {self.read_timeout:g}: seconds, or 0 for ever")
        if self.engine not in ("local", "ray"):
            raise UsageError(f"--engine {self.engine}: local or ray")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise UsageError(f"--dtype {self.dtype}: float32, bfloat16 or float16")
        if self.keep_images not in ("none", "sample", "all"):
            raise UsageError(f"--keep-images {self.keep_images}: none, sample or all")
        if any(not 1 <= r <= MAX_SIDE for r in self.resolution):
            raise UsageError(f"--resolution is in pixels, from 1 to {MAX_SIDE}")
        if self.grid is not None and Path(self.grid).suffix.lower() not in FIGURES:
            raise UsageError(f"--grid {self.grid}: the name ends in {', '.join(FIGURES)}")
        if self.labels not in (None, "balanced", "random"):
            raise UsageError(f"--labels {self.labels}: balanced or random")
        if any(t < 1 for t in self.tokens):
            raise UsageError("--tokens is at least 1")

    def chunk_range(self) -> slice | None:
        """The chunks to measure; None for all."""
        if self.chunks is None:
            return None
        first, colon, last = self.chunks.partition(":")
        if not colon or not all(part.isdigit() or not part for part in (first, last)):
            raise UsageError(f"--chunks {self.chunks}: A:B, from 0", "Such as --chunks 0:100")
        return slice(int(first or 0), int(last) if last else None)

    @classmethod
    def of(cls, **given: Any) -> Options:
        """Options from keywords; single values where several may stand become tuples."""
        known = {f.name: f for f in fields(cls)}
        for name, value in given.items():
            if name not in known:
                raise UnknownName("option", name, known)
            if "tuple" in str(known[name].type) and not isinstance(value, tuple):
                given[name] = tuple(value) if isinstance(value, list) else (() if value is None else (value,))
        return cls(**given)

    def devices(self) -> tuple[str, ...]:
        """The devices, chosen when none was named. Raises `UsageError` for one that is not there."""
        import torch

        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not self.device:
            return (f"cuda:{torch.cuda.current_device()}",) if gpus else ("cpu",)
        if self.device == "all":
            return tuple(f"cuda:{i}" for i in range(gpus)) or ("cpu",)
        names = tuple(part.strip() for part in self.device.split(",") if part.strip())
        for name in names:
            try:
                device = torch.device(name)
            except RuntimeError as error:
                raise UsageError(f"--device {name}: not a device", "Give cpu, cuda:0, cuda:0,cuda:1 or all") from error
            if device.type == "cuda" and self.engine == "local":
                if not gpus:
                    raise UsageError(f"--device {name}: torch sees no GPU here", "Give --device cpu")
                if (device.index or 0) >= gpus:
                    raise UsageError(f"--device {name}: there are {gpus} GPUs here", "Give --device all")
        if not names:
            raise UsageError(f"--device {self.device}: no device", "Give cpu, cuda:0, cuda:0,cuda:1 or all")
        return names

    def resolved_device(self) -> str:
        """The first device."""
        return self.devices()[0]

    def slots(self) -> tuple[str, ...]:
        """The device of every local worker."""
        devices = self.devices()
        return tuple(devices[i % len(devices)] for i in range(self.workers or len(devices)))

    def resolved_loaders(self) -> int:
        """Threads that load images, in each worker: two at least, eight at most, by this machine's cores."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return self.loaders or max(2, min(8, cores // len(self.slots())))

    def read_limit(self) -> float | None:
        """Seconds that one image may take to be read; None for ever."""
        return self.read_timeout or None

    def resolved_batch(self, device: str, chunk: int | None = None, found: int | None = None) -> int:
        """The batch size, chosen when none was given. chunk: images of a chunk, which no batch crosses. found: what `auto` found before."""
        cuda = device.startswith("cuda")
        if self.batch_size == "auto":
            return found or (max(64, chunk or 64) if cuda else 16)
        return self.batch_size or (64 if cuda else 16)

    @property
    def batch_by_area(self) -> bool:
        """Whether images larger than 256 x 256 go in smaller batches, of as many pixels: so they do unless a batch size was given or is searched for."""
        return self.batch_size is None

    def store(self) -> Path:
        """Where measurements lie: `VTBENCH_STORE`, or `measurements/` in the results folder."""
        return place(os.environ.get("VTBENCH_STORE") or place(self.out) / "measurements")

    def cache(self) -> Path:
        """Where digests are remembered and archives unpacked: with the measurements, or in this machine's cache when those lie behind a URL."""
        store = self.store()
        if not isinstance(store, Remote):
            return store
        from platformdirs import user_cache_path

        return user_cache_path("vtbench")

    def moving(self) -> dict[str, Any]:
        """The options that move a value and are not told by model, suite and data: they are part of the run's id."""
        moved: dict[str, Any] = {"subset": self.subset, "limit": self.limit, "dtype": self.dtype}
        moved |= {"protocol": list(self.protocol), "resolution": list(self.resolution), "tokens": list(self.tokens)}
        moved |= {"slice_by": list(self.slice_by), "seed": self.seed or None}
        return {k: v for k, v in moved.items() if v not in (None, [], "float32")}
