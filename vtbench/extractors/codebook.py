"""A model's codebook, as a measurement of the model itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vtbench.api import Batch, Rows


class Codebook:
    """Head `vectors`: float32 ``[K, d]``, or ``[0, 0]`` where the model hands out no single codebook."""

    name = "codebook"
    version = 1
    takes: Literal["model"] = "model"
    model: Any = None

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.args = dict(args)

    def identity(self) -> Mapping[str, str]:
        """Nothing but the model moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """The codebook of `model`, which the engine sets."""
        found = self.model.codebook()
        vectors = np.zeros((0, 0), np.float32) if found is None else np.asarray(found, np.float32)
        return dict.fromkeys(heads, Rows(vectors))
