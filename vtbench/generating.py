"""From conditions to images: one batch of a generator, checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vtbench.api import GENERATED, Condition, Generated, Generator, Model
from vtbench.engine.chunks import seed_of
from vtbench.errors import BadSample, VtbenchError
from vtbench.view import Item


def unmade(samples: Sequence[Any]) -> list[Item]:
    """Conditions on their way: there are no pictures yet."""
    return [Item(position, sample, np.zeros((0, 0, 3), np.uint8)) for position, sample in enumerate(samples)]


def conditions_of(items: Sequence[Item]) -> list[Condition]:
    """What a model may know of some samples."""
    return [Condition(i.sample.id, i.sample.label, i.sample.caption) for i in items]


def generate(model: Model, items: Sequence[Item], seed: int, budget: int | None, side: int | None) -> Generated:
    """One image per item, float32 in [0, 1], from 63 bits of sha256("{seed}/{sample id}/generate").

    budget: of a prefix model. side: the width and height that the images must have (None: any). Raises `BadSample` for a condition that the model
    cannot use, values that are not finite and images of another size; `VtbenchError` for a wrong shape."""
    if not isinstance(model, Generator):
        raise VtbenchError(f"{model.name} is a tokenizer: it makes no images from conditions")
    if not model.capabilities.per_image_noise and len(items) > 1:
        return joined([generate(model, [item], seed, budget, side) for item in items])
    conditions = conditions_of(items)
    for condition in conditions:
        check(model, condition)
    seeds = [seed_of(seed, c.id, GENERATED.spelled()) for c in conditions]
    out = model.generate(conditions, seeds=seeds, budget=budget)
    made = out if isinstance(out, Generated) else Generated(out)
    shape = tuple(made.images.shape)
    if len(shape) != 4 or shape[:2] != (len(items), 3):
        raise VtbenchError(f"{model.name} generates shape {shape}, not [{len(items)}, 3, H, W]")
    if side is not None and shape[2:] != (side, side):
        raise BadSample(f"{model.name} gave an image of {shape[3]} x {shape[2]} pixels, not {side} x {side}")
    if not bool(torch.isfinite(made.images).all()):
        raise BadSample(f"{model.name} generated values that are not finite")
    return Generated(made.images.float().clamp(0, 1), made.tokens)


def check(model: Generator, condition: Condition) -> None:
    """Raise `BadSample` when a model cannot use a condition: no label or a label out of range, no prompt."""
    can = model.capabilities
    if can.classes is not None and (condition.label is None or not 0 <= condition.label < can.classes):
        what = "no label" if condition.label is None else f"the label {condition.label}"
        raise BadSample(f"{condition.id} has {what}, and {model.name} knows the classes 0 to {can.classes - 1}")
    if can.needs_caption and not condition.caption:
        raise BadSample(f"{condition.id} has no prompt, and {model.name} makes images from prompts")


def joined(parts: Sequence[Generated]) -> Generated:
    """Images that were made one by one, as a batch; their tokens likewise, where all have the same streams."""
    tokens = [p.tokens for p in parts if p.tokens is not None]
    together = None
    if len(tokens) == len(parts):
        data = {s.name: torch.cat([torch.as_tensor(t.data[s.name]) for t in tokens]) for s in tokens[0].streams}
        lengths = [t.lengths for t in tokens if t.lengths is not None]
        together = replace(tokens[0], data=data, size=len(tokens), lengths=np.concatenate(lengths) if lengths else None)
    return Generated(torch.cat([p.images for p in parts]), together)
