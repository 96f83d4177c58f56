"""The words and faces of a run, one line each: what was read, how sure the reader was, where it lies. ``samples/RUN.instances.parquet``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.atomic import whole
from vtbench.places import opened, place

if TYPE_CHECKING:
    import pyarrow


NUMBERS = ("x0", "y0", "x1", "y1", "confidence", "value", "ratio")
TEXTS = ("protocol", "kind", "id", "truth", "read", "original")
COLUMNS = ("resolution", "tokens", "instance", "width", "height", *TEXTS, *NUMBERS)


def path_of(out: Path, run_id: str) -> Path:
    """Where a run's instances lie."""
    return place(out) / "samples" / f"{run_id}.instances.parquet"


def write(out: Path, run_id: str, lines: Sequence[Mapping[str, Any]]) -> Path | None:
    """Write instances, atomically; nothing (and no old file) when there are none."""
    path = path_of(out, run_id)
    if not lines:
        path.unlink(missing_ok=True)
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {**dict.fromkeys(TEXTS, pa.string()), **dict.fromkeys(NUMBERS, pa.float32())}
    schema = pa.schema([(c, kinds.get(c, pa.int32())) for c in COLUMNS])
    with whole(path) as part:
        pq.write_table(pa.Table.from_pylist([dict(line) for line in lines], schema=schema), part, compression="zstd")
    return path


def read(out: Path, run_id: str) -> pyarrow.Table | None:
    """A run's instances, or None."""
    import pyarrow.parquet as pq

    path = path_of(out, run_id)
    return pq.read_table(opened(path)) if path.is_file() else None


def collect(reducer: Any, kept: Collection[str] | None = ()) -> list[dict[str, Any]]:
    """The words and faces that a run's cells scored, from its measurements; boxes in pixels of the source picture.

    kept: ids of the samples whose pictures were kept (None: all of them). Of these the source's size is told, so that a reader of
    the kept pictures knows whether the boxes apply to them (not after a crop)."""
    sizes: dict[str, tuple[int, int] | None] = {}
    out: list[dict[str, Any]] = []
    for cell in reducer.plan.cells:
        if cell.skip or cell.metric.name not in ("t_acc", "f_sim"):
            continue
        fields = cell.protocol.fields(cell.resolution)
        columns = {key: reducer.column(station, head) for key, (station, head) in cell.needs.items()}
        shared = {"resolution": cell.resolution, "tokens": cell.budget, "protocol": cell.protocol.name}
        lines = _words(columns) if cell.metric.name == "t_acc" else _faces(columns)
        numbers = np.zeros(len(reducer.kept), dtype=np.int64)
        for line, at in zip(lines, columns["ratio"].image.tolist()):
            sample = reducer.kept[at]
            instance = int(numbers[at])
            numbers[at] += 1
            things = sample.words if line["kind"] == "word" else sample.faces
            box = things[instance].box if instance < len(things) else (float("nan"),) * 4
            if (kept is None or sample.id in kept) and sample.id not in sizes:
                sizes[sample.id] = _size(sample, str(fields.get("exif", "apply")))
            width, height = sizes.get(sample.id) or (None, None)
            corners = dict(zip(("x0", "y0", "x1", "y1"), box))
            out.append(
                {**shared, "id": sample.id, "instance": instance, **line, **corners, "width": width, "height": height}
            )
    return out


def _words(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    text, truth, ratio = (columns[k].array() for k in ("text", "truth", "ratio"))
    original = columns["original"].array() if "original" in columns else [""] * len(text)
    sure = columns["confidence"].array() if "confidence" in columns else np.full(len(text), np.nan)
    return [
        {
            "kind": "word",
            "truth": str(t),
            "read": str(r),
            "original": str(o),
            "confidence": float(c),
            "value": 100.0 * (t == r),
            "ratio": float(q),
        }
        for t, r, o, c, q in zip(truth, text, original, sure, ratio)
    ]


def _faces(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    a, b = (columns[k].array().astype(np.float64) for k in ("embedding", "original"))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = np.divide((a * b).sum(1), norms, out=np.zeros_like(norms), where=norms > 0)
    return [
        {
            "kind": "face",
            "truth": "",
            "read": "",
            "original": "",
            "confidence": float("nan"),
            "value": float(v),
            "ratio": float(q),
        }
        for v, q in zip(cosines, columns["ratio"].array())
    ]


def _size(sample: Any, exif: str) -> tuple[int, int] | None:
    from vtbench.errors import BadSample

    try:
        size: tuple[int, int] = sample.image(exif).size
    except BadSample:  # counted where it was measured
        return None
    return size
