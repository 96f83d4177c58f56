"""What an evaluation gives back in Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.errors import UnknownName
from vtbench.record import Record, Row, piece
from vtbench.table import COLUMNS
from vtbench.table import rows as tidy_rows

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Cell:
    """One value with its 95% interval (None where there is none)."""

    value: float
    ci: tuple[float, float] | None
    row: Row

    def __float__(self) -> float:
        return self.value


@dataclass(frozen=True)
class Result:
    """The records of one evaluation: the model's first, then the controls'.

    ``result["fid"].value``, ``result["t_acc", "small"].ci``, ``result.flat("val/")`` for a logger, ``result.to_pandas()``."""

    records: Sequence[Record]
    controls: Sequence[Record] = ()
    out: Path | None = None

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
        or (metric, slice). Raises `UnknownName`."""
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
        tokens join the name where there are several."""
        rows = [r for r in self.rows() if r.recommended and r.value is not None]
        several_sizes = len({r.resolution for r in rows}) > 1
        several_tokens = len({r.tokens for r in rows if r.tokens is not None}) > 1
        out: dict[str, float] = {}
        for row in rows:
            parts = [row.metric]
            if piece(row.slice) not in ("all", "mean"):
                parts.append(piece(row.slice))
            if several_sizes:
                parts.append(str(row.resolution))
            if several_tokens and row.tokens is not None:
                parts.append(f"{row.tokens}-tokens")
            out.setdefault(prefix + "/".join(parts), float(row.value))  # type: ignore[arg-type]
        return out

    def to_pandas(self) -> pandas.DataFrame:
        """The tidy rows of the model and the controls, in the table's columns."""
        import pandas

        lines = [line for record in (*self.records, *self.controls) for line in tidy_rows(record)]
        return pandas.DataFrame(lines, columns=list(COLUMNS))
