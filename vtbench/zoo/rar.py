"""RAR (Yu et al., arXiv:2411.00776): a causal transformer over MaskGIT-VQGAN's tokens, class-conditional, in raster order when sampling.

Layout and numbers: https://github.com/bytedance/1d-tokenizer. The vocabulary is codes, a mask, classes, and "no class". Every position adds an embedding of its own and one of the
position that it predicts; the class modulates every block (adaLN), with an embedding of the step added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Tokenizer
from vtbench.errors import UsageError
from vtbench.zoo.card import Card
from vtbench.zoo.guidance import power_cosine, scale
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.token_generator import Draws, TokenGenerator, attend, one_by_one

SPARE, SPARE_STEPS = 1024, 100
"""Rows of the position tables beyond the tokens', in every published file."""


@dataclass(frozen=True)
class RARConfig:
    """Sizes, as the tensors' shapes give them."""

    width: int
    depth: int
    heads: int
    hidden: int
    codes: int
    tokens: int
    classes: int


class Attention(nn.Module):
    """Multi-head attention with normalised queries and keys, and a cache of keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.LayerNorm(width // heads, eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, past: list[Tensor]) -> Tensor:
        """x ``[B, N, C]``; `past` holds earlier keys and values, and is extended."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        return self.proj(attend(q, k, v, past))


class Block(nn.Module):
    """A transformer block that a condition shifts, scales and gates."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, past: list[Tensor]) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaLN_modulation(c).chunk(6, -1)
        x = x + gate_a * self.attn(self.norm1(x) * (1 + scale_a) + shift_a, past)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x) * (1 + scale_m) + shift_m))
        return x + gate_m * self.mlp["fc2"](hidden)


class Head(nn.Module):
    """The last modulation; its first half scales and its second shifts, unlike in the blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        scale_, shift = self.adaLN_modulation(c).chunk(2, -1)
        return self.norm_final(x) * (1 + scale_) + shift


class RARNet(nn.Module):
    """The network; `step` runs one more position."""

    def __init__(self, config: RARConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.blocks = nn.ModuleList(Block(width, config.heads, config.hidden) for _ in range(config.depth))
        self.embeddings = nn.Embedding(config.codes + config.classes + 2, width)
        self.pos_embed = nn.Parameter(torch.empty(1, config.tokens + SPARE, width))
        self.target_aware_pos_embed = nn.Parameter(torch.empty(1, config.tokens + SPARE, width))
        self.timesteps_embeddings = nn.Parameter(torch.empty(1, config.tokens + SPARE_STEPS, width))
        self.adaln_before_head = Head(width)
        self.lm_head = nn.Linear(width, config.codes)

    def forward(self, ids: Tensor, classes: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        """Logits of the token after each of the new positions, the first of them after the class: float ``[B, M, K]``.

        ids: the tokens so far, int64 ``[B, N]`` (N may be 0). classes: int64 ``[B]``, `config.classes` for none. past: keys and values of a former call a block, extended."""
        caches = [[] for _ in self.blocks] if past is None else past  # type: ignore[var-annotated]
        condition = self.embeddings(classes + self.config.codes + 1)[:, None]
        x = torch.cat([self.cls_token.expand(len(ids), -1, -1), condition, self.embeddings(ids)], 1)
        length = x.shape[1]
        x = x + self.pos_embed[:, :length]
        # Position i > 0 is told which position comes next; the table starts with two rows that belong to the prefix.
        ahead = self.target_aware_pos_embed[:, 2 : self.config.tokens + 2][:, : length - 1]
        x = x + F.pad(ahead, (0, 0, 1, length - 1 - ahead.shape[1]))
        c = condition + self.timesteps_embeddings[:, :length]
        old = caches[0][0].shape[2] if caches[0] else 0
        x, c = x[:, old:], c[:, old:]
        for block, cache in zip(self.blocks, caches):
            x = block(x, c, cache)
        if old == 0:
            x, c = x[:, 1:], c[:, 1:]
        return self.lm_head(self.adaln_before_head(x, c))


class RAR(TokenGenerator):
    """The adapter. guidance: the scale at the last token, reached along a power-cosine of exponent `power`; temperature: of every draw.

    decoder: the tokenizer whose decoder is used; decoder_weights: a checkpoint for it."""

    family = "rar"
    drop = ("attn_mask",)

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        guidance: str = "best",
        best: float = 4.0,
        power: float = 0.0,
        temperature: float = 1.0,
        decoder: str = "maskgit-vqgan",
        decoder_weights: str = "",
    ) -> None:
        self._set(guidance=guidance, best=best, power=power, temperature=temperature, decoder=decoder)
        self._open(card, weights, state_key, allow_code, decoder, decoder_weights)

    def _join(self, decoder: Tokenizer, revision: str) -> None:
        super()._join(decoder, revision)
        self.steps = self.facts()[1]

    def _set(  # type: ignore[override]
        self,
        *,
        guidance: str = "best",
        best: float = 4.0,
        power: float = 0.0,
        temperature: float = 1.0,
        decoder: str = "",
    ) -> None:
        if temperature <= 0:
            raise UsageError(f"rar: temperature is above 0, not {temperature:g}")
        self._scale, said = scale(guidance, best=best, none=0.0, model="rar")
        self._power, self._temperature = power, temperature
        self.params = {"guidance": said, "power": power, "temperature": temperature, "decoder": decoder}

    @classmethod
    def infer(cls, shapes: Shapes, **untold: Any) -> RARConfig:
        """From the tensors' shapes; heads of the size that the published models have (48 to 80), which the norms of queries say."""
        codes, width = wanted(shapes, "lm_head.weight", cls.family)
        vocabulary, _ = wanted(shapes, "embeddings.weight", cls.family)
        head = wanted(shapes, "blocks.0.attn.q_norm.weight", cls.family)[0]
        return RARConfig(
            width=width,
            depth=count(shapes, "blocks.{}."),
            heads=width // head,
            hidden=wanted(shapes, "blocks.0.mlp.fc1.weight", cls.family)[0],
            codes=codes,
            tokens=wanted(shapes, "pos_embed", cls.family)[1] - SPARE,
            classes=vocabulary - codes - 2,
        )

    @classmethod
    def build(cls, config: RARConfig) -> nn.Module:
        return RARNet(config)

    def facts(self) -> tuple[int, int, int]:
        config = self.loaded.config
        return config.classes, config.tokens, config.codes

    def sample(self, labels: Tensor, draws: Draws) -> Tensor:
        """One token after another, with guidance that rises."""
        config = self.loaded.config
        return one_by_one(
            self.net,
            labels,
            draws,
            tokens=config.tokens,
            depth=config.depth,
            none=config.classes,
            guidance=(lambda step: power_cosine(self._scale, self._power, step / config.tokens))
            if self._scale
            else None,
            sharpen=lambda logits: logits / self._temperature,
        )
