"""The Binary Autoencoder of ELM (Pepper-lll/LMforImageGeneration): 16 x 16 positions of 16, 20 or 24 bits.

A checkpoint is ``bae/bae_{16,16_deter,20,24}/binaryae_ema.th``: the whole GAN's state, of which ``ae.`` is the autoencoder; bits and widths are read off it. Images of 256 pixels in [0, 1]. The authors' encoder draws its bits
(Bernoulli) unless told to round; here it rounds, and draws when a sample of the posterior is asked for.
"""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256
MULTIPLES = [1, 1, 2, 2, 4]


def _autoencoder(bits: int, width: int, dims: int, norm_first: bool) -> Any:
    """The authors' class with their ImageNet options. It moves one unused layer to CUDA while it is built, which a machine without it cannot."""
    options = SimpleNamespace(
        n_channels=3,
        nf=width,
        res_blocks=2,
        codebook_size=bits,
        emb_dim=dims,
        ch_mult=MULTIPLES,
        img_size=SIZE,
        attn_resolutions=[16],
        quantizer="binary",
        beta=0.25,
        deterministic=True,
        gen_mul=1.0,
        norm_first=norm_first,
        use_tanh=False,
    )
    driving.cuda_is("cpu")
    return importlib.import_module("bae.binaryae").BinaryAutoEncoder(options)


def load(
    *, source: str, weights: dict[str, str], device: str = "cpu", dtype: str = "float32", variant: str = "16"
) -> Any:
    """The published checkpoint in the authors' class. variant: its bits, as in the names of the published folders (``16_deter`` was trained without drawing)."""
    state = driving.state_of(weights["weights"])
    state = driving.part(state, "ae.") or state
    bits, dims = driving.shape_of(state, "quantize.embed.weight")
    if variant.partition("_")[0] != str(bits):
        raise ValueError(f"the checkpoint has {bits} bits: say variant={bits}")
    width = driving.shape_of(state, "encoder.blocks.0.weight")[0]
    net = _autoencoder(bits, width, dims, len(driving.shape_of(state, "generator.blocks.0.weight")) == 1)
    driving.fill(net, state)
    return BAE(driving.ready(net, device, dtype), bits)


class BAE:
    """The loaded model."""

    def __init__(self, net: Any, bits: int) -> None:
        self.net, self.bits, self.grid = net, bits, SIZE // 2 ** (len(MULTIPLES) - 1)

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "bits", "grid2d", [2] * self.bits, (self.grid, self.grid))
        halves = driving.sizes(encoder=[self.net.encoder, self.net.quantize.proj], decoder=self.net.generator)
        return {"streams": [tokens], "resolution": SIZE, "parameters": halves}

    def encode(
        self, images: np.ndarray, *, seeds: list[int] | None = None, sample: bool = False, **options: Any
    ) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N, bits]; drawn image by image from `seeds` when `sample`."""
        x = driving.plain(images, self.net)
        self.net.deterministic = not sample
        if not sample:
            found = [self.net.encode(x)[1]]
        else:
            found = []
            for i in range(len(images)):
                driving.seed(seeds, i)
                found.append(self.net.encode(x[i : i + 1])[1])
        rows = [bits.flatten(2).transpose(1, 2).cpu().numpy() for bits in found]
        return {"tokens": np.concatenate(rows).astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Bits -> images."""
        bits = driving.tensor(arrays["tokens"], self.net).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return driving.pixels(self.net.decode(bits.to(next(self.net.parameters()).dtype)), signed=False)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: 32 channels, 8 bits."""
    import torch

    torch.manual_seed(seed)
    net = torch.nn.Module()
    net.ae = _autoencoder(8, 32, 32, True)
    return {"weights": {"weights": driving.save(net, f"{folder}/binaryae_ema.th")}, "params": {"variant": "8"}}
