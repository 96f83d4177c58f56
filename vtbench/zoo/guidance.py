"""What a user says of guidance: ``none``, ``best`` (what the model's authors use), or a number."""

from __future__ import annotations

import math

from vtbench.errors import UsageError


def scale(text: str, *, best: float, none: float, model: str) -> tuple[float, str]:
    """(the scale, how the record calls it). none: the value that switches guidance off in this family.

    Raises `UsageError` for anything else."""
    word = text.strip().lower()
    if word == "none":
        return none, "none"
    if word == "best":
        return best, f"{best:g}" if best != none else "none"
    try:
        value = float(word)
    except ValueError as error:
        raise UsageError(f"{model}: guidance is none, best or a number, not '{text}'") from error
    return value, f"{value:g}" if value != none else "none"


def power_cosine(scale: float, power: float, passed: float) -> float:
    """A scale that rises from 1 to `scale` along a cosine. passed: the share of the steps that is done, in [0, 1]; power: how late it rises."""
    return (scale - 1) * (1 - math.cos(passed**power * math.pi)) / 2 + 1
