"""The words and faces of a run, one line each: what was read, how sure the reader was, where it lies. ``samples/RUN.instances.parquet``."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

    from vtbench.api import Placement

NUMBERS = ("x0", "y0", "x1", "y1", "confidence", "value", "ratio")
TEXTS = ("protocol", "kind", "id", "truth", "read", "original")
COLUMNS = ("resolution", "tokens", "instance", *TEXTS, *NUMBERS)


def path_of(out: Path, run_id: str) -> Path:
    """Where a run's instances lie."""
    return Path(out) / "samples" / f"{run_id}.instances.parquet"


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
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pq.write_table(pa.Table.from_pylist([dict(line) for line in lines], schema=schema), part, compression="zstd")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read(out: Path, run_id: str) -> pyarrow.Table | None:
    """A run's instances, or None."""
    import pyarrow.parquet as pq

    path = path_of(out, run_id)
    return pq.read_table(path) if path.is_file() else None


def collect(reducer: Any, kept: Collection[str] | None = ()) -> list[dict[str, Any]]:
    """The words and faces that a run's cells scored, from its measurements.

    kept: ids of the samples whose pictures were kept (None: all of them): their boxes are given on the model's canvas, where the
    pictures are; the others' are nan, since only the decoded source says how large it is."""
    places: dict[tuple[Any, ...], Placement | None] = {}
    out: list[dict[str, Any]] = []
    for cell in reducer.plan.cells:
        if cell.skip or cell.metric.name not in ("t_acc", "f_sim"):
            continue
        fields = cell.protocol.fields(cell.resolution)
        columns = {key: reducer.column(station, head) for key, (station, head) in cell.needs.items()}
        shared = {"resolution": cell.resolution, "tokens": cell.budget, "protocol": cell.protocol.name}
        lines = _words(columns) if cell.metric.name == "t_acc" else _faces(columns)
        image = columns["ratio"].image
        numbers = np.zeros(len(reducer.kept), dtype=np.int64)
        for line, at in zip(lines, image.tolist()):
            sample = reducer.kept[at]
            instance = int(numbers[at])
            numbers[at] += 1
            things = sample.words if line["kind"] == "word" else sample.faces
            box = things[instance].box if instance < len(things) else None
            if kept is not None and sample.id not in kept:
                box = None
            if box is not None:
                key = (sample.id, cell.resolution, str(sorted(fields.items())))
                if key not in places:
                    places[key] = _placed(sample, fields, cell.resolution)
                box = _on_canvas(box, places[key])
            corners = dict(zip(("x0", "y0", "x1", "y1"), box or (float("nan"),) * 4))
            out.append({**shared, "id": sample.id, "instance": instance, **line, **corners})
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


def _placed(sample: Any, fields: Mapping[str, Any], resolution: int | None) -> Placement | None:
    from vtbench.data import prepare
    from vtbench.errors import BadSample

    try:
        _, placement = prepare(sample.image(str(fields.get("exif", "apply"))), fields, resolution)
    except BadSample:  # counted where it was measured
        return None
    return placement if placement.restorable else None


def _on_canvas(box: Sequence[float], placement: Placement | None) -> tuple[float, float, float, float] | None:
    if placement is None:
        return None
    left, top, right, bottom = placement.box
    width, height = placement.source
    x, y = (right - left) / width, (bottom - top) / height
    return (left + box[0] * x, top + box[1] * y, left + box[2] * x, top + box[3] * y)
