"""A vision transformer from its state dict, in the layout of facebookresearch's DINO, for the metric networks that are made of one.

The forward follows facebookresearch/dinov2 to the letter where libraries differ: position embeddings are interpolated by a scale factor
with the repository's offset of 0.1, not to a size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vtbench.errors import BadWeights

if TYPE_CHECKING:
    import torch

OFFSET = 0.1


class VisionTransformer:
    """The network from its state dict; maps ``[B, 3, H, W]`` (sides that the patch divides) to the class token ``[B, D]``.

    heads: of attention; widths and depths are read off the weights. what: the network's name, for messages. offset: added to the number
    of patches a side before the position embeddings are scaled (0: interpolated to the size itself). eps: of the layer norms. quick: the
    GELU of OpenAI's CLIP, x sigmoid(1.702 x). scaled: blocks carry DINOv2's layer scales. early: a layer norm stands before the blocks
    (`pos_drop`, as DreamSim's files call CLIP's `ln_pre`)."""

    def __init__(
        self,
        state: Mapping[str, torch.Tensor],
        heads: int,
        *,
        what: str = "DINOv2",
        offset: float = OFFSET,
        eps: float = 1e-6,
        quick: bool = False,
        scaled: bool = True,
        early: bool = False,
    ) -> None:
        self.state = {k: v.float() for k, v in state.items()}
        self.heads, self.offset, self.eps = heads, offset, eps
        self.quick, self.scaled, self.early = quick, scaled, early
        self.depth = sum(k.endswith(".attn.qkv.weight") for k in state)
        norms = ("norm", "pos_drop") if early else ("norm",)
        wanted = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
        wanted += [f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")]
        for i in range(self.depth):
            parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
            wanted += [f"blocks.{i}.{p}.{kind}" for p in parts for kind in ("weight", "bias")]
            wanted += [f"blocks.{i}.{scale}.gamma" for scale in ("ls1", "ls2") if scaled]
        missing = [k for k in wanted if k not in self.state]
        if missing or not self.depth:
            raise BadWeights(f"the file is not {what}'s: it lacks {', '.join(missing[:3]) or 'every block'}")

    def to(self, device: str) -> VisionTransformer:
        """Move to a device."""
        self.state = {k: v.to(device) for k, v in self.state.items()}
        return self

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        return F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.eps)

    def _positions(self, rows: int, columns: int) -> torch.Tensor:
        import torch
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
        return torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], 1)

    def _attention(self, x: torch.Tensor, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        batch, count, width = x.shape
        qkv = self._linear(x, f"{name}.qkv").view(batch, count, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self._linear(mixed.transpose(1, 2).reshape(batch, count, width), f"{name}.proj")

    def _branch(self, x: torch.Tensor, scale: str) -> torch.Tensor:
        return self.state[f"{scale}.gamma"] * x if self.scaled else x

    def last_block(self, images: torch.Tensor) -> torch.Tensor:
        """The class token as the last block leaves it, before the last norm."""
        import torch
        from torch.nn import functional as F

        kernel = self.state["patch_embed.proj.weight"]
        x = F.conv2d(images, kernel, self.state["patch_embed.proj.bias"], stride=kernel.shape[2:])
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.state["cls_token"].expand(len(x), -1, -1), x], 1) + self._positions(rows, columns)
        if self.early:
            x = self._norm(x, "pos_drop")
        for i in range(self.depth):
            block = f"blocks.{i}"
            x = x + self._branch(self._attention(self._norm(x, f"{block}.norm1"), f"{block}.attn"), f"{block}.ls1")
            hidden = self._linear(self._norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")
            hidden = hidden * torch.sigmoid(1.702 * hidden) if self.quick else F.gelu(hidden)
            x = x + self._branch(self._linear(hidden, f"{block}.mlp.fc2"), f"{block}.ls2")
        return x[:, 0]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The class token after the last norm."""
        return self._norm(self.last_block(images), "norm")


def pillow_resized(images: torch.Tensor, side: int) -> torch.Tensor:
    """``[B, 3, H, W]`` in [0, 1] through 8 bits and Pillow's bicubic resize to ``side x side``, as dgm-eval prepares its images."""
    import torch
    from PIL import Image

    arrays = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    small = [np.asarray(Image.fromarray(a).resize((side, side), Image.Resampling.BICUBIC)) for a in arrays]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255
