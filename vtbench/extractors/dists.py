"""Deep image structure and texture similarity, per image (Ding et al. 2020, arXiv 2004.07728).

VGG-16 with its max pools replaced by L2 pools; the mixing weights come in torchmetrics' wheel. Images stay at their size (the authors'
script first scales large ones to a short side of 256).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadSample, BadWeights, MissingWeights, UsageError
from vtbench.extractors.lpips import TRUNKS, carried, features
from vtbench.extractors.pinned import pinned
from vtbench.extractors.precision import exact

if TYPE_CHECKING:
    import torch
    from torch import nn

MIXING = "sha256:f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TAPS = (3, 8, 15, 22, 29)
CHANNELS = (3, 64, 128, 256, 512, 512)
TINY = 1e-6
LEAST = 16


def mixing_file() -> Path:
    """The weights of structure and texture; raises `MissingWeights`."""
    path = carried("weights.pt", {"torchmetrics": "functional/image/dists_models"})
    if path is None:
        raise MissingWeights(
            "the mixing weights of DISTS come with torchmetrics 1.8 or later", "pip install -U torchmetrics"
        )
    return path


def mixing() -> tuple[torch.Tensor, torch.Tensor]:
    """(alpha, beta), ``[1475]`` each: texture and structure weights that together sum to 1."""
    import torch

    held = torch.load(mixing_file(), map_location="cpu", weights_only=True)
    alpha, beta = (held[k].detach().flatten().float() for k in ("alpha", "beta"))
    total = alpha.sum() + beta.sum()
    return alpha / total, beta / total


class Distance:
    """DISTS of float32 ``[B, 3, H, W]`` in [0, 1] against another: ``[B]``."""

    def __init__(self, layers: nn.Sequential, weights_: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.layers = layers[: TAPS[-1] + 1].eval().requires_grad_(False)
        self.alpha, self.beta = (w.split(CHANNELS) for w in weights_)

    def to(self, device: str) -> Distance:
        """Move to a device."""
        self.layers.to(device)
        self.alpha, self.beta = (tuple(w.to(device) for w in kept) for kept in (self.alpha, self.beta))
        return self

    def _stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        import torch
        from torch import nn
        from torch.nn import functional as F

        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (MEAN, STD))
        out, y = [x], (x - mean) / std
        taps = torch.tensor([0.25, 0.5, 0.25], device=x.device)
        for index, layer in enumerate(self.layers):
            if isinstance(layer, nn.MaxPool2d):
                kernel = torch.outer(taps, taps).expand(y.shape[1], 1, 3, 3)
                y = (F.conv2d(y.square(), kernel, stride=2, padding=1, groups=y.shape[1]) + 1e-12).sqrt()
            else:
                y = layer(y)
            if index in TAPS:
                out.append(y)
        return out

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """One minus the weighted mean of texture and structure similarity."""
        import torch

        similarity = torch.zeros(len(a), device=a.device)
        for stage, alpha, beta in zip(self._stages(torch.cat([a, b])), self.alpha, self.beta):
            x, y = stage.flatten(2).split(len(a))
            mean_x, mean_y = x.mean(2), y.mean(2)
            texture = (2 * mean_x * mean_y + TINY) / (mean_x**2 + mean_y**2 + TINY)
            x, y = x - mean_x[..., None], y - mean_y[..., None]
            structure = (2 * (x * y).mean(2) + TINY) / (x.square().mean(2) + y.square().mean(2) + TINY)
            similarity += (alpha * texture + beta * structure).sum(1)
        return 1 - similarity


class DISTS:
    """DISTS per image: head `distance`, float64 ``[B]``. It takes no args."""

    name = "dists"
    version = 1
    takes: Literal["pair"] = "pair"

    def __init__(self, args: Mapping[str, Any]) -> None:
        if args:
            raise UsageError(f"the extractor dists has no argument '{next(iter(args))}'")
        self._distance: Distance | None = None
        self._device = "cpu"

    def _trunk(self) -> tuple[Path, str]:
        name = next(iter(TRUNKS["vgg"].files))
        return pinned(
            "the VGG-16 trunk of DISTS",
            TRUNKS["vgg"].files,
            f"Put torchvision's {name} (https://download.pytorch.org/models/{name}) in a folder of VTBENCH_WEIGHTS",
        )

    def identity(self) -> Mapping[str, str]:
        """The digests of the trunk and of the mixing weights."""
        if weights.digest(mixing_file()) != MIXING:
            raise BadWeights(
                f"{mixing_file()} does not hold the mixing weights of DISTS", "Install torchmetrics 1.8 or 1.9"
            )
        return {"trunk": self._trunk()[1], "mixing": MIXING}

    def open(self, device: str) -> None:
        """Load trunk and mixing weights."""
        layers = features("vgg")
        state = weights.load_state(self._trunk()[0])
        prefix = "features."
        layers.load_state_dict({k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)})
        self._distance, self._device = Distance(layers, mixing()).to(device), device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """One number."""
        return 8

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure a batch; raises `BadSample` for images of different sizes or too small for the trunk."""

        assert self._distance is not None, "open() comes first"
        if batch.images.shape != batch.reference.shape or min(batch.images.shape[2:]) < LEAST:
            sizes = f"{tuple(batch.images.shape[2:])} and {tuple(batch.reference.shape[2:])}"
            raise BadSample(f"DISTS needs two images of one size of at least {LEAST} pixels, not {sizes}")
        with exact(self._device):
            value = self._distance(batch.images.to(self._device), batch.reference.to(self._device))
        return {"distance": Rows(value.double().cpu().numpy().astype(np.float64))}
