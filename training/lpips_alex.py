"""LPIPS with gradients, for training; a metric's LPIPS is in `vtbench.extractors`."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


class Lpips(nn.Module):
    """LPIPS v0.1 (alex): torchvision's AlexNet trunk and the linear heads of the `lpips` wheel. Images in [0, 1]."""

    def __init__(self, trunk: Path | None) -> None:
        super().__init__()
        import lpips
        from torchvision.models import AlexNet_Weights, alexnet

        model = alexnet(weights=None if trunk else AlexNet_Weights.IMAGENET1K_V1).features
        if trunk:
            model.load_state_dict({key.removeprefix("features."): value for key, value in load_file(trunk).items()})
        self.parts = nn.ModuleList(model[a:b] for a, b in ((0, 2), (2, 5), (5, 8), (8, 10), (10, 12)))
        for layer in self.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        heads = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", map_location="cpu", weights_only=True)
        self.heads = [heads[f"lin{i}.model.1.weight"] for i in range(5)]
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188])[:, None, None])
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450])[:, None, None])
        self.requires_grad_(False).eval()

    def features(self, x: Tensor) -> list[Tensor]:
        x = (x * 2 - 1 - self.shift) / self.scale
        found = []
        for part in self.parts:
            x = part(x)
            found.append(F.normalize(x.float(), dim=1, eps=1e-10))
        return found

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.features(y)
        terms = [
            F.conv2d((a - b) ** 2, h.to(a)).mean((1, 2, 3))
            for a, b, h in zip(self.features(x), target, self.heads, strict=True)
        ]
        return torch.stack(terms).sum(0)
