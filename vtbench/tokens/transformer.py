"""A small causal transformer over token sequences: GPT-2's block, a fixed number of training tokens, a fixed seed.

Imports torch when it runs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.errors import BadData
from vtbench.tokens.kneser_ney import HeldOut, measured, split

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Budget:
    """What a training run may spend. tokens: seen in training, over as many epochs as it takes. batch: tokens a step. rate: the peak
    learning rate (AdamW, cosine to a tenth after 5 % of warm-up, clipped at 1)."""

    tokens: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    batch: int = 16384
    rate: float = 1e-3
    seed: int = 0


def held_out(ids: np.ndarray, size: int, budget: Budget, *, device: str | None = None) -> HeldOut:
    """Train on four of five sequences ``[M, N]`` (-1: absent, at the end) and measure the fifth in bits.

    device: None takes a GPU if there is one. The caller's random state and thread count are left as they were. Raises `BadData` with fewer than two sequences."""
    import torch

    device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
    if len(ids) < 2:
        raise BadData("one image: a language model needs images to learn from and others to be measured on")
    learn, test = split(len(ids), ids.shape[1], ids.size)
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(budget.seed)
        model = _network(size, ids.shape[1], budget).to(device)
        _fit(model, ids[learn], size, budget, device)
        with torch.inference_mode():
            bits = _bits(model, ids[test], size, device)
            seen = _bits(model, ids[learn[: len(test)]], size, device)
    finally:
        torch.random.set_rng_state(state)
    return measured(bits, test, min(budget.tokens, int((ids[learn] >= 0).sum())), float(np.nanmean(seen)))


def _network(size: int, length: int, budget: Budget) -> Any:
    import torch
    from torch import nn

    class Block(nn.Module):
        """Pre-norm attention and a four times wider perceptron with GELU."""

        def __init__(self) -> None:
            super().__init__()
            width = budget.width
            self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.mlp = nn.Sequential(
                nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, n, width = x.shape
            q, k, v = self.qkv(self.before(x)).view(b, n, 3, budget.heads, width // budget.heads).permute(2, 0, 3, 1, 4)
            seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(seen.transpose(1, 2).reshape(b, n, width))
            mixed: torch.Tensor = x + self.mlp(self.between(x))
            return mixed

    class Network(nn.Module):
        """Token and position embeddings, blocks, tied output."""

        def __init__(self) -> None:
            super().__init__()
            self.symbols = nn.Embedding(size + 1, budget.width)
            self.places = nn.Embedding(length, budget.width)
            self.blocks = nn.Sequential(*(Block() for _ in range(budget.layers)))
            self.last = nn.LayerNorm(budget.width)
            self.bias = nn.Parameter(torch.zeros(size))
            for module in self.modules():
                if isinstance(module, (nn.Linear, nn.Embedding)):
                    nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.bias)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.symbols(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
            hidden = self.last(self.blocks(x))
            logits: torch.Tensor = hidden @ self.symbols.weight[:size].T + self.bias
            return logits

    return Network()


def _shifted(rows: np.ndarray, size: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(what the network reads: a start symbol, then all but the last token; what it shall say: -1 is ignored)."""
    import torch

    target = torch.from_numpy(rows.astype(np.int64)).to(device)
    start = torch.full((len(rows), 1), size, device=device)
    seen = torch.cat([start, target[:, :-1].clamp(min=0)], dim=1)
    return seen, target


def _fit(model: Any, ids: np.ndarray, size: int, budget: Budget, device: str) -> None:
    import math

    import torch

    rows = max(1, budget.batch // ids.shape[1])
    steps = max(1, budget.tokens // (rows * ids.shape[1]))
    optimiser = torch.optim.AdamW(model.parameters(), lr=budget.rate, betas=(0.9, 0.95), weight_decay=0.01)
    warm = max(1, steps // 20)
    rng = np.random.default_rng(budget.seed)
    order = np.zeros(0, np.int64)
    for step in range(steps):
        while len(order) < rows:
            order = np.concatenate([order, rng.permutation(len(ids))])
        picked, order = order[:rows], order[rows:]
        progress = (step - warm) / max(1, steps - warm)
        scale = (step + 1) / warm if step < warm else 0.1 + 0.45 * (1 + math.cos(math.pi * progress))
        for group in optimiser.param_groups:
            group["lr"] = budget.rate * scale
        seen, target = _shifted(ids[picked], size, device)
        logits = model(seen)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()


def _bits(model: Any, ids: np.ndarray, size: int, device: str) -> np.ndarray:
    """Bits of every token ``[M, N]``; nan where it is absent."""
    import math

    import torch

    out = np.full(ids.shape, np.nan)
    rows = max(1, (1 << 25) // (size * ids.shape[1]))
    for start in range(0, len(ids), rows):
        part = ids[start : start + rows]
        seen, target = _shifted(part, size, device)
        loss = torch.nn.functional.cross_entropy(
            model(seen).flatten(0, 1).float(), target.flatten(), ignore_index=-1, reduction="none"
        )
        bits = loss.view(target.shape).cpu().numpy() / math.log(2)
        out[start : start + rows] = np.where(part >= 0, bits, np.nan)
    return out


def describe(budget: Budget) -> dict[str, Any]:
    """The budget as a row's notes have it."""
    return asdict(budget)
