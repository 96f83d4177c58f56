"""Features inside an encoder, for probes: the output of a layer while the encoder runs, laid out by position."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def output_of(module: nn.Module, run: Callable[[], Any]) -> Tensor:
    """What a module gives while `run` runs (its last output, where it runs more than once)."""
    seen: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, given, out: seen.append(out))
    try:
        run()
    finally:
        hook.remove()
    return seen[-1]


def positions(features: Tensor) -> Tensor:
    """``[B, D, h, w]`` or ``[B, N, D]`` -> fp32 ``[B, N, D]``."""
    return (features.flatten(2).transpose(1, 2) if features.ndim == 4 else features).float()
