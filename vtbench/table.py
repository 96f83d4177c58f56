"""The tidy table: one value a line, the same columns always, derived from records."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vtbench._source import folder as bundled
from vtbench.atomic import replace_file
from vtbench.errors import BadData, BadRecord
from vtbench.places import Remote, place
from vtbench.record import Record, params_text
from vtbench.records import read_all

COLUMNS = (
    "model", "revision", "params", "suite", "suite_version", "dataset", "dataset_revision", "resolution", "tokens", "bpp",
    "protocol", "metric", "metric_version", "slice", "value", "ci_low", "ci_high", "n", "unit", "higher_is_better", "status",
    "source", "run_id",
)  # fmt: skip
INTEGERS = frozenset({"suite_version", "resolution", "tokens", "metric_version", "n"})
NUMBERS = frozenset({"bpp", "value", "ci_low", "ci_high"})
KEY = ("run_id", "params", "resolution", "tokens", "protocol", "metric", "slice")
# A spreadsheet runs a cell that starts with one of these; an apostrophe before it makes it text.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")

TidyRow = dict[str, Any]


def rows(record: Record) -> list[TidyRow]:
    """A record's rows in the tidy columns; None where a cell is empty."""
    shared = {
        "model": record.model.name,
        "revision": record.model.revision,
        "suite": record.suite.name,
        "suite_version": record.suite.version,
        "dataset": record.dataset.name,
        "dataset_revision": record.dataset.revision,
        "run_id": record.run_id,
    }
    own = params_text(record.model.params)
    out = []
    for row in record.rows:
        cells = {**shared, **{c: getattr(row, c) for c in COLUMNS if c not in shared}}
        cells["params"] = row.params or own
        out.append({column: cells[column] for column in COLUMNS})
    return out


def cell(column: str, value: Any) -> str:
    """A cell as text: numbers read back as the same number, text cannot become a formula."""
    if value is None:
        return ""
    if column == "higher_is_better":
        return "true" if value else "false"
    if column in INTEGERS:
        return str(int(value))
    if column in NUMBERS:
        return repr(float(value))
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def uncell(column: str, text: str) -> Any:
    """The value of a cell's text."""
    if column == "higher_is_better":
        return {"": None, "true": True, "false": False}[text.lower()]
    if column in INTEGERS:
        return int(text) if text else None
    if column in NUMBERS:
        return float(text) if text else None
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def csv_text(lines: Iterable[Mapping[str, Any]], columns: Sequence[str] = COLUMNS) -> str:
    """Tidy rows as CSV text with a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(column, line.get(column)) for column in columns] for line in lines)
    return out.getvalue()


def read_csv(path: Path) -> list[TidyRow]:
    """Tidy rows from a CSV; `BadData` names the line that does not fit."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        out = []
        try:
            if tuple(next(reader, [])) != COLUMNS:
                raise BadData(f"{path} does not have the tidy columns", f"They are: {', '.join(COLUMNS)}")
            for line in reader:
                out.append({c: uncell(c, text) for c, text in zip(COLUMNS, line, strict=True)})
        except (ValueError, KeyError, csv.Error) as error:
            raise BadData(f"{path}, line {reader.line_num}: {error}") from error
        return out


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the results folder's table lock: two processes that write at once take turns."""
    if isinstance(out, Remote):  # no locks there: the last writer wins, and records are the truth
        yield
        return
    import fcntl  # absent on Windows, where only writing is refused

    out.mkdir(parents=True, exist_ok=True)
    with (out / "table.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_table(out: Path) -> tuple[Path, list[BadRecord]]:
    """Rewrite ``table.csv`` from all records of a results folder. Returns its path and the records that could not be read.

    Records are read under the lock, so the last writer has seen every record that was written before it."""
    out = place(out)
    with locked(out):
        records, problems = read_all(out)
        lines = [line for record in sorted(records, key=lambda r: (r.model.name, r.run_id)) for line in rows(record)]
        replace_file(out / "table.csv", csv_text(lines).encode())
    return out / "table.csv", problems


def published(names: Iterable[str] = ("reconstruction", "tokbench", "generation", "geneval")) -> list[TidyRow]:
    """The published numbers that vtbench carries, each with its source; protocol `unstated` where the source names none."""
    root = bundled("published")
    return [line for name in names for line in read_csv(root / f"{name}.csv")]
