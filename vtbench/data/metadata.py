"""A table of facts about samples (`--metadata CSV`), joined on the id; its columns make slices."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from vtbench.data.images import image_stem
from vtbench.data.sample import Dataset
from vtbench.errors import BadData, UsageError

ID_COLUMNS = ("id", "image_id", "file_name", "filename", "file", "image", "path")


def with_metadata(dataset: Dataset, path: Path) -> Dataset:
    """Join a CSV file (first line: column names) on the sample id; every other column becomes `Sample.meta`, as text.

    The id is the column `id`, else the first of `ID_COLUMNS`; file names lose their image extension. Samples without a line get
    empty values, counted in `Dataset.notes`. Raises `BadData` when a line has no sample, an id comes twice, or the file is not
    a table; `UsageError` when no column holds ids."""
    rows, columns = _read(path)
    ids = {sample.id for sample in dataset.samples} | {id_ for id_, _ in dataset.problems}
    strangers = [id_ for id_ in rows if id_ not in ids]
    if strangers:
        some = next(iter(sorted(ids)), "")
        raise BadData(
            f"{path}: {len(strangers)} of {len(rows)} ids are not in the dataset, such as {', '.join(strangers[:3])}",
            f"An id here looks like '{some}': the path below the data folder without the extension",
        )
    empty = dict.fromkeys(columns, "")
    samples = tuple(replace(s, meta={**s.meta, **rows.get(s.id, empty)}) for s in dataset.samples)
    without = sum(sample.id not in rows for sample in samples)
    notes = {**dataset.notes, **({"samples without a line in the metadata": without} if without else {})}
    return replace(dataset, samples=samples, notes=notes)


def _read(path: Path) -> tuple[dict[str, dict[str, str]], list[str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            table = list(csv.reader(file, strict=True))
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror or error}", "Check --metadata") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadData(f"{path} is not a UTF-8 CSV file: {error}", "Check --metadata") from error
    if not table or not any(table[0]):
        raise BadData(f"{path} is empty", "Its first line names the columns, one of them 'id'")
    header = [name.strip() for name in table[0]]
    key = next((name for name in ID_COLUMNS if name in header), None)
    if key is None:
        raise UsageError(f"{path} has no column of ids (it has {', '.join(header)})", "Name one of them 'id'")
    if len(set(header)) != len(header):
        raise BadData(f"{path} names a column twice ({', '.join(header)})", "Rename one")
    place = header.index(key)
    columns = [name for name in header if name != key]
    rows: dict[str, dict[str, str]] = {}
    for number, cells in enumerate(table[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != len(header):
            raise BadData(f"{path} line {number} has {len(cells)} cells, not {len(header)}")
        id_ = image_stem(cells[place]) or cells[place]
        if id_ in rows:
            raise BadData(f"{path} line {number}: the id '{id_}' comes twice")
        rows[id_] = {name: cell for name, cell in zip(header, cells) if name != key}
    return rows, columns
