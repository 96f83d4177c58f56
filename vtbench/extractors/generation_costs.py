"""What a generator costs: parameters, steps, seconds an image, tokens a second; measured once per model on conditions of its run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vtbench.api import Batch, Condition, Generated, Generator, Rows
from vtbench.errors import BadSample, UsageError

HEADS = ("params_generator", "params_decoder", "steps", "seconds", "tokens", "batch")
_ARGS = {"repeats": 3, "warmup": 1}


class GenerationCosts:
    """Costs of `model` (set by the core before the call), one float64 row a head; nan where there is nothing to measure.

    Heads: `params_generator`, `params_decoder` (parameters of the modules that the model names so), `steps` (of its sampler, as the model says), `seconds` (for the batch: the median of
    `repeats` runs after `warmup`, ending with the device idle), `tokens` (made for the batch), `batch` (images in it). Timings are not repeatable to the bit; run them on an idle machine.
    """

    name = "generation_costs"
    version = 2
    takes: Literal["model"] = "model"

    def __init__(self, args: Mapping[str, Any]) -> None:
        for key in args:
            if key not in _ARGS:
                raise UsageError(f"the extractor {self.name} has no argument '{key}'", f"Known: {', '.join(_ARGS)}")
        chosen = {**_ARGS, **args}
        self.repeats, self.warmup = int(chosen["repeats"]), int(chosen["warmup"])
        if self.repeats < 1 or self.warmup < 0:
            raise UsageError("costs needs at least one repeat, and no negative warm-up")
        self.model: Any = None
        self.budget: int | None = None
        self._device = "cpu"

    def identity(self) -> Mapping[str, str]:
        """Nothing but its args."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Nothing per sample: one row a model."""
        return 0

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure on the conditions of `batch.samples`."""
        if not isinstance(self.model, Generator):
            raise ValueError(f"the extractor {self.name} was called without a generator")
        conditions = [c for c in (Condition(s.id, s.label, s.caption) for s in batch.samples) if _usable(self.model, c)]
        found: dict[str, float] = {
            **{f"params_{part}": self._params(part) for part in ("generator", "decoder")},
            "steps": self._steps(),
            "batch": float(len(conditions)),
        }
        if {"seconds", "tokens"} & set(heads):
            found["seconds"], found["tokens"] = self._timed(conditions)
        return {head: Rows(np.array([found[head]], dtype=np.float64)) for head in heads}

    def _steps(self) -> float:
        can = self.model.capabilities
        if self.budget is not None and can.prefix and self.model.steps == can.max_tokens:
            return float(self.budget)  # one token a step
        return math.nan if self.model.steps is None else float(self.model.steps)

    def _params(self, part: str) -> float:
        module = self.model.modules().get(part)
        if module is None:
            return math.nan
        return float(sum(p.numel() for p in {id(p): p for p in module.parameters()}.values()))

    def _timed(self, conditions: Sequence[Condition]) -> tuple[float, float]:
        """(seconds, tokens) of one batch; nan for images that were made elsewhere, and for tokens that the model does not give."""
        import torch

        from vtbench.hashing import seed_of

        if not conditions or (not self.model.capabilities.stochastic and not self.model.modules()):
            return math.nan, math.nan
        seeds = [seed_of(0, c.id, "costs") for c in conditions]
        alone = not self.model.capabilities.per_image_noise
        times, tokens = [], math.nan
        for i in range(self.warmup + self.repeats):
            start = time.perf_counter()
            with torch.inference_mode():
                parts = [[c] for c in conditions] if alone else [conditions]
                made = [
                    self.model.generate(part, seeds=[seeds[n]] if alone else seeds, budget=self.budget)
                    for n, part in enumerate(parts)
                ]
            if self._device.startswith("cuda"):
                torch.cuda.synchronize(self._device)
            if i >= self.warmup:
                times.append(time.perf_counter() - start)
            given = [m.tokens for m in made if isinstance(m, Generated) and m.tokens is not None]
            if given:
                tokens = float(sum(int(t.positions().sum()) for t in given))
        return statistics.median(times), tokens


def _usable(model: Generator, condition: Condition) -> bool:
    from vtbench.calling import check

    try:
        check(model, condition)
    except BadSample:  # it is told where the image is to be made
        return False
    return True
