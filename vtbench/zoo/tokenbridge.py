"""TokenBridge (Wang et al., arXiv:2503.16430): KL-16's continuous latents, each number quantised by itself after training.

The latents are scaled to about unit variance, then every one of the 16 x 16 x 16 numbers takes the nearest of 2^bits levels, the conditional means of a
normal distribution's equally probable intervals. No weights beside KL-16's. The authors draw from the posterior; here its mode is the default.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench.api import Condition, Stream, Tokens
from vtbench.errors import UsageError
from vtbench.zoo.card import Card
from vtbench.zoo.kl_vae import KLVAE
from vtbench.zoo.published import Shapes
from vtbench.zoo.quantise import posterior
from vtbench.zoo.vqgan import VQGANConfig

SCALE = 0.2325
"""MAR's factor from KL-16's latents to about unit variance."""


def levels(bits: int, limit: float, sigmas: float) -> np.ndarray:
    """The 2^bits values that a scaled latent can take, float32, growing.

    limit: a latent of this size is `sigmas` deviations out. The mean of a standard normal between two quantiles a and b, which are cut at `sigmas`, is
    (pdf(a) - pdf(b)) / (cdf(b) - cdf(a)); the outermost two are those of the intervals so cut."""
    from scipy.stats import norm

    edges = norm.ppf(np.linspace(0, 1, 2**bits + 1, dtype=np.float32)).astype(np.float32)
    edges = np.clip(edges, -sigmas, sigmas)
    a, b = torch.from_numpy(edges[:-1]), torch.from_numpy(edges[1:])

    def density(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)

    def below(x: Tensor) -> Tensor:
        return 0.5 * (1 + torch.erf(x / math.sqrt(2)))

    means = (density(a) - density(b)) / (below(b) - below(a))
    return ((means + sigmas) / (2 * sigmas) * (2 * limit) - limit).numpy()


class TokenBridge(KLVAE):
    """params: bits of a number (6 in the paper); limit and sigmas, the range of the scaled latents that the levels cover (5 and 3)."""

    family = "tokenbridge"

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        bits: int = 6,
        limit: float = 5.0,
        sigmas: float = 3.0,
    ) -> None:
        if not 1 <= bits <= 12:
            raise UsageError(f"TokenBridge quantises to 1 to 12 bits, not {bits}")
        self._levels = torch.from_numpy(levels(bits, limit, sigmas))
        self._open(card, weights, state_key, allow_code)

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> VQGANConfig:
        return super().infer(shapes)

    @classmethod
    def from_state(
        cls, state: Any, *, bits: int = 6, limit: float = 5.0, sigmas: float = 3.0, **rest: Any
    ) -> TokenBridge:
        """As the base's; bits, limit and sigmas as for the class."""
        made = super().from_state(state, **rest)
        made._levels = torch.from_numpy(levels(bits, limit, sigmas))
        return made

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
        """Images float32 ``[B, 3, H, W]`` in [0, 1] -> one stream ``tokens`` ``[B, h * w, D]``: a product code, one index a latent number."""
        z = posterior(self.moments(images), sample, seeds) * SCALE
        table = self._levels.to(z.device)
        # Levels grow, so the nearest is found by the borders half-way between them; a tie takes the lower, as argmin does.
        ids = torch.bucketize(z, (table[1:] + table[:-1]) / 2).flatten(2).transpose(1, 2)
        sizes = (len(table),) * int(z.shape[1])
        stream = Stream("tokens", "index", "grid2d", sizes, (int(z.shape[2]), int(z.shape[3])))
        return Tokens((stream,), {"tokens": ids}, len(ids), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Indices -> images float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        values = self._levels.to(self._device)[self._ids(tokens, stream.name)] / SCALE
        z = values.transpose(1, 2).unflatten(2, stream.shape)
        return self._leave(self.net.decode(z.to(self._dtype)))

    def codebook(self) -> np.ndarray:
        """float32 ``[2^bits, 1]``: the levels of one number, scaled."""
        return self._levels[:, None].numpy()
