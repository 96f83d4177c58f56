"""Features that a model's own encoder hands out, one row an image: what probes and zero-shot classification read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vtbench.api import Batch, Rows
from vtbench.errors import UsageError

TAPS = ("hidden", "pre_quant", "aligned")


class EncoderFeatures:
    """Heads: the taps `hidden`, `pre_quant` and `aligned` of `vtbench.api.Tokenizer.features`, their mean over the positions, float32 ``[B, D]``;
    `text` ``[B, D]`` (of the sample's caption within `template`) and `caption` (its words; "" without). ``[B, 0]`` where the model has none.

    args: template, with {} where the caption goes."""

    name = "encoder_features"
    version = 1
    takes: Literal["encoder"] = "encoder"
    model: Any = None

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.template = str(args.get("template", "{}"))
        if "{}" not in self.template:
            raise UsageError(f"the template '{self.template}' has no place {{}} for a caption")
        self._texts: dict[str, np.ndarray] = {}

    def identity(self) -> Mapping[str, str]:
        """Nothing but the model moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """About four bytes a feature of a wide encoder."""
        return 4 * 1024 * len(list(heads))

    def _of_texts(self, captions: Sequence[str]) -> np.ndarray:
        """Each distinct caption is encoded once."""
        new = [c for c in dict.fromkeys(captions) if c not in self._texts]
        if new:
            found = self.model.text_features([self.template.replace("{}", c) for c in new])
            if found is None:
                return np.zeros((len(captions), 0), np.float32)
            self._texts.update(zip(new, found.float().cpu().numpy()))
        return np.stack([self._texts[c] for c in captions])

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Measure a batch with `model`, which the engine sets."""
        captions = [getattr(s, "caption", None) or "" for s in batch.samples]
        out: dict[str, Rows] = {}
        for head in heads:
            if head == "caption":
                out[head] = Rows(np.array(captions))
            elif head == "text":
                out[head] = Rows(self._of_texts(captions))
            else:
                found = self.model.features(batch.images, head)
                empty = np.zeros((len(batch.samples), 0), np.float32)
                out[head] = Rows(empty if found is None else found.float().mean(1).cpu().numpy().astype(np.float32))
        return out
