"""Reader of TokBench's own layout (and of the bundled demo, which shares it).

``images/text_data/<set>/...`` with ``annotations/text_<set>.json``, and ``images/face_data/<set>/...`` with
``annotations/face_meta.json``; each of `images` and `annotations` in the folder given or in its ``TokBench/``. Sets are found by
their files. Source: the repository wjf5203/TokBench and the dataset Junfeng5/TokBench (2025).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vtbench.data.decode import EXTENSIONS, open_header
from vtbench.data.images import image_stem, stays_inside, walk
from vtbench.data.sample import Box, Entry, Face, Listing, Word
from vtbench.data.sources import FileSource
from vtbench.errors import BadData, BadSample, UnknownName
from vtbench.parse import is_file

MAX_ANNOTATION_BYTES = 256 * 1024 * 1024
"""Largest annotation file that is read."""

MISSING = "the image of its annotation is missing"

T = TypeVar("T", Word, Face)


def read_tokbench(where: str, options: Mapping[str, Any]) -> Listing:
    """List the annotated images under a TokBench folder. options: `sets`, the names of sets to read (all by default).

    An annotation without its image becomes a problem. Counted in the notes: images without annotation, sets without images,
    boxes that were clipped to the image or dropped as empty.
    Raises `BadData` for annotations that are malformed or too large."""
    root = Path(where).expanduser()
    images, annotations = _below(root, "images"), _below(root, "annotations")
    text = {p.stem.removeprefix("text_"): p for p in sorted(annotations.glob("text_*.json"))} if annotations else {}
    faces = annotations / "face_meta.json" if annotations else None
    if images is None or not (text or (faces and faces.is_file())):
        raise BadData(
            f"{where} is not laid out like TokBench",
            "It needs images/text_data/SET with annotations/text_SET.json, or images/face_data/SET with annotations/face_meta.json",
        )
    wanted = _wanted(options, [*text, *_folders(images / "face_data")])
    listing = Listing("folder", root.resolve().name, [], searched="images named by the annotations")
    for name, path in text.items():
        if wanted is None or name in wanted:
            _read_text(listing, images, name, path)
    if faces is not None and faces.is_file():
        _read_faces(listing, images, faces, wanted)
    _count_strangers(listing, images, wanted)
    return listing


def read_demo(where: str, options: Mapping[str, Any]) -> Listing:
    """TokBench's layout plus photographs without annotation in ``images/photos``, as the set `photos`."""
    listing = read_tokbench(where, options)
    images = _below(Path(where).expanduser(), "images")
    if images is not None and (images / "photos").is_dir():
        for path, relative in walk(images / "photos", listing):
            stem = image_stem(relative)
            if stem is not None:
                listing.entries.append(Entry(f"photos/{stem}", FileSource(path), set="photos"))
    return listing


def _below(root: Path, name: str) -> Path | None:
    return next((path for path in (root / name, root / "TokBench" / name) if path.is_dir()), None)


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")) if path.is_dir() else []


def _wanted(options: Mapping[str, Any], known: Sequence[str]) -> set[str] | None:
    chosen = options.get("sets")
    if not chosen:
        return None
    names = chosen.split(",") if isinstance(chosen, str) else list(chosen)
    for name in names:
        if name not in known:
            raise UnknownName("set", str(name), known)
    return set(names)


def _read_text(listing: Listing, images: Path, name: str, path: Path) -> None:
    records = load_annotations(path)
    if not (images / "text_data" / name).is_dir():
        listing.note(f"annotated images of the set {name}, which has no folder", len(records))
        return
    for number, record in enumerate(records):
        place = f"{path} entry {number}"
        file_name = _text(record, "file_name", place)
        words = [_word(a, f"{place} ({file_name})") for a in _list(record, "annotations", place)]
        _add(listing, images, f"text_data/{name}", file_name, name, place, words=words)


def _read_faces(listing: Listing, images: Path, path: Path, wanted: set[str] | None) -> None:
    folders = _folders(images / "face_data")
    records = load_annotations(path)
    if not folders:
        listing.note("annotated images with faces, which have no folder", len(records))
        return
    for number, record in enumerate(records):
        place = f"{path} entry {number}"
        file_name = _text(record, "image_name", place)
        faces = [_face(f, f"{place} ({file_name})") for f in _list(record, "faces", place)]
        holding = [f for f in folders if stays_inside(file_name) and is_file(images / "face_data" / f / file_name)]
        name = (holding or folders)[0]
        if wanted is None or name in wanted:
            _add(listing, images, f"face_data/{name}", file_name, name, place, faces=faces)


