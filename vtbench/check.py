"""A regression gate: measured rows against a baseline, with tolerances per metric."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vtbench.baseline import KEY, BaselineError, lines_of
from vtbench.record import Record, Row

FAILING = frozenset({"regressed", "changed", "missing"})
State = Literal["same", "within", "improved", "regressed", "changed", "missing", "new", "ignored"]


@dataclass(frozen=True)
class Tolerance:
    """What may change: absolute, relative (the greater of the two counts), by interval, or anything."""

    abs: float = 0.0
    rel: float = 0.0
    interval: bool = False
    ignore: bool = False

    @classmethod
    def of(cls, table: Mapping[str, Any], where: str) -> Tolerance:
        """From a baseline's table; an unknown key or a negative number is a `BaselineError`."""
        unknown = set(table) - {"abs", "rel", "interval", "ignore"}
        if unknown:
            raise BaselineError(
                f"the tolerance of {where} has no field '{sorted(unknown)[0]}'", "abs, rel, interval, ignore"
            )
        made = cls(**table)
        if not (made.abs >= 0 and made.rel >= 0):
            raise BaselineError(f"the tolerance of {where} is negative")
        return made

    def text(self) -> str:
        """As people read it."""
        if self.ignore:
            return "ignored"
        parts = [f"±{self.abs:g}" if self.abs else "", f"±{100 * self.rel:g}%" if self.rel else ""]
        parts.append("interval" if self.interval else "")
        return " or ".join(filter(None, parts)) or "exact"


@dataclass(frozen=True)
class Finding:
    """One row against its baseline."""

    key: tuple[Any, ...]
    state: State
    before: float | None = None
    after: float | None = None
    allowed: str = ""
    why: str = ""

    def name(self) -> str:
        """``tiny · t_acc small (tokbench-light) 256 px 64 tokens``."""
        model, params, resolution, tokens, protocol, metric, piece = self.key
        parts = [model + (f":{params.replace(';', ',')}" if params else ""), "·", metric]
        parts += [piece] if piece != "all" else []
        parts.append(f"({protocol})")
        parts += [f"{resolution} px"] if resolution else []
        parts += [f"{tokens} tokens"] if tokens else []
        return "".join(c if c.isprintable() else " " for c in " ".join(parts))


@dataclass(frozen=True)
class Report:
    """What a check found."""

    findings: list[Finding]
    suite: str

    @property
    def failed(self) -> list[Finding]:
        """The findings that fail the check."""
        return [f for f in self.findings if f.state in FAILING]

    def counts(self) -> dict[str, int]:
        """How many findings of each state."""
        out: dict[str, int] = {}
        for finding in self.findings:
            out[finding.state] = out.get(finding.state, 0) + 1
        return out


def _key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    defaults = {"params": "", "resolution": None, "tokens": None, "slice": "all"}
    return tuple(row.get(k, defaults.get(k)) for k in KEY)


def choose(records: Sequence[Record], baseline: Mapping[str, Any], path: Path) -> list[Record]:
    """The records that the baseline speaks of. `BaselineError` when the suite or the data are others."""
    suite = baseline.get("suite")
    mine = [r for r in records if r.suite.name == suite]
    if not mine:
        have = ", ".join(sorted({r.suite.name for r in records})) or "nothing"
        raise BaselineError(f"the baseline {path} is of the suite {suite}; measured is {have}")
    for key, values in (
        ("suite_digest", {r.suite.digest for r in mine}),
        ("dataset_revision", {r.dataset.revision for r in mine}),
    ):
        wanted = baseline.get(key, "")
        if wanted and wanted not in values:
            what = "another version of the suite" if key == "suite_digest" else "other data"
            raise BaselineError(
                f"the baseline {path} is of {what} ({wanted}, measured {', '.join(sorted(values))})",
                "Write it anew with --update if that is meant",
            )
    return [
        r
        for r in mine
        if baseline.get("suite_digest", "") in ("", r.suite.digest)
        and baseline.get("dataset_revision", "") in ("", r.dataset.revision)
    ]


def check(records: Sequence[Record], baseline: Mapping[str, Any], path: Path = Path("baseline")) -> Report:
    """Every baseline row against what was measured; rows that the baseline does not have are `new`."""
    chosen = choose(records, baseline, path)
    measured = lines_of(chosen)
    tolerances = {k: Tolerance.of(v, k) for k, v in baseline.get("tolerances", {}).items()}
    findings, seen = [], set()
    for old in baseline.get("rows", []):
        key = _key_of(old)
        seen.add(key)
        findings.append(_judge(key, old, measured.get(key), tolerances))
    models = {key[0] for key in seen}
    for key, row in measured.items():
        if key not in seen and not row.volatile and (key[0] in models or not seen):
            findings.append(Finding(key, "new", None, row.value))
    return Report(findings, str(baseline.get("suite")))


def _tolerance(metric: str, old: Mapping[str, Any], known: Mapping[str, Tolerance]) -> Tolerance:
    if metric in known:
        return known[metric]
    if "default" in known:
        return known["default"]
    return Tolerance(rel=float(old.get("tolerance") or 1e-4))


def _judge(
    key: tuple[Any, ...], old: Mapping[str, Any], new: Row | None, tolerances: Mapping[str, Tolerance]
) -> Finding:
    tolerance = _tolerance(key[5], old, tolerances)
    before = None if old.get("value") is None else float(old["value"])
    text = tolerance.text()
    if tolerance.ignore:
        return Finding(key, "ignored", before, new.value if new else None, text)
    if new is None:
        return Finding(key, "missing", before, None, text, "not measured any more")
    after = new.value
    if before is None or after is None:
        if before is None and after is None:
            return Finding(key, "same", before, after, text)
        if after is None:
            return Finding(key, "missing", before, None, text, f"{new.status}: {new.why}".strip(": "))
        return Finding(key, "within", before, after, text, "measured now, skipped in the baseline")
    if math.isnan(before) or math.isnan(after):
        both = math.isnan(before) and math.isnan(after)
        why = "" if both else "not a number any more" if math.isnan(after) else "a number now"
        return Finding(
            key, "same" if both else ("regressed" if math.isnan(after) else "improved"), before, after, text, why
        )
    if before == after:
        return Finding(key, "same", before, after, text)
    return Finding(key, _moved(old, new, before, after, tolerance), before, after, text)


def _moved(old: Mapping[str, Any], new: Row, before: float, after: float, tolerance: Tolerance) -> State:
    delta = after - before
    if math.isfinite(delta) and abs(delta) <= max(tolerance.abs, tolerance.rel * abs(before)):
        return "within"
    if tolerance.interval:
        low, high = _span(old.get("ci_low"), old.get("ci_high"), before)
        new_low, new_high = _span(new.ci_low, new.ci_high, after)
        if low <= new_high and new_low <= high:
            return "within"
    if new.higher_is_better is None:
        return "changed"
    return "improved" if (delta > 0) == new.higher_is_better else "regressed"


def _span(low: float | None, high: float | None, value: float) -> tuple[float, float]:
    return (value if low is None else float(low), value if high is None else float(high))
