"""Pixel errors of a pair, per image: `mse`, `mae`, `span` (max - min), `ssim`, `ms_ssim`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench.api import Batch, Rows
from vtbench.errors import BadSample, UsageError
from vtbench.extractors.precision import exact, pieces

if TYPE_CHECKING:
    import torch

HEADS = ("mse", "mae", "span", "ssim", "ms_ssim")
_ARGS = {"window": "gaussian11", "border": "reflect", "range": 1.0, "offset": 0.0}


class Pixels:
    """Errors between images and their ground truth, in units of [0, 1]; float64 ``[B]`` a head.

    args (read by `ssim` and `ms_ssim` alone): window, border, range (a number or `observed`), offset; see `vtbench.extractors.ssim`.
    `span` is the ground truth's own max - min, for protocols whose PSNR range is the image's.
    """

    name = "pixels"
    version = 2
    takes: Literal["pair"] = "pair"

    def __init__(self, args: Mapping[str, Any]) -> None:
        for key in args:
            if key not in _ARGS:
                raise UsageError(f"the extractor pixels has no argument '{key}'", f"Known: {', '.join(_ARGS)}")
        chosen = {**_ARGS, **args}
        self._similarity = {
            "win": chosen["window"],
            "border": chosen["border"],
            "span": chosen["range"],
            "offset": float(chosen["offset"]),
        }

    def identity(self) -> Mapping[str, str]:
        """Nothing but its args moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Eight bytes a head."""
        return 8 * len(list(heads))

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure a batch. Raises `BadSample` for a pair of different sizes and for sides too small for the window."""
        images, reference = batch.images, batch.reference
        if images.shape != reference.shape:
            got, wanted = (f"{t.shape[-1]} x {t.shape[-2]}" for t in (images, reference))
            raise BadSample(f"the image has {got} pixels and its ground truth {wanted}")
        with exact(str(images.device)):
            parts = [self._measured(a, b, heads) for a, b in zip(pieces(images, 1), pieces(reference, 1))]
        return {h: Rows(np.concatenate([p[h] for p in parts]).astype(np.float64)) for h in heads}

    def _measured(self, images: torch.Tensor, reference: torch.Tensor, heads: Sequence[str]) -> dict[str, np.ndarray]:
        from vtbench.extractors import ssim

        out: dict[str, np.ndarray] = {}
        if {"ssim", "ms_ssim"} <= set(heads):
            pair = ssim.both(images, reference, **self._similarity)  # type: ignore[arg-type]
            out = {name: value.cpu().numpy() for name, value in zip(("ssim", "ms_ssim"), pair)}
        difference = (images - reference).flatten(1)
        for head in (h for h in heads if h not in out):
            if head == "mse":
                value = (difference.double() ** 2).mean(1)
            elif head == "mae":
                value = difference.abs().double().mean(1)
            elif head == "span":
                flat = reference.flatten(1)
                value = (flat.amax(1) - flat.amin(1)).double()
            elif head == "ssim":
                value = ssim.ssim(images, reference, **self._similarity)  # type: ignore[arg-type]
            elif head == "ms_ssim":
                value = ssim.ms_ssim(images, reference, **self._similarity)  # type: ignore[arg-type]
            else:
                raise UsageError(f"the extractor pixels has no head '{head}'", f"Known: {', '.join(HEADS)}")
            out[head] = value.cpu().numpy()
        return out
