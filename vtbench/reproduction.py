"""Measured beside published, protocol by protocol: is the paper's number there, and if not, what differs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vtbench.comparable import Entry, field_differences, published_entries
from vtbench.record import Record
from vtbench.records import label
from vtbench.report.numbers import number

State = Literal["reproduced", "mismatch", "not measured", "not counted"]
SPELLED = {"rfid": "fid", "gfid": "fid", "is": "inception_score"}
"""What cards call a metric as papers do, and its name here."""
RELATIVE = 0.01  # of the published value; papers round, and libraries differ in the third digit


@dataclass(frozen=True)
class Trial:
    """One measured value held against a published one. excluded: why it does not count."""

    measured: Entry
    difference: float
    within: bool
    excluded: str = ""


@dataclass(frozen=True)
class Claim:
    """A published value and everything measured that could be it."""

    published: Entry
    state: State
    allowed: float
    trials: tuple[Trial, ...] = ()
    remarks: tuple[str, ...] = ()


def spelled(name: str) -> str:
    """A model's name without case and punctuation: `TiTok-L-32` and `titok:l32` are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def names_of(record: Record) -> set[str]:
    """The spellings under which papers may name a record's model: its name, title, and name with its params' values."""
    values = "".join(str(v) for _, v in sorted(record.model.params.items()))
    wanted = {record.model.name, label(record), record.model.name + values, record.model.title}
    wanted |= {str(record.model.card.get("title", "")), *map(str, record.model.card.get("published_as", ()))}
    return {spelled(w) for w in wanted} - {""}


def claims_of_card(record: Record) -> list[Mapping[str, Any]]:
    """The numbers that a card carries as its authors' claims (``metric@dataset`` to value), as tidy lines."""
    out: list[Mapping[str, Any]] = []
    for key, value in record.model.card.get("published", {}).items():
        metric, _, dataset = str(key).partition("@")
        metric = SPELLED.get(metric.lower(), metric)
        if not isinstance(value, (int, float)):
            continue
        line: dict[str, Any] = {
            "model": record.model.name,
            "params": "",
            "suite": record.suite.name,
            "dataset": dataset or "imagenet-val",
        }
        line |= {"resolution": record.model.card.get("resolution"), "tokens": None, "bpp": None, "protocol": "unstated"}
        line |= {"metric": metric, "slice": "all", "value": float(value), "ci_low": None, "ci_high": None, "n": None}
        same = next((r for r in record.rows if r.metric == metric), None)
        line |= {"unit": same.unit if same else "", "higher_is_better": same.higher_is_better if same else None}
        out.append({**line, "status": "published", "source": "the model's card"})
    return out


def reproduce(
    records: Sequence[Record],
    lines: Iterable[Mapping[str, Any]],
    *,
    called: str = "",
    relative: float = RELATIVE,
    tolerances: Mapping[str, float] | None = None,
    data_is: str = "",
) -> list[Claim]:
    """Every published value of the records' model against what was measured.

    lines: published tidy rows. called: the name that the publications use, where it is another. relative, tolerances: how far is
    still the same (of the published value; per metric, absolute); half a unit of the last printed digit is always allowed. data_is: the papers' name for
    the data that were measured, on the user's word, where no suite declares their digest.
    A value published under a named protocol is reproduced only under that protocol; one whose protocol is unstated, under any."""
    wanted = {spelled(called)} if called else set().union(*(names_of(r) for r in records))
    published = [e for e in published_entries(lines) if spelled((e.line or {})["model"]) in wanted]
    if not called:
        published += published_entries(line for record in records[-1:] for line in claims_of_card(record))
    seen: set[tuple[Any, ...]] = set()
    out = []
    for entry in published:
        row = entry.row
        key = (row.metric, row.slice, row.resolution, row.value, row.protocol, entry.dataset)
        if key in seen or row.metric in ("codebook_size", "params_generator"):
            continue
        seen.add(key)
        out.append(_claim(entry, records, relative, tolerances or {}, data_is))
    return out


