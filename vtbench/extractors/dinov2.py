"""DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193), for FD-DINOv2 and feature similarity.

The forward follows facebookresearch/dinov2 to the letter where libraries differ: position embeddings are interpolated by a scale factor
with the repository's offset of 0.1, not to a size. Weights: the repository's own `*_pretrain.pth`, checked by layout; the repository
publishes no digest, so the file's own stands in the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadWeights, UsageError
from vtbench.extractors.precision import exact

if TYPE_CHECKING:
    import torch

# Heads of attention and the file's address, by name; widths and depths are read off the weights.
MODELS = {"vits14": 6, "vitb14": 12, "vitl14": 16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OFFSET = 0.1
SIDE = 224
EPS = 1e-6


def _url(model: str) -> str:
    return f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{model}/dinov2_{model}_pretrain.pth"


class VisionTransformer:
    """The network from its state dict; `__call__` maps ``[B, 3, H, W]`` (sides that the patch divides) to the class token ``[B, D]``.

    offset: added to the number of patches a side before the position embeddings are scaled (0: interpolated to the size itself)."""

    def __init__(self, state: Mapping[str, torch.Tensor], heads: int, offset: float = OFFSET) -> None:
        self.state = {k: v.float() for k, v in state.items()}
        self.heads, self.offset = heads, offset
        self.depth = sum(k.endswith(".attn.qkv.weight") for k in state)
        wanted = [
            "cls_token",
            "pos_embed",
            "patch_embed.proj.weight",
            "patch_embed.proj.bias",
            "norm.weight",
            "norm.bias",
        ]
        for i in range(self.depth):
            parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            wanted += [f"blocks.{i}.{p}.{kind}" for p in parts for kind in ("weight", "bias")]
            wanted += [f"blocks.{i}.ls1.gamma", f"blocks.{i}.ls2.gamma"]
        missing = [k for k in wanted if k not in self.state]
        if missing or not self.depth:
            raise BadWeights(f"the file is not DINOv2's: it lacks {', '.join(missing[:3]) or 'every block'}")

    def to(self, device: str) -> VisionTransformer:
        """Move to a device."""
        self.state = {k: v.to(device) for k, v in self.state.items()}
        return self

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], EPS)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        from torch.nn import functional as F

        table = self.state["pos_embed"]
        side = round(math.sqrt(table.shape[1] - 1))
        if (rows, columns) == (side, side):
            return table
        grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
        if self.offset:
            scale = (rows + self.offset) / side, (columns + self.offset) / side
            grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        else:
            grid = F.interpolate(grid, (rows, columns), mode="bicubic", align_corners=False)
        assert grid.shape[2:] == (rows, columns)
        import torch

        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def _attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        batch, count, width = x.shape
        qkv = self._linear(x, f"{name}.qkv").view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._linear(mixed.transpose(1, 2).reshape(batch, count, width), f"{name}.proj")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The class token after the last norm."""
        import torch
        from torch.nn import functional as F

        kernel = self.state["patch_embed.proj.weight"]
        x = F.conv2d(images, kernel, self.state["patch_embed.proj.bias"], stride=kernel.shape[2:])
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.state["cls_token"].expand(len(x), -1, -1), x], 1) + self._positions(rows, columns)
        for i in range(self.depth):
            block = f"blocks.{i}"
            x = x + self.state[f"{block}.ls1.gamma"] * self._attention(self._norm(x, f"{block}.norm1"), f"{block}.attn")
            hidden = F.gelu(self._linear(self._norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
            x = x + self.state[f"{block}.ls2.gamma"] * self._linear(hidden, f"{block}.mlp.fc2")
        return self._norm(x, "norm")[:, 0]


def pillow_resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """``[B, 3, H, W]`` in [0, 1] through 8 bits and Pillow's bicubic resize to ``side x side``, as dgm-eval prepares its images."""
    import torch
    from PIL import Image

    arrays = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    small = [np.asarray(Image.fromarray(a).resize((side, side), Image.Resampling.BICUBIC)) for a in arrays]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255


class DINOv2:
    """The class token of images: head `cls`, float32 ``[B, D]`` (D = 1024 for vitl14). args: model (`vitl14`, `vitb14`, `vits14`)."""

    name = "dinov2"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.model = args.get("model", "vitl14")
        if self.model not in MODELS:
            raise UsageError(f"no DINOv2 model '{self.model}'", f"Known: {', '.join(MODELS)}")
        self._network: VisionTransformer | None = None
        self._device = "cpu"

    def _file(self) -> Path:
        name = f"dinov2_{self.model}_pretrain.pth"
        return weights.find(
            [f"dinov2/{name}"],
            what=f"DINOv2 {self.model}",
            way_out=f"Put {_url(self.model)} (Apache-2.0) in a folder of VTBENCH_WEIGHTS",
        )

    def identity(self) -> Mapping[str, str]:
        """The file's digest."""
        return {"weights": weights.digest(self._file())}

    def open(self, device: str) -> None:
        """Load the network."""
        self.use(weights.load_state(self._file()), device)

    def use(self, state: Mapping[str, torch.Tensor], device: str = "cpu") -> None:
        """Take this state dict, whatever it is."""
        self._network = VisionTransformer(state, MODELS[self.model]).to(device)
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Four bytes a feature of the large model."""
        return 4 * 1024

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Class tokens of a batch."""
        import torch

        assert self._network is not None, "open() comes first"
        with exact(self._device):
            x = pillow_resized(batch.images, SIDE).to(self._device)
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (MEAN, STD))
            found = self._network((x - mean) / std)
        return {"cls": Rows(found.float().cpu().numpy())}
