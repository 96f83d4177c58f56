"""Which numbers may stand beside each other. Two values compare only when nothing but the model differs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vtbench.record import Record, Row, params_text
from vtbench.records import label, piece
from vtbench.report.numbers import number


@dataclass(frozen=True)
class Entry:
    """One value with the record that it comes from; `record` is None for a published one, which has a tidy line instead."""

    row: Row
    record: Record | None = None
    line: Mapping[str, Any] | None = None

    @property
    def model(self) -> str:
        """The model as people name it."""
        if self.record is not None:
            if self.row.params:
                return f"{self.record.model.name}:{self.row.params.replace(';', ',')}"
            return label(self.record)
        assert self.line is not None
        params = str(self.line["params"]).replace(";", ",")
        return f"{self.line['model']}:{params}" if params else str(self.line["model"])

    @property
    def dataset(self) -> str:
        """The data's name."""
        return self.record.dataset.name if self.record else str((self.line or {})["dataset"])

    @property
    def suite(self) -> str:
        """The suite's name."""
        return self.record.suite.name if self.record else str((self.line or {})["suite"])

    def text(self) -> str:
        """The value as printed: a published one with the digits that it was published with, ours cut at its interval."""
        if self.record is None and self.row.value is not None:
            return f"{self.row.value:.10g}"
        return number(self.row.value, self.row.ci_low, self.row.ci_high)

    @property
    def params(self) -> str:
        """The params column."""
        if self.record is None:
            return str((self.line or {})["params"])
        return self.row.params or params_text(self.record.model.params)


def entries(records: Iterable[Record]) -> list[Entry]:
    """Every row of some records."""
    return [Entry(row, record) for record in records for row in record.rows]


def published_entries(lines: Iterable[Mapping[str, Any]]) -> list[Entry]:
    """Published lines as entries."""
    kept = ("resolution", "tokens", "bpp", "protocol", "metric", "slice", "value", "ci_low", "ci_high", "unit")
    return [
        Entry(
            Row(
                **{k: line[k] for k in kept},
                n=line["n"] or 0,
                higher_is_better=line["higher_is_better"],
                source=line["source"],
            ),
            None,
            line,
        )
        for line in lines
    ]


