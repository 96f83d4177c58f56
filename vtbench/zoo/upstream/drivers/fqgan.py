"""FQGAN, dual and triple (showlab/FQGAN): every position has two or three factorised codes.

A checkpoint is ``fqgan_{dual,triple}_ds{8,16}.pt``; which it is, and its sizes, are read off its keys. Images of 256 pixels, [-1, 1]; deterministic.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256
TRAINING = (r"feat_pred_head\.", r"(mid|high)_sem_feat_pred\.")
"""Heads that only the training losses read."""


def _models(triple: bool) -> Any:
    return importlib.import_module(f"tokenizer.vq_model_{'triple' if triple else 'dual'}").VQ_models


def load(*, source: str, weights: dict[str, str], device: str = "cpu", dtype: str = "float32") -> Any:
    """The published checkpoint in the authors' class."""
    state = driving.state_of(weights["weights"])
    codes, dims = driving.shape_of(state, "quantize_vis.embedding.weight")
    triple = "quantize_sem_mid.embedding.weight" in state
    levels = driving.count(state, r"encoder\.conv_blocks\.(\d+)\.")
    net = _models(triple)["VQ-16" if levels == 5 else "VQ-8"](codebook_size=codes, codebook_embed_dim=dims)
    driving.fill(net, state, drop=TRAINING)
    return FQGAN(driving.ready(net, device, dtype), 3 if triple else 2, codes, dims, SIZE // 2 ** (levels - 1))


class FQGAN:
    """The loaded model. Codes of a position stand in the order of the authors' `encode`: semantic, visual; or visual, mid, high."""

    def __init__(self, net: Any, codebooks: int, codes: int, dims: int, grid: int) -> None:
        self.net, self.codebooks, self.codes, self.dims, self.grid = net, codebooks, codes, dims, grid

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "grid2d", [self.codes] * self.codebooks, (self.grid, self.grid))
        halves = driving.sizes(encoder=self.net.encoder, decoder=[self.net.post_quant_conv, self.net.decoder])
        return {"streams": [tokens], "resolution": SIZE, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N, C]."""
        found = self.net.encode(driving.signed(images, self.net))[self.codebooks :]
        shape = (len(images), self.grid**2)
        return {"tokens": np.stack([driving.ids(info[2], shape) for info in found], -1)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Codes -> images."""
        each = driving.tensor(arrays["tokens"], self.net).unbind(-1)
        shape = (len(arrays["tokens"]), self.dims, self.grid, self.grid)
        return driving.pixels(self.net.decode_code(*(codes.reshape(-1) for codes in each), *[shape] * len(each)))


def small(*, source: str, folder: str, seed: int = 0, triple: bool = False) -> dict[str, Any]:
    """Random weights in the published layout, 64 codes; the authors fix the widths."""
    import torch

    torch.manual_seed(seed)
    net = _models(triple)["VQ-16"](codebook_size=64, codebook_embed_dim=8)
    file = f"{folder}/fqgan_{'triple' if triple else 'dual'}_ds16.pt"
    return {"weights": {"weights": driving.save(net, file, "ema")}, "params": {}}
