"""Anybody's tokens as measurements: .npz, .parquet and .safetensors files, read block by block."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vtbench.api import Measurements, Stream
from vtbench.errors import BadData, UsageError
from vtbench.tokens import formats
from vtbench.tokens.spelled import spell

BLOCK = 1 << 20
"""Tokens read at a time."""


@dataclass(frozen=True)
class TokenFile:
    """Token ids on disk, images x positions (x codebooks), and what they are.

    codebook_size: one K for all codebooks, or one each. grid: ``(h, w)`` of the positions, or () for a sequence. pixels: of one
    input image, 0 when unknown. codebook: float ``[K, d]``; labels: int ``[M]``; parts: int ``[M, N]``, the part of the
    picture that a position shows, -1 for none.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codebook_size: tuple[int, ...]
    grid: tuple[int, ...] = ()
    ordered: bool = False
    pixels: int = 0
    codebook: np.ndarray | None = None
    labels: np.ndarray | None = None
    parts: np.ndarray | None = None
    name: str = "tokens"
    member: str = ""
    held: np.ndarray | None = field(default=None, repr=False, compare=False)

    def stream(self) -> Stream:
        """What a model would say of these tokens."""
        positions = self.shape[1]
        if self.grid:
            return Stream("tokens", "index", "grid2d", self.codebook_size, self.grid, self.ordered)
        return Stream("tokens", "index", "seq1d", self.codebook_size, (positions,), self.ordered)

    def sizes(self) -> tuple[int, ...]:
        """The codebook size of each codebook of a position."""
        books = self.shape[2] if len(self.shape) == 3 else 1
        return self.codebook_size * books if len(self.codebook_size) == 1 else self.codebook_size

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, ids) of about a million tokens at a time."""
        rows = max(1, BLOCK // max(1, math.prod(self.shape[1:])))
        start = 0
        for part in self._parts(rows):
            yield np.arange(start, start + len(part)), part
            start += len(part)

    def _parts(self, rows: int) -> Iterator[np.ndarray]:
        if self.held is not None:
            for start in range(0, len(self.held), rows):
                yield self.held[start : start + rows]
        elif self.path.suffix == ".npz":
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                formats.npy_header(stream, self.path)
                yield from formats.raw(stream, rows, self.shape, self.dtype, self.path)
        elif self.path.suffix == ".safetensors":
            with self.path.open("rb") as stream:
                stream.seek(int(self.member))
                yield from formats.raw(stream, rows, self.shape, self.dtype, self.path)
        else:
            yield from formats.parquet_rows(self.path, rows, self.shape)


class FileColumn:
    """A `TokenFile` as a column of measurements: nothing is held but a block."""

    def __init__(self, file: TokenFile) -> None:
        self.file = file
        self.image = np.arange(file.shape[0])

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, ids) block by block."""
        return self.file.blocks()

    def array(self) -> np.ndarray:
        """All ids. For small files: metrics stream."""
        parts = [ids for _, ids in self.blocks()]
        return np.concatenate(parts) if parts else np.zeros(self.file.shape, self.file.dtype)


class UsedColumn(FileColumn):
    """Active positions of each image of a `TokenFile`."""

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, positions in use) block by block."""
        for image, ids in self.file.blocks():
            used = (ids >= 0).reshape(len(ids), ids.shape[1], -1).any(axis=2)
            yield image, used.sum(axis=1)


class HeldColumn:
    """Values in memory, one row an image unless told."""

    def __init__(self, values: np.ndarray, image: np.ndarray | None = None) -> None:
        self.values = values
        self.image = np.arange(len(values)) if image is None else image

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The only block."""
        yield self.image, self.values

    def array(self) -> np.ndarray:
        """The values."""
        return self.values


def measurements(file: TokenFile, groups: int = 50) -> Measurements:
    """A file's tokens as what a metric is given: columns `ids`, `used`, `streams`, `pixels` (and `codebook`), groups by the image's number."""
    count = file.shape[0]
    columns: dict[str, Any] = {
        "ids": FileColumn(file),
        "used": UsedColumn(file),
        "streams": HeldColumn(np.array([spell([file.stream()])]), np.zeros(1, np.int64)),
    }
    if file.pixels:
        columns["pixels"] = HeldColumn(np.full(1, file.pixels), np.zeros(1, np.int64))
    if file.codebook is not None:
        columns["codebook"] = HeldColumn(file.codebook, np.zeros(len(file.codebook), np.int64))
    if file.parts is not None:
        columns["parts"] = HeldColumn(file.parts)
    table = {"label": file.labels} if file.labels is not None else {}
    return Measurements(columns, table, image_groups(count, groups), {"n": count, "pixels": file.pixels or None})


