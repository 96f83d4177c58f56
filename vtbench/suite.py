"""Suites and protocols: data that says what is measured, on what, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from vtbench import parse
from vtbench._source import folder
from vtbench.errors import UnknownName, UsageError

PARTS = ("input", "view", "reduce")
PROTOCOL = {
    "name": str, "title": str, "source": str, "metrics": [str], "statistics": [str], **dict.fromkeys(PARTS, dict),
}  # fmt: skip
SUITE = {
    "name": str, "version": int, "task": str, "title": str, "description": str, "chunk": int, "resolutions": [int],
    "controls": [str], "data": dict, "metrics": [dict],
}  # fmt: skip
DATA = {
    "bundled": str, "reader": str, "hint": str, "datasets": dict,
    "classes": int, "images": int, "each": int, "count": int, "exact": bool, "reference": str, "needs_reference": bool,
    "prompts": dict, "prompts_hint": str,
}  # fmt: skip
METRIC = {"name": str, "protocols": [str], "recommended": str, "slices": [str]}


def digest(value: Any) -> str:
    """A short, stable digest of plain data."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Protocol:
    """What the evaluator chooses, in three parts. Its name says everything: overrides are appended to it.

    statistics: other protocols under whose names statistics of the reference may be given, since their features are the same."""

    name: str
    title: str = ""
    source: str = ""
    metrics: tuple[str, ...] = ()
    input: Mapping[str, Any] = field(default_factory=dict)
    view: Mapping[str, Any] = field(default_factory=dict)
    reduce: Mapping[str, Any] = field(default_factory=dict)
    statistics: tuple[str, ...] = ()

    def fields(self, resolution: int | None = None) -> dict[str, Any]:
        """The three parts merged, with the resolution (pixels; None = native)."""
        return {**self.input, **self.view, **self.reduce, "resolution": resolution}

    def parts(self) -> dict[str, dict[str, Any]]:
        """The three parts by their names."""
        return {part: dict(getattr(self, part)) for part in PARTS}

    def digest(self) -> str:
        """Digest of what moves a value; equal names give equal digests."""
        return digest([self.input, self.view, self.reduce])

    def override(self, changes: Mapping[str, str]) -> Protocol:
        """The protocol with some fields changed and its name extended: `tokbench+faces=v1`."""
        parts = self.parts()
        suffix = ""
        for key in sorted(changes):
            home = next((p for p in PARTS if key in parts[p]), None)
            if home is None:
                raise UnknownName("protocol field", key, [k for p in PARTS for k in parts[p]])
            old = parts[home][key]
            new = _like(old, changes[key], key)
            if new != old:
                parts[home][key] = new
                suffix += f"+{key}={changes[key]}"
        return replace(self, name=self.name + suffix, input=parts["input"], view=parts["view"], reduce=parts["reduce"])


def _like(old: Any, text: str, key: str) -> Any:
    """`text` as a value of the type that the field has."""
    if isinstance(old, bool):
        if text.lower() not in ("true", "false"):
            raise UsageError(f"the protocol field '{key}' is true or false, not '{text}'")
        return text.lower() == "true"
    if isinstance(old, (dict, list)):
        raise UsageError(f"the protocol field '{key}' is a table", "Write a protocol file of your own to change it")
    try:
        return type(old)(text)
    except ValueError as error:
        raise UsageError(f"the protocol field '{key}' is a {type(old).__name__}, not '{text}'") from error


@dataclass(frozen=True)
class SuiteMetric:
    """A metric of a suite, with the protocols it is measured under; `recommended` is the default cell of a table."""

    name: str
    protocols: tuple[str, ...]
    recommended: str
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Suite:
    """Task, data, resolutions, metrics, controls: a TOML file."""

    name: str
    version: int
    task: str
    title: str = ""
    description: str = ""
    chunk: int = 64
    resolutions: tuple[int, ...] = (256,)
    controls: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    metrics: tuple[SuiteMetric, ...] = ()
    protocols: Mapping[str, Protocol] = field(default_factory=dict)
    path: str = ""

    def digest(self) -> str:
        """Digest of everything that moves a value."""
        uses = [[m.name, list(m.protocols), list(m.slices)] for m in self.metrics]
        used = {p: self.protocols[p].digest() for m in self.metrics for p in m.protocols}
        return digest([self.name, self.version, self.task, self.chunk, uses, used])


