"""Reader of tables of images: parquet files, and the Arrow files that Hugging Face `datasets` saves.

The image column holds encoded bytes, or structs of `bytes` and `path` as `datasets` writes them; its bytes are taken undecoded, so
digests equal a folder's.
"""

from __future__ import annotations

import functools
import glob
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import parse_qsl

from vtbench.damage import BROKEN, reason
from vtbench.data.images import image_stem
from vtbench.data.sample import Entry, Listing
from vtbench.data.sources import Inside, Stamp, file_stamp
from vtbench.errors import BadData, BadSample, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MAX_GROUP_BYTES = 2 << 30
"""Largest row group of a parquet file that is read: a row group is the least that parquet can read."""

LABELS = ("label", "labels", "cls", "class")
CAPTIONS = ("caption", "text", "txt", "prompt")
IDS = ("id", "image_id", "file_name", "filename", "path", "key")

Kind = Literal["parquet", "arrow"]

_reading = threading.Lock()


@dataclass(frozen=True)
class CellSource(Inside):
    """One cell of an image column. group: the row group (parquet) or 0; row: the row within it."""

    path: str
    kind: Kind
    column: str
    group: int
    row: int
    id: str
    outside: Stamp | None = None

    @property
    def name(self) -> str:
        return f"{self.path}:{self.id}"

    def _place(self) -> str:
        return f":{self.column}[{self.group}][{self.row}]"

    def read(self) -> bytes:
        try:
            with _reading:  # one thread decodes a row group, the others find it in memory
                cell = _column(self.path, self.kind, self.column, self.group, self.outside)[self.row].as_py()
        except BROKEN as error:
            raise BadSample(f"cannot read {self.name}: {reason(error)}") from error
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not content:
            elsewhere = cell.get("path") if isinstance(cell, dict) else None
            raise BadSample(f"{self.name} has no bytes" + (f", only the path {elsewhere}" if elsewhere else ""))
        return bytes(content)


@functools.lru_cache(maxsize=4)
def _column(path: str, kind: Kind, column: str, group: int, outside: Stamp | None) -> pa.ChunkedArray:
    """An image column: of one row group, or a whole memory-mapped Arrow file. `outside` renews it when the file changed."""
    if kind == "arrow":
        return _arrow(path).column(column)
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read_row_group(group, columns=[column]).column(column)


def _arrow(path: str) -> pa.Table:
    import pyarrow as pa

    try:
        return pa.ipc.open_stream(pa.memory_map(path)).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_file(pa.memory_map(path)).read_all()


