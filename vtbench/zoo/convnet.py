"""The convolutional encoder and decoder of VQGAN (Esser et al., arXiv:2012.09841), which many tokenizers share under the names of its first code.

Levels run from full resolution (0) to the lowest. A level is a run of residual blocks, each followed by attention where the level has it; between
levels the width and height halve or double. GroupNorm has 32 groups and eps 1e-6. The configuration is read off the tensors' shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.zoo.published import Shapes, count, wanted


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    """Residual block: twice GroupNorm, SiLU, 3x3 convolution; a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(source), nn.Conv2d(source, target, 3, padding=1)
        self.norm2, self.conv2 = norm(target), nn.Conv2d(target, target, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(source, target, 1) if source != target else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Self-attention over all positions, one head as wide as the feature map. fused: one projection `qkv` instead of three."""

    def __init__(self, channels: int, fused: bool = False) -> None:
        super().__init__()
        self.norm, self.fused = norm(channels), fused
        if fused:
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        else:
            self.q, self.k, self.v = (nn.Conv2d(channels, channels, 1) for _ in range(3))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.qkv(h).chunk(3, 1) if self.fused else (self.q(h), self.k(h), self.v(h))
        q, k, v = (t.flatten(2).transpose(1, 2)[:, None] for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)
        return x + self.proj_out(attended.unflatten(2, tuple(x.shape[2:])))


class Down(nn.Module):
    """Halves width and height: a 3x3 convolution of stride 2, with a zero row below and a zero column on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Up(nn.Module):
    """Doubles width and height: nearest neighbours, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks, with attention after each where the level has it, then the change of size, if any."""

    def __init__(
        self,
        source: int,
        target: int,
        blocks: int,
        attention: bool,
        fused: bool,
        resize: nn.Module | None,
        resize_name: str,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(Block(source if i == 0 else target, target) for i in range(blocks))
        self.attn = nn.ModuleList(Attention(target, fused) for _ in range(blocks if attention else 0))
        self.resize_name = resize_name if resize is not None else ""
        if resize is not None:
            self.add_module(resize_name, resize)

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return self.get_submodule(self.resize_name)(x) if self.resize_name else x


class Middle(nn.Module):
    """Block, attention (if any), block, at the lowest resolution."""

    def __init__(self, channels: int, attention: bool, fused: bool) -> None:
        super().__init__()
        self.block_1 = Block(channels, channels)
        self.attn_1 = Attention(channels, fused) if attention else nn.Identity()
        self.block_2 = Block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


@dataclass(frozen=True)
class ConvConfig:
    """One half. channels: of every level, full resolution first. stem: next to the pixels. latent: of the other end. attention: the levels with it."""

    stem: int
    channels: tuple[int, ...]
    blocks: int
    latent: int
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    fused: bool = False
    pixels: int = 3

    @property
    def factor(self) -> int:
        """Pixels of the image per position of the latent grid, along each side."""
        return 2 ** (len(self.channels) - 1)


class Encoder(nn.Module):
    """Images ``[B, 3, H, W]`` -> ``[B, latent, H / factor, W / factor]``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        widths, last = (config.stem, *config.channels), len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.pixels, config.stem, 3, padding=1)
        self.down = nn.ModuleList(
            Level(
                widths[i],
                widths[i + 1],
                config.blocks,
                i in config.attention,
                config.fused,
                Down(widths[i + 1]) if i < last else None,
                "downsample",
            )
            for i in range(last + 1)
        )
        self.mid = Middle(widths[-1], config.middle_attention, config.fused)
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """``[B, latent, h, w]`` -> images ``[B, 3, h * factor, w * factor]``."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        widths, last = (*config.channels, config.channels[-1]), len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.middle_attention, config.fused)
        self.up = nn.ModuleList(
            Level(
                widths[i + 1],
                widths[i],
                config.blocks,
                i in config.attention,
                config.fused,
                Up(widths[i]) if i > 0 else None,
                "upsample",
            )
            for i in range(last + 1)
        )
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], config.pixels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def infer_half(shapes: Shapes, half: str, family: str) -> ConvConfig:
    """The configuration of `encoder` or `decoder` from the tensors' shapes."""
    levels = "down" if half == "encoder" else "up"
    number = count(shapes, f"{half}.{levels}.{{}}.")
    first, last = wanted(shapes, f"{half}.conv_in.weight", family), wanted(shapes, f"{half}.conv_out.weight", family)
    channels = tuple(
        wanted(shapes, f"{half}.{levels}.{i}.block.0.conv1.weight", family)[0] for i in range(max(1, number))
    )
    return ConvConfig(
        stem=first[0] if half == "encoder" else last[1],
        channels=channels,
        blocks=count(shapes, f"{half}.{levels}.0.block.{{}}."),
        latent=last[0] if half == "encoder" else first[1],
        attention=tuple(i for i in range(number) if count(shapes, f"{half}.{levels}.{i}.attn.{{}}.")),
        middle_attention=any(name.startswith(f"{half}.mid.attn_1.") for name in shapes),
        fused=any(name.startswith(f"{half}.") and ".qkv." in name for name in shapes),
        pixels=first[1] if half == "encoder" else last[0],
    )
