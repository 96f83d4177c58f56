"""A model called as its contract says, with each sample's own seeds, and what it gives back checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from vtbench.api import GENERATED, Condition, Generated, Generator, Model, Pass, Tokenizer, Tokens
from vtbench.errors import BadSample, VtbenchError
from vtbench.hashing import seed_of
from vtbench.memory import full
from vtbench.spent import Spent
from vtbench.view import Item, pad


@dataclass(frozen=True)
class Caller:
    """Calls a model, with seeds of the run's seed; counts the samples in `spent`. What a model raises comes out as `VtbenchError`, full memory as it is."""

    model: Model
    seed: int
    device: str
    spent: Spent

    @property
    def tokenizer(self) -> Tokenizer:
        """The model, where it encodes and decodes."""
        if not isinstance(self.model, Tokenizer):
            raise VtbenchError(f"{self.model.name} is a generator: it does not encode images")
        return self.model

    def input_pixels(self, images: torch.Tensor) -> int:
        """Pixels of one image as the model sees it, padding included."""
        multiple = self.model.capabilities.multiple
        height, width = (int(n) + -int(n) % multiple for n in images.shape[2:])
        return height * width

    def seeds(self, items: Sequence[Item], at: Pass, half: str) -> list[int]:
        """The seed of each sample for one half of a pass."""
        return [seed_of(self.seed, i.sample.id, f"{at.spelled()}/{half}") for i in items]

    def encode(self, images: torch.Tensor, items: Sequence[Item], at: Pass, sample: bool) -> Tokens:
        """Encode, padded by edge replication to the model's multiple."""
        conditions = conditions_of(items)
        seeds = self.seeds(items, at, "encode")
        self.spent.forwards["encode"] += len(items)
        try:
            return self.tokenizer.encode(
                pad(images, self.model.capabilities.multiple), condition=conditions, sample=sample, seeds=seeds
            )
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._blame(error, "encode", images) from error

    def decode(self, tokens: Tokens, items: Sequence[Item], at: Pass, size: tuple[int, int]) -> torch.Tensor:
        """Decode, crop the padding off, clamp."""
        seeds = self.seeds(items, at, "decode")
        self.spent.forwards["decode"] += len(items)
        try:
            out = self.tokenizer.decode(tokens, seeds=seeds)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise self._blame(error, "decode", None) from error
        if out.ndim != 4 or out.shape[0] != len(items) or out.shape[1] != 3:
            raise VtbenchError(f"{self.model.name} decodes to shape {tuple(out.shape)}, not [{len(items)}, 3, H, W]")
        out = out[:, :, : size[0], : size[1]]
        if tuple(out.shape[2:]) != size:
            raise VtbenchError(f"{self.model.name} decodes to {tuple(out.shape[2:])} from an input of {size}")
        if not bool(torch.isfinite(out).all()):
            raise BadSample(f"{self.model.name} decoded to values that are not finite")
        return out.float().clamp(0, 1).to(self.device)

    def generate(self, items: Sequence[Item], budget: int | None, side: int | None) -> Generated:
        """Make one image per condition, each from its own seed. side: what the images must measure, where that matters."""
        self.spent.forwards["generate"] += len(items)
        with self.spent.stage("generate"):
            try:
                made = generate(self.model, items, self.seed, budget, side)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise self._blame(error, "generate", None) from error
        return replace(made, images=made.images.to(self.device))

    def _blame(self, error: Exception, half: str, images: torch.Tensor | None) -> Exception:
        if full(error):
            return error
        what = f" on an input of shape {tuple(images.shape)}" if images is not None else ""
        return VtbenchError(
            f"the model {self.model.name} failed to {half}{what}: {type(error).__name__}: {error}",
            "Set VTBENCH_DEBUG=1 for its traceback",
        )


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
