"""Reconstructions that were made elsewhere: ``precomputed:DIR``, images paired with the originals by their ids.

``DIR/ID.png`` (or jpg, webp, ...), as large as the suite's prepared input. ``DIR/tokens.npz``, where there is one, holds ``ids`` (M names), ``tokens`` (integers
``[M, N]`` or ``[M, N, C]``) and ``codebook_size`` (one number, or one a codebook), so that bits and codebook use are measured too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import npz
from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadData, BadSample, UsageError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".ppm")
TOKENS = "tokens.npz"


class Precomputed(Tokenizer):
    """A folder of reconstructions. Its revision is the digest of all its files, so a folder that changes is measured anew."""

    capabilities = Capabilities()

    def __init__(self, *, at: str) -> None:
        self.root = Path(at).expanduser()
        if not self.root.is_dir():
            raise UsageError(f"no folder of reconstructions {self.root}")
        self._files: dict[str, Path] = {}
        for path in sorted(p for p in self.root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            name = path.relative_to(self.root).with_suffix("").as_posix()
            if name in self._files:
                raise BadData(
                    f"two reconstructions of '{name}': {self._files[name].name} and {path.name}", "Remove one"
                )
            self._files[name] = path
        if not self._files:
            raise BadData(f"{self.root} holds no images", f"Known: {' '.join(SUFFIXES)}")
        self._rows, self._ids, self._sizes = self._tokens(self.root / TOKENS)
        self.revision = files.digest(self.root)

    @property
    def ids(self) -> Sequence[str]:
        """The ids of the reconstructions."""
        return list(self._files)

    def _tokens(self, path: Path) -> tuple[dict[str, int], np.ndarray | None, tuple[int, ...]]:
        if not path.is_file():
            return {}, None, ()
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
        return {str(name): i for i, name in enumerate(ids)}, tokens.astype(np.int64), sizes

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """The tokens that were stored for these samples. `BadSample` for an id that is not there."""
        if condition is None:
            raise UsageError("reconstructions are paired by id, and no ids were given")
        names = [c.id for c in condition]
        for name in names:
            if name not in self._files:
                raise BadSample(f"no reconstruction of '{name}' in {self.root}")
        extra = (names, tuple(images.shape[2:]))
        if self._ids is None:
            stream = Stream("reconstruction", "continuous", "grid2d")
            return Tokens(
                (stream,),
                {"reconstruction": np.zeros((len(names), 0), np.float32)},
                len(names),
                condition=None,
                extra=extra,
            )
        for name in names:
            if name not in self._rows:
                raise BadSample(f"no tokens of '{name}' in {self.root / TOKENS}")
        rows = self._ids[[self._rows[name] for name in names]]
        stream = Stream("tokens", "index", "seq1d", self._sizes, (rows.shape[1],))
        return Tokens((stream,), {"tokens": rows}, len(names), extra=extra)

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """The stored images, float32 ``[B, 3, H, W]``. `BadSample` for one that cannot be read or has another size than the input."""
        import torch

        from vtbench.data.decode import decode

        names, (height, width) = tokens.extra
        arrays = []
        for name in names:
            path = self._files[name]
            try:
                array = np.asarray(decode(path.read_bytes(), str(path), exif="ignore"))
            except OSError as error:
                raise BadSample(f"the reconstruction {path} cannot be read: {error.strerror or error}") from error
            if array.shape[:2] != (height, width):
                raise BadSample(
                    f"the reconstruction {path.name} has {array.shape[1]} x {array.shape[0]} pixels, the prepared input {width} x {height}"
                )
            arrays.append(array)
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
