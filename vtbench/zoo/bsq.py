"""BSQ-ViT (Zhao et al., arXiv:2406.07548): two transformers over 8x8 patches, and binary codes on the unit sphere.

A token is the signs of 18 or 36 numbers; the decoder is given them scaled to unit length. Images are in [-1, 1] inside (the published
configurations all centre their input).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokens
from vtbench.errors import BadWeights
from vtbench.zoo.network import Half, NetworkTokenizer
from vtbench.zoo.published import Shapes, count, square, wanted
from vtbench.zoo.transformer import Layer


@dataclass(frozen=True)
class BSQHalf:
    """One transformer: width, layers, hidden width of their perceptrons; grid and patch: sides of the image's tiling."""

    width: int
    layers: int
    hidden: int
    grid: int
    patch: int


@dataclass(frozen=True)
class BSQConfig:
    """bits: of a token. tail: the width of the decoder's last hidden layer."""

    encoder: BSQHalf
    decoder: BSQHalf
    bits: int
    tail: int


class Transformer(nn.Module):
    def __init__(self, config: BSQHalf) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Layer(config.width, config.hidden) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class Encoder(nn.Module):
    """Images ``[B, 3, S, S]`` -> ``[B, N, width]``."""

    def __init__(self, config: BSQHalf) -> None:
        super().__init__()
        self.grid, self.patch, width = config.grid, config.patch, config.width
        self.conv1 = nn.Linear(3 * config.patch**2, width, bias=False)
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2, width))
        self.ln_pre, self.transformer, self.ln_post = nn.LayerNorm(width), Transformer(config), nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        tiles = images.unflatten(3, (self.grid, self.patch)).unflatten(2, (self.grid, self.patch))
        patches = tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        x = self.conv1(patches) + self.positional_embedding
        return self.ln_post(self.transformer(self.ln_pre(x)))


class Decoder(nn.Module):
    """``[B, N, width]`` -> images."""

    def __init__(self, config: BSQHalf, tail: int) -> None:
        super().__init__()
        self.grid, self.patch, width = config.grid, config.patch, config.width
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2, width))
        self.ln_pre, self.transformer, self.ln_post = nn.LayerNorm(width), Transformer(config), nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, tail), nn.Tanh())
        self.conv_out = nn.Linear(tail, 3 * config.patch**2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.ln_post(self.transformer(self.ln_pre(x + self.positional_embedding)))
        tiles = (
            self.conv_out(self.ffn(x)).unflatten(2, (3, self.patch, self.patch)).unflatten(1, (self.grid, self.grid))
        )
        return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


class BSQNet(nn.Module):
    """Both transformers and the projections beside the code."""

    def __init__(self, config: BSQConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config.encoder), Decoder(config.decoder, config.tail)
        self.quant_embed = nn.Linear(config.encoder.width, config.bits)
        self.post_quant_embed = nn.Linear(config.bits, config.decoder.width)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> ``[B, N, bits]``, whose signs are the token."""
        return self.quant_embed(self.encoder(images))

    def decode(self, codes: Tensor) -> Tensor:
        """``[B, N, bits]`` of unit length -> images."""
        return self.decoder(self.post_quant_embed(codes))


class BSQViT(NetworkTokenizer):
    """BSQ-ViT's image tokenizers, whose files hold an average of the weights too (`--state-key ema`, the default)."""

    family = "bsq-vit"
    value_range = (-1.0, 1.0)
    drop = ("quantize.*", "loss.*")
    trunk = "encoder"
    net: BSQNet

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> BSQConfig:
        def half(name: str, pixels: int) -> BSQHalf:
            positions, width = wanted(shapes, f"{name}.positional_embedding", cls.family)
            root = f"{name}.transformer.resblocks"
            hidden = wanted(shapes, f"{root}.0.mlp.c_fc.weight", cls.family)[0]
            return BSQHalf(width, count(shapes, root + ".{}."), hidden, square(positions), square(pixels // 3))

        if "quantize.embedding.weight" in shapes:
            raise BadWeights("these weights are BSQ-ViT's variant with a table of codes, which is not supported")
        pixels, tail = wanted(shapes, "decoder.conv_out.weight", cls.family)
        encoder = half("encoder", wanted(shapes, "encoder.conv1.weight", cls.family)[1])
        bits = wanted(shapes, "quant_embed.weight", cls.family)[0]
        return BSQConfig(encoder, half("decoder", pixels), bits, tail)

    @classmethod
    def build(cls, config: BSQConfig) -> BSQNet:
        return BSQNet(config)

    def describe(self) -> Capabilities:
        encoder: BSQHalf = self.loaded.config.encoder
        side = encoder.grid * encoder.patch
        return Capabilities(any_resolution=False, resolution=side, multiple=side)

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Images float32 ``[B, 3, S, S]`` in [0, 1] -> one stream of bits ``tokens`` ``[B, N, bits]``, 1 where a number is above zero."""
        bits = (self.net.encode(self._enter(images)) > 0).long()
        config: BSQConfig = self.loaded.config
        stream = Stream("tokens", "bits", "grid2d", (2,) * config.bits, (config.encoder.grid,) * 2)
        return Tokens((stream,), {"tokens": bits}, len(bits), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Bits -> images float32 ``[B, 3, S, S]`` in [0, 1]."""
        (stream,) = tokens.streams
        signs = self._ids(tokens, stream.name).to(self._dtype) * 2 - 1
        return self._leave(self.net.decode(signs / signs.shape[-1] ** 0.5))

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        return {
            "encoder": Half(net.encode, net=net.encoder, quant=net.quant_embed),
            "decoder": Half(net.decode, net=net.decoder, post=net.post_quant_embed),
        }
