"""A regression gate: measured rows against a baseline file, with tolerances per metric.

The baseline is TOML (or JSON with the same keys)::

    version = 1
    suite = "demo"
    suite_digest = "..."
    dataset_revision = "sha256:..."

    [tolerances]                      # of what may change without being a regression
    default = {rel = 1e-4}            # absent: what the metric itself promises
    psnr = {abs = 0.05}
    fid = {interval = true}           # regressed only when the intervals do not overlap
    latency_ms = {ignore = true}

    [[rows]]                          # written by --update
    model = "tiny"
    ...
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vtbench.atomic import replace_file
from vtbench.errors import UsageError, VtbenchError
from vtbench.record import Record, Row, params_text, plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

VERSION = 1
KEY = ("model", "params", "resolution", "tokens", "protocol", "metric", "slice")
FACTS = ("value", "ci_low", "ci_high", "n", "higher_is_better", "status", "tolerance")
FAILING = frozenset({"regressed", "changed", "missing"})
State = Literal["same", "within", "improved", "regressed", "changed", "missing", "new", "ignored"]


class BaselineError(VtbenchError):
    """The baseline cannot be used: unreadable, or of another suite or data (exit code 1)."""


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


def load(path: Path) -> dict[str, Any]:
    """A baseline file. `BaselineError` says what is wrong with it."""
    try:
        text = path.read_text("utf-8")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError as error:
        raise BaselineError(f"no baseline {path}", "vtbench check --baseline FILE --update writes one") from error
    except (OSError, ValueError) as error:
        raise BaselineError(f"the baseline {path} cannot be read: {error}") from error
    if not isinstance(found, dict) or found.get("version") != VERSION:
        version = found.get("version") if isinstance(found, dict) else None
        raise BaselineError(f"the baseline {path} has version {version}, not {VERSION}", "Write it anew with --update")
    for row in found.get("rows", []):
        lost = [k for k in ("model", "protocol", "metric") if k not in row]
        if lost:
            raise BaselineError(f"the baseline {path} has a row without '{lost[0]}'")
    return found


def lines_of(records: Iterable[Record]) -> dict[tuple[Any, ...], Row]:
    """The rows that a check compares: by key, a later record of the same model replacing an earlier one."""
    out: dict[tuple[Any, ...], Row] = {}
    for record in records:
        for row in record.rows:
            params = row.params or params_text(record.model.params)
            key = (record.model.name, params, row.resolution, row.tokens, row.protocol, row.metric, row.slice)
            out[key] = row
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


def update(records: Sequence[Record], path: Path, *, suite: str | None = None) -> int:
    """Write the baseline anew from the records, keeping everything above its first row (its tolerances and comments).

    Timings are left out. Returns the number of rows."""
    head = _head(path)
    suite = suite or (load(path).get("suite") if path.is_file() else None)
    names = sorted({r.suite.name for r in records})
    if suite is None and len(names) == 1:
        suite = names[0]
    chosen = [r for r in records if r.suite.name == suite]
    if not chosen:
        raise UsageError(
            f"no result of the suite {suite or '(none named)'}", f"--suite takes one of {', '.join(names)}"
        )
    last = chosen[-1]
    chosen = [r for r in chosen if (r.suite.digest, r.dataset.revision) == (last.suite.digest, last.dataset.revision)]
    rows = [
        {**dict(zip(KEY, key)), **{f: getattr(row, f) for f in FACTS}}
        for key, row in lines_of(chosen).items()
        if not row.volatile
    ]
    facts = {
        "version": VERSION,
        "suite": suite,
        "suite_digest": last.suite.digest,
        "dataset_revision": last.dataset.revision,
    }
    if path.suffix == ".json":
        old = load(path) if path.is_file() else {}
        text = json.dumps(plain({**old, **facts, "rows": rows}), indent=1) + "\n"
    else:
        text = _toml(facts, head, rows)
    replace_file(path, text.encode())
    return len(rows)


def _head(path: Path) -> str:
    if path.suffix == ".json" or not path.is_file():
        return ""
    kept = path.read_text("utf-8").split("[[rows]]", 1)[0]
    named = ("version", "suite", "suite_digest", "dataset_revision")
    lines = [line for line in kept.splitlines() if line.partition("=")[0].strip() not in named]
    return "\n".join(lines).strip()


def _toml(facts: Mapping[str, Any], head: str, rows: Sequence[Mapping[str, Any]]) -> str:
    out = [f"{key} = {_toml_value(value)}" for key, value in facts.items()]
    lines = head.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith("[")), len(lines))
    comments, tables = "\n".join(lines[:first]).strip(), "\n".join(lines[first:]).strip()
    out = [comments, *out] if comments else out
    out += ["", tables or "[tolerances]"]
    for row in rows:
        out += ["", "[[rows]]", *(f"{k} = {_toml_value(v)}" for k, v in row.items() if v is not None and v != "")]
    return "\n".join(out) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)  # inf and nan are TOML's own words
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
