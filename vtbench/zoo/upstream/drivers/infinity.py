"""Infinity's visual tokenizer (FoundationVision/Infinity): residual bits at every scale of a schedule, by binary spherical quantisation.

A checkpoint is ``infinity_vae_d{16,24,32,32reg,64}.pth`` (its state under ``vae``); bits and widths are read off it. Images in [-1, 1] of 256, 512 or 1024 pixels, each with the authors' own schedule of scales; deterministic. The
first scales alone decode to a coarser image.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1


def _package(source: str) -> Any:
    """The authors' tokenizer package, without ``infinity.models``' own imports (the generator and its attention kernels)."""
    driving.bare("infinity.models", f"{source}/infinity/models")
    return importlib.import_module("infinity.models.bsq_vae.vae")


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    resolution: int = 256,
) -> Any:
    """The published checkpoint in the authors' class. resolution: 256, 512 or 1024 pixels."""
    package = _package(source)
    state = driving.state_of(weights["weights"], ("vae",))
    first = next((k for k in ("encoder.conv_in.conv.weight", "encoder.conv_in.weight") if k in state), "")
    width = driving.shape_of(state, first or "encoder.conv_in.conv.weight")[0]
    inner = ".conv" if ".conv.weight" in first else ""
    levels = driving.count(state, r"encoder\.down\.(\d+)\.")
    multiples = [
        driving.shape_of(state, f"encoder.down.{i}.block.0.conv1{inner}.weight")[0] // width for i in range(levels)
    ]
    bits = driving.shape_of(state, f"encoder.conv_out{inner}.weight")[0]
    if width != 128:
        raise ValueError(f"the checkpoint is {width} channels wide, the authors' class 128")
    net = _net(package, bits, multiples)
    try:
        net, _, loaded = package.load_cnn(net, dict(state), prefix="", expand=False)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint has other shapes: {error}") from error
    missing = sorted(set(net.state_dict()) - set(loaded))
    if missing:
        raise ValueError(f"the checkpoint lacks {', '.join(missing[:3])} and {len(missing)} keys in all")
    patch = 2 ** (levels - 1)
    scales = sys.modules["infinity.models.bsq_vae.dynamic_resolution"].dynamic_resolution_h_w[1.0]
    if resolution not in scales:
        raise ValueError(f"resolution is one of {', '.join(map(str, scales))}, not {resolution}")
    sides = [side * 16 // patch for side, _ in scales[resolution]["scales"]]
    return Infinity(driving.ready(net, device, dtype), bits, sides, resolution)


def _net(package: Any, bits: int, multiples: list[int]) -> Any:
    """The authors' class without weights."""
    patch = 2 ** (len(multiples) - 1)
    return package.vae_model(
        None,
        "dynamic",
        bits,
        2**bits,
        patch_size=patch,
        encoder_ch_mult=multiples,
        decoder_ch_mult=multiples,
    )


class Infinity:
    """The loaded model at one resolution."""

    def __init__(self, net: Any, bits: int, sides: list[int], resolution: int) -> None:
        self.net, self.bits, self.sides, self.resolution = net, bits, sides, resolution
        self.schedule = [(1, side, side) for side in sides]

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream(
            "tokens", "bits", "multiscale", [2] * self.bits, self.sides, ordered=True, residual=True
        )
        budgets = list(itertools.accumulate(side * side for side in self.sides))
        halves = driving.sizes(encoder=self.net.encoder, decoder=self.net.decoder)
        return {
            "streams": [tokens],
            "resolution": self.resolution,
            "prefix": True,
            "max_tokens": budgets[-1],
            "budgets": budgets,
            "parameters": halves,
        }

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N, bits], the scales one after another."""
        found = self.net.encode(driving.signed(images, self.net), scale_schedule=self.schedule)[3]
        rows = [bits.reshape(len(images), -1, self.bits).cpu().numpy() for bits in found]
        return {"tokens": np.concatenate(rows, 1).astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Bits of all scales, or of the first ones -> images."""
        tokens, start, found = driving.tensor(arrays["tokens"], self.net), 0, []
        for side in self.sides:
            if start + side * side > tokens.shape[1]:
                break
            found.append(tokens[:, start : start + side * side].reshape(len(tokens), 1, side, side, self.bits))
            start += side * side
        if not found or start != tokens.shape[1]:
            raise ValueError(f"{tokens.shape[1]} positions are no whole number of scales ({self.sides})")
        _, image = self.net.decode_from_indices(found, self.schedule, "bit_label")
        return driving.pixels(image)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: 8 bits, no widening; the authors fix the first width."""
    import torch

    torch.manual_seed(seed)
    net = _net(_package(source), 8, [1, 1, 1, 1, 1])
    return {"weights": {"weights": driving.save(net, f"{folder}/infinity_vae_d8.pth", "vae")}, "params": {}}
