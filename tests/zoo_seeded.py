"""Weights and images from a seed, the same on every machine and version: what the zoo's golden files were made with.

Each tensor has a generator of its own, seeded by its name, so that neither order nor other tensors matter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

torch.set_num_threads(1)  # such small networks only make threads wait for each other


def _normal(word: str, shape: Sequence[int]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape))


def seeded_state(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, torch.Tensor]:
    """A float32 tensor per name: matrices and kernels of about unit gain, embeddings of about unit entries, gains of norms about 1, biases about 0."""
    state = {}
    for name, shape in shapes.items():
        value = _normal(f"{seed}/{name}", shape)
        table = name.endswith("embedding.weight") or not name.endswith(("weight", "bias"))
        if len(shape) > 1 and table:
            value = 1.0 * value
        elif len(shape) > 1:
            value = value / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("weight"):
            value = 1 + 0.1 * value
        else:
            value = 0.1 * value
        state[name] = torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32).reshape(tuple(shape)))
    return state


def seeded_images(shape: Sequence[int], seed: int = 0) -> torch.Tensor:
    """Smooth random images in [0, 1], float32 ``[B, 3, H, W]``."""
    batch, channels, height, width = shape
    coarse = _normal(f"images/{seed}", (batch, channels, 8, 8))
    grown = coarse.repeat(-(-height // 8), axis=2)[:, :, :height].repeat(-(-width // 8), axis=3)[..., :width]
    noisy = 0.5 + 0.2 * grown + 0.05 * _normal(f"noise/{seed}", shape)
    return torch.from_numpy(np.clip(noisy, 0, 1).astype(np.float32))


def digest_of(images: torch.Tensor) -> dict[str, list[float]]:
    """A small fingerprint of images: mean, standard deviation and a few pixels of each."""
    flat = images.detach().double().flatten(1)
    places = np.linspace(0, flat.shape[1] - 1, 24).astype(int)
    return {
        "mean": [round(v, 8) for v in flat.mean(1).tolist()],
        "std": [round(v, 8) for v in flat.std(1).tolist()],
        "pixels": [[round(v, 7) for v in row] for row in flat[:, places].tolist()],
    }
