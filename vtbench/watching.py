"""Each new checkpoint measured as it appears, and the curve over training with the controls as horizontal lines."""

from __future__ import annotations

import glob
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtbench.record import Record, Row
from vtbench.records import label
from vtbench.report.plots import Point, Series, chart


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file that has stopped growing. step: the last number in its name (else how many came before it)."""

    path: Path
    step: int
    stamp: tuple[int, int]


def step_of(path: Path) -> int | None:
    """The training step in a file's name: the last run of digits (``model_step-0025000.pt``: 25000)."""
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of a file, or None when it is gone or empty."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return (facts.st_size, facts.st_mtime_ns) if facts.st_size else None


def new_checkpoints(
    pattern: str,
    *,
    every: float = 30.0,
    settle: float = 10.0,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], float] = time.time,
) -> Iterator[Checkpoint]:
    """Checkpoints that match a pattern, in the order of their steps, each once; one that is written over comes again.

    A file counts when it has not changed for `settle` seconds, so that none is read half-written. once: those that are there
    now (none is waited for), then stop; otherwise look again `every` so many seconds, for ever."""
    done: dict[Path, tuple[int, int]] = {}
    while True:
        found = []
        for number, name in enumerate(sorted(glob.glob(pattern, recursive=True))):
            path = Path(name)
            mark = stamp(path)
            if mark is None or not path.is_file() or done.get(path) == mark:
                continue
            if once or now() - mark[1] / 1e9 >= settle:
                step = step_of(path)
                found.append(Checkpoint(path, number if step is None else step, mark))
        for checkpoint in sorted(found, key=lambda c: (c.step, str(c.path))):
            if stamp(checkpoint.path) == checkpoint.stamp:
                done[checkpoint.path] = checkpoint.stamp
                yield checkpoint
        if once:
            return
        sleep(every)


def curves(records: Sequence[Record], controls: Sequence[Record] = ()) -> list[str]:
    """Charts of every recommended metric over the step, from the records of one model; controls as dashed horizontal lines."""
    points: dict[tuple[Any, ...], dict[str, list[tuple[int, Row]]]] = {}
    for record in records:
        step = record.options.get("step")
        if step is None:
            continue
        for row in record.rows:
            if row.recommended and row.value is not None and "=" not in row.slice and not row.volatile:
                key = (record.suite.name, row.resolution, row.metric, row.slice, row.unit)
                name = label(record) + (f", {row.tokens} tokens" if row.tokens else "")
                points.setdefault(key, {}).setdefault(name, []).append((int(step), row))
    out = []
    for (suite, resolution, metric, piece, unit), models in points.items():
        series = [
            Series(name, [Point(s, r.value or 0.0, r.ci_low, r.ci_high) for s, r in sorted(rows, key=lambda p: p[0])])
            for name, rows in models.items()
        ]
        steps = [p.x for s in series for p in s.points]
        for record in controls:
            for row in record.rows:
                same = (record.suite.name, row.resolution, row.metric, row.slice) == (suite, resolution, metric, piece)
                if same and row.recommended and row.value is not None:
                    ends = [Point(x, row.value) for x in (min(steps), max(steps))]
                    series.append(Series(label(record), ends, dashed=True, markers=False))
        name = metric if piece == "all" else f"{metric} {piece}"
        where = f"{suite}, {resolution} px" if resolution else suite
        out.append(chart(f"{name}, {where}", "step", f"{name} ({unit})" if unit else name, series))
    return [svg for svg in out if svg]


def page(records: Sequence[Record], controls: Sequence[Record], title: str) -> str:
    """A self-contained page of the curves."""
    import html

    from vtbench.report.html import PAGE

    style = (PAGE / "page.css").read_text("utf-8")
    plots = "".join(curves(records, controls))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f'<body><main><h1>{html.escape(title)}</h1><div class="plots">{plots}</div></main></body></html>\n'
    )
