"""From a measured run to its record and the files beside it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vtbench.api import Model
from vtbench.geneval import results as geneval
from vtbench.instances import collect
from vtbench.instances import write as write_instances
from vtbench.opened import Opened
from vtbench.options import Options
from vtbench.places import place
from vtbench.plan import Plan
from vtbench.provenance import environment, now
from vtbench.record import Alarm, DatasetInfo, Failure, ModelInfo, Record, Row, SuiteInfo, overall, plain, run_id, write
from vtbench.reduce import Reduced, Reducer
from vtbench.samples import write as write_samples

if TYPE_CHECKING:
    from vtbench.passes import Bench


@dataclass(frozen=True)
class Run:
    """One model under one suite, as it is known before anything is measured.

    revision: the model's. step: the training step, which the record's revision names. moving: the options that are part of the run's id. command: as it was
    typed (None: as this process was started)."""

    model: Model
    opened: Opened
    plan: Plan
    options: Options
    revision: str
    moving: dict[str, Any]
    step: int | None = None
    command: str | None = None

    @property
    def shown(self) -> str:
        """The revision that the record shows."""
        return self.revision + (f";step={self.step}" if self.step is not None else "")

    @cached_property
    def id(self) -> str:
        """The run's id: the same command gives it again."""
        model, opened = self.model, self.opened
        options = {**self.moving, "budget": model.budget}
        return run_id(model.name, self.shown, model.params, opened.suite.digest(), opened.dataset.revision, options)


def record_of(run: Run, reduced: Reduced, alarms: list[Alarm], bench: Bench, *, started: str, worked: int) -> Record:
    """What one run measured. started: the time that it began. worked: how many chunks were measured, and not found in the store."""
    model, opened, o = run.model, run.opened, run.options
    suite, dataset = opened.suite, opened.dataset
    failures = [Failure(id=i, stage="load", reason=r) for i, r in dataset.problems] + reduced.failures
    rows = _partial(reduced.rows, len(failures)) if dataset.problems else reduced.rows
    auto = o.batch_size == "auto"
    return Record(
        run_id=run.id,
        status=overall(rows, failures),
        started=started,
        finished=now(),
        command=run.command
        or shlex.join(["vtbench", *sys.argv[1:]] if sys.argv[0].endswith("vtbench") else ["python"]),
        model=ModelInfo(
            name=model.name,
            revision=run.shown,
            params=plain(dict(model.params)),
            title=getattr(model, "label", ""),
            card=_card(model),
        ),
        suite=SuiteInfo(name=suite.name, version=suite.version, digest=suite.digest()),
        dataset=DatasetInfo(
            name=dataset.name,
            revision=dataset.revision,
            n=len(dataset.samples),
            where=opened.where,
            made=opened.made(),
        ),
        options={**run.moving, **({"step": run.step} if run.step is not None else {})},
        protocols={
            name: plain(suite.protocols[name].parts())
            for name in dict.fromkeys(c.protocol.name for c in run.plan.cells)
        },
        rows=rows,
        failures=failures,
        alarms=alarms,
        stages=dict(sorted(bench.spent.stages.items())),
        environment=environment(
            bench.device,
            o.dtype,
            bench.fitting if auto else bench.batch_size,
            o.seed,
            backed_off=bench.backed_off,
            chunks_measured=worked,
            loading_seconds={what: round(seconds, 3) for what, seconds in sorted(bench.loading.items())},
            **({"batch_size_found": "auto"} if auto else {}),
            **({"batch_by_area": True} if bench.by_area else {}),
            **({"compiled": True} if o.compile else {}),
            **({"chunks_by_worker": dict(bench.by)} if bench.by else {}),
            **({"worker": dict(told)} if (told := model.provenance()) else {}),
        ),
        weights=run.plan.weights,
    )


def write_run(run: Run, record: Record, reduced: Reduced, reducer: Reducer, bench: Bench) -> None:
    """Write a record into the results folder, with its per-sample values, its instances and GenEval's own results where there are any."""
    out = place(run.options.out)
    write(record, out)
    if bench.keep is not None and run.opened.conditions is not None:
        bench.keep.describe(run.opened.conditions.samples)
    blocks = (
        {
            **{k: getattr(s.row, k) for k in ("resolution", "tokens", "protocol", "metric", "slice")},
            "id": s.ids,
            "instance": s.instance,
            "value": s.values,
        }
        for s in reduced.samples
    )
    write_samples(out, run.id, blocks)
    write_instances(out, run.id, collect(reducer, () if bench.keep is None else bench.keep.ids))
    geneval.write(out, run.id, reducer)


def _card(model: Model) -> dict[str, Any]:
    card = getattr(model, "card", None)
    if card is None:
        return {}
    return dict(plain(card.to_dict() if hasattr(card, "to_dict") else dict(card)))


def _partial(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows of a run some of whose samples failed."""
    out = []
    for row in rows:
        if row.status in ("ok", "limited"):
            why = f"{count} samples failed" + (f"; {row.why}" if row.why and "samples failed" not in row.why else "")
            row = row.model_copy(update={"status": "partial", "why": why})
        out.append(row)
    return out
