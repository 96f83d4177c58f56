"""Extractors: what takes measurements of a pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from vtbench.api.tokens import Tokens


@dataclass
class Batch:
    """What an extractor is given: B samples of one shape, or of any sizes in the `source` frame.

    samples: `vtbench.data.Sample`s (id, label, caption, annotations, group...). images: of the pass, through the view: a float32
    tensor ``[B, 3, H, W]`` in [0, 1] (already quantised) for frame `model`, a list of uint8 ``[H, W, 3]`` for frame `source`.
    reference: the ground truth likewise, for extractors that take a pair. tokens: of the pass, for those that take tokens. pixels: of one image of the model's input.
    Extractors with equal views are given the same tensors: they leave them as they are.
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


EXTRACTORS: dict[str, str | Callable[..., Extractor]] = {}


def extractor(name: str) -> Callable[[type], type]:
    """Register an extractor class under a name; for one that lives in a metric's own file."""

    def register(cls: type) -> type:
        EXTRACTORS[name] = cls
        return cls

    return register
