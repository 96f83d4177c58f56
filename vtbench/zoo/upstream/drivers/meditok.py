"""MedITok (Masaaki-75/meditok): medical images as 16 x 16 positions of eight codes.

The checkpoint is ``meditok_simple_v1.pth``; the codebooks and the encoder's width are read off it. Images of 256 pixels in [-1, 1]; deterministic. A CT slice is 16 bits of Hounsfield units upstream: window it to 8 bits
before it gets here, and say which window.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256
ENCODERS = {768: "vitamin_base", 1024: "vitamin_large"}
"""The names of the authors' encoders by width; the published one is large."""


def _net(width: int, codebooks: int, codes: int, dims: int) -> Any:
    """The authors' class with the options of their `get_meditok_args`."""
    package = importlib.import_module("models.meditok")
    options = package.get_meditok_args(SIZE)
    options.model = ENCODERS[width]
    options.num_codebooks, options.vocab_size, options.vocab_width = codebooks, codebooks * codes, codebooks * dims
    return package.MedITok(options)


def load(*, source: str, weights: dict[str, str], device: str = "cpu", dtype: str = "float32") -> Any:
    """The published checkpoint in the authors' class."""
    state = driving.state_of(weights["weights"])
    width = driving.shape_of(state, "fc_norm.weight")[0]
    if width not in ENCODERS:
        raise ValueError(f"an encoder of width {width}: the authors have {', '.join(map(str, ENCODERS))}")
    codebooks = driving.count(state, r"quantizer\.codebooks\.(\d+)\.")
    codes, dims = driving.shape_of(state, "quantizer.codebooks.0.codebook.weight")
    net = _net(width, codebooks, codes, dims)
    driving.fill(net, state)
    return MedITok(driving.ready(net, device, dtype), codebooks, codes)


class MedITok:
    """The loaded model."""

    def __init__(self, net: Any, codebooks: int, codes: int) -> None:
        self.net, self.codebooks, self.codes = net, codebooks, codes

    def describe(self) -> dict[str, Any]:
        """Its form."""
        side = SIZE // 16
        tokens = driving.stream("tokens", "index", "grid2d", [self.codes] * self.codebooks, (side, side))
        halves = driving.sizes(
            encoder=[self.net.encoder, self.net.quant_proj], decoder=[self.net.post_quant_proj, self.net.decoder]
        )
        return {"streams": [tokens], "resolution": SIZE, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N, codebooks]."""
        found = self.net.img_to_idx(driving.signed(images, self.net))
        return {"tokens": driving.ids(found, found.shape).transpose(0, 2, 1)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Codes -> images."""
        return driving.pixels(self.net.idx_to_img(driving.tensor(arrays["tokens"], self.net).transpose(1, 2)))


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: the base encoder, 64 codes in each of 4 codebooks."""
    import torch

    torch.manual_seed(seed)
    return {"weights": {"weights": driving.save(_net(768, 4, 64, 8), f"{folder}/meditok_simple_v1.pth")}, "params": {}}
