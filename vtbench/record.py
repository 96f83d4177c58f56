"""The record: what one run measured, with everything needed to trust or repeat it. One JSON file a run; the truth.

Tables, comparisons and reports are derived from records. Numbers that JSON cannot write (inf, nan) are the strings "inf", "-inf"
and "nan".
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vtbench.atomic import replace_file
from vtbench.errors import BadRecord, VtbenchError
from vtbench.places import place

SCHEMA_VERSION = 1
Status = Literal["ok", "partial", "limited", "skipped", "failed"]
_WORST_LAST = ("ok", "partial", "limited", "skipped", "failed")


class NoResults(VtbenchError):
    """A results folder without results."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ModelInfo(_Model):
    """What was measured. revision: digest of the weights. params: what the user chose, resolved, without the budget."""

    name: str
    revision: str = ""
    params: dict[str, Any] = Field(default_factory=dict)
    title: str = ""
    card: dict[str, Any] = Field(default_factory=dict)


class SuiteInfo(_Model):
    """The suite, by name, version and the digest of everything in it that moves a value."""

    name: str
    version: int
    digest: str = ""


class DatasetInfo(_Model):
    """The data, by content. `name` is a suite's name only when the revision is one that the suite declares. made: of a generator, how many images
    it makes; the data are then what these are held against."""

    name: str
    revision: str = ""
    n: int = 0
    where: str = ""
    made: int = 0

    def counted(self) -> str:
        """The name with the number of images, for titles and captions."""
        against = f"{self.made} images against " if self.made else ""
        size = f"n = {self.n}" if self.n else "its statistics"
        return f"{against}{self.name} ({size})"


class Failure(_Model):
    """One sample that could not be used."""

    id: str
    stage: str
    reason: str


class Alarm(_Model):
    """Something in the pixels or the set-up that makes the numbers doubtful."""

    name: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class SourceInfo(_Model):
    """vtbench's own state: version, commit of its own tree (empty when installed from a wheel), whether that tree was changed."""

    version: str = ""
    commit: str = ""
    dirty: bool | None = None


class Environment(_Model):
    """Where the run ran. `more` holds whatever else is worth knowing."""

    packages: dict[str, str] = Field(default_factory=dict)
    vtbench: SourceInfo = Field(default_factory=SourceInfo)
    python: str = ""
    platform: str = ""
    device: str = ""
    driver: str = ""
    dtype: str = ""
    tf32: bool | None = None
    threads: int | None = None
    batch_size: int | str | None = None
    seed: int | None = None
    more: dict[str, Any] = Field(default_factory=dict)


class Row(_Model):
    """One value. The tidy columns that vary inside a run, and what stands beside them in the record only.

    params: sorted ``k=v;k=v`` (empty: the model's). resolution: pixels, None = native. tokens: the budget or the fixed number of
    positions. bpp: bits per pixel of the model's input. groups: the leave-one-group-out values of a pooled metric (nan where a
    group is empty). recommended: whether the protocol is the suite's default. volatile: a timing. tolerance: the relative agreement that the metric promises. why: the reason of a row that is
    skipped, failed or partial.
    """

    params: str = ""
    resolution: int | None = None
    tokens: int | None = None
    bpp: float | None = None
    protocol: str
    protocol_digest: str = ""
    metric: str
    metric_version: int = 1
    slice: str = "all"
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    n: int = 0
    unit: str = ""
    higher_is_better: bool | None = None
    status: Status = "ok"
    source: str = "measured"
    why: str = ""
    notes: dict[str, Any] = Field(default_factory=dict)
    groups: list[float] | None = None
    recommended: bool = True
    volatile: bool = False
    tolerance: float | None = None

    def key(self) -> tuple[str, int | None, int | None, str, str, str]:
        """What makes the row unique inside its run."""
        return (self.params, self.resolution, self.tokens, self.protocol, self.metric, self.slice)


