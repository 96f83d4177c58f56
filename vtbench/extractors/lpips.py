"""Learned perceptual image patch similarity, version 0.1, per image (Zhang et al. 2018, arXiv 1801.03924).

The trunks are torchvision's ImageNet networks; the linear heads come in the wheels of `lpips` and torchmetrics. The package's own values
are reproduced to 1e-5. Both images go through the trunk in one batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadSample, BadWeights, MissingPackage, UsageError
from vtbench.extractors.pinned import pinned
from vtbench.extractors.precision import exact, pieces

if TYPE_CHECKING:
    import torch
    from torch import nn

# Per channel: what ImageNet's mean and deviation are for inputs in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Trunk(NamedTuple):
    """A network's taps (after these `features` layers), weight files and head digest; `least`: the smallest side it takes."""

    taps: tuple[int, ...]
    files: Mapping[str, str]
    head: str
    least: int


TRUNKS = {
    "alex": Trunk(
        (1, 4, 7, 9, 11),
        {
            "lpips/alexnet_features.safetensors": "sha256:9f97fd313f4da83dbe6bbfbe6effca1241de9edfcd7c53386261ed9697286dd9",
            "alexnet-owt-7be5be79.pth": "sha256:7be5be79",
        },
        "sha256:df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        31,
    ),
    "vgg": Trunk(
        (3, 8, 15, 22, 29),
        {"vgg16-397923af.pth": "sha256:397923af"},
        "sha256:a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        16,
    ),
    "squeeze": Trunk(
        (1, 4, 7, 9, 10, 11, 12),
        {"squeezenet1_1-b8a52dc0.pth": "sha256:b8a52dc0"},
        "sha256:4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
        31,
    ),
}


