"""LlamaGen's class-conditional transformers (Sun et al., arXiv:2406.06525): a Llama over the tokens of its VQ, with two-dimensional rotary positions.

Layout and numbers: https://github.com/FoundationVision/LlamaGen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Tokenizer
from vtbench.errors import BadWeights, UsageError
from vtbench.zoo.card import Card
from vtbench.zoo.guidance import scale
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.token_generator import Draws, TokenGenerator, attend, one_by_one

HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2560: 40, 3200: 32}
"""Heads of the published widths; of others, as many as make 64 numbers each."""


@dataclass(frozen=True)
class GPTConfig:
    """Sizes, as the tensors' shapes give them."""

    width: int
    depth: int
    heads: int
    hidden: int
    codes: int
    classes: int
    side: int


class Norm(nn.Module):
    """Root-mean-square norm, in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).type_as(x) * self.weight


class Attention(nn.Module):
    """Multi-head attention with rotary positions and a cache of keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.wqkv, self.wo = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, turn: Tensor, past: list[Tensor]) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)) for t in self.wqkv(x).chunk(3, -1))
        q, k, v = rotate(q, turn).transpose(1, 2), rotate(k, turn).transpose(1, 2), v.transpose(1, 2)
        return self.wo(attend(q, k, v, past))


class Block(nn.Module):
    """Attention and a gated feed-forward, each after a norm."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.attention = Attention(width, config.heads)
        self.feed_forward = nn.ModuleDict(
            {
                "w1": nn.Linear(width, hidden, bias=False),
                "w3": nn.Linear(width, hidden, bias=False),
                "w2": nn.Linear(hidden, width, bias=False),
            }
        )
        self.attention_norm, self.ffn_norm = Norm(width), Norm(width)

    def forward(self, x: Tensor, turn: Tensor, past: list[Tensor]) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, past)
        y, parts = self.ffn_norm(x), self.feed_forward
        return x + parts["w2"](F.silu(parts["w1"](y)) * parts["w3"](y))


class GPTNet(nn.Module):
    """The network. The class comes first, at a position that turns nothing to zero: its keys and queries vanish, as in the published code."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_embedding = nn.ModuleDict({"embedding_table": nn.Embedding(config.classes + 1, config.width)})
        self.tok_embeddings = nn.Embedding(config.codes, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = Norm(config.width)
        self.output = nn.Linear(config.width, config.codes, bias=False)

    def forward(self, ids: Tensor, classes: Tensor, past: list[list[Tensor]] | None = None) -> Tensor:
        """Logits after each new position, float32 ``[B, M, K]``. ids: the tokens so far ``[B, N]`` (N may be 0). classes: ``[B]``; `config.classes` for none."""
        caches = [[] for _ in self.layers] if past is None else past  # type: ignore[var-annotated]
        old = caches[0][0].shape[2] if caches[0] else 0
        table = self.cls_embedding["embedding_table"]
        x = torch.cat([table(classes)[:, None], self.tok_embeddings(ids)], 1)
        turn = turns(self.config, x.device)[old : x.shape[1]]
        x = x[:, old:]
        for layer, cache in zip(self.layers, caches):
            x = layer(x, turn, cache)
        return self.output(self.norm(x)).float()


def turns(config: GPTConfig, device: torch.device) -> Tensor:
    """Cosines and sines of every position ``[1 + side^2, head / 2, 2]``: half of a head turns by the row, half by the column; the class's are zero."""
    half = config.width // config.heads // 2
    rates = 1.0 / 10000 ** (torch.arange(0, half, 2, device=device)[: half // 2].float() / half)
    angles = torch.outer(torch.arange(config.side, device=device), rates)
    side = config.side
    grid = torch.cat([angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)], -1).flatten(0, 1)
    return F.pad(torch.stack([grid.cos(), grid.sin()], -1), (0, 0, 0, 0, 1, 0))


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Turn pairs of neighbouring numbers of ``[B, N, heads, d]``."""
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = turn[:, None, :, 0], turn[:, None, :, 1]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2).type_as(x)


class LlamaGenGPT(TokenGenerator):
    """The adapter. guidance: a constant scale (none: 1). top_k, top_p: cut the distribution (0 and 1: whole). eval_size: side to which the authors resize
    images before they measure (0: as decoded). side: of the grid of tokens, which no tensor tells (24 for the models of 384 pixels)."""

    family = "llamagen"
    drop = ("freqs_cis",)

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        guidance: str = "best",
        best: float = 2.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        eval_size: int = 0,
        side: int = 16,
        decoder: str = "llamagen-vq-ds16",
        decoder_weights: str = "",
    ) -> None:
        self._set(
            guidance=guidance,
            best=best,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eval_size=eval_size,
            side=side,
            decoder=decoder,
        )
        self._open(card, weights, state_key, allow_code, decoder, decoder_weights)

    def _join(self, decoder: Tokenizer, revision: str) -> None:
        super()._join(decoder, revision)
        self.steps = self.facts()[1]
        if self._eval:
            self.capabilities = replace(self.capabilities, resolution=self._eval)

    def _set(  # type: ignore[override]
        self,
        *,
        guidance: str = "best",
        best: float = 2.0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        eval_size: int = 0,
        side: int = 16,
        decoder: str = "",
    ) -> None:
        if temperature <= 0 or top_k < 0 or not 0 < top_p <= 1:
            raise UsageError("llamagen: temperature above 0, top_k of 0 or more, top_p above 0 and at most 1")
        self._scale, said = scale(guidance, best=best, none=1.0, model="llamagen")
        self._temperature, self._top_k, self._top_p, self._eval = temperature, top_k, top_p, eval_size
        self.untold = {"side": side}
        self.params = {
            "guidance": said,
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            **({"eval_size": eval_size} if eval_size else {}),
            "decoder": decoder,
        }

    @classmethod
    def infer(cls, shapes: Shapes, *, side: int = 16) -> GPTConfig:  # type: ignore[override]
        """From the tensors' shapes; the grid's side is not among them."""
        codes, width = wanted(shapes, "output.weight", cls.family)
        table = wanted(shapes, "cls_embedding.embedding_table.weight", cls.family)
        qkv = wanted(shapes, "layers.0.attention.wqkv.weight", cls.family)
        if qkv[0] != 3 * width:
            raise BadWeights("keys and values shared by heads: no published class-conditional model has them")
        return GPTConfig(
            width=width,
            depth=count(shapes, "layers.{}."),
            heads=HEADS.get(width, max(1, width // 64)),
            hidden=wanted(shapes, "layers.0.feed_forward.w1.weight", cls.family)[0],
            codes=codes,
            classes=table[0] - 1,
            side=side,
        )

    @classmethod
    def build(cls, config: GPTConfig) -> nn.Module:
        return GPTNet(config)

    def facts(self) -> tuple[int, int, int]:
        config = self.loaded.config
        return config.classes, config.side**2, config.codes

    def finish(self, images: Tensor) -> Tensor:
        """Resized as the authors do before they measure: bicubic, without antialias, on floats."""
        if not self._eval or images.shape[-1] == self._eval:
            return images
        return F.interpolate(images * 2 - 1, (self._eval, self._eval), mode="bicubic").clamp(-1, 1) / 2 + 0.5

    def sample(self, labels: Tensor, draws: Draws) -> Tensor:
        """One token after another, of the most probable ones."""
        config = self.loaded.config
        return one_by_one(
            self.net,
            labels,
            draws,
            tokens=config.side**2,
            depth=config.depth,
            none=config.classes,
            guidance=(lambda step: self._scale) if self._scale > 1 else None,
            sharpen=lambda logits: cut(logits / self._temperature, self._top_k, self._top_p),
        )


def cut(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits ``[B, K]`` with -inf outside the `top_k` largest (0: all) and outside the least set that holds `top_p` of the probability."""
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p < 1:
        ranked, order = logits.sort(descending=True)
        before = ranked.softmax(-1).cumsum(-1) - ranked.softmax(-1)
        logits = logits.masked_fill((before > top_p).scatter(-1, order, before > top_p), float("-inf"))
    return logits
