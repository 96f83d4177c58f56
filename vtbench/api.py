"""The contracts: what a model, an extractor and a metric are, and what passes between them.

Nothing here imports torch. Images are ``torch.Tensor`` float32 RGB in [0, 1], ``[B, 3, H, W]``, at every public
boundary; measurements and metrics are NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

# ---------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Condition:
    """What a model may know of a sample besides its pixels."""

    id: str
    label: int | None = None
    caption: str | None = None


@dataclass(frozen=True)
class Placement:
    """How a source image was laid on the model's canvas, so that a reconstruction can be put back.

    `source` and `canvas` are (width, height); `box` is (left, top, right, bottom) of the picture on the canvas.
    For a centre crop `box` is the whole canvas and `restorable` is False.
    """

    source: tuple[int, int]
    canvas: tuple[int, int]
    box: tuple[int, int, int, int]
    restorable: bool = True


# ---------------------------------------------------------------------------------------------- tokens

Kind = Literal["index", "bits", "continuous", "soft", "bytes"]
Layout = Literal["grid2d", "seq1d", "multiscale", "grid3d"]


@dataclass(frozen=True)
class Stream:
    """One stream of tokens.

    name: unique in a `Tokens`. kind: `index` (integers below `sizes`), `bits` (0/1), `continuous`, `soft` (weights over a
    codebook), `bytes` (a codec's own file). layout: how positions lie. sizes: the codebook sizes, one per codebook that a
    position indexes (two for a product code). shape: of the positions, ``(h, w)``, ``(n,)`` or the side of every scale.
    ordered: a prefix means something. residual: the codebooks of a position are summed. shared_index: one index reads
    several codebooks, so its bits count once.
    """

    name: str
    kind: Kind
    layout: Layout = "grid2d"
    sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    ordered: bool = False
    residual: bool = False
    shared_index: bool = False

    def bits_per_position(self) -> float | None:
        """Nominal bits of one position: the sum of log2 K (a shared index once); None when continuous or soft."""
        if self.kind in ("continuous", "soft"):
            return None
        if self.kind == "bits":
            return float(sum(math.log2(k) for k in self.sizes)) if self.sizes else 1.0
        sizes = self.sizes[:1] if self.shared_index else self.sizes
        return float(sum(math.log2(k) for k in sizes))


@dataclass
class Tokens:
    """What an encoder makes of a batch of B images.

    data: per stream, an integer array or tensor ``[B, N]`` (``[B, N, C]`` with C codebooks), floats for continuous streams, or
    for `bytes` a list of B ``bytes``. lengths: per image, the positions in use (counted over all streams), or None when all
    are. nmax: the greatest length that a variable-length code may send (its length is then sent too). condition: what the
    decoder needs beside the tokens. extra: whatever the adapter wants to hand from its encode to its decode (never stored).
    """

    streams: tuple[Stream, ...]
    data: dict[str, Any]
    size: int
    lengths: np.ndarray | None = None
    nmax: int | None = None
    condition: Sequence[Condition] | None = None
    extra: Any = None

    def __len__(self) -> int:
        return self.size

    def positions(self) -> np.ndarray:
        """Active positions per image, over all streams: int64 ``[B]``."""
        if self.lengths is not None:
            return np.asarray(self.lengths, dtype=np.int64)
        total = sum(int(self.data[s.name].shape[1]) for s in self.streams if s.kind not in ("bytes", "continuous"))
        return np.full(self.size, total, dtype=np.int64)

    def bits(self) -> np.ndarray | None:
        """Nominal bits per image, float64 ``[B]``: the sum of log2 K over active positions, plus ceil(log2 nmax) when the
        length varies; a codec's real bytes times 8; None when any stream is continuous."""
        total = np.zeros(self.size)
        for stream in self.streams:
            if stream.kind == "bytes":
                total += 8.0 * np.array([len(b) for b in self.data[stream.name]], dtype=np.float64)
                continue
            each = stream.bits_per_position()
            if each is None:
                return None
            if self.lengths is not None and len(self.streams) == 1:
                total += each * self.positions()
            else:
                total += each * int(self.data[stream.name].shape[1])
        if self.lengths is not None and self.nmax is not None and self.nmax > 1:
            total += math.ceil(math.log2(self.nmax))
        return total

    def caption_bits(self) -> np.ndarray | None:
        """Bits of the captions that the decoder needs (UTF-8 bytes times 8), shown apart from `bits`."""
        if self.condition is None or all(c.caption is None for c in self.condition):
            return None
        return np.array([8.0 * len((c.caption or "").encode()) for c in self.condition])

    def arrays(self) -> dict[str, np.ndarray]:
        """The integer streams as NumPy arrays on the CPU."""
        out: dict[str, np.ndarray] = {}
        for stream in self.streams:
            if stream.kind in ("index", "bits"):
                value = self.data[stream.name]
                out[stream.name] = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
        return out


# ---------------------------------------------------------------------------------------------- models


@dataclass(frozen=True)
class Capabilities:
    """What a model can do, as data.

    prefix: a shorter budget decodes. budgets: the budgets that make sense (None: any up to `max_tokens`).
    any_resolution: input sides may be any multiple of `multiple`; otherwise `resolution` is the only one.
    scales_with_area: tokens grow with the area, and a budget is per `budget_per` pixels squared.
    per_image_noise: decode draws its noise per image from `seeds` (otherwise the core runs one image at a time).
    stochastic: decode or encode draws noise at all. sharded: its weights lie over the ranks of a process group (FSDP), so that every rank must call it
    equally often; networks wrapped by FSDP are seen without it. classes, gives_tokens: of a `Generator`.
    """

    prefix: bool = False
    max_tokens: int | None = None
    budgets: tuple[int, ...] | None = None
    any_resolution: bool = True
    resolution: int | None = None
    multiple: int = 1
    scales_with_area: bool = False
    budget_per: int = 256
    stochastic: bool = False
    per_image_noise: bool = True
    needs_caption: bool = False
    text_align: bool = False
    video: bool = False
    sharded: bool = False
    classes: int | None = None
    gives_tokens: bool = False


class Model:
    """What a tokenizer and a generator share.

    name: as on the command line, without params. revision: digest of the weights (`vtbench.weights`), never a name or a path.
    params: what the user chose about the model, resolved (defaults filled in), without the budget. budget: the default
    budget, from `tiny:tokens=64`.
    """

    name: str = ""
    revision: str = ""
    params: Mapping[str, Any] = {}
    budget: int | None = None
    capabilities: Capabilities = Capabilities()

    def modules(self) -> Mapping[str, Any]:
        """The ``torch.nn.Module`` of each part, for costs: `encoder` and `decoder`, and a generator's `generator`; empty when there is none."""
        return {}

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters of each half, shared ones in both: of its `modules`, unless the model counts otherwise."""
        return {
            half: sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
            for half, module in self.modules().items()
        }

    def provenance(self) -> Mapping[str, Any]:
        """What else made its outputs and belongs in the record: for models that do not run in this process."""
        return {}

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move to a device ("cpu", "cuda:0"); called once before the first batch. Returns self."""
        return self


class Tokenizer(Model):
    """A model that encodes images to tokens and decodes tokens to images. Adapters subclass it."""

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Encode float32 ``[B, 3, H, W]`` in [0, 1]. A posterior's mode unless `sample`."""
        raise NotImplementedError

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Decode to float32 ``[B, 3, H, W]``; the core clamps to [0, 1]. Steps and guidance are `params`."""
        raise NotImplementedError

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first `budget` tokens (per `capabilities.budget_per` squared pixels where tokens scale with the area).

        The default cuts a single ordered index stream; models with another nesting override it."""
        (stream,) = tokens.streams
        data = tokens.data[stream.name][:, :budget]
        cut = replace(stream, shape=(int(data.shape[1]),), layout="seq1d")
        return replace(tokens, streams=(cut,), data={stream.name: data}, lengths=None)

    def codebook(self) -> np.ndarray | None:
        """The codebook as float ``[K, dims]``, where there is one."""
        return None

    def features(self, images: torch.Tensor, tap: str) -> torch.Tensor | None:
        """The encoder's features at a tap, fp32 ``[B, N, D]``; None where the model has no such tap.

        tap: `hidden` (what the encoder's last normalisation gives), `pre_quant` (what is quantised; a posterior's mode), `aligned`
        (``[B, 1, D]``: of the whole image, in the space of `text_features`). images: as `encode` takes them."""
        return None

    def text_features(self, texts: Sequence[str]) -> torch.Tensor | None:
        """Texts in the space of the tap `aligned`, fp32 ``[B, D]``; None where the model does not align with text."""
        return None


@dataclass
class Generated:
    """What a generator makes of B conditions: images float32 ``[B, 3, H, W]`` in [0, 1], and their tokens where it made any."""

    images: torch.Tensor
    tokens: Tokens | None = None


class Generator(Model):
    """A model that makes images from conditions. Adapters subclass it.

    What a user chooses about sampling (steps, guidance, temperature, the decoder) are its `params`. steps: how many times the network is run for
    an image, where that means anything. capabilities: `resolution` with ``any_resolution=False`` says the size of its images; `classes` how many
    labels it knows; `prefix` that `budget` makes images from fewer tokens; `gives_tokens` that it returns them; ``stochastic=False`` that no seed moves its images;
    ``per_image_noise=False`` that it cannot seed images of one batch apart, and is called with one condition at a time.
    """

    capabilities: Capabilities = Capabilities(stochastic=True)
    steps: int | None = None

    def expect(self, conditions: Sequence[Condition], *, whole: bool) -> None:
        """Told all the conditions of a run before the first is asked for. whole: they are all of the suite's, not a subset. Raises `UsageError` when it
        cannot serve them at all."""

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor | Generated:
        """One image per condition, float32 ``[B, 3, H, W]``; the core clamps to [0, 1]. Whatever is drawn for an image comes from its own seed alone.

        Raises `BadSample` for a condition that it cannot use (a label out of range, no image in a folder)."""
        raise NotImplementedError


# ---------------------------------------------------------------------------------------------- passes, views, needs


@dataclass(frozen=True)
class Pass:
    """How pixels or tokens come to be. Nested; its digest keys the store.

    op: `load` (the input as the protocol prepares it), `run` (encode and decode of `of`), `generate` (images from conditions), or a change of the images of `of`
    (`jpeg`, `noise`, `shift`) or of its tokens (`decode`). args: sorted (name, value) pairs. first: only the first n samples.
    """

    op: str
    of: Pass | None = None
    args: tuple[tuple[str, Any], ...] = ()
    first: int = 0

    def model(self) -> bool:
        """Whether a model takes part: ground truth has none, and is measured once for all models."""
        return self.op in ("run", "decode", "generate") or (self.of is not None and self.of.model())

    def spelled(self) -> str:
        """A readable, unique spelling: ``run(load)``, ``jpeg[quality=75](run(load))``."""
        args = "[" + ",".join(f"{k}={v}" for k, v in self.args) + "]" if self.args else ""
        return (
            f"{self.op}{args}"
            + (f"({self.of.spelled()})" if self.of else "")
            + (f"@{self.first}" if self.first else "")
        )


INPUT = Pass("load")
OUTPUT = Pass("run", INPUT)
GENERATED = Pass("generate")


@dataclass(frozen=True)
class View:
    """Pixels as one extractor wants them; equal views share a forward.

    frame: `model` (the model's canvas: tensors ``[B, 3, H, W]``) or `source` (put back on the source image: a list of uint8
    arrays ``[H, W, 3]``; for INPUT, the source image itself; for GENERATED, the image as it was made). quantise: how floats become 8 bits (`round`, `truncate` of
    255 x, `none`); `reference` says the same of the ground truth ("" = as `quantise`).
    container: what the pixels pass through on the way (`lossless`, `jpeg75` = Pillow's default JPEG for sources stored as JPEG).
    resize, size: generated images of another size are brought to `size` pixels as `resize` says (``fit:library:filter:antialias``); "" leaves them.
    """

    frame: Literal["model", "source"] = "model"
    quantise: Literal["round", "truncate", "none"] = "round"
    reference: Literal["", "round", "truncate", "none"] = ""
    container: Literal["lossless", "jpeg75"] = "lossless"
    filter: str = "lanczos"
    resize: str = ""
    size: int = 0


@dataclass(frozen=True)
class Need:
    """One measurement that a metric asks for: `head` of `extractor`, at a pass, through a view."""

    extractor: str
    head: str
    at: Pass = OUTPUT
    view: View = View()
    args: tuple[tuple[str, Any], ...] = ()


# ---------------------------------------------------------------------------------------------- extractors


@dataclass
class Batch:
    """What an extractor is given: B samples of one shape, or of any sizes in the `source` frame.

    samples: `vtbench.data.Sample`s (id, label, caption, annotations, group...). images: of the pass, through the view: a float32
    tensor ``[B, 3, H, W]`` in [0, 1] (already quantised) for frame `model`, a list of uint8 ``[H, W, 3]`` for frame `source`.
    reference: the ground truth likewise, for extractors that take a pair. tokens: of the pass, for those that take tokens. pixels: of one image of the model's input.
    """

    samples: Sequence[Any]
    images: Any = None
    reference: Any = None
    tokens: Tokens | None = None
    pixels: int = 0


@dataclass
class Rows:
    """What one head measured on a batch: values ``[R, ...]`` and the batch position of each row (None: one row per sample).

    Values are numbers or unicode strings (dtype ``U``), never objects."""

    values: np.ndarray
    image: np.ndarray | None = None


@runtime_checkable
class Extractor(Protocol):
    """Takes measurements. Constructed cheaply with its args; loads its network in `open`.

    takes: `images`, `pair` (images and reference), `tokens`, `encoder` (the images that a `run` pass encodes; the engine sets `model`), or
    `model` (called once per model with no batch).
    version: raised when the same input would give other values. identity(): everything besides args that moves a value, e.g.
    ``{"weights": "sha256:..."}``; must not load the network; raises `MissingWeights` or `MissingPackage` with the way out.
    """

    name: str
    version: int
    takes: Literal["images", "pair", "tokens", "encoder", "model"]

    def identity(self) -> Mapping[str, str]: ...

    def open(self, device: str) -> None: ...

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]: ...


