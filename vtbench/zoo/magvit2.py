"""Open-MAGVIT2's image tokenizer (Luo et al., arXiv:2409.04410): convolutions with adaptive group norms, and lookup-free quantisation.

A token is the signs of 18 (or 14) numbers, an index of up to 2^18. The decoder modulates every level by the mean and the deviation of the code over
the image. Images are in [-1, 1] inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities
from vtbench.zoo.convnet import norm
from vtbench.zoo.network import GridTokenizer, Half
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.quantise import ids_to_signs, signs_to_ids


class Block(nn.Module):
    """Residual block without biases; a 1x1 convolution on the shortcut where the width changes."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(source), nn.Conv2d(source, target, 3, padding=1, bias=False)
        self.norm2, self.conv2 = norm(target), nn.Conv2d(target, target, 3, padding=1, bias=False)
        self.nin_shortcut = nn.Conv2d(source, target, 1, bias=False) if source != target else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)))


def blocks(source: int, target: int, number: int) -> nn.ModuleList:
    return nn.ModuleList(Block(source if i == 0 else target, target) for i in range(number))


class Double(nn.Module):
    """Doubles width and height: a 3x3 convolution to four times the channels, which are then laid out as 2x2 tiles."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        # Channels run (row in the tile, column in the tile, channel): not the order of torch's pixel_shuffle.
        tiles = self.conv1(x).unflatten(1, (2, 2, -1)).permute(0, 3, 4, 1, 5, 2)
        return tiles.flatten(4, 5).flatten(2, 3)


class AdaptiveNorm(nn.Module):
    """Group norm without weights of its own; scale from the code's deviation over the image, shift from its mean."""

    def __init__(self, latent: int, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Linear(latent, channels), nn.Linear(latent, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        flat = code.flatten(2)
        scale = self.gamma((flat.var(-1) + 1e-6).sqrt())[..., None, None]
        return scale * F.group_norm(x, 32, eps=1e-6) + self.beta(flat.mean(-1))[..., None, None]


class Level(nn.Module):
    """Blocks and the change of size that follows them, if any."""

    def __init__(self, source: int, target: int, number: int, change: str) -> None:
        super().__init__()
        self.block = blocks(source, target, number)
        self.change = change
        if change == "downsample":
            self.downsample = nn.Conv2d(target, target, 3, stride=2, padding=1)
        elif change == "upsample":
            self.upsample = Double(target)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return getattr(self, self.change)(x) if self.change else x


@dataclass(frozen=True)
class MagvitConfig:
    """channels: of every level, full resolution first. blocks: of a level, and of the middle. bits: of a token."""

    stem: int
    channels: tuple[int, ...]
    blocks: int
    bits: int
    decoder_channels: tuple[int, ...]
    decoder_blocks: int

    @property
    def factor(self) -> int:
        return 2 ** (len(self.channels) - 1)


class Encoder(nn.Module):
    """Images ``[B, 3, H, W]`` -> ``[B, bits, h, w]``."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths, last = (config.stem, *config.channels), len(config.channels) - 1
        self.conv_in = nn.Conv2d(3, config.stem, 3, padding=1, bias=False)
        self.down = nn.ModuleList(
            Level(widths[i], widths[i + 1], config.blocks, "downsample" if i < last else "") for i in range(last + 1)
        )
        self.mid_block = blocks(widths[-1], widths[-1], config.blocks)
        self.norm_out, self.conv_out = norm(widths[-1]), nn.Conv2d(widths[-1], config.bits, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for part in (*self.down, *self.mid_block):
            x = part(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class Decoder(nn.Module):
    """Signs ``[B, bits, h, w]`` -> images."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        widths, last = (*config.decoder_channels, config.decoder_channels[-1]), len(config.decoder_channels) - 1
        self.conv_in = nn.Conv2d(config.bits, widths[-1], 3, padding=1)
        self.mid_block = blocks(widths[-1], widths[-1], config.decoder_blocks)
        self.up = nn.ModuleList(
            Level(widths[i + 1], widths[i], config.decoder_blocks, "upsample" if i > 0 else "") for i in range(last + 1)
        )
        self.adaptive = nn.ModuleList(AdaptiveNorm(config.bits, widths[i + 1]) for i in range(last + 1))
        self.norm_out, self.conv_out = norm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, code: Tensor) -> Tensor:
        x = self.conv_in(code)
        for block in self.mid_block:
            x = block(x)
        for level, adaptive in zip(reversed(self.up), reversed(self.adaptive)):
            x = level(adaptive(x, code))
        return self.conv_out(F.silu(self.norm_out(x)))


class MagvitNet(nn.Module):
    """Encoder and decoder; the codes need no table."""

    def __init__(self, config: MagvitConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config), Decoder(config)


class OpenMagvit2(GridTokenizer):
    """Open-MAGVIT2's image tokenizers. Their files keep an average of the weights beside them, which the authors evaluate with."""

    family = "open-magvit2"
    value_range = (-1.0, 1.0)
    drop: ClassVar[tuple[str, ...]] = ("loss.*", "model_ema.*", "quantize.*")
    net: MagvitNet

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> MagvitConfig:
        down, up = (max(1, count(shapes, levels)) for levels in ("encoder.down.{}.", "decoder.up.{}."))
        wanted(shapes, "decoder.adaptive.0.gamma.weight", cls.family)
        return MagvitConfig(
            stem=wanted(shapes, "encoder.conv_in.weight", cls.family)[0],
            channels=tuple(
                wanted(shapes, f"encoder.down.{i}.block.0.conv1.weight", cls.family)[0] for i in range(down)
            ),
            blocks=count(shapes, "encoder.down.0.block.{}."),
            bits=wanted(shapes, "encoder.conv_out.weight", cls.family)[0],
            decoder_channels=tuple(
                wanted(shapes, f"decoder.up.{i}.block.0.conv1.weight", cls.family)[0] for i in range(up)
            ),
            decoder_blocks=count(shapes, "decoder.up.0.block.{}."),
        )

    @classmethod
    def build(cls, config: MagvitConfig) -> MagvitNet:
        return MagvitNet(config)

    def describe(self) -> Capabilities:
        return Capabilities(any_resolution=True, multiple=self.loaded.config.factor, scales_with_area=True)

    def sizes(self) -> tuple[int, ...]:
        return (2**self.loaded.config.bits,)

    def latents(self, images: Tensor) -> Tensor:
        return self.net.encoder(images)

    def quantise(self, z: Tensor) -> Tensor:
        return signs_to_ids(z.permute(0, 2, 3, 1))

    def embed(self, ids: Tensor) -> Tensor:
        return ids_to_signs(ids, self.loaded.config.bits).permute(0, 3, 1, 2)

    def pixels(self, z: Tensor) -> Tensor:
        return self.net.decoder(z)

    def codebook(self) -> Any:
        """float32 ``[K, bits]`` of signs."""
        bits = self.loaded.config.bits
        return ids_to_signs(torch.arange(2**bits), bits).numpy()

    def modules(self) -> dict[str, nn.Module]:
        return {
            "encoder": Half(self.net.encoder, net=self.net.encoder),
            "decoder": Half(self.net.decoder, net=self.net.decoder),
        }
