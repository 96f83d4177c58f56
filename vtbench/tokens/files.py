"""Anybody's tokens as measurements: .npz, .parquet and .safetensors files, read block by block."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from vtbench.api import Measurements, Stream
from vtbench.errors import BadData, MissingPackage, UsageError
from vtbench.tokens.spelled import spell

BLOCK = 1 << 20
"""Tokens read at a time."""
NAMES = ("codebook_size", "grid", "ordered", "pixels", "codebook", "labels")


@dataclass(frozen=True)
class TokenFile:
    """Token ids on disk, images x positions (x codebooks), and what they are.

    codebook_size: one K for all codebooks, or one each. grid: ``(h, w)`` of the positions, or () for a sequence. pixels: of one
    input image, 0 when unknown. codebook: float ``[K, d]``; labels: int ``[M]``.
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
    name: str = "tokens"
    member: str = ""
    held: np.ndarray | None = field(default=None, repr=False, compare=False)

    def stream(self) -> Stream:
        """What a model would say of these tokens."""
        positions = self.shape[1]
        if self.grid:
            return Stream("tokens", "index", "grid2d", self.codebook_size, self.grid, self.ordered)
        return Stream("tokens", "index", "seq1d", self.codebook_size, (positions,), self.ordered)

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
                _npy_header(stream, self.path)
                yield from _raw(stream, rows, self.shape, self.dtype, self.path)
        elif self.path.suffix == ".safetensors":
            with self.path.open("rb") as stream:
                stream.seek(int(self.member))
                yield from _raw(stream, rows, self.shape, self.dtype, self.path)
        else:
            yield from _parquet_rows(self.path, rows, self.shape)


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
    `codebook`, `labels`. .safetensors: the same names, scalars as tensors or as metadata. .parquet: a list column `tokens` (rows may
    differ in length), the rest in the file's key-value metadata. Raises `UsageError` for a missing file or another kind, `BadData` for
    ids that are not integers, an unknown codebook size, a grid that does not fit, or an empty array."""
    where = Path(path)
    if not where.is_file():
        raise UsageError(f"no token file {where}")
    readers = {".npz": _open_npz, ".safetensors": _open_safetensors, ".parquet": _open_parquet}
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
    sizes = tuple(int(k) for k in (codebook_size or np.atleast_1d(facts.get("codebook_size", ())).tolist()))
    if not sizes or min(sizes) < 1:
        raise BadData(f"{where} does not say its codebook size", "State it: --codebook-size K")
    if len(sizes) > 1 and (len(shape) < 3 or len(sizes) != shape[2]):
        books = shape[2] if len(shape) == 3 else 1
        raise BadData(f"{where} has {len(sizes)} codebook sizes for tokens of {books} codebooks")
    cells = tuple(int(k) for k in (grid or np.atleast_1d(facts.get("grid", ())).tolist()))
    if cells and (len(cells) != 2 or math.prod(cells) != shape[1]):
        raise BadData(f"a grid of {cells} does not hold {shape[1]} positions")
    book = facts.get("codebook")
    if book is not None and (np.ndim(book) != 2 or len(book) != sizes[0]):
        raise BadData(f"the codebook of {where} has the shape {list(np.shape(book))}, not [{sizes[0]}, d]")
    labels = facts.get("labels")
    if labels is not None and np.shape(labels) != (shape[0],):
        raise BadData(f"{where} has {np.size(labels)} labels for {shape[0]} images")
    size = pixels if pixels is not None else int(facts.get("pixels", 0))
    flag = ordered if ordered is not None else bool(facts.get("ordered", False))
    return TokenFile(where, shape, dtype, sizes, cells, flag, size, book, labels, where.stem, member, held)


_Opened = tuple[tuple[int, ...], np.dtype[Any], str, dict[str, Any], np.ndarray | None]


def _open_npz(path: Path) -> _Opened:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if "tokens" not in members:
                raise BadData(f"{path} holds {', '.join(members) or 'nothing'}, and no array 'tokens'")
            with archive.open(members["tokens"]) as stream:
                shape, fortran, dtype = _npy_header(stream, path)
        with np.load(path, allow_pickle=False) as arrays:
            facts = {name: arrays[name] for name in NAMES if name in arrays}
            held = np.ascontiguousarray(arrays["tokens"]) if fortran else None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise BadData(f"{path} is not an .npz file that can be read: {error}") from error
    return shape, dtype, members["tokens"], _plain(facts), held


def _npy_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if dtype.hasobject:
        raise BadData(f"the tokens of {path} are Python objects (rows of different lengths?)", "Pad short rows with -1")
    return shape, fortran, dtype


def _raw(
    stream: IO[bytes], rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path
) -> Iterator[np.ndarray]:
    each = math.prod(shape[1:]) * dtype.itemsize
    left = shape[0]
    while left:
        wanted = min(rows, left)
        data = bytearray()
        while len(data) < wanted * each:
            part = stream.read(wanted * each - len(data))
            if not part:
                raise BadData(f"{path} is cut short: {left} of {shape[0]} images are missing")
            data += part
        yield np.frombuffer(bytes(data), dtype).reshape(wanted, *shape[1:])
        left -= wanted


_SAFETENSORS = {
    "I8": "<i1",
    "U8": "<u1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
}
_FLOATS = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def _open_safetensors(path: Path) -> _Opened:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise BadData(f"{path} is not a safetensors file that can be read")
        try:
            header = json.loads(stream.read(length))
        except ValueError as error:
            raise BadData(f"{path} is not a safetensors file that can be read: {error}") from error
        facts: dict[str, Any] = {}
        for key, text in header.pop("__metadata__", {}).items():
            if key in NAMES:
                try:
                    facts[key] = json.loads(text.lower())
                except ValueError as error:
                    raise BadData(f"{path}: the metadata '{key}' is '{text}', which is not JSON") from error
        if "tokens" not in header:
            raise BadData(f"{path} holds {', '.join(header) or 'nothing'}, and no tensor 'tokens'")
        kinds = {**_SAFETENSORS, **_FLOATS}
        for key in NAMES:
            if key in header:
                entry = header[key]
                if entry["dtype"] not in kinds:
                    raise BadData(f"{path}: '{key}' is of the type {entry['dtype']}")
                start, stop = entry["data_offsets"]
                stream.seek(8 + length + start)
                facts[key] = np.frombuffer(stream.read(stop - start), kinds[entry["dtype"]]).reshape(entry["shape"])
        entry = header["tokens"]
        if entry["dtype"] not in kinds:
            raise BadData(f"the tokens of {path} are {entry['dtype']}, not integers")
    offset = 8 + length + entry["data_offsets"][0]
    return tuple(entry["shape"]), np.dtype(kinds[entry["dtype"]]), str(offset), _plain(facts), None


def _open_parquet(path: Path) -> _Opened:
    parquet = _parquet()
    import pyarrow as pa

    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadData(f"{path} is not a parquet file that can be read: {error}") from error
    schema = file.schema_arrow
    if "tokens" not in schema.names:
        raise BadData(f"{path} has the columns {', '.join(schema.names)}, and no column 'tokens'")
    kind = schema.field("tokens").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadData(f"the column tokens of {path} is {kind}, not lists of integers")
    if not pa.types.is_integer(kind.value_type):
        raise BadData(f"the tokens of {path} are {kind.value_type}, not integers", "Store ids as integers")
    facts: dict[str, Any] = {}
    for key, text in (schema.metadata or {}).items():
        if key.decode() in NAMES:
            facts[key.decode()] = json.loads(text)
    if "label" in schema.names:
        facts["labels"] = file.read(["label"]).column(0).to_numpy()
    import pyarrow.compute as pc

    widest = 0
    for batch in file.iter_batches(columns=["tokens"], batch_size=65536):
        widest = max(widest, pc.max(pc.list_value_length(batch.column(0))).as_py() or 0)
    return (file.metadata.num_rows, widest), np.dtype(np.int64), "", _plain(facts), None


def _parquet_rows(path: Path, rows: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    for batch in _parquet().ParquetFile(path).iter_batches(columns=["tokens"], batch_size=rows):
        column = batch.column(0)
        lengths = np.asarray(column.value_lengths().fill_null(0)) if hasattr(column, "value_lengths") else None
        values = column.flatten().to_numpy(zero_copy_only=False)
        if lengths is None:  # lists of one fixed size
            yield values.reshape(-1, shape[1])
            continue
        out = np.full((len(column), shape[1]), -1, np.int64)
        out[np.arange(shape[1]) < lengths[:, None]] = values
        yield out


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackage("pyarrow", "tokens", "reading parquet") from error
    return parquet


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in facts.items():
        array = np.asarray(value)
        out[key] = array.item() if array.ndim == 0 else array
    return out