# ---------------------------------------------------------------------------------------------- metrics


class Column(Protocol):
    """One head's measurements over all samples: lazy, in sample order."""

    image: np.ndarray

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, values) block by block, so that no metric need hold everything."""
        ...

    def array(self) -> np.ndarray: ...


@dataclass
class Measurements:
    """What a metric is given: its columns by the names of its `needs`, and what is known of the samples.

    samples: per-sample facts as arrays of length M (`id`, `set`, `label`, `width`, `height`, ...), indexed by `Column.image`.
    groups: int ``[M]``: the fixed group of each image for the delete-group jackknife. context: `resolution`, `tokens`,
    `pixels` (of the model's input, per image), `n`, `reference_statistics` (head -> (mean, covariance), see `metric`).
    """

    columns: Mapping[str, Column]
    samples: Mapping[str, np.ndarray]
    groups: np.ndarray
    context: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def group_of(self, column: Column) -> np.ndarray:
        """The jackknife group of each row of a column."""
        return self.groups[column.image]


@dataclass(frozen=True)
class Value:
    """What a metric yields: per-sample values (the core gives the mean, the bootstrap by image and the pairing), or one value
    with its leave-one-group-out values (the core gives the delete-group jackknife).

    samples ``[R]`` with image ``[R]`` (the image of each row; several rows an image for words and faces). groups ``[G]``: the value
    without group g (nan where a group is empty). slice: `all`, a name (`small`), or ``key=value``. status and why: `skipped` with a
    reason where the estimator does not apply. notes: counts and remarks that go to the record beside the row.
    keep: whether per-sample values go to samples/RUN.parquet. interval: (low, high) of a metric that knows its own resampling (by prompt); groups still
    serve comparisons. bounds: the ends of the scale where they depend on the model (a perplexity is at most K); else the metric's.
    """

    samples: np.ndarray | None = None
    image: np.ndarray | None = None
    value: float | None = None
    n: int = 0
    groups: np.ndarray | None = None
    slice: str = "all"
    status: Literal["ok", "skipped"] = "ok"
    why: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = True
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None


Fields = Mapping[str, Any]
"""A protocol's fields, its three parts merged (their names never collide), plus `resolution`."""


@dataclass(frozen=True)
class Metric:
    """A metric's declaration: facts first, then the pure function."""

    name: str
    compute: Callable[[Measurements, Fields], Iterable[Value]]
    needs: Callable[[Fields], Mapping[str, Need]]
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    fields: tuple[str, ...] = ()
    version: int = 1
    title: str = ""
    source: str = ""
    volatile: bool = False
    fitted: bool = False
    tolerance: float = 1e-4
    groups: int = 20
    compares: Literal["pairs", "sets", "moments"] = "pairs"
    bounds: tuple[float, float] = (-math.inf, math.inf)


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    needs: Callable[[Fields], Mapping[str, Need]],
    unit: str = "",
    better: Literal["higher", "lower", ""] = "",
    fields: tuple[str, ...] = (),
    version: int = 1,
    title: str = "",
    source: str = "",
    volatile: bool = False,
    fitted: bool = False,
    tolerance: float = 1e-4,
    groups: int = 20,
    compares: Literal["pairs", "sets", "moments"] = "pairs",
    bounds: tuple[float, float] | None = None,
) -> Callable[[Callable[[Measurements, Fields], Iterable[Value]]], Callable[[Measurements, Fields], Iterable[Value]]]:
    """Declare a metric. The function takes measurements and protocol fields and yields `Value`s; no torch, no files.

    fields: the protocol fields that it reads (a missing one is an error that names it). title: one plain line. source: paper,
    equation or repository. tolerance: relative agreement promised across devices, batch sizes and versions. groups: how many fixed
    groups of images the jackknife deletes in turn (20; 50 for token statistics). bounds: the ends of the scale, where intervals are cut
    (a symmetric one may pass them; percent go from 0 to 100 unless it says otherwise). compares: what it wants of the ground truth: `pairs` (each output's
    own original), `sets` (any images of the reference), `moments` (a set, or its mean and covariance alone, which then stand in
    ``m.context["reference_statistics"][head]`` in place of the column)."""

    def register(
        function: Callable[[Measurements, Fields], Iterable[Value]],
    ) -> Callable[[Measurements, Fields], Iterable[Value]]:
        METRICS[name] = Metric(
            name,
            function,
            needs,
            unit,
            better,
            fields,
            version,
            title,
            source,
            volatile,
            fitted,
            tolerance,
            groups,
            compares,
            bounds or ((0.0, 100.0) if unit == "%" else (-math.inf, math.inf)),
        )
        return function

    return register


EXTRACTORS: dict[str, str | Callable[..., Extractor]] = {}


def extractor(name: str) -> Callable[[type], type]:
    """Register an extractor class under a name; for one that lives in a metric's own file."""

    def register(cls: type) -> type:
        EXTRACTORS[name] = cls
        return cls

    return register