def flat(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A protocol's three parts as one level of fields."""
    return {key: value for part in fields.values() if isinstance(part, Mapping) for key, value in part.items()}


def field_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """The fields in which two protocols differ: (field, in a, in b); None where a field is absent."""
    left, right = flat(a), flat(b)
    return [(key, left.get(key), right.get(key)) for key in sorted({*left, *right}) if left.get(key) != right.get(key)]


def environment_differences(a: Record, b: Record) -> list[tuple[str, Any, Any]]:
    """What differs in where two records were made, and may move a value in its last digits or more."""
    pairs: list[tuple[str, Any, Any]] = []
    for key in ("device", "dtype", "tf32", "batch_size", "threads", "seed"):
        left, right = getattr(a.environment, key), getattr(b.environment, key)
        if left != right:
            pairs.append((key, left, right))
    mine, theirs = a.environment.packages, b.environment.packages
    shared = sorted(set(mine) & set(theirs))
    pairs += [(name, mine[name], theirs[name]) for name in shared if mine[name] != theirs[name]]
    pairs += [
        (f"weights of {name}", a.weights[name], b.weights[name])
        for name in sorted(set(a.weights) & set(b.weights))
        if a.weights[name] != b.weights[name]
    ]
    return pairs


def why_not(a: Entry, b: Entry) -> str:
    """Why two entries of one metric and slice may not be compared; empty when they may."""
    if a.row.metric != b.row.metric or piece(a.row.slice) != piece(b.row.slice):
        return f"other metric or slice ({a.row.metric} {a.row.slice}, {b.row.metric} {b.row.slice})"
    for entry in (a, b):
        if entry.row.status in ("skipped", "failed"):
            return f"{entry.model}: {entry.row.status} ({entry.row.why or 'no reason given'})"
    if "unstated" in (a.row.protocol, b.row.protocol):
        return "a protocol is unstated"
    if a.row.protocol != b.row.protocol:
        return f"protocols {a.row.protocol} and {b.row.protocol}"
    if a.dataset != b.dataset:
        return f"data {a.dataset} and {b.dataset}"
    if a.row.resolution != b.row.resolution:
        return f"resolutions {a.row.resolution} and {b.row.resolution}"
    if a.record is None or b.record is None:
        return _published_why_not(a, b)
    if a.row.protocol_digest != b.row.protocol_digest:
        return f"the protocol {a.row.protocol} changed between the runs"
    if a.row.metric_version != b.row.metric_version:
        return f"versions {a.row.metric_version} and {b.row.metric_version} of the metric"
    if a.record.dataset.revision != b.record.dataset.revision:
        return f"other images under the name {a.dataset}"
    left, right = a.record.options, b.record.options
    if left.get("conditions_revision") != right.get("conditions_revision"):  # what generators made their images from
        made = [str(o.get("conditions") or "what their record does not say") for o in (left, right)]
        return f"images made from {made[0]} and {made[1]}"
    if left.get("reference_statistics") != right.get("reference_statistics"):  # what stands for the reference's images
        return (
            "other statistics of the reference"
            if left.get("reference_statistics") and right.get("reference_statistics")
            else "one of them is held against the reference's images, the other against statistics"
        )
    if left.get("reference_protocol") != right.get("reference_protocol"):
        return (
            f"statistics of the reference under {left.get('reference_protocol')} and {right.get('reference_protocol')}"
        )
    if _weights(a) != _weights(b):
        return "other weights of the metric's network"
    if a.row.n != b.row.n and "partial" in (a.row.status, b.row.status):
        return f"samples failed: n = {a.row.n} and {b.row.n}"
    counts_tokens = "N" in a.row.notes or "N" in b.row.notes  # then n moves with the budget
    if a.row.n != b.row.n and not counts_tokens and (a.row.groups is not None or b.row.groups is not None):
        return f"n = {a.row.n} and {b.row.n}: values of a whole set move with the number of images"
    return ""


def why_apart(a: Entry, b: Entry) -> str:
    """Why two entries may not be ranked with each other: what keeps them from being compared, and other subsets, which `compare` pairs by image."""
    subsets = [entry.record.options.get("subset") if entry.record is not None else None for entry in (a, b)]
    if a.record is not None and b.record is not None and subsets[0] != subsets[1]:
        return " and ".join(f"the subset {subset}" if subset else "the whole data" for subset in subsets)
    return why_not(a, b)


def _weights(entry: Entry) -> dict[str, str]:
    return dict(entry.record.weights) if entry.record else {}


def _published_why_not(a: Entry, b: Entry) -> str:
    for entry in (a, b):
        if entry.row.status == "limited":
            return f"{entry.model}: a limited run"
        if entry.record is not None and (entry.dataset.partition(":")[1] or "subset" in entry.record.options):
            return f"{entry.model}: not the whole of the published data"
    return ""


def rankable(entry: Entry) -> str:
    """Why an entry may not enter a leaderboard at all; empty when it may."""
    row = entry.row
    if row.value is None or row.status in ("skipped", "failed"):
        return row.why or row.status
    if row.value != row.value:
        return "not a number"
    if row.status == "limited":
        return "a limited run"
    if entry.record is None and row.protocol == "unstated":
        return "published without a protocol"
    if row.higher_is_better is None:
        return "the metric has no direction"
    return ""


def overlap(a: Row, b: Row) -> bool:
    """Whether two values tie: their intervals overlap; without intervals, only equal values do."""
    (low_a, high_a), (low_b, high_b) = span(a), span(b)
    return low_a <= high_b and low_b <= high_a


def span(row: Row) -> tuple[float, float]:
    """A row's interval; its value twice when it has none."""
    assert row.value is not None
    return (row.value if row.ci_low is None else row.ci_low, row.value if row.ci_high is None else row.ci_high)
