"""The passes over one batch: the images and tokens that extractors ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from vtbench import perturb
from vtbench.api import GENERATED, INPUT, Batch, Pass, Tokens, View
from vtbench.calling import Caller
from vtbench.errors import VtbenchError
from vtbench.plan import Station
from vtbench.view import Item, pad, see

Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""`map`, or the like with threads."""


class Forward:
    """The passes over one batch, each made once: encodes shared by budgets, decodes by views, views by extractors.

    images: the prepared inputs, where there are any. side: what generated images must measure. each: as `vtbench.view.see` takes it."""

    def __init__(
        self, caller: Caller, items: Sequence[Item], images: torch.Tensor | None, side: int | None, each: Each
    ) -> None:
        self.caller, self.items, self.images, self.side, self._each = caller, items, images, side, each
        self._stage = caller.spent.stage
        self._tokens: dict[tuple[Pass, bool], Tokens] = {}
        self._images: dict[tuple[Pass, int | None, bool], torch.Tensor] = {}
        self._made: dict[int | None, Tokens] = {}
        self._views: dict[tuple[Pass, int | None, bool, View], torch.Tensor] = {}

    def pixels(self, at: Pass, budget: int | None, sample: bool) -> torch.Tensor:
        """Images of a pass, float32 in [0, 1], on the caller's device."""
        if at.op == "load":
            assert self.images is not None, "a pass without prepared inputs"
            return self.images
        key = (at, budget, sample)
        if key not in self._images:
            if at == GENERATED:
                made = self.caller.generate(self.items, budget, self.side)
                self._images[key] = made.images
                if made.tokens is not None:
                    self._made[budget] = made.tokens
            elif at.op == "run":
                with self._stage("decode"):
                    self._images[key] = self.caller.decode(
                        self.tokens(at, budget, sample), self.items, at, self._size()
                    )
            elif at.op in perturb.IMAGE_OPS and at.of is not None:
                base = self.pixels(at.of, budget, sample)
                seeds = self.caller.seeds(self.items, at, at.op)
                with self._stage("perturb"):
                    self._images[key] = perturb.images(base, at, seeds)
            elif at.op == "decode" and at.of is not None:
                seeds = self.caller.seeds(self.items, at, "tokens")
                with self._stage("decode"):
                    changed = perturb.tokens(self.tokens(at.of, budget, sample), at, self.caller.tokenizer, seeds)
                    self._images[key] = self.caller.decode(changed, self.items, at, self._size())
            else:
                raise VtbenchError(f"the pass '{at.op}' is not one that this version can make")
        return self._images[key]

    def _size(self) -> tuple[int, int]:
        assert self.images is not None
        return int(self.images.shape[2]), int(self.images.shape[3])

    def tokens(self, at: Pass, budget: int | None, sample: bool) -> Tokens:
        """The tokens of a `run` pass, cut to the budget; encoded once for all budgets. Of a generator, those that it made."""
        if at == GENERATED:
            self.pixels(at, budget, sample)
            if budget not in self._made:
                raise VtbenchError(f"{self.caller.model.name} says that it gives tokens, and gave none")
            return self._made[budget]
        if at.op != "run" or at.of is None:
            raise VtbenchError(f"the pass '{at.spelled()}' has no tokens")
        key = (at, sample)
        if key not in self._tokens:
            base = self.pixels(at.of, budget, sample)
            with self._stage("encode"):
                self._tokens[key] = self.caller.encode(base, self.items, at, sample)
        tokens = self._tokens[key]
        return tokens if budget is None else self.caller.tokenizer.prefix(tokens, budget)

    def batch(self, station: Station, takes: str) -> Batch:
        """What an extractor is given of a station. takes: see `vtbench.api.Extractor`."""
        at, budget, sample = station.at, station.budget, station.sample
        out = Batch([i.sample for i in self.items])
        if takes == "tokens":
            out.tokens = self.tokens(at, budget, sample)
            seen = self.pixels(at, budget, sample) if station.prepared.generated else self.images
            out.pixels = self.caller.input_pixels(seen) if seen is not None else 0
        elif takes == "encoder":
            assert at.of is not None, "only a run pass has an encoder"
            out.images = pad(self.pixels(at.of, budget, sample), self.caller.model.capabilities.multiple)
        else:
            out.images = self.seen(at, budget, sample, station.view)
            if takes == "pair":
                how = station.view.reference or station.view.quantise
                out.reference = self.seen(INPUT, None, False, replace(station.view, quantise=how))
        return out

    def seen(self, at: Pass, budget: int | None, sample: bool, view: View) -> Any:
        """A pass through a view. Tensors are kept for the next extractor with an equal view; images put back on their sources are not."""
        key = (at, budget, sample, replace(view, reference=""))
        if key in self._views:
            return self._views[key]
        pixels = self.pixels(at, budget, sample) if at.op != "load" or self.images is not None else None
        with self._stage("view"):
            seen = see(pixels, self.items, view, truth=not at.model(), each=self._each)
        if isinstance(seen, torch.Tensor):
            self._views[key] = seen
        return seen

    def forget(self, at: Pass, budget: int | None, sample: bool) -> None:
        """Free the images of a pass that no later station wants. (Ground truth stands beside every pass.)"""
        self._images.pop((at, budget, sample), None)
        self._views = {k: v for k, v in self._views.items() if k[0] == INPUT or k[:3] != (at, budget, sample)}
