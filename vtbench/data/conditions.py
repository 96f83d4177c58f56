"""Conditions in the place of images: class labels, or prompts of a file. What `vtbench generate` runs on.

A condition is a `Sample` without a picture: its id, its label or prompt (`caption`), and whatever else its file says of it (`meta`).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vtbench.data.identity import revision
from vtbench.data.sample import Dataset, Sample
from vtbench.data.sources import FileSource
from vtbench.errors import BadData, UsageError

HOW = ("balanced", "random")
TEXT = ("prompt", "caption", "text")
"""What a file may call its prompts."""
IDS = ("id", "prompt_id", "image_id", "item_id")


def labels(classes: int, count: int, how: str = "balanced") -> Dataset:
    """`count` class labels. balanced: 0, 1, ..., classes - 1, 0, ..., so that consecutive blocks are balanced too. random: each drawn from its own
    id, evenly; the same whatever the seed of a run.

    Raises `UsageError` for another rule, and for a balanced count that the classes do not divide."""
    if how not in HOW:
        raise UsageError(f"labels are {' or '.join(HOW)}, not '{how}'")
    if classes < 1 or count < 1:
        raise UsageError(f"{count} images of {classes} classes", "At least one of each")
    if how == "balanced" and count % classes:
        raise UsageError(
            f"{count} images are not balanced over {classes} classes",
            f"Ask for {max(1, count // classes) * classes}, or for random labels",
        )
    width = max(6, len(str(count - 1)))
    samples = []
    for i in range(count):
        name = f"{i:0{width}d}"
        drawn = int(hashlib.sha256(f"label/{name}".encode()).hexdigest(), 16) % classes
        label = i % classes if how == "balanced" else drawn
        samples.append(Sample(name, _digest({"label": label}), FileSource(""), label=label))
    return _dataset(f"labels:{how}-{classes}x{count // classes}", samples)


def prompts(where: str | Path, *, each: int = 1, count: int = 0, limit: int | None = None) -> Dataset:
    """The prompts of a file, `each` images of every one. count: only so many prompts, by hash of the id (0: all); a file may hold fewer when a run is
    content with no more than `limit`.

    ``.txt``: one a line. ``.jsonl``, ``.csv``, ``.tsv``: a column `prompt` (or `caption`, `text`), perhaps `id`, others become facts of the sample. ``.json``: a list
    of such objects, an object of them by id (MJHQ-30K's ``meta_data.json``), or COCO's captions (the first of every image). A folder of ``.txt`` files: one prompt each.
    With several images a prompt their ids are ``ID/0000``, ``ID/0001``, ... Raises `BadData` with the line that does not fit."""
    path = Path(where).expanduser()
    if not path.exists():
        raise BadData(f"there is no file of prompts {where}", "Check --data: .txt, .jsonl, .csv or .json")
    rows = _unique(_rows(path), path)
    if not rows:
        raise BadData(f"{where} holds no prompts", _where_prompts_are(path))
    if count > len(rows) >= (limit or count):
        count = len(rows)
    if count:
        if count > len(rows):
            raise BadData(
                f"{where} holds {len(rows)} prompts, and {count} are wanted",
                f"--limit {len(rows)} measures so many (limited rows)",
            )
        chosen = sorted(rows, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:count]
        rows = {name: rows[name] for name in sorted(chosen)}
    samples = []
    for name, row in sorted(rows.items()):
        text = str(row["prompt"])
        meta = {**{k: v for k, v in row.items() if k not in ("prompt", *IDS)}, "prompt_id": name}
        digest = _digest(row)
        for k in range(each):
            id_ = name if each == 1 else f"{name}/{k:04d}"
            samples.append(Sample(id_, digest, FileSource(""), caption=text, meta=meta))
    return _dataset(f"prompts:{path.stem}", samples)


def _where_prompts_are(path: Path) -> str:
    """The way out where a file or folder holds no prompts."""
    near = (
        sorted(p for kind in ("*.json", "*/*.json", "*.jsonl", "*.csv") for p in path.glob(kind))
        if path.is_dir()
        else []
    )
    known = [p for p in near if p.name.startswith(("captions_", "meta_data"))]
    if near:
        return f"Name the file itself: --data {(known or near)[0]}"
    return "One a line in a .txt, or a column 'prompt' in a .jsonl or .csv"


def _digest(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _dataset(name: str, samples: list[Sample]) -> Dataset:
    return Dataset(name, revision((s.id, s.digest) for s in samples), tuple(samples))


def _unique(rows: Iterable[dict[str, Any]], path: Path) -> dict[str, dict[str, Any]]:
    """Rows by id; without one, their place."""
    found: dict[str, dict[str, Any]] = {}
    for place, row in enumerate(rows):
        text = next((row[k] for k in TEXT if row.get(k)), None)
        if not isinstance(text, str) or not text.strip():
            raise BadData(f"{path}, entry {place + 1} has no prompt", f"It is called {' or '.join(TEXT)}")
        name = str(next((row[k] for k in IDS if row.get(k) not in (None, "")), f"{place:05d}"))
        if name in found:
            raise BadData(f"{path}: the id '{name}' comes twice", "An id names one prompt")
        found[name] = {**{k: v for k, v in row.items() if k not in TEXT}, "prompt": text.strip()}
    return found


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """What a file says of each prompt."""
    if path.is_dir():
        for file in sorted(path.glob("*.txt")):
            yield {"id": file.stem, "prompt": _text(file)}
        return
    text = _text(path)
    kind = path.suffix.lower()
    if kind == ".txt":
        yield from ({"prompt": line} for line in text.splitlines() if line.strip())
    elif kind == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                yield _object(line, f"{path}, line {number}")
    elif kind in (".csv", ".tsv"):
        try:
            yield from csv.DictReader(io.StringIO(text), delimiter="\t" if kind == ".tsv" else ",", strict=True)
        except csv.Error as error:
            raise BadData(f"{path} is no table: {error}") from error
    elif kind == ".json":
        yield from _json(text, path)
    else:
        raise BadData(f"{path} is no file of prompts that vtbench knows", "Give .txt, .jsonl, .csv, .tsv or .json")


def _json(text: str, path: Path) -> Iterator[dict[str, Any]]:
    try:
        held = json.loads(text)
    except ValueError as error:
        raise BadData(f"{path} is not JSON: {error}") from error
    if isinstance(held, dict) and isinstance(held.get("annotations"), list):  # COCO's captions
        yield from _coco(held, path)
    elif isinstance(held, dict):
        for name, row in held.items():
            yield {**(row if isinstance(row, dict) else {"prompt": row}), "id": name}
    elif isinstance(held, list):
        for place, row in enumerate(held):
            if not isinstance(row, (dict, str)):
                raise BadData(f"{path}, entry {place + 1} is neither an object nor a text")
            yield row if isinstance(row, dict) else {"prompt": row}
    else:
        raise BadData(f"{path} holds no list of prompts")


def _coco(held: dict[str, Any], path: Path) -> Iterator[dict[str, Any]]:
    """The first caption of every image."""
    images, rows = held.get("images", []), held["annotations"]
    numbered = all(isinstance(r, dict) and isinstance(r.get("id"), int) for r in rows)
    if not numbered or not isinstance(images, list) or not all(isinstance(i, dict) for i in images):
        raise BadData(f"{path} is not laid out like COCO's captions", "images and annotations are lists of objects")
    if rows and not any("caption" in r for r in rows):
        raise BadData(f"{path} holds no captions", "COCO's are in captions_val2014.json")
    first: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda r: r["id"]):
        first.setdefault(str(row.get("image_id")), row)
    names = {str(i.get("id")): Path(str(i.get("file_name", ""))).stem for i in images}
    yield from ({"id": names.get(i) or i, "prompt": r.get("caption")} for i, r in first.items())


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise BadData(f"{where} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise BadData(f"{where} is no JSON object")
    return row


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}", "Check --data") from error
    except UnicodeDecodeError as error:
        raise BadData(f"{path} is not UTF-8 text: {error}") from error
