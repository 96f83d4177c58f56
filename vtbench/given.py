"""Images that exist already, in the place of a model: what `vtbench score` measures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Tokenizer, Tokens
from vtbench.zoo.paired import PairedImages, StoredTokens, no_tokens

if TYPE_CHECKING:
    import torch

    from vtbench.data import Dataset


class GivenPairs(PairedImages):
    """Images of any container (`travels`: they can be sent to workers), paired with the ground truth by their ids; they stand on the prepared input's canvas already.

    A folder may hold ``tokens.npz`` (`vtbench.zoo.paired.StoredTokens`)."""

    capabilities = Capabilities()
    travels = True

    def __init__(self, dataset: Dataset, name: str, where: str) -> None:
        self.name, self.revision, self.params = name, dataset.revision, {}
        self.where = where
        self._samples = {s.id: s for s in dataset.samples}
        self.stored = StoredTokens.beside(Path(where))
        if self.stored is not None:
            self.revision = files.digest(Path(where))

    @property
    def ids(self) -> Collection[str]:
        """The ids of the images."""
        return self._samples.keys()

    def read(self, name: str) -> np.ndarray:
        """One image, uint8 ``[H, W, 3]``. Raises `BadSample`."""
        return np.asarray(self._samples[name].image(exif="ignore"))


class GivenSet(Tokenizer):
    """Images that have no partner: the run's inputs are the images themselves, prepared like the reference, and come back as they are."""

    capabilities = Capabilities()
    travels = True

    def __init__(self, name: str, revision: str) -> None:
        self.name, self.revision, self.params = name, revision, {}

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Nothing is made of them."""
        return no_tokens(len(images), images)

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The images."""
        images: torch.Tensor = tokens.extra
        return images