def image_groups(count: int, groups: int) -> np.ndarray:
    """A fixed jackknife group for each of `count` images: balanced, and unrelated to their order. uint8 ``[count]``."""
    number = max(1, min(groups, count))
    out = (np.arange(count) % number).astype(np.uint8)
    return np.random.default_rng(0).permutation(out)


def digest(path: Path) -> str:
    """sha256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 22):
            found.update(part)
    return "sha256:" + found.hexdigest()


# ---------------------------------------------------------------------------------------------- opening


def open_tokens(
    path: str | Path,
    *,
    codebook_size: Sequence[int] = (),
    grid: Sequence[int] = (),
    ordered: bool | None = None,
    pixels: int | None = None,
) -> TokenFile:
    """Open a file of tokens; arguments stand in for what it does not say, or overrule it.

    .npz: arrays `tokens` (integers ``[M, N]`` or ``[M, N, C]``, -1 pads), `codebook_size`, optional `grid`, `ordered`, `pixels`,
    `codebook`, `labels`, `parts`. .safetensors: the same names, scalars as tensors or as metadata. .parquet: a list column `tokens` (rows may
    differ in length), the rest in the file's key-value metadata. Raises `UsageError` for a missing file or another kind, `BadData` for
    ids that are not integers, an unknown codebook size, a grid that does not fit, or an empty array."""
    where = Path(path)
    if not where.is_file():
        raise UsageError(f"no token file {where}")
    readers = {".npz": formats.open_npz, ".safetensors": formats.open_safetensors, ".parquet": formats.open_parquet}
    if where.suffix not in readers:
        raise UsageError(f"{where} is not a token file", "Tokens are read from .npz, .parquet and .safetensors")
    shape, dtype, member, facts, held = readers[where.suffix](where)
    if not np.issubdtype(dtype, np.integer):
        raise BadData(
            f"the tokens of {where} are {dtype}, not integers", "Store ids as integers; -1 where there is none"
        )
    if len(shape) not in (2, 3):
        raise BadData(
            f"the tokens of {where} have the shape {list(shape)}",
            "They are images x positions, or images x positions x codebooks",
        )
    if 0 in shape:
        raise BadData(f"the tokens of {where} are empty: shape {list(shape)}")
    sizes = tuple(codebook_size) or _whole(facts, "codebook_size", where)
    if not sizes or min(sizes) < 1:
        raise BadData(f"{where} does not say its codebook size", "State it: --codebook-size K")
    if len(sizes) > 1 and (len(shape) < 3 or len(sizes) != shape[2]):
        books = shape[2] if len(shape) == 3 else 1
        raise BadData(f"{where} has {len(sizes)} codebook sizes for tokens of {books} codebooks")
    cells = tuple(grid) or _whole(facts, "grid", where)
    if cells and (len(cells) != 2 or math.prod(cells) != shape[1]):
        raise BadData(f"a grid of {cells} does not hold {shape[1]} positions")
    book = facts.get("codebook")
    if book is not None and (np.ndim(book) != 2 or len(book) != sizes[0]):
        raise BadData(f"the codebook of {where} has the shape {list(np.shape(book))}, not [{sizes[0]}, d]")
    labels = facts.get("labels")
    if labels is not None and np.shape(labels) != (shape[0],):
        raise BadData(f"{where} has {np.size(labels)} labels for {shape[0]} images")
    parts = facts.get("parts")
    if parts is not None and np.shape(parts) != shape[:2]:
        raise BadData(f"the parts of {where} have the shape {list(np.shape(parts))}, not {list(shape[:2])}")
    size = pixels if pixels is not None else (_whole(facts, "pixels", where) or (0,))[0]
    flag = ordered if ordered is not None else bool((_whole(facts, "ordered", where) or (0,))[0])
    return TokenFile(where, shape, dtype, sizes, cells, flag, size, book, labels, parts, where.stem, member, held)


def _whole(facts: Mapping[str, Any], key: str, where: Path) -> tuple[int, ...]:
    """One or several whole numbers that a file says; () where it says nothing."""
    array = np.atleast_1d(facts.get(key, ()))
    if not array.size:
        return ()
    if array.ndim != 1 or array.dtype.kind not in "biu":
        raise BadData(f"{where}: '{key}' must be whole numbers, found {array.dtype} {list(array.shape)}")
    return tuple(int(k) for k in array)
