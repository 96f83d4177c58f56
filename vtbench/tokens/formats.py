"""The containers that token files come in: what .npz, .safetensors and .parquet say of an array, and its rows read in turn.

Nothing is unpickled, and nothing but a block is held.
"""

from __future__ import annotations

import json
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from vtbench import npz, parse
from vtbench.damage import BROKEN, reason
from vtbench.errors import BadData, MissingPackage

NAMES = ("codebook_size", "grid", "ordered", "pixels", "codebook", "labels", "parts")
"""What a file may say beside its tokens."""

Opened = tuple[tuple[int, ...], np.dtype[Any], str, dict[str, Any], "np.ndarray | None"]
"""(shape, dtype, where the array lies in the file, facts beside it, the array itself where it must be held)."""


def open_npz(path: Path) -> Opened:
    """An .npz archive. Raises `BadData` when it cannot be read or holds no tokens."""
    members = npz.members(path)
    if "tokens" not in members:
        raise BadData(f"{path} holds {', '.join(members) or 'nothing'}, and no array 'tokens'")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(members["tokens"]) as stream:
            shape, fortran, dtype = npy_header(stream, path)
    except BROKEN as error:
        raise BadData(f"{path} is not an .npz file that can be read: {reason(error)}") from error
    facts = npz.load(path, NAMES)
    held = np.ascontiguousarray(npz.load(path, ("tokens",))["tokens"]) if fortran else None
    return shape, dtype, members["tokens"].filename, _plain(facts, path), held


def npy_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the .npy that a stream stands at. Raises `BadData` for Python objects."""
    shape, fortran, dtype = npz.header(stream, f"'tokens' of {path}")
    if dtype.hasobject:
        raise BadData(f"the tokens of {path} are Python objects (rows of different lengths?)", "Pad short rows with -1")
    return shape, fortran, dtype


def raw(stream: IO[bytes], rows: int, shape: tuple[int, ...], dtype: np.dtype[Any], path: Path) -> Iterator[np.ndarray]:
    """Rows of an array in C order, `rows` at a time. Raises `BadData` when the file is cut short."""
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


def open_safetensors(path: Path) -> Opened:
    """A .safetensors file. Raises `BadData` when it cannot be read or holds no tokens."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise BadData(f"{path} is not a safetensors file that can be read")
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise BadData(f"{path} is not a safetensors file that can be read: {reason(error)}") from error
        parse.expect(header, {"__metadata__": dict}, f"the header of {path}", BadData)
        said = header.pop("__metadata__", {})
        parse.expect(said, dict.fromkeys(NAMES, str), f"the metadata of {path}", BadData)
        facts = {key: _said(said[key].lower(), key, path) for key in NAMES if key in said}
        if "tokens" not in header:
            raise BadData(f"{path} holds {', '.join(header) or 'nothing'}, and no tensor 'tokens'")
        kinds = {**_SAFETENSORS, **_FLOATS}
        for key in NAMES:
            if key in header:
                dtype, shape, start = _entry(header, key, kinds, size - 8 - length, path)
                stream.seek(8 + length + start)
                count = math.prod(shape)
                facts[key] = np.frombuffer(stream.read(count * dtype.itemsize), dtype, count).reshape(shape)
        dtype, shape, start = _entry(header, "tokens", kinds, size - 8 - length, path)
    return shape, dtype, str(8 + length + start), _plain(facts, path), None


def _entry(
    header: Mapping[str, Any], key: str, kinds: Mapping[str, str], room: int, path: Path
) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """(dtype, shape, first byte) of a tensor that lies within the `room` bytes behind the header."""
    entry, where = header[key], f"{path}: '{key}'"
    parse.expect(entry, {"dtype": str, "shape": [int], "data_offsets": [int]}, where, BadData)
    if absent := [f for f in ("dtype", "shape", "data_offsets") if f not in entry]:
        raise BadData(f"{where} lacks its {absent[0]}")
    if entry["dtype"] not in kinds:
        raise BadData(f"{where} is of the type {entry['dtype']}", "Store ids as integers")
    dtype, shape, span = np.dtype(kinds[entry["dtype"]]), tuple(entry["shape"]), entry["data_offsets"]
    size = math.prod(shape) * dtype.itemsize
    if len(span) != 2 or min((*shape, *span), default=0) < 0 or span[1] - span[0] != size or span[1] > room:
        raise BadData(f"{path} is cut short or damaged: '{key}' {list(shape)} does not lie at {span} of {room} bytes")
    return dtype, shape, span[0]


def _said(text: str | bytes, key: str, path: Path) -> Any:
    """A fact that stands in a file's metadata as JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path}: the metadata '{key}' is {text!r:.60}, which is not JSON") from error


def open_parquet(path: Path) -> Opened:
    """A .parquet file. Raises `BadData` when it cannot be read or holds no tokens."""
    parquet = _parquet()
    import pyarrow as pa

    try:
        file = parquet.ParquetFile(path)
    except BROKEN as error:
        raise BadData(f"{path} is not a parquet file that can be read: {reason(error)}") from error
    schema = file.schema_arrow
    if "tokens" not in schema.names:
        raise BadData(f"{path} has the columns {', '.join(schema.names)}, and no column 'tokens'")
    kind = schema.field("tokens").type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadData(f"the column tokens of {path} is {kind}, not lists of integers")
    if not pa.types.is_integer(kind.value_type):
        raise BadData(f"the tokens of {path} are {kind.value_type}, not integers", "Store ids as integers")
    said = schema.metadata or {}
    facts = {key: _said(said[key.encode()], key, path) for key in NAMES if key.encode() in said}
    import pyarrow.compute as pc

    widest = 0
    try:
        if "label" in schema.names:
            facts["labels"] = file.read(["label"]).column(0).to_numpy()
        for batch in file.iter_batches(columns=["tokens"], batch_size=65536):
            widest = max(widest, pc.max(pc.list_value_length(batch.column(0))).as_py() or 0)
    except BROKEN as error:
        raise BadData(f"{path} is damaged: {reason(error)}", "Fetch it again") from error
    return (file.metadata.num_rows, widest), np.dtype(np.int64), "", _plain(facts, path), None


def parquet_rows(path: Path, rows: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Rows of the list column, padded with -1 to the widest. Raises `BadData` where the file is damaged."""
    import pyarrow as pa

    try:
        for batch in _parquet().ParquetFile(path).iter_batches(columns=["tokens"], batch_size=rows):
            column = batch.column(0)
            if pa.types.is_fixed_size_list(column.type):
                column = column.cast(pa.list_(column.type.value_type))
            lengths = np.asarray(column.value_lengths().fill_null(0))
            values = column.flatten().fill_null(-1).to_numpy(zero_copy_only=False)
            out = np.full((len(column), shape[1]), -1, np.int64)
            out[np.arange(shape[1]) < lengths[:, None]] = values
            yield out
    except BROKEN as error:
        raise BadData(f"{path} is damaged: {reason(error)}", "Fetch it again") from error


def _parquet() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingPackage("pyarrow", "tokens", "reading parquet") from error
    return parquet


def _plain(facts: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Facts as numbers and arrays of numbers."""
    out: dict[str, Any] = {}
    for key, value in facts.items():
        try:
            array = np.asarray(value)
        except (ValueError, OverflowError) as error:
            raise BadData(f"{path}: '{key}' is a list of lists of different lengths") from error
        if array.dtype.kind not in "biuf":
            raise BadData(f"{path}: '{key}' must hold numbers, not {array.dtype}")
        out[key] = array.item() if array.ndim == 0 else array
    return out
