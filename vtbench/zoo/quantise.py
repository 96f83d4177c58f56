"""From latents to codes and back: nearest neighbours, sign bits and posteriors, in fp32 whatever the network's dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["distance", "cosine", "dot"]
"""How a code is chosen: the least squared distance, the same after both sides are scaled to unit length, or the greatest dot product."""

_BLOCK = 1 << 26
"""Entries of one block of the distance matrix (256 MiB of fp32)."""


def nearest(z: Tensor, codebook: Tensor, rule: Rule = "distance") -> Tensor:
    """The index of each vector's code: z ``[..., D]``, codebook ``[K, D]`` -> int64 ``[...]``."""
    flat, codes = z.reshape(-1, z.shape[-1]).float(), codebook.float()
    if rule == "cosine":
        flat, codes = F.normalize(flat, dim=-1), F.normalize(codes, dim=-1)
    squares = codes.square().sum(1)
    found = []
    for rows in flat.split(max(1, _BLOCK // len(codes))):
        product = rows @ codes.T
        if rule == "dot":
            found.append(product.argmax(1))
        else:
            found.append((rows.square().sum(1, keepdim=True) + squares - 2 * product).argmin(1))
    return torch.cat(found).view(z.shape[:-1])


def lookup(ids: Tensor, codebook: Tensor, rule: Rule = "distance") -> Tensor:
    """The codes themselves: ids ``[...]`` -> fp32 ``[..., D]``, of unit length under `cosine`."""
    codes = F.embedding(ids, codebook.float())
    return F.normalize(codes, dim=-1) if rule == "cosine" else codes


def signs_to_ids(z: Tensor) -> Tensor:
    """Lookup-free quantisation: bit i of an id says whether dimension i is above zero. z ``[..., bits]`` -> int64 ``[...]``."""
    place = 2 ** torch.arange(z.shape[-1], device=z.device)
    return ((z > 0).long() * place).sum(-1)


def ids_to_signs(ids: Tensor, bits: int) -> Tensor:
    """int64 ``[...]`` -> fp32 ``[..., bits]`` of -1 and 1, the inverse of `signs_to_ids`."""
    place = 2 ** torch.arange(bits, device=ids.device)
    return ((ids[..., None] & place) != 0).float() * 2 - 1


def posterior(moments: Tensor, sample: bool, seeds: Sequence[int] | None, dim: int = 1) -> Tensor:
    """The mode of a diagonal Gaussian given as (mean, log variance) along `dim`, or with `sample` a draw from it.

    Noise is drawn on the CPU, each image from its own seed, so that it depends neither on the batch nor on the device."""
    mean, log_variance = moments.float().chunk(2, dim)
    if not sample:
        return mean
    noise = torch.stack(
        [
            torch.randn(mean.shape[1:], generator=torch.Generator().manual_seed(seed))
            for seed in (seeds if seeds is not None else range(len(mean)))
        ]
    )
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise.to(mean.device)
