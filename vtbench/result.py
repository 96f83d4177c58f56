"""What an evaluation gives back in Python."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.errors import UnknownName, UsageError
from vtbench.record import Record, Row
from vtbench.records import piece
from vtbench.report.numbers import with_interval
from vtbench.table import COLUMNS
from vtbench.table import rows as tidy_rows

if TYPE_CHECKING:
    import pandas

WIDTH = 100
"""Columns of a result that is shown as text."""


@dataclass(frozen=True, repr=False)
class Cell:
    """One value with its 95% interval (None where there is none)."""

    value: float
    ci: tuple[float, float] | None
    row: Row

    def __float__(self) -> float:
        return self.value

    def __repr__(self) -> str:
        """``24.4 [23.5, 25.2] dB``, or why there is none."""
        if self.row.value is None:
            return f"{self.row.status}: {self.row.why}"
        return f"{with_interval(self.row)} {self.row.unit}".rstrip()


@dataclass(frozen=True, repr=False)
class Result:
    """The records of one evaluation: the model's first, then the controls'.

    ``result["fid"].value``, ``result["t_acc", "small"].ci``, ``result.flat("val/")`` for a logger, ``result.to_pandas()``."""

    records: Sequence[Record]
    controls: Sequence[Record] = ()
    out: Path | None = None

    def __repr__(self) -> str:
        """The table that the command line prints: what a notebook shows."""
        if not self.records:
            return "Result(records=[])"
        from rich.console import Console

        from vtbench.console import printable
        from vtbench.report.terminal import show

        console = Console(file=io.StringIO(), width=WIDTH, color_system=None, force_terminal=False)
        with console.capture() as text:
            show([*self.records, *self.controls], console)
        return printable("\n".join(line.rstrip() for line in text.get().splitlines()))

    @property
    def record(self) -> Record:
        """The first record. `IndexError` on every rank but the first of a process group."""
        return self.records[0]

    def rows(self) -> Iterator[Row]:
        """The model's rows."""
        for record in self.records:
            yield from record.rows

    def __getitem__(self, key: str | tuple[str, str]) -> Cell:
        """A metric under its recommended protocol, over all samples (the slice `all`, else `mean`), at the first operating point;
        or (metric, slice). Raises `UnknownName`, and `UsageError` where there are no records."""
        if not self.records:
            raise UsageError("there is no result here", "Of a process group, rank 0 has it; flat() is {} on the others")
        name, wanted = key if isinstance(key, tuple) else (key, "")
        rows = [r for r in self.rows() if r.metric == name and r.recommended]
        if not rows:
            raise UnknownName("metric", name, {r.metric for r in self.rows()})
        order = (wanted,) if wanted else ("all", "mean")
        for choice in order:
            for row in rows:
                if choice in (row.slice, piece(row.slice)):
                    low, high = row.ci_low, row.ci_high
                    value = float("nan") if row.value is None else row.value
                    return Cell(value, None if low is None or high is None else (low, high), row)
        raise UnknownName("slice", wanted or "all", {r.slice for r in rows})

    def flat(self, prefix: str = "") -> dict[str, float]:
        """Numbers by name for a logger: ``{"val/fid": 1.2, "val/t_acc/small": 30.0}``, recommended protocols only; resolution and
        tokens join the name where there are several, the suite where two suites have a number of the same name."""
        of_suite = [
            (r.suite.name, row) for r in self.records for row in r.rows if row.recommended and row.value is not None
        ]
        rows = [row for _, row in of_suite]
        several_sizes = len({r.resolution for r in rows}) > 1
        several_tokens = len({r.tokens for r in rows if r.tokens is not None}) > 1
        named: dict[str, dict[str, float]] = {}
        for suite, row in of_suite:
            parts = [row.metric]
            if piece(row.slice) not in ("all", "mean"):
                parts.append(piece(row.slice))
            if several_sizes:
                parts.append(str(row.resolution))
            if several_tokens and row.tokens is not None:
                parts.append(f"{row.tokens}-tokens")
            named.setdefault("/".join(parts), {}).setdefault(suite, float(row.value))  # type: ignore[arg-type]
        return {
            prefix + (name if len(values) == 1 else f"{suite}/{name}"): value
            for name, values in named.items()
            for suite, value in values.items()
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The tidy rows of the model and the controls, in the table's columns."""
        import pandas

        lines = [line for record in (*self.records, *self.controls) for line in tidy_rows(record)]
        return pandas.DataFrame(lines, columns=list(COLUMNS))
