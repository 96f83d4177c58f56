"""ViT-VQGAN (Yu et al., arXiv:2110.04627) as reimplemented in thuanz123/enhancing-transformers: unofficial weights, whose numbers are not the paper's.

Two transformers over 8x8 patches, codes of unit length. Images are in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities
from vtbench.zoo.maskgit import Codebook
from vtbench.zoo.network import GridTokenizer, Half
from vtbench.zoo.published import Shapes, count, square, wanted
from vtbench.zoo.quantise import lookup, nearest

HEAD = 64
"""Width of an attention head in all published sizes."""


class Attention(nn.Module):
    """Multi-head self-attention; the projection to queries, keys and values has no bias."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.to_qkv, self.to_out = nn.Linear(width, 3 * inner, bias=False), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with tanh between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class PreNorm(nn.Module):
    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(self.norm(x))


@dataclass(frozen=True)
class VitConfig:
    """One transformer."""

    width: int
    layers: int
    inner: int
    hidden: int
    grid: int
    patch: int


class Transformer(nn.Module):
    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PreNorm(config.width, Attention(config.width, config.inner)),
                    PreNorm(config.width, FeedForward(config.width, config.hidden)),
                ]
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor) -> Tensor:
        for pair in self.layers:
            for part in pair:  # type: ignore[attr-defined]
                x = part(x)
        return self.norm(x)


class Encoder(nn.Module):
    """Images ``[B, 3, S, S]`` -> ``[B, N, width]``."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, config.width, config.patch, stride=config.patch))
        self.en_pos_embedding = nn.Parameter(torch.empty(1, config.grid**2, config.width))
        self.transformer = Transformer(config)

    def forward(self, images: Tensor) -> Tensor:
        return self.transformer(self.to_patch_embedding(images).flatten(2).transpose(1, 2) + self.en_pos_embedding)


class Decoder(nn.Module):
    """``[B, N, width]`` -> images."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.de_pos_embedding = nn.Parameter(torch.empty(1, config.grid**2, config.width))
        self.transformer = Transformer(config)
        self.to_pixel = nn.ModuleDict({"1": nn.ConvTranspose2d(config.width, 3, config.patch, stride=config.patch)})

    def forward(self, x: Tensor) -> Tensor:
        x = self.transformer(x + self.de_pos_embedding)
        return self.to_pixel["1"](x.transpose(1, 2).unflatten(2, (self.grid, self.grid)))


@dataclass(frozen=True)
class ViTVQConfig:
    """codes: (K, D)."""

    encoder: VitConfig
    decoder: VitConfig
    codes: tuple[int, int]


class ViTVQNet(nn.Module):
    """Both transformers, the projections beside the codebook, and the codebook."""

    def __init__(self, config: ViTVQConfig) -> None:
        super().__init__()
        self.encoder, self.decoder = Encoder(config.encoder), Decoder(config.decoder)
        self.pre_quant = nn.Linear(config.encoder.width, config.codes[1])
        self.post_quant = nn.Linear(config.codes[1], config.decoder.width)
        self.quantizer = Codebook(*config.codes)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> ``[B, N, D]``."""
        return self.pre_quant(self.encoder(images))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant(z))


class ViTVQGAN(GridTokenizer):
    """The unofficial ViT-VQGAN, base and small. The size of the image is fixed by the position embeddings."""

    family = "vit-vqgan"
    drop = ("loss.*",)
    exact = ("quantizer",)
    trunk = "encoder.transformer.norm"
    net: ViTVQNet

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> ViTVQConfig:
        def vit(half: str, position: str, patch: str) -> VitConfig:
            _, positions, width = wanted(shapes, f"{half}.{position}", cls.family)
            root = f"{half}.transformer.layers"
            return VitConfig(
                width,
                count(shapes, root + ".{}."),
                wanted(shapes, f"{root}.0.0.fn.to_out.weight", cls.family)[1],
                wanted(shapes, f"{root}.0.1.fn.net.0.weight", cls.family)[0],
                square(positions),
                wanted(shapes, f"{half}.{patch}", cls.family)[-1],
            )

        rows, dims = wanted(shapes, "quantizer.embedding.weight", cls.family)
        encoder = vit("encoder", "en_pos_embedding", "to_patch_embedding.0.weight")
        return ViTVQConfig(encoder, vit("decoder", "de_pos_embedding", "to_pixel.1.weight"), (rows, dims))

    @classmethod
    def build(cls, config: ViTVQConfig) -> ViTVQNet:
        return ViTVQNet(config)

    def describe(self) -> Capabilities:
        encoder: VitConfig = self.loaded.config.encoder
        side = encoder.grid * encoder.patch
        return Capabilities(any_resolution=False, resolution=side, multiple=side)

    def sizes(self) -> tuple[int, ...]:
        return (self.loaded.config.codes[0],)

    def latents(self, images: Tensor) -> Tensor:
        grid = self.loaded.config.encoder.grid
        return self.net.encode(images).transpose(1, 2).unflatten(2, (grid, grid))

    def quantise(self, z: Tensor) -> Tensor:
        return nearest(z.permute(0, 2, 3, 1), self.net.quantizer.embedding.weight, "cosine")

    def embed(self, ids: Tensor) -> Tensor:
        return lookup(ids, self.net.quantizer.embedding.weight, "cosine").permute(0, 3, 1, 2)

    def pixels(self, z: Tensor) -> Tensor:
        return self.net.decode(z.flatten(2).transpose(1, 2))

    @torch.no_grad()
    def codebook(self) -> np.ndarray:
        """float32 ``[K, D]``, of unit length."""
        ids = torch.arange(self.loaded.config.codes[0], device=self._device)
        return lookup(ids, self.net.quantizer.embedding.weight, "cosine").cpu().numpy()

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        return {
            "encoder": Half(net.encode, net=net.encoder, quant=net.pre_quant, codes=net.quantizer),
            "decoder": Half(net.decode, net=net.decoder, post=net.post_quant, codes=net.quantizer),
        }