def features(net: str) -> nn.Sequential:
    """The trunk's `features` in torchvision's layout, without weights.

    AlexNet and VGG-16 are built here: importing torchvision's model zoo takes longer than the rest of LPIPS."""
    from torch import nn

    if net == "squeeze":
        from torchvision import models

        squeeze: nn.Sequential = models.squeezenet1_1(weights=None).features
        return squeeze
    layers: list[nn.Module] = []
    into = 3
    if net == "alex":
        plan = (
            (64, 11, 4, 2, True),
            (192, 5, 1, 2, True),
            (384, 3, 1, 1, False),
            (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        )
        for out, kernel, stride, padding, pool in plan:
            layers += [nn.Conv2d(into, out, kernel, stride, padding), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            into = out
        return nn.Sequential(*layers)
    for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(into, out, 3, 1, 1), nn.ReLU(inplace=True)]
            into = out
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def carried(relative: str, packages: Mapping[str, str]) -> Path | None:
    """A file that one of the installed packages carries, without importing any. packages: name -> folder inside it."""
    for package, folder in packages.items():
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(root) / folder / relative
            if path.is_file():
                return path
    return None


def head_file(net: str) -> Path:
    """The linear head, which the wheels of `lpips` and of torchmetrics carry alike; raises `MissingPackage`."""
    path = carried(f"{net}.pth", {"lpips": "weights/v0.1", "torchmetrics": "functional/image/lpips_models"})
    if path is None:
        raise MissingPackage("lpips>=0.1.4", "lpips", f"LPIPS ({net})")
    return path


class Distance:
    """The network: distances of pairs. `heads` holds one non-negative weight vector a tap."""

    def __init__(self, net: str, layers: nn.Sequential, heads: Sequence[torch.Tensor]) -> None:
        self.trunk = TRUNKS[net]
        self.layers = layers[: self.trunk.taps[-1] + 1].eval().requires_grad_(False)
        self.heads = [h.flatten().float() for h in heads]

    def to(self, device: str) -> Distance:
        """Move to a device."""
        self.layers.to(device)
        self.heads = [h.to(device) for h in self.heads]
        return self

    def __call__(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """LPIPS of float32 ``[B, 3, H, W]`` in [-1, 1] against another: ``[B]``."""
        import torch

        shift = torch.tensor(SHIFT, device=a.device).view(1, 3, 1, 1)
        scale = torch.tensor(SCALE, device=a.device).view(1, 3, 1, 1)
        x = (torch.cat([a, b]) - shift) / scale
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        total = torch.zeros(len(a), device=a.device)
        head = iter(self.heads)
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in self.trunk.taps:
                total += _distance(x[: len(a)], x[len(a) :], next(head))
        return total


def _distance(a: torch.Tensor, b: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Weighted squared difference of channel-normalised features, averaged over positions: ``[B]``."""
    a = a / (a.square().sum(1, keepdim=True).sqrt() + 1e-10)
    b = b / (b.square().sum(1, keepdim=True).sqrt() + 1e-10)
    return ((a - b).square() * head.view(1, -1, 1, 1)).sum(1).mean((1, 2))


class LPIPS:
    """LPIPS per image: head `distance`, float64 ``[B]``.

    args: net (`alex`, `vgg`, `squeeze`); range (`pm1`: pixels are mapped to [-1, 1], as the network was made for; `01`: they are fed as
    they are, a mistake that some published numbers carry).
    """

    name = "lpips"
    version = 1
    takes: Literal["pair"] = "pair"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.net, self.range = args.get("net", "alex"), args.get("range", "pm1")
        if self.net not in TRUNKS or self.range not in ("pm1", "01"):
            raise UsageError(
                f"LPIPS has no net '{self.net}' with range '{self.range}'", "net: alex, vgg, squeeze; range: pm1, 01"
            )
        self._distance: Distance | None = None
        self._device = "cpu"

    def _files(self) -> tuple[Path, str, Path]:
        trunk = TRUNKS[self.net]
        head = head_file(self.net)
        if weights.digest(head) != trunk.head:
            raise BadWeights(
                f"{head} is not the version 0.1 head of LPIPS ({self.net})", "pip install --force-reinstall lpips"
            )
        wanted = list(trunk.files)[-1]
        path, digest = pinned(
            f"the {self.net} trunk of LPIPS",
            trunk.files,
            f"Put torchvision's {wanted} (https://download.pytorch.org/models/{wanted}) in a folder of VTBENCH_WEIGHTS",
        )
        return path, digest, head

    def identity(self) -> Mapping[str, str]:
        """The digests of trunk and head."""
        _, digest, _ = self._files()
        return {"trunk": digest, "head": TRUNKS[self.net].head}

    def open(self, device: str) -> None:
        """Load trunk and head."""
        import torch

        path, _, head = self._files()
        layers = features(self.net)
        state = weights.load_state(path)
        prefix = "features."
        layers.load_state_dict({k[len(prefix) :]: v.float() for k, v in state.items() if k.startswith(prefix)})
        linear = torch.load(head, map_location="cpu", weights_only=True)
        count = len(TRUNKS[self.net].taps)
        self._distance = Distance(self.net, layers, [linear[f"lin{i}.model.1.weight"] for i in range(count)]).to(device)
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """One number."""
        return 8

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure a batch; raises `BadSample` for images of different sizes or too small for the trunk."""
        import torch

        assert self._distance is not None, "open() comes first"
        images, reference = batch.images, batch.reference
        if images.shape != reference.shape:
            raise BadSample(f"a pair of different sizes: {tuple(images.shape[2:])} and {tuple(reference.shape[2:])}")
        least = TRUNKS[self.net].least
        if min(images.shape[2:]) < least:
            raise BadSample(f"LPIPS ({self.net}) needs sides of at least {least} pixels, not {tuple(images.shape[2:])}")
        with exact(self._device):
            if self.range == "pm1":
                images, reference = 2 * images - 1, 2 * reference - 1
            pairs = zip(pieces(images.to(self._device)), pieces(reference.to(self._device)))
            value = torch.cat([self._distance(a, b) for a, b in pairs])
        return {"distance": Rows(value.double().cpu().numpy().astype(np.float64))}
