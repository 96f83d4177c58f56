"""VAR's multi-scale tokenizer (Tian et al., arXiv:2404.02905): one grid of latents as the sum of ten grids of codes, 1x1 to 16x16.

Each scale codes what the scales before it left over. All share one codebook; four small convolutions smooth the codes after they are enlarged. Images
are in [-1, 1] inside.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokens
from vtbench.errors import UsageError
from vtbench.zoo.card import Card
from vtbench.zoo.convnet import ConvConfig, Decoder, Encoder, infer_half
from vtbench.zoo.network import Half, NetworkTokenizer
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.quantise import Rule, lookup, nearest

SIDES = "1-2-3-4-5-6-8-10-13-16"
"""The sides of the scales that the published file was trained with, for images of 256 pixels."""


@dataclass(frozen=True)
class VARConfig:
    """codes: (K, D). smoothers: how many convolutions the scales share. rule: `distance`, or `cosine` for files trained so. mix: the share of the
    convolution in what a smoother gives; the rest is its input. sides: of the scales."""

    encoder: ConvConfig
    decoder: ConvConfig
    codes: tuple[int, int]
    smoothers: int
    kernel: int
    sides: tuple[int, ...]
    rule: Rule = "distance"
    mix: float = 0.5


class Residual(nn.Module):
    """`quantize`: the codebook and the smoothers, under the names of the authors' file."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        rows, dims = config.codes
        self.config = config
        self.embedding = nn.Embedding(rows, dims)
        smoothers = nn.ModuleList(nn.Conv2d(dims, dims, 3, padding=1) for _ in range(config.smoothers))
        self.quant_resi = nn.ModuleDict({"qresi_ls": smoothers})

    def smooth(self, codes: Tensor, scale: int, scales: int) -> Tensor:
        """Codes of one scale, enlarged, through the smoother whose place among all scales is nearest to the scale's own."""
        number = self.config.smoothers
        edge = 1 / 3 / number if number == 4 else 1 / 2 / number
        places = np.linspace(edge, 1 - edge, number)
        smoother = self.quant_resi["qresi_ls"][int(np.argmin(np.abs(places - scale / (scales - 1))))]  # type: ignore[index]
        return codes * (1 - self.config.mix) + smoother(codes) * self.config.mix

    def contribution(self, ids: Tensor, scale: int, sides: Sequence[tuple[int, int]]) -> Tensor:
        """What one scale's ids ``[B, h, w]`` add to the latents: ``[B, D, H, W]``."""
        codes = lookup(ids, self.embedding.weight).permute(0, 3, 1, 2)
        if scale < len(sides) - 1:
            codes = F.interpolate(codes, size=sides[-1], mode="bicubic")
        return self.smooth(codes.contiguous(), scale, len(sides))

    def encode(self, z: Tensor, sides: Sequence[tuple[int, int]]) -> list[Tensor]:
        """fp32 latents ``[B, D, H, W]`` -> ids of every scale, coarse to fine."""
        rest, found = z.clone(), []
        for scale, side in enumerate(sides):
            seen = F.interpolate(rest, size=side, mode="area") if scale < len(sides) - 1 else rest
            ids = nearest(seen.permute(0, 2, 3, 1), self.embedding.weight, self.config.rule)
            rest = rest - self.contribution(ids, scale, sides)
            found.append(ids)
        return found

    def decode(self, ids: Sequence[Tensor], sides: Sequence[tuple[int, int]]) -> Tensor:
        """Ids of the first scales, or all -> fp32 latents."""
        return torch.stack([self.contribution(part, scale, sides) for scale, part in enumerate(ids)]).sum(0)


class VARNet(nn.Module):
    """Encoder, decoder, the residual quantiser and the two convolutions beside it."""

    def __init__(self, config: VARConfig) -> None:
        super().__init__()
        dims, pad = config.codes[1], config.kernel // 2
        self.encoder, self.decoder = Encoder(config.encoder), Decoder(config.decoder)
        self.quantize = Residual(config)
        self.quant_conv = nn.Conv2d(config.encoder.latent, dims, config.kernel, padding=pad)
        self.post_quant_conv = nn.Conv2d(dims, config.decoder.latent, config.kernel, padding=pad)

    def encode(self, images: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(images))

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


