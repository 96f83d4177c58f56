"""A toy tokenizer of few lines, whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vtbench.api import Capabilities, Condition, Generated, Generator, Stream, Tokenizer, Tokens
from vtbench.errors import BadSample


class Patches(Tokenizer):
    """The mean grey of every 8 x 8 patch, in `levels` steps: one token a patch. Counts its calls; `bad` ids fail."""

    def __init__(self, levels: int = 16, bad: Sequence[str] = (), revision: str = "toy") -> None:
        self.name, self.revision, self.params = "patches", revision, {"levels": levels}
        self.levels, self.bad = levels, frozenset(bad)
        self.capabilities = Capabilities(multiple=8, prefix=True, scales_with_area=True)
        self.encoded = self.decoded = 0

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        for c in condition or ():
            if c.id in self.bad:
                raise BadSample(f"{c.id} is one of the bad ones")
        self.encoded += len(images)
        grey = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 8)[:, 0]
        ids = (grey * (self.levels - 1)).round().long()
        stream = Stream("grey", "index", "grid2d", (self.levels,), tuple(ids.shape[1:]), ordered=True)
        return Tokens((stream,), {"grey": ids.flatten(1)}, len(images), extra=tuple(ids.shape[1:]))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        self.decoded += len(tokens)
        ids = torch.as_tensor(np.asarray(tokens.data["grey"])).float()
        h, w = tokens.extra
        full = torch.full((len(ids), h * w), self.levels / 2)
        full[:, : ids.shape[1]] = ids
        grey = full.view(-1, 1, h, w) / (self.levels - 1)
        return torch.nn.functional.interpolate(grey, scale_factor=8, mode="nearest").expand(-1, 3, -1, -1)


def build(**params: Any) -> Patches:
    """What ``FILE.py:build`` names."""
    return Patches(**params)


class Blots(Generator):
    """Noise of each image's own seed around its label's grey; tokens are the greys. Counts its calls."""

    def __init__(self, classes: int = 4, side: int = 32, revision: str = "blots") -> None:
        self.name, self.revision, self.params = "blots", revision, {"side": side}
        self.side, self.calls = side, 0
        self.capabilities = Capabilities(
            any_resolution=False,
            resolution=side,
            classes=classes,
            stochastic=True,
            gives_tokens=True,
            prefix=True,
            max_tokens=4,
        )

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> Generated:
        self.calls += len(conditions)
        images, ids = [], []
        for condition, seed in zip(conditions, seeds):
            generator = torch.Generator().manual_seed(seed)
            small = torch.rand((3, 4, 4), generator=generator) / 2 + (condition.label or 0) / 8
            if budget is not None:
                small = small[:, : max(1, budget)].mean((1, 2), keepdim=True).expand(3, 4, 4)
            images.append(torch.nn.functional.interpolate(small[None], (self.side, self.side), mode="bilinear")[0])
            ids.append((small.mean((0, 2)) * 255).long())
        data = torch.stack(ids)[:, :budget]
        stream = Stream("greys", "index", "seq1d", (256,), (data.shape[1],), ordered=True)
        return Generated(torch.stack(images), Tokens((stream,), {"greys": data}, len(images)))


def build_blots(**params: Any) -> Blots:
    """What ``FILE.py:build_blots`` names."""
    return Blots(**params)
