"""MaskGIT's VQGAN (Chang et al., arXiv:2202.04200) as ported to PyTorch, and MAGE's (arXiv:2211.09117), which is the same network.

Convolutions only. Images are in [0, 1]. Where a residual block changes the width, its shortcut is applied to the block's own output, not to its
input: published weights were trained so, and decode to noise otherwise. MaskBit's network and TiTok's pixel decoder are built from these parts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities
from vtbench.zoo.convnet import norm
from vtbench.zoo.network import GridTokenizer, Half
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.quantise import lookup, nearest


class Block(nn.Module):
    """Residual block without biases. With a change of width the residual is a 1x1 convolution of the block's output."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(source), nn.Conv2d(source, target, 3, padding=1, bias=False)
        self.norm2, self.conv2 = norm(target), nn.Conv2d(target, target, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(target, target, 1, bias=False) if source != target else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return h + (x if self.nin_shortcut is None else self.nin_shortcut(h))


def blocks(source: int, target: int, number: int) -> nn.ModuleList:
    return nn.ModuleList(Block(source if i == 0 else target, target) for i in range(number))


class Level(nn.Module):
    """Blocks, then a change of size: `halve` by averaging or (`down_conv`) a strided convolution, `double` by `upsample_conv`, or none."""

    def __init__(self, source: int, target: int, number: int, change: str = "") -> None:
        super().__init__()
        self.change = change
        self.block = blocks(source, target, number)
        if change == "down_conv":
            self.down_conv = nn.Conv2d(target, target, 3, stride=2)
        elif change == "double":
            self.upsample_conv = nn.Conv2d(target, target, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        if self.change == "halve":
            return F.avg_pool2d(x, 2)
        if self.change == "down_conv":
            return self.down_conv(F.pad(x, (0, 1, 0, 1)))
        if self.change == "double":
            return self.upsample_conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


@dataclass(frozen=True)
class HalfConfig:
    """Encoder or decoder. stem: channels next to the pixels. channels: of every level, full resolution first. strided: halve by convolution."""

    stem: int
    channels: tuple[int, ...]
    blocks: int
    latent: int
    strided: bool = False

    @property
    def factor(self) -> int:
        return 2 ** (len(self.channels) - 1)


class Encoder(nn.Module):
    """Images ``[B, 3, H, W]`` in [0, 1] -> ``[B, latent, H / factor, W / factor]``."""

    def __init__(self, config: HalfConfig) -> None:
        super().__init__()
        widths, last = (config.stem, *config.channels), len(config.channels) - 1
        halve = "down_conv" if config.strided else "halve"
        self.conv_in = nn.Conv2d(3, config.stem, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], config.blocks, halve if i < last else "") for i in range(last + 1)
        )
        self.mid = blocks(widths[-1], widths[-1], config.blocks)
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], config.latent, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in (*self.down, *self.mid):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """``[B, latent, h, w]`` -> images ``[B, 3, h * factor, w * factor]``."""

    def __init__(self, config: HalfConfig) -> None:
        super().__init__()
        widths, last = (*config.channels, config.channels[-1]), len(config.channels) - 1
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = blocks(widths[-1], widths[-1], config.blocks)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], config.blocks, "double" if i > 0 else "") for i in range(last + 1)
        )
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv_in(z)
        for part in (*self.mid, *reversed(self.up)):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


def infer_half(shapes: Shapes, half: str, family: str, prefix: str = "") -> HalfConfig:
    """The configuration of `encoder` or `decoder` (under `prefix`) from the tensors' shapes."""
    levels, root = ("down", f"{prefix}encoder") if half == "encoder" else ("up", f"{prefix}decoder")
    first, last = wanted(shapes, f"{root}.conv_in.weight", family), wanted(shapes, f"{root}.conv_out.weight", family)
    number = count(shapes, f"{root}.{levels}.{{}}.")
    return HalfConfig(
        stem=first[0] if half == "encoder" else last[1],
        channels=tuple(
            wanted(shapes, f"{root}.{levels}.{i}.block.0.conv1.weight", family)[0] for i in range(max(1, number))
        ),
        blocks=count(shapes, f"{root}.{levels}.0.block.{{}}."),
        latent=last[0] if half == "encoder" else first[1],
        strided=f"{root}.down.0.down_conv.weight" in shapes,
    )


@dataclass(frozen=True)
class MaskGITConfig:
    """codes: (K, D) of the codebook; None where codes are signs (MaskBit)."""

    encoder: HalfConfig
    decoder: HalfConfig
    codes: tuple[int, int] | None


class Codebook(nn.Module):
    """`quantize`: the table of codes."""

    def __init__(self, rows: int, dims: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(rows, dims)


class MaskGITNet(nn.Module):
    """Encoder, decoder and codebook."""

    def __init__(self, config: MaskGITConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config.encoder), Decoder(config.decoder)
        if config.codes is not None:
            self.quantize = Codebook(*config.codes)


class MaskGIT(GridTokenizer):
    """MaskGIT's VQGAN in open-muse's names (the file that TiTok's authors publish), or MAGE's `vqgan_jax_strongaug.ckpt`."""

    family = "maskgit-vqgan"
    net: MaskGITNet

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """MAGE's names to open-muse's."""

        def new(name: str) -> str:
            name = re.sub(r"\.mid\.block_([12])\.", lambda m: f".mid.{int(m[1]) - 1}.", name)
            return name.replace(".upsample.conv.", ".upsample_conv.")

        return {new(name): tensor for name, tensor in state.items()}

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> MaskGITConfig:
        rows, dims = wanted(shapes, "quantize.embedding.weight", cls.family)
        encoder, decoder = (infer_half(shapes, half, cls.family) for half in ("encoder", "decoder"))
        return MaskGITConfig(encoder, decoder, (rows, dims))

    @classmethod
    def build(cls, config: MaskGITConfig) -> MaskGITNet:
        return MaskGITNet(config)

    def describe(self) -> Capabilities:
        factor = self.loaded.config.encoder.factor
        return Capabilities(any_resolution=True, multiple=factor, scales_with_area=True)

    def sizes(self) -> tuple[int, ...]:
        return (self.loaded.config.codes[0],)

    def latents(self, images: Tensor) -> Tensor:
        return self.net.encoder(images)

    def quantise(self, z: Tensor) -> Tensor:
        return nearest(z.permute(0, 2, 3, 1), self.net.quantize.embedding.weight)

    def embed(self, ids: Tensor) -> Tensor:
        return lookup(ids, self.net.quantize.embedding.weight).permute(0, 3, 1, 2)

    def pixels(self, z: Tensor) -> Tensor:
        return self.net.decoder(z)

    def codebook(self) -> np.ndarray | None:
        """float32 ``[K, D]``."""
        return self.net.quantize.embedding.weight.detach().cpu().numpy()

    def modules(self) -> dict[str, nn.Module]:
        codes = {name: part for name, part in self.net.named_children() if name in self.exact}
        return {
            "encoder": Half(self.net.encoder, net=self.net.encoder, **codes),
            "decoder": Half(self.net.decoder, net=self.net.decoder, **codes),
        }
