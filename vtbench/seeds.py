"""Several seeds of one generator: every run is a record of its own, and one more says how far the metrics move and how much images of one condition differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.errors import UsageError
from vtbench.intervals import bootstrap_mean
from vtbench.places import place
from vtbench.record import Record, Row, run_id, worst, write
from vtbench.registry import metric
from vtbench.result import Result
from vtbench.table import write_table

if TYPE_CHECKING:
    from pathlib import Path

    from vtbench.api import Model
    from vtbench.evaluation import Evaluator
    from vtbench.plan import Plan
    from vtbench.reduce import Reducer

FEATURES = {("inception", "pool3"), ("dinov2", "cls"), ("clip", "embedding")}
"""The measurements that diversity is taken from: (extractor, head)."""


def over_seeds(evaluator: Evaluator, model: Model | str, count: int) -> Result:
    """Measure a generator with `count` seeds from the evaluator's on, and summarise. Raises `UsageError` for a model that draws nothing."""
    if count < 2:
        raise UsageError(f"--seeds {count}: at least 2", "One seed is --seed")
    subject = evaluator.load(model) if isinstance(model, str) else model
    if not subject.capabilities.stochastic:
        raise UsageError(f"{subject.name} draws nothing, so its seeds are all alike", "Leave --seeds away")
    options, results, seen = evaluator.options, [], []
    try:
        for seed in range(options.seed, options.seed + count):
            evaluator.options = replace(options, seed=seed)
            evaluator.read = {}
            results.append(evaluator(subject))
            seen.append(evaluator.read)
    finally:
        evaluator.options, evaluator.read = options, None
    records: list[Record] = []
    for i, opened in enumerate(evaluator.opened):
        runs = [r.records[i] for r in results if len(r.records) > i]
        if len(runs) < count:
            continue  # the other ranks of a group, and array jobs, write nothing
        read = [s[opened.suite.name] for s in seen]
        summary = summarise(runs, read)
        _write(summary, place(options.out))
        records.append(summary)
    measured = [r for result in results for r in result.records]
    return Result([*records, *measured], results[0].controls, place(options.out))


def _write(record: Record, out: Path) -> None:
    write(record, out)
    write_table(out)


def summarise(runs: Sequence[Record], read: Sequence[tuple[Plan, Reducer]]) -> Record:
    """One record of several seeds: for every metric the mean (slice ``seeds=N``) and the standard deviation (``seeds=N;of=std``), and `seed_diversity`."""
    first = runs[0]
    seeds = [r.environment.seed or 0 for r in runs]
    name = f"seeds={len(runs)}"
    by_key: dict[Any, list[Row]] = {}
    for run in runs:
        for row in run.rows:
            by_key.setdefault(row.key(), []).append(row)
    rows = [made for group in by_key.values() for made in _over(group, name, len(runs))]
    rows += diversity(read, name)
    options = {**first.options, "seeds": seeds}
    options.pop("seed", None)
    return first.model_copy(
        update={
            "run_id": run_id(
                first.model.name,
                first.model.revision,
                first.model.params,
                first.suite.digest,
                first.dataset.revision,
                options,
            ),
            "options": options,
            "rows": rows,
            "status": worst([r.status for r in runs]),
            "failures": [],
            "started": first.started,
            "finished": runs[-1].finished,
        }
    )


def _over(group: Sequence[Row], name: str, count: int) -> list[Row]:
    """The mean and the standard deviation of one row over seeds; nothing for timings and for rows that some seed lacks."""
    values = [r.value for r in group if r.value is not None]
    base = group[0]
    if base.volatile or len(values) < count or not np.isfinite(values).all():
        return []
    where = name if base.slice == "all" else f"{base.slice};{name}"
    spread = float(np.std(values, ddof=1))
    half = _T95[min(count - 1, len(_T95) - 1)] * spread / np.sqrt(count)
    mean = float(np.mean(values))
    least, most = metric(base.metric).bounds
    shared = {"groups": None, "notes": {"values": values}, "status": worst([r.status for r in group])}
    return [
        base.model_copy(
            update={
                **shared,
                "slice": where,
                "value": mean,
                "ci_low": max(mean - half, least),
                "ci_high": min(mean + half, most),
            }
        ),
        base.model_copy(
            update={
                **shared,
                "slice": f"{where};of=std",
                "value": spread,
                "ci_low": None,
                "ci_high": None,
                "higher_is_better": None,
            }
        ),
    ]


# Student's t, 97.5%, by degrees of freedom (index 0 unused); beyond, the last.
_T95 = (0.0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def diversity(read: Sequence[tuple[Plan, Reducer]], name: str) -> list[Row]:
    """`seed_diversity`: the mean cosine distance of features between images of one condition and different seeds, where features were measured."""
    rows = []
    plan, _ = read[0]
    done = set()
    for cell in plan.cells:
        need = cell.needs.get("fake")
        if cell.skip or need is None or (need[0].extractor, need[1]) not in FEATURES:
            continue
        key = (need, cell.protocol.name, cell.resolution, cell.budget)
        if key in done:
            continue
        done.add(key)
        matrices, ids = _aligned([reducer for _, reducer in read], need)
        if len(ids) < 1:
            continue
        units = [m / np.maximum(np.linalg.norm(m, axis=1, keepdims=True), 1e-12) for m in matrices]
        pairs = [1 - (a * b).sum(1) for a, b in itertools.combinations(units, 2)]
        samples = np.mean(pairs, 0)
        interval = bootstrap_mean(samples, np.arange(len(samples)))
        base = read[0][1]._base(cell)
        rows.append(
            base.model_copy(
                update={
                    "metric": "seed_diversity",
                    "metric_version": 1,
                    "slice": f"features={need[1]};{name}",
                    "value": interval.value,
                    "ci_low": interval.low,
                    "ci_high": interval.high,
                    "n": len(samples),
                    "unit": "",
                    "higher_is_better": None,
                }
            )
        )
    return rows


def _aligned(reducers: Sequence[Reducer], need: tuple[Any, str]) -> tuple[list[np.ndarray], list[str]]:
    """Features of the conditions that every seed has, in one order."""
    held: list[Mapping[str, np.ndarray]] = []
    for reducer in reducers:
        column = reducer.column(*need)
        table = np.asarray(column.array(), np.float64)
        flat = table.reshape(len(table), -1)
        held.append({reducer.kept[int(i)].id: flat[place] for place, i in enumerate(column.image)})
    ids = sorted(set.intersection(*(set(h) for h in held)))
    return [np.stack([h[i] for i in ids]) if ids else np.zeros((0, 1)) for h in held], ids
