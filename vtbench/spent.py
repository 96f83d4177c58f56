"""What measuring took: seconds by stage, and samples through each network."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Spent:
    """What measuring on a device took. stages: seconds of each. forwards: how many samples each extractor, and each half of the model, was given."""

    device: str
    stages: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    forwards: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Account the time of a block to a stage (nested stages count once, in the inner one). A GPU's work counts where it was asked for."""
        start, inner = time.perf_counter(), sum(self.stages.values())
        try:
            yield
            if self.device.startswith("cuda"):
                import torch

                torch.cuda.current_stream(self.device).synchronize()
        finally:
            nested = sum(self.stages.values()) - inner
            self.stages[name] += time.perf_counter() - start - nested
