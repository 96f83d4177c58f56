"""Per-sample values of a run: ``samples/RUN.parquet``, long format, opened only when asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench.atomic import whole
from vtbench.places import opened, place

if TYPE_CHECKING:
    import pyarrow

COLUMNS = ("resolution", "tokens", "protocol", "metric", "slice", "id", "instance", "value")


def path_of(out: Path, run_id: str) -> Path:
    """Where a run's samples lie."""
    return place(out) / "samples" / f"{run_id}.parquet"


def _schema() -> Any:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("resolution", pa.int32()),
            ("tokens", pa.int32()),
            ("protocol", text),
            ("metric", text),
            ("slice", text),
            ("id", text),
            ("instance", pa.int32()),
            ("value", pa.float64()),
        ]
    )


def write(out: Path, run_id: str, blocks: Iterable[Mapping[str, Any]]) -> Path:
    """Write blocks of equal-length columns, atomically. A block has `id` [R] and `value` [R]; `instance` [R] counts the rows
    within an image (0 when absent); resolution, tokens, protocol, metric, slice are one value a block."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = path_of(out, run_id)
    schema = _schema()
    with whole(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for block in blocks:
            values = np.asarray(block["value"], dtype=np.float64)
            count = len(values)
            columns: dict[str, Any] = {
                "id": [str(i) for i in block["id"]],  # an object array would bring pandas along
                "instance": np.asarray(block.get("instance", np.zeros(count)), dtype=np.int32),
                "value": values,
            }
            arrays = []
            for field in schema:
                data = columns.get(field.name, [block.get(field.name)] * count)
                kind = pa.string() if pa.types.is_dictionary(field.type) else field.type
                array = pa.array(data, type=kind)
                arrays.append(array.dictionary_encode() if kind != field.type else array)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return path


def read(out: Path, run_id: str, *, metric: str | None = None) -> pyarrow.Table | None:
    """A run's samples (of one metric), or None when the run kept none."""
    import pyarrow.parquet as pq

    path = path_of(out, run_id)
    if not path.is_file():
        return None
    return pq.read_table(opened(path), filters=[("metric", "=", metric)] if metric else None)


def instances(image: Any) -> Any:
    """The number of each row within its image (0, 1, ...), for rows in any order: int [R]."""
    import numpy as np

    image = np.asarray(image)
    order = np.argsort(image, kind="stable")
    ordered = image[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.array([], dtype=int)
    within = np.arange(len(image)) - np.repeat(starts, np.diff(np.r_[starts, len(image)]))
    out = np.empty(len(image), dtype=np.int32)
    out[order] = within
    return out
