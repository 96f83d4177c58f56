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

from vtbench.errors import BadData, MissingPackage

NAMES = ("codebook_size", "grid", "ordered", "pixels", "codebook", "labels", "parts")
"""What a file may say beside its tokens."""

Opened = tuple[tuple[int, ...], np.dtype[Any], str, dict[str, Any], "np.ndarray | None"]
"""(shape, dtype, where the array lies in the file, facts beside it, the array itself where it must be held)."""


def open_npz(path: Path) -> Opened:
    """An .npz archive. Raises `BadData` when it cannot be read or holds no tokens."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): name for name in archive.namelist()}
            if "tokens" not in members:
                raise BadData(f"{path} holds {', '.join(members) or 'nothing'}, and no array 'tokens'")
            with archive.open(members["tokens"]) as stream:
                shape, fortran, dtype = npy_header(stream, path)
        with np.load(path, allow_pickle=False) as arrays:
            facts = {name: arrays[name] for name in NAMES if name in arrays}
            held = np.ascontiguousarray(arrays["tokens"]) if fortran else None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise BadData(f"{path} is not an .npz file that can be read: {error}") from error
    return shape, dtype, members["tokens"], _plain(facts), held


def npy_header(stream: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, Fortran order and dtype of the .npy that a stream stands at. Raises `BadData` for Python objects."""
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
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


def open_parquet(path: Path) -> Opened:
    """A .parquet file. Raises `BadData` when it cannot be read or holds no tokens."""
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


def parquet_rows(path: Path, rows: int, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Rows of the list column, padded with -1 to the widest."""
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
