"""Images that exist already, in the place of a model: what `vtbench score` measures."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadSample, UsageError

if TYPE_CHECKING:
    import torch

    from vtbench.data import Dataset
    from vtbench.zoo.precomputed import Precomputed


def _no_tokens(size: int, extra: Any) -> Tokens:
    stream = Stream("images", "continuous", "grid2d")
    return Tokens((stream,), {"images": np.zeros((size, 0), np.float32)}, size, extra=extra)


class GivenPairs(Tokenizer):
    """Images of any container (`travels`: they can be sent to workers), paired with the ground truth by their ids; they stand on the prepared input's canvas already.

    A folder may hold ``tokens.npz`` (see `vtbench.zoo.precomputed`)."""

    capabilities = Capabilities()
    travels = True

    def __init__(self, dataset: Dataset, name: str, where: str) -> None:
        self.name, self.revision, self.params = name, dataset.revision, {}
        self.where = where
        self._samples = {s.id: s for s in dataset.samples}
        self._stored: Precomputed | None = None
        if Path(where).is_dir() and (Path(where) / "tokens.npz").is_file():
            from vtbench.zoo.precomputed import Precomputed

            self._stored = Precomputed(at=where)
            self.revision = self._stored.revision

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the images."""
        return list(self._samples)

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """The ids, and the stored tokens where there are any. `BadSample` for an id that has no image."""
        if condition is None:
            raise UsageError("given images are paired by id, and no ids were given")
        names = [c.id for c in condition]
        for name in names:
            if name not in self._samples:
                raise BadSample(f"no image of '{name}' in {self.where}")
        if self._stored is not None:
            return self._stored.encode(images, condition=condition)
        return _no_tokens(len(names), (names, tuple(images.shape[2:])))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The images, float32 ``[B, 3, H, W]``. `BadSample` for one of another size than the prepared ground truth."""
        import torch

        names, (height, width) = tokens.extra

        def read(name: str) -> np.ndarray:
            array = np.asarray(self._samples[name].image(exif="ignore"))
            if array.shape[:2] != (height, width):
                raise BadSample(
                    f"the image has {array.shape[1]} x {array.shape[0]} pixels, its ground truth, prepared, {width} x {height}"
                )
            return array

        with ThreadPoolExecutor(min(8, max(1, len(names)))) as pool:  # decoding lets go of the interpreter
            arrays = list(pool.map(read, names))
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


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
        return _no_tokens(len(images), images)

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The images."""
        images: torch.Tensor = tokens.extra
        return images