def _only(table: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    parse.expect(table, known, where, UsageError)
    for key in table:
        if key not in known:
            raise UnknownName(f"field of {where}", key, known)


def _names(kind: str) -> dict[str, Path]:
    root = folder("suites") / ("protocols" if kind == "protocol" else "")
    return {p.stem: p for p in sorted(root.glob("*.toml"))}


def suite_names() -> list[str]:
    """The bundled suites."""
    return list(_names("suite"))


def protocol_names() -> list[str]:
    """The bundled protocols."""
    return list(_names("protocol"))


def load_protocol(name: str, beside: Path | None = None) -> Protocol:
    """A protocol by name, with overrides after `+` (`clean+dtype=bfloat16`); a suite file's own come from `protocols/` beside it."""
    base, *changes = name.split("+")
    own = beside / "protocols" / f"{base}.toml" if beside else None
    paths = _names("protocol")
    if own is not None and parse.is_file(own):
        path = own
    elif base in paths:
        path = paths[base]
    else:
        raise UnknownName("protocol", base, paths)
    table = parse.toml(path, UsageError)
    _only(table, PROTOCOL, f"the protocol {base}")
    if table.get("name") != base:
        raise UsageError(f"{path}: the protocol's name is '{table.get('name')}', not the file's")
    seen: dict[str, str] = {}
    for part in PARTS:
        for key in table.get(part, {}):
            if key in seen:
                raise UsageError(f"{path}: the field '{key}' stands in [{seen[key]}] and in [{part}]")
            seen[key] = part
            if path == own:
                _like_the_bundled(key, table[part][key], f"{path} [{part}]")
    protocol = Protocol(
        base,
        table.get("title", ""),
        table.get("source", ""),
        tuple(table.get("metrics", ())),
        table.get("input", {}),
        table.get("view", {}),
        table.get("reduce", {}),
        tuple(table.get("statistics", ())),
    )
    pairs = dict(change.partition("=")[::2] for change in changes)
    return protocol.override(pairs) if pairs else protocol


@cache
def _kinds() -> dict[str, set[type]]:
    """The types that each field has in the bundled protocols."""
    out: dict[str, set[type]] = {}
    for path in _names("protocol").values():
        table = parse.toml(path, UsageError)
        for key, value in ((k, v) for part in PARTS for k, v in table.get(part, {}).items()):
            out.setdefault(key, set()).update({type(value), *([int] if isinstance(value, float) else [])})
    return out


def _like_the_bundled(key: str, value: Any, where: str) -> None:
    kinds = _kinds().get(key, {type(value)})
    if type(value) not in kinds:
        wanted = " or ".join(sorted(kind.__name__ for kind in kinds))
        raise UsageError(f"{where}: '{key}' is of the type {wanted}, not {type(value).__name__}")


def load_suite(name: str, *, extra_protocols: Iterable[str] = ()) -> Suite:
    """A suite by name or by the path of a TOML file. `extra_protocols` are added to the metrics that they list."""
    paths = _names("suite")
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"no suite file {path}")
    elif name in paths:
        path = paths[name]
    else:
        raise UnknownName("suite", name, paths)
    table = parse.toml(path, UsageError)
    _only(table, SUITE, f"the suite {name}")
    parse.expect(table.get("data", {}), DATA, f"the data of the suite {name}", UsageError)
    for key in ("name", "version", "task", "metrics"):
        if key not in table:
            raise UsageError(f"{path}: the field '{key}' is missing")
    added = [load_protocol(p, path.parent) for p in extra_protocols]
    protocols: dict[str, Protocol] = {p.name: p for p in added}
    entries = []
    for row in table["metrics"]:
        _only(row, METRIC, f"a metric of {name}")
        if not row.get("name") or not row.get("protocols"):
            raise UsageError(f"{path}: a metric needs its name and at least one protocol")
        own = [load_protocol(p, path.parent) for p in row["protocols"]]
        protocols.update({p.name: p for p in own})
        names = [p.name for p in own] + [p.name for p in added if row["name"] in p.metrics]
        if row.get("recommended", names[0]) not in names:
            raise UnknownName(f"recommended protocol of {row['name']}", row["recommended"], names)
        entries.append(
            SuiteMetric(
                row["name"],
                tuple(dict.fromkeys(names)),
                row.get("recommended", names[0]),
                tuple(row.get("slices", ())),
            )
        )
    for protocol in added:
        if not any(protocol.name in entry.protocols for entry in entries):
            wanted = ", ".join(protocol.metrics) or "nothing"
            raise UsageError(f"the protocol {protocol.name} measures {wanted}, none of which the suite {name} has")
    chunk = table.get("chunk", 64)
    if chunk < 1 or any(r < 0 for r in table.get("resolutions", ())):
        raise UsageError(f"{path}: chunk is at least 1, a resolution at least 0 (0: native)")
    return Suite(
        name=table["name"],
        version=table["version"],
        task=table["task"],
        title=table.get("title", ""),
        description=table.get("description", ""),
        chunk=chunk,
        resolutions=tuple(table.get("resolutions", (256,))),
        controls=tuple(table.get("controls", ())),
        data=table.get("data", {}),
        metrics=tuple(entries),
        protocols=protocols,
        path=str(path),
    )