def _claim(
    entry: Entry, records: Sequence[Record], relative: float, tolerances: Mapping[str, float], data_is: str
) -> Claim:
    value = entry.row.value
    assert value is not None
    allowed = max(last_digit(value) / 2, tolerances.get(entry.row.metric, relative * abs(value)))
    trials = []
    for record in records:
        for row in record.rows:
            if (row.metric, row.slice) != (entry.row.metric, entry.row.slice) or row.value is None:
                continue
            if entry.row.resolution not in (None, row.resolution) and entry.dataset in (record.dataset.name, data_is):
                continue
            mine = Entry(row, record)
            difference = row.value - value
            within = math.isfinite(difference) and abs(difference) <= allowed * (1 + 1e-9)
            trials.append(Trial(mine, difference, within, _excluded(mine, entry, data_is)))
    counted = [t for t in trials if not t.excluded]
    if any(t.within for t in counted):
        state: State = "reproduced"
    elif counted:
        state = "mismatch"
    else:
        state = "not counted" if trials else "not measured"
    return Claim(entry, state, allowed, tuple(trials), tuple(_remarks(entry, counted)))


def _excluded(mine: Entry, published: Entry, data_is: str) -> str:
    assert mine.record is not None
    record, row = mine.record, mine.row
    if row.status in ("limited", "skipped", "failed"):
        return f"a {row.status} run"
    if row.status == "partial":
        return "samples failed"
    if "subset" in record.options:
        return f"the subset {record.options['subset']}"
    if published.dataset not in (record.dataset.name, data_is):
        return f"data {record.dataset.name}, not {published.dataset}"
    if published.row.tokens not in (None, row.tokens):
        return f"{row.tokens} tokens, not {published.row.tokens}"
    if published.row.protocol not in ("unstated", row.protocol):
        return f"protocol {row.protocol}, not {published.row.protocol}"
    return ""


def _remarks(published: Entry, counted: Sequence[Trial]) -> list[str]:
    """What differs between the protocols that were measured, and other reasons for a mismatch."""
    out: list[str] = []
    if not counted:
        return out
    value = published.row.value
    assert value is not None
    hits = [t for t in counted if t.within]
    best = min(counted, key=lambda t: abs(t.difference))
    for other in counted:
        if other is best or other.within == best.within or other.measured.record is None:
            continue
        mine = (best.measured.record or other.measured.record).protocols.get(best.measured.row.protocol, {})
        theirs = other.measured.record.protocols.get(other.measured.row.protocol, {})
        fields = ", ".join(f"{k} {y} instead of {x}" for k, x, y in field_differences(mine, theirs))
        away = number(other.measured.row.value, other.measured.row.ci_low, other.measured.row.ci_high)
        out.append(f"under {other.measured.row.protocol} it is {away}" + (f" ({fields})" if fields else ""))
    record = best.measured.record
    if record and record.dataset.name != published.dataset:
        out.append(f"on your word {record.dataset.counted()} is {published.dataset}")
    digests = [f.get("digest") for f in (record.model.card.get("files", []) if record else []) if f.get("digest")]
    if record and digests and not any(record.model.revision.split(";")[0] == d for d in digests):
        out.append("the weights' digest is not the one that the model's card carries")
    if not hits and published.row.protocol == "unstated":
        values = sorted(t.measured.row.value for t in counted if t.measured.row.value is not None)
        if len(values) > 1:
            out.append(f"the measured protocols span {number(values[0])} to {number(values[-1])}: none gives {value:g}")
    if record and record.environment.dtype not in ("", "float32"):
        out.append(f"measured in {record.environment.dtype}")
    return out


def last_digit(value: float) -> float:
    """One unit of the last printed digit of a published number: 0.01 for 2.21."""
    text = repr(value)
    if "e" in text or "." not in text or text.endswith(".0"):
        return 1.0 if abs(value) >= 1 else 10.0 ** math.floor(math.log10(abs(value))) if value else 1e-9
    return 10.0 ** -len(text.split(".")[1])