class VAR(NetworkTokenizer):
    """VAR's tokenizer. The tokens of all scales lie one after another, coarse to fine; the first whole scales decode to a coarser image.

    params: sides, of the scales, as ``1-2-3-4``; the last one fixes the image's size."""

    family = "var"
    value_range = (-1.0, 1.0)
    drop = ("quantize.ema_vocab_hit_SV",)
    net: VARNet

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        sides: str = SIDES,
    ) -> None:
        self._open(card, weights, state_key, allow_code, sides=sides)

    @classmethod
    def infer(cls, shapes: Shapes, *, sides: str = SIDES, **params: Any) -> VARConfig:
        rows, dims = wanted(shapes, "quantize.embedding.weight", cls.family)
        wanted(shapes, "quantize.quant_resi.qresi_ls.0.weight", cls.family)
        return VARConfig(
            infer_half(shapes, "encoder", cls.family),
            infer_half(shapes, "decoder", cls.family),
            (rows, dims),
            count(shapes, "quantize.quant_resi.qresi_ls.{}."),
            wanted(shapes, "quant_conv.weight", cls.family)[-1],
            parsed(sides),
        )

    @classmethod
    def build(cls, config: VARConfig) -> VARNet:
        return VARNet(config)

    def describe(self) -> Capabilities:
        config: VARConfig = self.loaded.config
        resolution = config.sides[-1] * config.encoder.factor
        budgets = tuple(itertools.accumulate(side * side for side in config.sides))
        return Capabilities(
            prefix=True,
            max_tokens=budgets[-1],
            budgets=budgets,
            any_resolution=False,
            resolution=resolution,
            multiple=resolution,
        )

    @property
    def _grids(self) -> list[tuple[int, int]]:
        return [(side, side) for side in self.loaded.config.sides]

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
        """Images float32 ``[B, 3, S, S]`` in [0, 1] -> one multi-scale stream ``tokens`` ``[B, sum of side^2]``."""
        z = self.net.encode(self._enter(images)).float()
        ids = torch.cat([part.flatten(1) for part in self.net.quantize.encode(z, self._grids)], 1)
        config: VARConfig = self.loaded.config
        stream = Stream("tokens", "index", "multiscale", config.codes[:1], config.sides, ordered=True)
        tokens = Tokens((stream,), {"tokens": ids}, len(ids), condition=condition)
        return self.prefix(tokens, budget) if budget is not None else tokens

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Ids of all scales, or of the first ones -> images float32 ``[B, 3, S, S]`` in [0, 1]."""
        (stream,) = tokens.streams
        ids = self._ids(tokens, stream.name)
        split = ids.split([side * side for side in stream.shape], 1)
        parts = [part.unflatten(1, (side, side)) for part, side in zip(split, stream.shape)]
        return self._leave(self.net.decode(self.net.quantize.decode(parts, self._grids).to(self._dtype)))

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """As many whole scales as `budget` tokens hold, at least the first."""
        (stream,) = tokens.streams
        kept, used = 0, 0
        for side in stream.shape:
            if kept and used + side * side > budget:
                break
            kept, used = kept + 1, used + side * side
        cut = replace(stream, shape=stream.shape[:kept])
        data = {stream.name: tokens.data[stream.name][:, :used]}
        return replace(tokens, streams=(cut,), data=data)

    def codebook(self) -> np.ndarray:
        """float32 ``[K, D]``."""
        return self.net.quantize.embedding.weight.detach().cpu().numpy()

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        return {
            "encoder": Half(net.encode, net=net.encoder, quant=net.quant_conv, codes=net.quantize),
            "decoder": Half(net.decode, net=net.decoder, post=net.post_quant_conv, codes=net.quantize),
        }


def parsed(sides: str) -> tuple[int, ...]:
    """``1-2-4`` as numbers. Raises `UsageError` unless they grow."""
    try:
        numbers = tuple(int(s) for s in sides.split("-"))
    except ValueError as error:
        raise UsageError(f"sides are numbers joined by dashes, not '{sides}'") from error
    if len(numbers) < 2 or list(numbers) != sorted(set(numbers)) or numbers[0] < 1:
        raise UsageError(f"sides grow from scale to scale, at least two of them, not '{sides}'")
    return numbers
