"""The baseline of `vtbench check`: read, and written on purpose.

TOML (or JSON with the same keys)::

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
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtbench import parse
from vtbench.atomic import replace_file
from vtbench.errors import UsageError, VtbenchError
from vtbench.record import Record, Row, params_text, plain
from vtbench.records import drawn_text

VERSION = 1
KEY = ("model", "params", "resolution", "tokens", "protocol", "metric", "slice")
TOLERANCE = {"abs": float, "rel": float, "interval": bool, "ignore": bool}
ROW = {
    **dict.fromkeys(("model", "params", "protocol", "metric", "slice"), str), "resolution": (int, None), "tokens": (int, None)
}  # fmt: skip
NUMBERS = ("value", "ci_low", "ci_high", "tolerance")  # in JSON, those that are not finite are texts
FACTS = ("value", "ci_low", "ci_high", "n", "higher_is_better", "status", "tolerance")


class BaselineError(VtbenchError):
    """The baseline cannot be used: unreadable, or of another suite or data (exit code 1)."""


def load(path: Path) -> dict[str, Any]:
    """A baseline file. `BaselineError` says what is wrong with it."""
    what = f"the baseline {path}"
    if not path.is_file():
        raise BaselineError(f"no baseline {path}", "vtbench check --baseline FILE --update writes one")
    found = (parse.loads_json if path.suffix == ".json" else parse.toml)(path, BaselineError, what)
    parse.expect(found, {"tolerances": dict, "rows": [dict], "suite": str}, what, BaselineError)
    if found.get("version") != VERSION:
        raise BaselineError(f"{what} has version {found.get('version')}, not {VERSION}", "Write it anew with --update")
    for name, tolerance in found.get("tolerances", {}).items():
        parse.expect(tolerance, TOLERANCE, f"{what}: the tolerance of {name}", BaselineError)
    for row in found.get("rows", []):
        lost = [k for k in ("model", "protocol", "metric") if k not in row]
        if lost:
            raise BaselineError(f"{what} has a row without '{lost[0]}'")
        parse.expect(row, ROW, f"{what}: a row of {row['metric']}", BaselineError)
        for key in NUMBERS:
            if row.get(key) not in (None, "inf", "-inf", "nan") and not parse.fits(row[key], float):
                raise BaselineError(f"{what}: '{key}' of {row['metric']} is no number: {row[key]!r:.60}")
    return dict(found)


def lines_of(records: Iterable[Record]) -> dict[tuple[Any, ...], Row]:
    """The rows that a check compares: by key, a later record of the same model replacing an earlier one."""
    out: dict[tuple[Any, ...], Row] = {}
    for record in records:
        for row in record.rows:
            params = ";".join(filter(None, (row.params or params_text(record.model.params), drawn_text(record))))
            key = (record.model.name, params, row.resolution, row.tokens, row.protocol, row.metric, row.slice)
            out[key] = row
    return out


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
