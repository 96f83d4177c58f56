"""Images that exist already, in the place of a tokenizer: paired with the prepared inputs by their ids, with their tokens where those were stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import npz
from vtbench.api import Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadData, BadSample, UsageError

if TYPE_CHECKING:
    import torch

TOKENS = "tokens.npz"
"""The file of stored tokens in a folder of images."""


def no_tokens(size: int, extra: Any) -> Tokens:
    """What stands for the tokens of images that brought none: it has no bits. extra: what `decode` is to find."""
    return Tokens(
        (Stream("images", "continuous", "grid2d"),), {"images": np.zeros((size, 0), np.float32)}, size, extra=extra
    )


class PairedImages(Tokenizer):
    """What adapters of stored images share: they say which `ids` they have and `read` one. where: what errors call their place. stored: their tokens."""

    where: str
    stored: StoredTokens | None = None

    @property
    def ids(self) -> Collection[str]:
        """The ids of the images."""
        raise NotImplementedError

    def read(self, name: str) -> np.ndarray:
        """One image, uint8 ``[H, W, 3]``. Raises `BadSample`."""
        raise NotImplementedError

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
            raise UsageError("stored images are paired by id, and no ids were given")
        names = [c.id for c in condition]
        for name in names:
            if name not in self.ids:
                raise BadSample(f"no image of '{name}' in {self.where}")
        extra = names, tuple(images.shape[2:])
        return no_tokens(len(names), extra) if self.stored is None else self.stored.of(names, extra)

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The images, float32 ``[B, 3, H, W]``. `BadSample` for one that cannot be read or has another size than the prepared input."""
        from vtbench.view import from_bytes

        names, (height, width) = tokens.extra

        def read(name: str) -> np.ndarray:
            array = self.read(name)
            if array.shape[:2] != (height, width):
                raise BadSample(
                    f"the image '{name}' in {self.where} has {array.shape[1]} x {array.shape[0]} pixels, the prepared input {width} x {height}"
                )
            return array

        with ThreadPoolExecutor(min(8, max(1, len(names)))) as pool:  # decoding lets go of the interpreter
            return from_bytes(list(pool.map(read, names)))


class StoredTokens:
    """``tokens.npz``: ``ids`` (M names), ``tokens`` (integers ``[M, N]`` or ``[M, N, C]``) and ``codebook_size`` (one number, or one a codebook).

    Raises `BadData` for a file that says otherwise."""

    def __init__(self, path: Path) -> None:
        held: dict[str, Any] = npz.load(path, ("ids", "tokens", "codebook_size"))
        absent = [key for key in ("ids", "tokens", "codebook_size") if key not in held]
        if absent:
            raise BadData(f"{path} lacks {', '.join(absent)}", "It holds ids, tokens and codebook_size")
        ids, tokens, books_of = held["ids"], held["tokens"], held["codebook_size"]
        if ids.ndim != 1 or ids.dtype.kind not in "US" or books_of.dtype.kind not in "iu" or books_of.ndim > 1:
            raise BadData(
                f"{path}: ids are names [M] and codebook_size whole numbers, not {ids.dtype} {list(ids.shape)} and {books_of.dtype} {list(books_of.shape)}"
            )
        sizes = tuple(int(k) for k in np.atleast_1d(books_of))
        if tokens.ndim not in (2, 3) or len(ids) != len(tokens) or tokens.dtype.kind not in "iu":
            raise BadData(
                f"{path}: tokens are integers [{len(ids)}, N] or [{len(ids)}, N, C], not {tokens.dtype} {list(tokens.shape)}"
            )
        books = tokens.shape[2] if tokens.ndim == 3 else 1
        if books != len(sizes):
            raise BadData(f"{path}: {books} codebooks in tokens and {len(sizes)} in codebook_size")
        if tokens.size and (tokens.min() < 0 or (tokens >= np.array(sizes if tokens.ndim == 3 else sizes[0])).any()):
            raise BadData(
                f"{path}: tokens run from {tokens.min()} to {tokens.max()}, codebooks have {', '.join(map(str, sizes))}"
            )
        self.path, self.sizes, self._tokens = path, sizes, tokens.astype(np.int64)
        self._rows = {str(name): i for i, name in enumerate(ids)}

    @classmethod
    def beside(cls, folder: Path) -> StoredTokens | None:
        """The tokens that a folder of images brings along; None when it has none."""
        path = folder / TOKENS
        return cls(path) if path.is_file() else None

    def of(self, names: Sequence[str], extra: Any) -> Tokens:
        """The tokens of some images. `BadSample` for one that has none."""
        for name in names:
            if name not in self._rows:
                raise BadSample(f"no tokens of '{name}' in {self.path}")
        rows = self._tokens[[self._rows[name] for name in names]]
        stream = Stream("tokens", "index", "seq1d", self.sizes, (rows.shape[1],))
        return Tokens((stream,), {"tokens": rows}, len(names), extra=extra)
