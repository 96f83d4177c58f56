"""UniTok (Ma et al., arXiv:2502.20321): ViTamin encoder and decoder, and a code of eight parts, each from a codebook of its own.

A token is eight indices. Its code is their eight vectors of unit length, one after another. Convolutions at both ends and no position embeddings:
any size whose sides are multiples of 16 computes, though the authors train and measure at 256. Images are in [-1, 1] inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokens
from vtbench.zoo.network import Half, NetworkTokenizer
from vtbench.zoo.published import Shapes, State, count, wanted
from vtbench.zoo.quantise import lookup, nearest
from vtbench.zoo.text_alignment import ALIGNED, TextAlignment
from vtbench.zoo.vitamin import Decoder, Encoder, GeGlu, ViTaminConfig

FACTOR = 16


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
    """books: (codebooks, codes of each, numbers of each code)."""

    vitamin: ViTaminConfig
    books: tuple[int, int, int]


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
        width = config.vitamin.widths[2]
        self.encoder, self.decoder = Encoder(config.vitamin), Decoder(config.vitamin)
        self.quant_proj, self.post_quant_proj = Projection(width, number * dims), Projection(number * dims, width)
        self.quantizer = Books(number, rows, dims)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> ``[B, h, w, D]``."""
        grid = self.encoder(images)
        return self.quant_proj(grid.flatten(1, 2)).unflatten(1, tuple(grid.shape[1:3]))

    def decode(self, z: Tensor) -> Tensor:
        """``[B, h, w, D]`` -> images."""
        return self.decoder(self.post_quant_proj(z.flatten(1, 2)).unflatten(1, tuple(z.shape[1:3])))


class UniTok(NetworkTokenizer):
    """UniTok's published file, whose weights lie under ``trainer.unitok``. Its text encoder and contrastive head, which reconstruction has no use for, are
    kept aside and built when features aligned with text are asked for."""

    family = "unitok"
    value_range = (-1.0, 1.0)
    drop = ("text_encoder.*", "fc_norm.*", "projection.*", "logit_scale", "quantizer.*.vocab_usage")
    exact = ("quantizer",)
    entry = "trainer.unitok"
    trunk = "encoder.norm"
    net: UniTokNet
    _aside: dict[str, Tensor]
    _aligned: TextAlignment | None = None

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> UniTokConfig:
        backbone = "encoder.patch_embed.backbone"
        second, width = (wanted(shapes, f"{backbone}.pool.proj.weight", cls.family)[i] for i in (1, 0))
        rows, dims = wanted(shapes, "quantizer.codebooks.0.codebook.weight", cls.family)
        vitamin = ViTaminConfig(
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
        )
        return UniTokConfig(vitamin, (count(shapes, "quantizer.codebooks.{}."), rows, dims))

    @classmethod
    def build(cls, config: UniTokConfig) -> UniTokNet:
        return UniTokNet(config)

    def _adopt(
        self, state: State, params: Mapping[str, Any], *, revision: str, where: str, notes: Sequence[str] = ()
    ) -> None:
        self._aside = {k: v for k, v in state.items() if k.startswith(ALIGNED)}
        super()._adopt(state, params, revision=revision, where=where, notes=notes)

    def describe(self) -> Capabilities:
        aligned = all(any(k.startswith(part) for k in self._aside) for part in ALIGNED)
        return Capabilities(any_resolution=True, multiple=FACTOR, scales_with_area=True, text_align=aligned)

    def to(self, device: str, dtype: str = "float32") -> UniTok:
        self._aligned = None
        return super().to(device, dtype)

    def _alignment(self) -> TextAlignment:
        if self._aligned is None:
            self._aligned = TextAlignment(self._aside).to(self._device)
        return self._aligned

    def before_codes(self, images: Tensor) -> Tensor:
        return self.net.encode(images).flatten(1, 2)

    @torch.no_grad()
    def features(self, images: Tensor, tap: str) -> Tensor | None:
        """`hidden`, `pre_quant`, and `aligned`: of the quantised tokens, as the authors' `encode_image` has it."""
        if tap != "aligned":
            return super().features(images, tap)
        if not self.capabilities.text_align:
            return None
        z = self.net.post_quant_proj(self._codes(self.encode(images)).to(self._dtype).flatten(1, 2))
        return self._alignment().image(z.float().mean(1))[:, None]

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Tensor | None:
        """As the authors' `encode_text` has it."""
        return self._alignment().text(texts) if self.capabilities.text_align else None

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
        return self._leave(self.net.decode(self._codes(tokens).to(self._dtype)))

    def _codes(self, tokens: Tokens) -> Tensor:
        """fp32 ``[B, h, w, D]``."""
        (stream,) = tokens.streams
        ids = self._ids(tokens, stream.name).unflatten(1, stream.shape).unbind(-1)
        return torch.cat([lookup(part, table, "cosine") for part, table in zip(ids, self.net.quantizer.tables())], -1)

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        return {
            "encoder": Half(net.encode, net=net.encoder, quant=net.quant_proj, codes=net.quantizer),
            "decoder": Half(net.decode, net=net.decoder, post=net.post_quant_proj, codes=net.quantizer),
        }
