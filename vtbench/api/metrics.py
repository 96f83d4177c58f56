"""Metrics: pure functions from measurements to values, with their facts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np

from vtbench.api.passes import Need


class Column(Protocol):
    """One head's measurements over all samples: lazy, in sample order."""

    image: np.ndarray

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, values) block by block, so that no metric need hold everything."""
        ...

    def array(self) -> np.ndarray: ...


@dataclass
class Measurements:
    """What a metric is given: its columns by the names of its `needs`, and what is known of the samples.

    samples: per-sample facts as arrays of length M (`id`, `set`, `label`, `width`, `height`, ...), indexed by `Column.image`.
    groups: int ``[M]``: the fixed group of each image for the delete-group jackknife. context: `resolution`, `tokens`,
    `pixels` (of the model's input, per image), `n`, `reference_statistics` (head -> (mean, covariance), see `metric`).
    """

    columns: Mapping[str, Column]
    samples: Mapping[str, np.ndarray]
    groups: np.ndarray
    context: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Column:
        return self.columns[name]

    def group_of(self, column: Column) -> np.ndarray:
        """The jackknife group of each row of a column."""
        return self.groups[column.image]


@dataclass(frozen=True)
class Value:
    """What a metric yields: per-sample values (the core gives the mean, the bootstrap by image and the pairing), or one value
    with its leave-one-group-out values (the core gives the delete-group jackknife).

    samples ``[R]`` with image ``[R]`` (the image of each row; several rows an image for words and faces). groups ``[G]``: the value
    without group g (nan where a group is empty). slice: `all`, a name (`small`), or ``key=value``. status and why: `skipped` with a
    reason where the estimator does not apply. notes: counts and remarks that go to the record beside the row.
    keep: whether per-sample values go to samples/RUN.parquet. interval: (low, high) of a metric that knows its own resampling (by prompt); groups still
    serve comparisons. bounds: the ends of the scale where they depend on the model (a perplexity is at most K); else the metric's.
    """

    samples: np.ndarray | None = None
    image: np.ndarray | None = None
    value: float | None = None
    n: int = 0
    groups: np.ndarray | None = None
    slice: str = "all"
    status: Literal["ok", "skipped"] = "ok"
    why: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    keep: bool = True
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None


Fields = Mapping[str, Any]
"""A protocol's fields, its three parts merged (their names never collide), plus `resolution`."""


@dataclass(frozen=True)
class Metric:
    """A metric's declaration: facts first, then the pure function."""

    name: str
    compute: Callable[[Measurements, Fields], Iterable[Value]]
    needs: Callable[[Fields], Mapping[str, Need]]
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""
    fields: tuple[str, ...] = ()
    version: int = 1
    title: str = ""
    source: str = ""
    volatile: bool = False
    fitted: bool = False
    tolerance: float = 1e-4
    groups: int = 20
    compares: Literal["pairs", "sets", "moments"] = "pairs"
    bounds: tuple[float, float] = (-math.inf, math.inf)


METRICS: dict[str, Metric] = {}


def metric(
    name: str,
    *,
    needs: Callable[[Fields], Mapping[str, Need]],
    unit: str = "",
    better: Literal["higher", "lower", ""] = "",
    fields: tuple[str, ...] = (),
    version: int = 1,
    title: str = "",
    source: str = "",
    volatile: bool = False,
    fitted: bool = False,
    tolerance: float = 1e-4,
    groups: int = 20,
    compares: Literal["pairs", "sets", "moments"] = "pairs",
    bounds: tuple[float, float] | None = None,
) -> Callable[[Callable[[Measurements, Fields], Iterable[Value]]], Callable[[Measurements, Fields], Iterable[Value]]]:
    """Declare a metric. The function takes measurements and protocol fields and yields `Value`s; no torch, no files.

    fields: the protocol fields that it reads (a missing one is an error that names it). title: one plain line. source: paper,
    equation or repository. tolerance: relative agreement promised across devices, batch sizes and versions. groups: how many fixed
    groups of images the jackknife deletes in turn (20; 50 for token statistics). bounds: the ends of the scale, where intervals are cut
    (a symmetric one may pass them; percent go from 0 to 100 unless it says otherwise). compares: what it wants of the ground truth: `pairs` (each output's
    own original), `sets` (any images of the reference), `moments` (a set, or its mean and covariance alone, which then stand in
    ``m.context["reference_statistics"][head]`` in place of the column)."""

    def register(
        function: Callable[[Measurements, Fields], Iterable[Value]],
    ) -> Callable[[Measurements, Fields], Iterable[Value]]:
        METRICS[name] = Metric(
            name,
            function,
            needs,
            unit,
            better,
            fields,
            version,
            title,
            source,
            volatile,
            fitted,
            tolerance,
            groups,
            compares,
            bounds or ((0.0, 100.0) if unit == "%" else (-math.inf, math.inf)),
        )
        return function

    return register
