"""`resize`: no model at all. What comes out is what went in, so every number is the suite's own ceiling: its crop, resize and 8-bit rounding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens

if TYPE_CHECKING:
    import torch


class Resize(Tokenizer):
    """The identity: its tokens are the pixels themselves, kept as they are (a continuous stream, so it has no bits)."""

    name = "resize"
    revision = "vtbench:resize:1"
    capabilities = Capabilities()

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """float32 ``[B, 3, H, W]`` in [0, 1] -> the same, flattened to ``[B, H * W, 3]``."""
        height, width = images.shape[2:]
        stream = Stream("pixels", "continuous", "grid2d", shape=(height, width))
        return Tokens((stream,), {"pixels": images.flatten(2).transpose(1, 2)}, len(images))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The pixels back, bit for bit."""
        height, width = tokens.streams[0].shape
        pixels: torch.Tensor = tokens.data["pixels"].transpose(1, 2).unflatten(2, (height, width)).contiguous()
        return pixels