def _add(
    listing: Listing,
    images: Path,
    folder: str,
    file_name: str,
    set_: str,
    place: str,
    words: Sequence[Word] = (),
    faces: Sequence[Face] = (),
) -> None:
    if not stays_inside(file_name):
        raise BadData(f"{place}: '{file_name}' leads out of its set's folder", "File names are relative, without '..'")
    id_ = f"{folder}/{image_stem(file_name) or file_name}"
    path = images / folder / file_name
    if not is_file(path):
        listing.problems.append((id_, MISSING))
        return
    source = FileSource(str(path))
    try:
        with open(path, "rb") as file:
            size = open_header(file, str(path)).size
    except (BadSample, OSError):
        # the digest or the decoder will say what is wrong with it; its annotations no longer matter
        listing.entries.append(Entry(id_, source, set=set_))
        return
    listing.entries.append(
        Entry(
            id_,
            source,
            set=set_,
            words=_inside(listing, words, size),
            faces=_inside(listing, faces, size),
            # reconstructions are saved under the original file name, so its extension decides
            stored_as=EXTENSIONS.get(path.suffix.lower(), ""),
        )
    )


def _inside(listing: Listing, instances: Sequence[T], size: tuple[int, int]) -> tuple[T, ...]:
    """Instances with their boxes clipped to the image; those without a pixel left are dropped. Both are counted."""
    kept: list[T] = []
    for instance in instances:
        x0, y0, x1, y1 = instance.box
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1])))
        what = "words" if isinstance(instance, Word) else "faces"
        if int(box[2]) <= int(box[0]) or int(box[3]) <= int(box[1]):
            listing.note(f"{what} dropped: their box holds no pixel of the image")
        elif box != instance.box:
            listing.note(f"{what} whose box was clipped to the image")
            kept.append(replace(instance, box=box))
        else:
            kept.append(instance)
    return tuple(kept)


def _count_strangers(listing: Listing, images: Path, wanted: set[str] | None) -> None:
    """Count the images of the sets that no annotation names."""
    known = {entry.source.name for entry in listing.entries}
    aside = Listing("", "", [])
    for kind in ("text_data", "face_data"):
        for name in _folders(images / kind):
            if wanted is None or name in wanted:
                paths = [path for path, relative in walk(images / kind / name, aside) if image_stem(relative)]
                listing.note("images without annotation", sum(path not in known for path in paths))


# ------------------------------------------------------------------------------------------------ annotation files


def load_annotations(path: Path) -> list[dict[str, Any]]:
    """The records of an annotation file. Raises `BadData`: unreadable, larger than the limit, not a JSON list of objects."""
    try:
        size = os.path.getsize(path)
        if size > MAX_ANNOTATION_BYTES:
            raise BadData(f"{path} has {size:,} bytes; the limit is {MAX_ANNOTATION_BYTES:,}", "Split it by set")
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadData(f"{path} is not JSON: {error}", "Fetch the annotations again") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise BadData(f"{path} is not a list of objects, one an image")
    return records


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise BadData(f"{place}: '{key}' must be a text, found {value!r:.60}")
    return value


def _list(record: Mapping[str, Any], key: str, place: str) -> list[dict[str, Any]]:
    value = record.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise BadData(f"{place}: '{key}' must be a list of objects, found {value!r:.60}")
    return value


def _numbers(record: Mapping[str, Any], key: str, shape: tuple[int, ...], place: str) -> np.ndarray:
    try:
        values = np.array(record.get(key), dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        values = np.empty(0)
    if values.shape != shape or not np.isfinite(values).all():
        wanted = " x ".join(map(str, shape)) + " numbers" if shape else "a number"
        raise BadData(f"{place}: '{key}' must be {wanted}, found {record.get(key)!r:.80}")
    return values


def _box(record: Mapping[str, Any], key: str, place: str) -> Box:
    x0, y0, x1, y1 = (float(v) for v in _numbers(record, key, (4,), place))
    return x0, y0, x1, y1


def _ratio(record: Mapping[str, Any], place: str) -> float:
    ratio = float(_numbers(record, "ratio", (), place))
    if not math.isfinite(ratio) or ratio < 0:
        raise BadData(f"{place}: 'ratio' must not be negative, found {ratio}")
    return ratio


def _word(record: Mapping[str, Any], place: str) -> Word:
    return Word(_text(record, "rec", place), _box(record, "bbox", place), _ratio(record, place))


def _face(record: Mapping[str, Any], place: str) -> Face:
    landmarks = _numbers(record, "kps", (5, 2), place)
    landmarks.setflags(write=False)
    return Face(landmarks, _box(record, "box", place), _ratio(record, place))
