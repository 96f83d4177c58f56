"""The gallery's data: pictures that a run kept, as data URIs, with every per-sample value and what was read in them."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vtbench import instances, samples
from vtbench.record import Record
from vtbench.records import label

LOSSLESS = 24_000_000  # bytes of pictures kept exactly; beyond, the page stores lossy WebP and says so
CONDITIONS = "conditions.jsonl"  # beside a generator's kept images: what each was made from (vtbench.keep writes it)
SIDE = 768  # pixels of the longer side, then


@dataclass
class Gallery:
    """Everything the page's script draws. data goes to the page as JSON."""

    data: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.data.get("items")


@dataclass(frozen=True)
class _Kept:
    record: Record
    point: str
    resolution: int | None
    tokens: int | None
    folder: Path


def gather(records: Sequence[Record], out: Path, *, limit: int = 200) -> Gallery:
    """Pictures and values of the records' samples, at most `limit` samples: the best and the worst by the first per-sample metric,
    and every k-th between."""
    kept = [k for record in records for k in _points(record, out)]
    by_place: dict[tuple[str, int | None], dict[int, Path]] = {}
    said: dict[str, str] = {}
    for i, k in enumerate(kept):
        for path in sorted((k.folder / "reconstruction").glob("*.png")):
            by_place.setdefault((path.stem, k.resolution), {})[i] = path
        for path in sorted((k.folder / "generated").rglob("*.png")):
            stem = path.relative_to(k.folder / "generated").with_suffix("").as_posix()
            by_place.setdefault((stem.replace("/samples/", "__"), k.resolution), {})[i] = path
        said |= _conditions(k.folder / CONDITIONS)
    if not by_place:
        return Gallery()
    values, metrics = _values(kept, out)
    places = _chosen(by_place, values, metrics, limit)
    pictures = _Pictures(sum(p.stat().st_size for place in places for p in by_place[place].values()))
    words = _words(kept, out)
    items = []
    for stem, resolution in places:
        paths = by_place[stem, resolution]
        original = next(iter(paths.values())).parent.parent / "original" / f"{stem}.png"
        items.append(
            {
                "id": stem.replace("__", "/"),
                "said": said.get(stem, ""),
                "px": resolution,
                "original": pictures.add(original) if original.is_file() else None,
                "pictures": {i: pictures.add(path) for i, path in paths.items()},
                "values": {
                    name: {i: v for i in paths if (v := values.get((i, name, stem))) is not None} for name, _ in metrics
                },
                "words": _placed(words.get((stem, resolution), []), original),
            }
        )
    notes = []
    if len(places) < len(by_place):
        notes.append(
            f"{len(places)} of {len(by_place)} kept samples are in this page: the worst, the best and every few between."
        )
    if pictures.lossy:
        notes.append(
            "The page stores its pictures as WebP at quality 95 to stay small; all numbers are of the exact ones."
        )
    models = [
        {"name": label(k.record) + (f" · {k.tokens} tokens" if k.tokens else ""), "px": k.resolution} for k in kept
    ]
    facts = [{"name": name, "better": better} for name, better in metrics]
    return Gallery({"models": models, "metrics": facts, "items": items, "pictures": pictures.found}, notes)


def _conditions(path: Path) -> dict[str, str]:
    """What the images of a generator were made from, by the stems of their files; nothing where it was not kept or cannot be read."""
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError):
        return {}
    found = {}
    for row in rows:
        if isinstance(row, dict) and "id" in row:
            text = str(row["prompt"]) if "prompt" in row else f"label {row['label']}" if "label" in row else ""
            found[str(row["id"]).replace("/", "__")] = text
    return found


def _points(record: Record, out: Path) -> list[_Kept]:
    found = []
    for folder in sorted((out / "images" / record.run_id).glob("*")):
        if not any((folder / kind).is_dir() for kind in ("reconstruction", "generated")):
            continue
        size, _, rest = folder.name.partition("-")
        tokens = int(rest.removesuffix("tokens")) if rest.endswith("tokens") and rest[:-6].isdigit() else None
        found.append(_Kept(record, folder.name, int(size) if size.isdigit() else None, tokens, folder))
    return found


