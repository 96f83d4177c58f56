"""ViTamin (Chen et al., arXiv:2404.02132) as UniTok uses it: convolutions down to a sixteenth, a transformer, and the same in reverse.

No position embeddings but a zero one: the convolutions tell where things are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.zoo.transformer import HEAD


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of ``[B, C, H, W]``."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Shrink(nn.Module):
    """The shortcut of a halving block: a 3x3 mean that leaves the border out, and a 1x1 convolution where the width changes."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(source, target, 1) if source != target else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False))


class Grow(nn.Module):
    """Doubles width and height: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(source, target, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class ConvBlock(nn.Module):
    """Inverted bottleneck: 1x1 to four times the width, 3x3 for each channel apart, 1x1 back. change: `halve`, `double` or none."""

    def __init__(self, source: int, target: int, change: str = "") -> None:
        super().__init__()
        inner = 4 * target
        self.shortcut: nn.Module = nn.Identity()
        if change:
            self.shortcut = Shrink(source, target) if change == "halve" else Grow(source, target)
        elif source != target:
            self.shortcut = nn.Conv2d(source, target, 1)
        self.pre_norm = ChannelNorm(source)
        self.conv1_1x1 = nn.Conv2d(source, inner, 1)
        self.up = Grow(inner, inner) if change == "double" else nn.Identity()
        self.conv2_kxk = nn.Conv2d(inner, inner, 3, stride=2 if change == "halve" else 1, padding=1, groups=inner)
        self.conv3_1x1 = nn.Conv2d(inner, target, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.up(F.gelu(self.conv1_1x1(self.pre_norm(x))))
        return self.shortcut(x) + self.conv3_1x1(F.gelu(self.conv2_kxk(h)))


class GeGlu(nn.Module):
    """Norm, then a gated perceptron with the tanh form of GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.w0, self.w1, self.w2 = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.w2(F.gelu(self.w0(x), approximate="tanh") * self.w1(x))


class Attention(nn.Module):
    """Multi-head self-attention with one projection to queries, keys and values."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Pre-norm transformer layer; the perceptron normalises its input once more."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width)
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), GeGlu(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class ViTaminConfig:
    """widths: of the two convolutional stages and the transformers. depths: blocks of the encoder's stages and layers of its transformer; decoder_depths:
    blocks at the two resolutions and layers. hidden: width of the perceptrons."""

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    decoder_depths: tuple[int, int, int]
    hidden: int


class Stem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, width, 3, stride=2, padding=1), ChannelNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class Pool(nn.Module):
    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.norm, self.proj = ChannelNorm(source), nn.Conv2d(source, target, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.norm(x))


class Backbone(nn.Module):
    """Images -> ``[B, width, H / 16, W / 16]``."""

    def __init__(self, config: ViTaminConfig) -> None:
        super().__init__()
        first, second, width = config.widths
        self.stem, self.pool = Stem(first), Pool(second, width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(ConvBlock(source if i == 0 else target, target, "halve" if i == 0 else "") for i in range(depth))
            )
            for source, target, depth in ((first, first, config.depths[0]), (first, second, config.depths[1]))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.pool(x)


class Encoder(nn.Module):
    """Images -> ``[B, h, w, width]``."""

    def __init__(self, config: ViTaminConfig) -> None:
        super().__init__()
        width = config.widths[2]
        self.patch_embed = nn.ModuleDict({"backbone": Backbone(config)})
        self.pos_embed = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Layer(width, config.hidden) for _ in range(config.depths[2]))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        grid = self.patch_embed["backbone"](images)
        x = grid.flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x).unflatten(1, tuple(grid.shape[2:]))


class LastGrow(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = Grow(width, width), ChannelNorm(width)
        self.conv2 = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.gelu(self.norm1(self.conv1(x))))


class Decoder(nn.Module):
    """``[B, h, w, width]`` -> images."""

    def __init__(self, config: ViTaminConfig) -> None:
        super().__init__()
        first, second, width = config.widths
        self.blocks = nn.ModuleList(Layer(width, config.hidden) for _ in range(config.decoder_depths[2]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.up_conv1 = Grow(width, second)
        self.up_conv2 = nn.Sequential(
            *(ConvBlock(second, second, "double" if i == 0 else "") for i in range(config.decoder_depths[0]))
        )
        self.up_conv3 = nn.Sequential(
            *(
                ConvBlock(second if i == 0 else first, first, "double" if i == 0 else "")
                for i in range(config.decoder_depths[1])
            )
        )
        self.up_conv4 = LastGrow(first)

    def forward(self, grid: Tensor) -> Tensor:
        x = grid.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x).unflatten(1, tuple(grid.shape[1:3])).permute(0, 3, 1, 2)
        return self.up_conv4(self.up_conv3(self.up_conv2(self.up_conv1(x))))