class Record(_Model):
    """One run: (model, params, suite, data). protocols: the fields of every protocol in use, by name ({input, view, reduce})."""

    schema_version: Literal[1] = 1
    run_id: str = Field(pattern=r"^[\w-]{1,64}$")  # it becomes part of file names
    status: Status = "ok"
    started: str = ""
    finished: str = ""
    command: str = ""
    model: ModelInfo
    suite: SuiteInfo
    dataset: DatasetInfo
    options: dict[str, Any] = Field(default_factory=dict)
    protocols: dict[str, dict[str, Any]] = Field(default_factory=dict)
    rows: list[Row] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    alarms: list[Alarm] = Field(default_factory=list)
    stages: dict[str, float] = Field(default_factory=dict)
    environment: Environment = Field(default_factory=Environment)
    weights: dict[str, str] = Field(default_factory=dict)

    @property
    def generated(self) -> bool:
        """Whether its images were made from labels or prompts."""
        return "conditions" in self.options

    @model_validator(mode="after")
    def _rows_are_unique(self) -> Record:
        seen = set()
        for row in self.rows:
            if row.key() in seen:
                raise ValueError(f"two rows of {row.metric} ({row.protocol}, {row.slice}) are the same")
            seen.add(row.key())
        return self


def worst(statuses: Sequence[str]) -> Status:
    """The worst of some statuses; `ok` of none."""
    return cast(Status, max(statuses, key=_WORST_LAST.index, default="ok"))


def overall(rows: Sequence[Row], failures: Sequence[Failure] = ()) -> Status:
    """A run's status: skipped rows do not spoil one that measured others."""
    measured = [r.status for r in rows if r.status != "skipped"]
    if not measured:
        return "failed" if failures else "skipped"
    return worst(measured)


def params_text(params: Mapping[str, Any]) -> str:
    """Params as the table has them: sorted ``k=v;k=v``."""
    return ";".join(f"{key}={params[key]}" for key in sorted(params))


def run_id(
    model: str,
    revision: str,
    params: Mapping[str, Any],
    suite_digest: str,
    dataset_revision: str,
    options: Mapping[str, Any],
) -> str:
    """12 hex digits that the same command gives again. The first is a letter, so that no reader takes it for a number."""
    parts = [model, revision, params_text(params), suite_digest, dataset_revision, plain(dict(options))]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    start = next((i for i, digit in enumerate(digest[:-11]) if digit in "abcdef"), 0)
    return digest[start : start + 12]


def plain(value: Any) -> Any:
    """`value` as JSON has it: NumPy scalars and arrays as numbers and lists, paths as text, non-finite numbers as strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def dumps(record: Record) -> str:
    """The record as JSON text, keys in the schema's order."""
    return json.dumps(plain(record.model_dump()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of a record, as it is written to disk."""
    return _with_nonfinite(Record.model_json_schema(mode="serialization"))


def _with_nonfinite(node: Any) -> Any:
    if isinstance(node, dict):
        if node.get("type") == "number":
            return {**node, "type": ["number", "string"], "pattern": "^(-?inf|nan)$"}
        return {key: _with_nonfinite(child) for key, child in node.items()}
    return [_with_nonfinite(child) for child in node] if isinstance(node, list) else node


def write(record: Record, folder: Path) -> Path:
    """Write ``records/RUN_ID.json`` under the results folder, replacing the same run's earlier record. Returns its path."""
    path = place(folder) / "records" / f"{record.run_id}.json"
    replace_file(path, dumps(record).encode())
    return path


def read(path: Path) -> Record:
    """Read one record. `BadRecord` says what is wrong: damaged, of another schema version, or not a record."""
    path = place(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRecord(f"the record {path} cannot be read: {error.strerror or error}") from error
    try:
        return Record.model_validate_json(data)
    except ValidationError as error:
        raise _why_not(path, data, error) from error


def _why_not(path: Path, data: bytes, error: ValidationError) -> BadRecord:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as cause:
        return BadRecord(f"the record {path} is damaged: {cause}", "Delete it and run its command again")
    version = found.get("schema_version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or "run_id" not in found:
        return BadRecord(f"{path} is not a record of vtbench")
    if version != SCHEMA_VERSION:
        if isinstance(version, int) and version > SCHEMA_VERSION:
            return BadRecord(
                f"the record {path} has schema version {version}, newer than {SCHEMA_VERSION}", "Update vtbench"
            )
        return BadRecord(
            f"the record {path} has schema version {version}, older than {SCHEMA_VERSION}", "Run its command again"
        )
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return BadRecord(f"the record {path} does not fit its schema: {where}: {first['msg']}", "Run its command again")
