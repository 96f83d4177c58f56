"""Token statistics of a file: from ids on disk to a record, without a model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from vtbench import registry
from vtbench.api import Measurements, Metric
from vtbench.errors import UsageError
from vtbench.places import place
from vtbench.plan import Cell
from vtbench.provenance import now, own_source, packages
from vtbench.record import DatasetInfo, Environment, ModelInfo, Record, Row, SuiteInfo, overall, plain, run_id, write
from vtbench.reduce import Reducer
from vtbench.suite import Suite, load_suite
from vtbench.table import write_table
from vtbench.tokens.files import TokenFile, digest, measurements

GROUPS = 50


class _FileReducer(Reducer):
    """A reducer whose columns come from a file: only its rows and intervals are used."""

    def __init__(self, file: TokenFile) -> None:
        self.file, self.limited, self.failures, self.facts = file, False, [], {}
        self.ids = {"id": np.arange(file.shape[0])}

    def rows_of(self, cell: Cell, m: Measurements, fields: dict[str, Any]) -> list[Row]:
        """The rows of one cell; a metric whose needs a file cannot meet is skipped with the reason."""
        nominal = sum(math.log2(k) for k in self.file.sizes()) * self.file.shape[1]
        update = {
            "tokens": self.file.shape[1],
            "bpp": nominal / self.file.pixels if self.file.pixels else None,
        }
        base = self._base(cell).model_copy(update=update)
        lacking = [k for k in cell.metric.needs(fields) if k not in m.columns and k not in OPTIONAL]
        if lacking:
            why = f"a file of tokens does not hold {', '.join(lacking)}: this needs the model (--model)"
            return [base.model_copy(update={"status": "skipped", "why": why})]
        with threadpool_limits(1):
            return [self._row(base, cell, value, "all", self.ids)[0] for value in cell.metric.compute(m, fields)]


OPTIONAL = frozenset({"pixels", "codebook", "hidden", "pre_quant"})
"""Columns that metrics do without, and say what they lose."""


def study(
    file: TokenFile,
    suites: Sequence[str] = ("token-statistics",),
    *,
    protocols: Sequence[str] = (),
    out: str | Path = "results",
    command: str = "",
    device: str | None = None,
    tell: Callable[[str, float], None] = lambda metric, seconds: None,
) -> list[Record]:
    """Measure a file of tokens under suites; one record each, written to `out` with the table.

    protocols: protocols to add, as `tokens+ar_tokens=1048576`. device: for the fitted language models. tell: called after each metric
    with its seconds."""
    revision = digest(file.path)
    made = [_one(file, load_suite(name, extra_protocols=protocols), revision, command, device, tell) for name in suites]
    for record in made:
        write(record, place(out))
    write_table(place(out))
    return made


def _one(
    file: TokenFile, suite: Suite, revision: str, command: str, device: str | None, tell: Callable[[str, float], None]
) -> Record:
    started = now()
    m = measurements(file, GROUPS)
    m.context = {**m.context, "device": device}
    reducer = _FileReducer(file)
    rows: list[Row] = []
    stages: dict[str, float] = {}
    facts = {
        "codebook_size": list(file.codebook_size), "grid": list(file.grid), "ordered": file.ordered, "pixels": file.pixels,
        "reading": file.name,
    }  # fmt: skip
    for entry in suite.metrics:
        metric: Metric = registry.metric(entry.name)
        for name in entry.protocols:
            protocol = suite.protocols[name]
            side = math.isqrt(file.pixels) if file.pixels and math.isqrt(file.pixels) ** 2 == file.pixels else None
            fields = protocol.fields(side)
            absent = [f for f in metric.fields if f not in fields]
            if absent:
                raise UsageError(f"the protocol {name} lacks '{absent[0]}', which the metric {entry.name} reads")
            start = time.perf_counter()
            cell = Cell(metric, entry, protocol, side, None, {}, {})
            rows += reducer.rows_of(cell, m, fields)
            spent = time.perf_counter() - start
            stages[entry.name] = stages.get(entry.name, 0.0) + spent
            tell(entry.name, spent)
    return Record(
        run_id=run_id(file.name, revision, {}, suite.digest(), revision, facts),
        status=overall(rows),
        started=started,
        finished=now(),
        command=command,
        model=ModelInfo(name=file.name, revision=revision, title=f"tokens of {file.path.name}"),
        suite=SuiteInfo(name=suite.name, version=suite.version, digest=suite.digest()),
        dataset=DatasetInfo(name=f"tokens:{file.name}", revision=revision, n=file.shape[0], where=file.path.name),
        options=plain(facts),
        protocols={p.name: plain(p.parts()) for p in suite.protocols.values()},
        rows=rows,
        stages=stages,
        environment=Environment(packages=packages(), vtbench=own_source(), device=device or "cpu", threads=1),
    )
