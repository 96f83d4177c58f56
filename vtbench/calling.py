"""A model called as its contract says, and what it gives back checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vtbench.api import Generated, Model, Pass, Tokenizer, Tokens
from vtbench.engine.chunks import seed_of
from vtbench.errors import BadSample, VtbenchError
from vtbench.generating import conditions_of, generate
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