def read_parquet(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images of a parquet file, a folder of them or a glob, optionally with ``?image=COLUMN``.

    options: see `list_tables`. Raises `BadData`: nothing there, damaged, row groups too large to read one image."""
    place, _, query = where.partition("?")
    path = os.path.expanduser(place)
    if os.path.isdir(path):
        found = sorted(str(p) for p in Path(path).rglob("*.parquet") if not p.name.startswith("."))
    else:
        found = sorted(glob.glob(path))
    if not found:
        raise BadData(f"there is no parquet file at {place}", "Check the path")
    name = os.path.basename(place.rstrip("/")).removesuffix(".parquet")
    return list_tables("parquet", name, found, "parquet", {**options, **dict(parse_qsl(query))})


def list_tables(kind: str, name: str, paths: Sequence[str], format_: Kind, options: Mapping[str, Any]) -> Listing:
    """List the images of tables, in order.

    options: `image`, `label`, `caption`, `id`: columns; found by their names and types otherwise. An id is `__key__` or the stored
    path of the image where those are unique, else a column of names, else the row's number (`000000`)."""
    listing = Listing(kind, name, [], searched="an image column")
    tables = [_Table(path, format_) for path in paths]
    image = _image_column(tables[0], options.get("image"))
    for table in tables[1:]:
        if image not in table.schema.names:
            raise BadData(f"{table.path} has no column '{image}' (it has {', '.join(table.schema.names)})")
    facts = _Facts(tables, image, options)
    ids = facts.ids()
    labels = facts.values(options.get("label"), LABELS, "integer")
    captions = facts.values(options.get("caption"), CAPTIONS, "text")
    row = 0
    for table in tables:
        outside = file_stamp(os.path.abspath(table.path))
        for group, rows in enumerate(table.groups(image)):
            for i in range(rows):
                source = CellSource(os.path.abspath(table.path), format_, image, group, i, ids[row], outside)
                listing.entries.append(Entry(ids[row], source, label=labels[row], caption=captions[row]))
                row += 1
    return listing


class _Table:
    """One file: its schema and the columns that are not images."""

    def __init__(self, path: str, kind: Kind) -> None:
        import pyarrow.parquet as pq

        self.path, self.kind = path, kind
        try:
            if kind == "parquet":
                with pq.ParquetFile(path) as file:
                    self.metadata, self.schema = file.metadata, file.schema_arrow
            else:
                self.table = _arrow(path)
                self.schema = self.table.schema
        except BROKEN as error:
            raise BadData(f"{path} is no whole {kind} file: {reason(error)}", "Fetch it again") from error

    def groups(self, image: str) -> list[int]:
        """Rows of every row group. Raises `BadData` when one is too large to be read for a single image."""
        if self.kind == "arrow":
            return [self.table.num_rows]
        rows = []
        for i in range(self.metadata.num_row_groups):
            group = self.metadata.row_group(i)
            parts = [group.column(j) for j in range(group.num_columns)]
            size = sum(c.total_uncompressed_size for c in parts if c.path_in_schema.split(".")[0] == image)
            if size > MAX_GROUP_BYTES:
                raise BadData(
                    f"{self.path}: one row group holds {size:,} bytes of images, and parquet reads no less",
                    "Write it with row groups of about 100 images (row_group_size=100)",
                )
            rows.append(group.num_rows)
        return rows

    def column(self, name: str, field: str = "") -> list[Any]:
        """A column's values; of a struct, one field's, without reading the others."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        try:
            if self.kind == "parquet":
                with pq.ParquetFile(self.path) as file:
                    table = file.read(columns=[f"{name}.{field}" if field else name])
            else:
                table = self.table
            column = table.column(name)
            return (pc.struct_field(column, field) if field else column).to_pylist()
        except BROKEN as error:
            raise BadData(f"{self.path} is no whole {self.kind} file: {reason(error)}", "Fetch it again") from error


def _is_image(type_: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(type_):
        return type_.get_field_index("bytes") >= 0
    return pa.types.is_binary(type_) or pa.types.is_large_binary(type_)


def _image_column(table: _Table, wanted: str | None) -> str:
    names = [field.name for field in table.schema if _is_image(field.type)]
    every = ", ".join(table.schema.names)
    if wanted is not None:
        if wanted not in table.schema.names:
            raise UsageError(f"{table.path} has no column '{wanted}'", f"It has {every}")
        if wanted not in names:
            raise UsageError(
                f"the column '{wanted}' of {table.path} holds {table.schema.field(wanted).type}, not images",
                f"Columns of images: {', '.join(names) or 'none'}",
            )
        return wanted
    if not names:
        raise BadData(f"{table.path} has no column of images", f"It has {every}; bytes or {{bytes, path}} are wanted")
    for name in ("image", "img", "jpg", "png", "webp", "jpeg"):
        if name in names:
            return name
    if len(names) > 1:
        raise UsageError(
            f"{table.path} has several columns of images", f"Choose with ?image={' or ?image='.join(names)}"
        )
    return names[0]


class _Facts:
    """What the tables say of every row besides its image."""

    def __init__(self, tables: Sequence[_Table], image: str, options: Mapping[str, Any]) -> None:
        self.tables, self.image, self.options = tables, image, options
        self.rows = sum(sum(table.groups(image)) for table in tables)

    def _all(self, name: str, field: str = "") -> list[Any]:
        return [value for table in self.tables for value in table.column(name, field)]

    def _has(self, name: str) -> bool:
        return all(name in table.schema.names for table in self.tables)

    def ids(self) -> list[str]:
        wanted = self.options.get("id")
        if wanted is not None:
            if not self._has(wanted):
                raise UsageError(f"there is no column '{wanted}'", f"There is {', '.join(self.tables[0].schema.names)}")
            return [_stem(str(value)) for value in self._all(wanted)]
        type_ = self.tables[0].schema.field(self.image).type
        candidates = [("__key__", "")] if self._has("__key__") else []
        if type_.num_fields and type_.get_field_index("path") >= 0:
            candidates.append((self.image, "path"))
        candidates += [(name, "") for name in IDS if self._has(name)]
        for name, field in candidates:
            values = self._all(name, field)
            if all(isinstance(value, str) and value for value in values):
                ids = [_stem(value) for value in _relative(values)]
                if len(set(ids)) == len(ids):
                    return ids
        width = max(6, len(str(self.rows - 1)))
        return [f"{i:0{width}d}" for i in range(self.rows)]

    def values(self, wanted: str | None, names: Sequence[str], what: Literal["integer", "text"]) -> list[Any]:
        """The column `wanted`, or the first of `names` of that type; None for every row when there is none."""
        if wanted is not None and not self._has(wanted):
            raise UsageError(f"there is no column '{wanted}'", f"There is {', '.join(self.tables[0].schema.names)}")
        type_ = int if what == "integer" else str
        for name in [wanted] if wanted else names:
            if self._has(name) and _holds(self.tables[0].schema.field(name).type, what):
                values = self._all(name)
                first = [v[0] if isinstance(v, list) and v else v for v in values]
                return [v if isinstance(v, type_) else None for v in first]
        if wanted is not None:
            raise UsageError(f"the column '{wanted}' does not hold {what}s")
        return [None] * self.rows


def _holds(type_: pa.DataType, what: str) -> bool:
    import pyarrow as pa

    if what == "integer":
        return bool(pa.types.is_integer(type_))
    if pa.types.is_list(type_):  # several captions an image: the first
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _relative(paths: list[str]) -> list[str]:
    """Stored paths below the folder that they share where they are absolute; ``zip://a.jpg::...`` is ``a.jpg``."""
    plain = [path.split("::")[0].partition("://")[2] if "::" in path else path for path in paths]
    plain = [path.replace("\\", "/").removeprefix("./") for path in plain]
    if all(path.startswith("/") for path in plain):
        root = os.path.commonpath([str(PurePosixPath(path).parent) for path in plain])
        return [str(PurePosixPath(path).relative_to(root)) for path in plain]
    return plain


def _stem(name: str) -> str:
    return image_stem(name) or name