def _values(
    kept: Sequence[_Kept], out: Path
) -> tuple[dict[tuple[int, str, str], float], list[tuple[str, bool | None]]]:
    """Per-sample means of every kept metric: {(model, metric, stem): value}; instances of an image are averaged."""
    values: dict[tuple[int, str, str], float] = {}
    metrics: dict[str, bool | None] = {}
    for i, k in enumerate(kept):
        table = samples.read(out, k.record.run_id)
        if table is None:
            continue
        rows = {(r.metric, r.protocol): r for r in k.record.rows if r.recommended}
        sums: dict[tuple[str, str], list[float]] = {}
        at = zip(*(table.column(c).to_pylist() for c in ("metric", "protocol", "resolution", "tokens", "id", "value")))
        for metric, protocol, resolution, tokens, sample, value in at:
            row = rows.get((metric, protocol))
            if row is None or resolution != k.resolution or (k.tokens is not None and tokens != k.tokens):
                continue
            metrics.setdefault(metric, row.higher_is_better)
            sums.setdefault((metric, sample.replace("/", "__")), []).append(value)
        for (metric, stem), parts in sums.items():
            values[i, metric, stem] = sum(parts) / len(parts)
    return values, list(metrics.items())


def _chosen(
    by_place: dict[tuple[str, int | None], dict[int, Path]],
    values: dict[tuple[int, str, str], float],
    metrics: Sequence[tuple[str, bool | None]],
    limit: int,
) -> list[tuple[str, int | None]]:
    if len(by_place) <= limit:
        return list(by_place)
    first = metrics[0][0] if metrics else ""

    def rank(place: tuple[str, int | None]) -> float:
        found = [values[i, first, place[0]] for i in by_place[place] if (i, first, place[0]) in values]
        return sum(found) / len(found) if found and not math.isnan(sum(found)) else math.inf

    ordered = sorted(by_place, key=lambda place: (rank(place), str(place)))
    third = max(1, limit // 3)
    middle = ordered[third:-third]
    step = max(1, math.ceil(len(middle) / max(1, limit - 2 * third)))
    return [*ordered[:third], *middle[::step], *ordered[-third:]]


class _Pictures:
    """Pictures by content, each stored once."""

    def __init__(self, size: int) -> None:
        self.lossy = size > LOSSLESS
        self.found: list[str] = []
        self._known: dict[str, int] = {}

    def add(self, path: Path) -> int:
        """The number of a picture."""
        from PIL import Image

        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest not in self._known:
            with Image.open(io.BytesIO(data)) as image:
                packed = io.BytesIO()
                picture = image.convert("RGB")
                if self.lossy:
                    picture.thumbnail((SIDE, SIDE))
                how = {"quality": 90} if self.lossy else {"lossless": True, "quality": 60, "method": 2}
                picture.save(packed, "WEBP", **how)
            self._known[digest] = len(self.found)
            self.found.append("data:image/webp;base64," + base64.b64encode(packed.getvalue()).decode())
        return self._known[digest]


def _words(kept: Sequence[_Kept], out: Path) -> dict[tuple[str, int | None], list[dict[str, Any]]]:
    """Words and faces by picture: what is there, where, and what was made of it in each model's reconstruction."""
    found: dict[tuple[str, int | None], dict[tuple[Any, ...], dict[str, Any]]] = {}
    for i, k in enumerate(kept):
        table = instances.read(out, k.record.run_id)
        for line in table.to_pylist() if table is not None else ():
            if line["resolution"] != k.resolution or (k.tokens is not None and line["tokens"] != k.tokens):
                continue
            place = (line["id"].replace("/", "__"), k.resolution)
            key = (line["kind"], line["protocol"], line["instance"])
            box = (
                [round(line[c], 1) for c in ("x0", "y0", "x1", "y1")]
                if line["width"] and not math.isnan(line["x0"])
                else None
            )
            thing = found.setdefault(place, {}).setdefault(
                key,
                {
                    "kind": line["kind"],
                    "truth": line["truth"],
                    "original": line["original"],
                    "box": box,
                    "size": (line["width"], line["height"]),
                    "made": {},
                },
            )
            sure = None if math.isnan(line["confidence"]) else round(line["confidence"], 3)
            thing["made"][i] = {"read": line["read"], "sure": sure, "value": round(line["value"], 4)}
    return {place: list(things.values()) for place, things in found.items()}


def _placed(words: list[dict[str, Any]], picture: Path) -> list[dict[str, Any]]:
    """Boxes as fractions of the picture, where the picture is the whole source; none where it was cropped."""
    from PIL import Image

    size = None
    if words and picture.is_file():
        with Image.open(picture) as image:
            size = image.size
    out = []
    for word in words:
        placed = {k: v for k, v in word.items() if k != "size"}
        if word["box"] is not None:
            width, height = word["size"]
            x0, y0, x1, y1 = word["box"]
            fits = size == (width, height)
            placed["box"] = [round(v, 5) for v in (x0 / width, y0 / height, x1 / width, y1 / height)] if fits else None
        out.append(placed)
    return out
