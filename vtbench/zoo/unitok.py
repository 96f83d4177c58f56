"""UniTok (Ma et al., arXiv:2502.20321): ViTamin encoder and decoder, and a code of eight parts, each from a codebook of its own.

A token is eight indices. Its code is their eight vectors of unit length, one after another. Convolutions at both ends and no position embeddings:
any size whose sides are multiples of 16 computes, though the authors train and measure at 256. Images are in [-1, 1] inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokens
from vtbench.zoo.network import Half, NetworkTokenizer, Shapes, count, wanted
from vtbench.zoo.quantise import lookup, nearest
from vtbench.zoo.transformer import HEAD

FACTOR = 16


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


class HeadAttention(nn.Module):
    """Attention that changes the width: narrowing takes the mean over heads, widening lays them side by side. Keys have no bias."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        inner = max(source, target)
        self.narrows, self.heads = source > target, inner // min(source, target)
        self.qkv = nn.Linear(source, 3 * inner, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.empty(inner)), nn.Parameter(torch.empty(inner))
        self.register_buffer("zero_k_bias", torch.empty(inner))
        self.proj = nn.Linear(target, target)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])  # type: ignore[list-item]
        q, k, v = F.linear(x, self.qkv.weight, bias).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.mean(1) if self.narrows else attended.transpose(1, 2).flatten(2))


class Projection(nn.Module):
    """Between the transformers' width and the code's: attention and a linear layer side by side, then a perceptron."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(source), HeadAttention(source, target)
        self.norm3, self.proj = nn.LayerNorm(source), nn.Linear(source, target)
        self.norm2, self.mlp = nn.LayerNorm(target), GeGlu(target, 2 * target)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(self.norm3(x)) + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class UniTokConfig:
    """widths: of the two convolutional stages and the transformers. depths: blocks of the encoder's stages and layers of its transformer; decoder_depths:
    blocks at the two resolutions and layers. books: (codebooks, codes of each, numbers of each code)."""

    widths: tuple[int, int, int]
    depths: tuple[int, int, int]
    decoder_depths: tuple[int, int, int]
    hidden: int
    books: tuple[int, int, int]


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

    def __init__(self, config: UniTokConfig) -> None:
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

    def __init__(self, config: UniTokConfig) -> None:
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

    def __init__(self, config: UniTokConfig) -> None:
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


class Books(nn.Module):
    """`quantizer`: the codebooks, under the authors' names."""

    def __init__(self, number: int, rows: int, dims: int) -> None:
        super().__init__()
        self.codebooks = nn.ModuleList(nn.ModuleDict({"codebook": nn.Embedding(rows, dims)}) for _ in range(number))

    def tables(self) -> list[Tensor]:
        return [book["codebook"].weight for book in self.codebooks]  # type: ignore[index,union-attr,misc]


class UniTokNet(nn.Module):
    """Encoder, decoder, the projections beside the code, and the codebooks."""

    def __init__(self, config: UniTokConfig) -> None:
        super().__init__()
        number, rows, dims = config.books
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_proj = Projection(config.widths[2], number * dims)
        self.post_quant_proj = Projection(number * dims, config.widths[2])
        self.quantizer = Books(number, rows, dims)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> ``[B, h, w, D]``."""
        grid = self.encoder(images)
        return self.quant_proj(grid.flatten(1, 2)).unflatten(1, tuple(grid.shape[1:3]))

    def decode(self, z: Tensor) -> Tensor:
        """``[B, h, w, D]`` -> images."""
        return self.decoder(self.post_quant_proj(z.flatten(1, 2)).unflatten(1, tuple(z.shape[1:3])))


class UniTok(NetworkTokenizer):
    """UniTok's published file, whose weights lie under ``trainer.unitok``; its text encoder and contrastive head are left out."""

    family = "unitok"
    value_range = (-1.0, 1.0)
    drop = ("text_encoder.*", "fc_norm.*", "projection.*", "logit_scale", "quantizer.*.vocab_usage")
    exact = ("quantizer",)
    entry = "trainer.unitok"
    net: UniTokNet

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> UniTokConfig:
        backbone = "encoder.patch_embed.backbone"
        second, width = (wanted(shapes, f"{backbone}.pool.proj.weight", cls.family)[i] for i in (1, 0))
        rows, dims = wanted(shapes, "quantizer.codebooks.0.codebook.weight", cls.family)
        return UniTokConfig(
            widths=(wanted(shapes, f"{backbone}.stem.conv1.weight", cls.family)[0], second, width),
            depths=(
                count(shapes, backbone + ".stages.0.{}."),
                count(shapes, backbone + ".stages.1.{}."),
                count(shapes, "encoder.blocks.{}."),
            ),
            decoder_depths=(
                count(shapes, "decoder.up_conv2.{}."),
                count(shapes, "decoder.up_conv3.{}."),
                count(shapes, "decoder.blocks.{}."),
            ),
            hidden=wanted(shapes, "encoder.blocks.0.mlp.w0.weight", cls.family)[0],
            books=(count(shapes, "quantizer.codebooks.{}."), rows, dims),
        )

    @classmethod
    def build(cls, config: UniTokConfig) -> UniTokNet:
        return UniTokNet(config)

    def describe(self) -> Capabilities:
        return Capabilities(any_resolution=True, multiple=FACTOR, scales_with_area=True)

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
        """Images float32 ``[B, 3, H, W]`` in [0, 1] -> one stream ``tokens`` ``[B, h * w, codebooks]``."""
        z = self.net.encode(self._enter(images)).float()
        tables = self.net.quantizer.tables()
        parts = z.chunk(len(tables), -1)
        ids = torch.stack([nearest(part, table, "cosine") for part, table in zip(parts, tables)], -1)
        sizes = tuple(len(table) for table in tables)
        stream = Stream("tokens", "index", "grid2d", sizes, (int(z.shape[1]), int(z.shape[2])))
        return Tokens((stream,), {"tokens": ids.flatten(1, 2)}, len(ids), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Indices of any grid -> images float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        ids = self._ids(tokens, stream.name).unflatten(1, stream.shape).unbind(-1)
        codes = [lookup(part, table, "cosine") for part, table in zip(ids, self.net.quantizer.tables())]
        return self._leave(self.net.decode(torch.cat(codes, -1).to(self._dtype)))

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        return {
            "encoder": Half(net.encode, net=net.encoder, quant=net.quant_proj),
            "decoder": Half(net.decode, net=net.decoder, post=net.post_quant_proj),
        }
