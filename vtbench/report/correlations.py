"""Do pixel metrics see what a reader sees? Correlations between per-sample values of one run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtbench import samples
from vtbench.record import Record
from vtbench.records import label
from vtbench.report.plots import Point, Series, chart

PICTURE = ("psnr", "ssim", "ms_ssim", "lpips", "dists")
INSTANCE = ("t_acc", "t_ned", "f_sim")


@dataclass(frozen=True)
class Correlation:
    """One pair of metrics over the n words or faces of a run; each instance stands with its picture's value."""

    model: str
    picture: str
    instance: str
    n: int
    pearson: float
    spearman: float


def correlate(records: Sequence[Record], out: Path) -> tuple[list[Correlation], list[str]]:
    """Correlations of every picture metric with every instance metric, and a scatter plot of each pair over pictures."""
    found: list[Correlation] = []
    clouds: dict[tuple[str, str], list[Series]] = {}
    for record in records:
        for tokens, by_metric in _values(record, out).items():
            name = label(record) + (f", {tokens} tokens" if tokens else "")
            for first in PICTURE:
                pixels = {sample: values[0] for sample, values in by_metric.get(first, {}).items()}
                for second in INSTANCE:
                    rows = by_metric.get(second, {})
                    pairs = [(pixels[s], v) for s, values in rows.items() if s in pixels for v in values]
                    pairs = [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]
                    if len(pairs) < 3:
                        continue
                    x, y = zip(*pairs)
                    found.append(
                        Correlation(name, first, second, len(pairs), pearson(x, y), pearson(ranks(x), ranks(y)))
                    )
                    points = [Point(pixels[s], sum(v) / len(v), label=s) for s, v in rows.items() if s in pixels]
                    clouds.setdefault((first, second), []).append(Series(name, points, line=False))
    plots = [chart(f"{b} of a picture's instances against its {a}", a, b, s) for (a, b), s in clouds.items()]
    return found, [p for p in plots if p]


def _values(record: Record, out: Path) -> dict[int | None, dict[str, dict[str, list[float]]]]:
    """Values by budget, metric and sample id, of the recommended protocols and the first resolution."""
    table = samples.read(out, record.run_id)
    if table is None:
        return {}
    recommended = {(r.metric, r.protocol) for r in record.rows if r.recommended}
    first = next((r.resolution for r in record.rows), None)
    out_: dict[int | None, dict[str, dict[str, list[float]]]] = {}
    columns = ("resolution", "tokens", "metric", "protocol", "id", "value")
    for resolution, tokens, metric, protocol, sample, value in zip(*(table.column(c).to_pylist() for c in columns)):
        if resolution == first and (metric, protocol) in recommended:
            out_.setdefault(tokens, {}).setdefault(metric, {}).setdefault(sample, []).append(value)
    return out_


def pearson(x: Iterable[float], y: Iterable[float]) -> float:
    """Pearson's correlation; nan when either is constant."""
    import numpy as np

    a, b = np.asarray(list(x), dtype=np.float64), np.asarray(list(y), dtype=np.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else math.nan


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 1, ties sharing their mean."""
    import numpy as np

    _, place, count = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    shared: list[float] = (ends - (count - 1) / 2)[place].tolist()
    return shared
