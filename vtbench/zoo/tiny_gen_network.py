"""The network of `tiny-gen`: a causal transformer over the first tokens of `tiny`'s sequence, coarse to fine, given a class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH = 320
"""Tokens that it makes of a 256 x 256 image: all of `tiny`'s first two levels."""
CODES = 64
CLASSES = ("animals", "monuments", "nature", "various", "words")
"""What the training pictures show, in the order of the labels."""


class _Layer(nn.Module):
    """Pre-norm attention over the positions so far, then two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.qkv, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.between, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: Tensor | None, drop: float = 0.0) -> tuple[Tensor, Tensor]:
        """``[B, n, width]`` after `past` keys and values ``[2, B, heads, m, width / heads]`` -> (the same, keys and values of all m + n).

        Without a past every position sees those up to itself; with one, n is 1 and sees everything.
        """
        q, k, v = self.qkv(self.before(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = torch.stack([k, v]) if past is None else torch.cat([past, torch.stack([k, v])], 3)
        mixed = F.scaled_dot_product_attention(q, seen[0], seen[1], is_causal=past is None)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), drop, self.training)
        return x + F.dropout(self.down(F.gelu(self.up(self.between(x)))), drop, self.training), seen


class TinyGenNet(nn.Module):
    """The network. Ids are int64 [B, k] in [0, 64), k <= 320; labels int64 [B] in [0, 5], 5 meaning no class."""

    def __init__(self, width: int = 128, layers: int = 6, heads: int = 4, drop: float = 0.0) -> None:
        super().__init__()
        self.drop = drop
        self.label = nn.Embedding(len(CLASSES) + 1, width)
        self.code = nn.Embedding(CODES, width)
        self.place = nn.Parameter(torch.randn(LENGTH, width) * 0.02)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CODES)
        for embedding in (self.label, self.code):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, labels: Tensor, ids: Tensor) -> Tensor:
        """Logits [B, k + 1, 64] of every next token, the first from the class alone; k < 320."""
        x = torch.cat([self.label(labels)[:, None], self.code(ids)], 1) + self.place[: ids.shape[1] + 1]
        for layer in self.layers:
            x, _ = layer(x, None, self.drop)
        return self.head(self.norm(x))

    @torch.no_grad()
    def sample(self, labels: Tensor, draws: Tensor, *, temperature: float = 1.0, guidance: float = 1.0) -> Tensor:
        """Draw ids int64 [B, k], one by one.

        Args:
            labels: int64 [B].
            draws: floats [B, k] in [0, 1), of each image's own noise: the token is where the distribution's cumulated sum passes the draw.
            temperature: divides the logits; 0 takes the likeliest.
            guidance: logits are those without a class plus `guidance` times what the class adds (Ho & Salimans, arXiv:2207.12598); 1 is none.
        """
        guided = guidance != 1
        none = torch.full_like(labels, len(CLASSES))
        x = self.label(torch.cat([labels, none]) if guided else labels)[:, None]
        past: list[Tensor | None] = [None] * len(self.layers)
        made = []
        for step in range(draws.shape[1]):
            x = x + self.place[step]
            for index, layer in enumerate(self.layers):
                x, past[index] = layer(x, past[index])
            logits = self.head(self.norm(x[:, -1])).double()
            if guided:
                given, free = logits.chunk(2)
                logits = free + guidance * (given - free)
            if temperature == 0:
                ids = logits.argmax(1)
            else:
                sums = (logits / temperature).softmax(1).cumsum(1)
                ids = torch.searchsorted(sums, draws[:, step, None].to(sums) * sums[:, -1:], right=True)[:, 0]
                ids = ids.clamp_max(CODES - 1)
            made.append(ids)
            x = self.code(torch.cat([ids, ids]) if guided else ids)[:, None]
        return torch.stack(made, 1)
