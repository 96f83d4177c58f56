"""The records of a results folder: found, named as people name them, removed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vtbench.errors import BadRecord, UnknownName, UsageError
from vtbench.places import Remote, place
from vtbench.record import Record, params_text, plain, read


def read_all(folder: Path) -> tuple[list[Record], list[BadRecord]]:
    """Every record under a results folder, by start time; those that cannot be read are returned beside, never dropped unnamed."""
    records: list[Record] = []
    problems: list[BadRecord] = []
    for path in sorted((place(folder) / "records").glob("*.json")):
        try:
            records.append(read(path))
        except BadRecord as problem:
            problems.append(problem)
    records.sort(key=lambda record: (record.started, record.run_id))
    return records, problems


def find(folder: Path, which: str) -> Record:
    """One record by id, by the start of its id, by the path of its file, or the latest of a model's name.

    Raises `UnknownName` with the nearest names, `UsageError` for a start that several ids share, or `BadRecord`."""
    direct = place(which)
    if direct.suffix == ".json":
        return read(direct)
    paths = sorted((place(folder) / "records").glob("*.json"))
    starts = [path for path in paths if len(which) >= 4 and path.stem.startswith(which)]
    if len(starts) == 1:
        return read(starts[0])
    _refuse_several(which, [path.stem for path in starts])
    records, _ = read_all(folder)
    named = [r for r in records if which in names(r)]
    if named:
        return named[-1]
    raise UnknownName(
        "result", which, {label(r) for r in records} | {r.model.name for r in records} | {p.stem for p in paths}
    )


def _refuse_several(which: str, starts: Sequence[str]) -> None:
    if len(starts) > 1:
        raise UsageError(f"'{which}' begins {len(starts)} results: {', '.join(starts)}", "Give more of the id")


def label(record: Record) -> str:
    """A model as people name it, ``jpeg:quality=30``: as it was asked for, else with all its params; a seed other than 0, or how many seeds a summary is
    over, behind it: ``rar-b:guidance=2,seed=1``, ``rar-b:guidance=2,seeds=3``."""
    params = params_text(record.model.params).replace(";", ",")
    name = record.model.title or (f"{record.model.name}:{params}" if params else record.model.name)
    drawn = drawn_text(record)
    return f"{name}{',' if ':' in name else ':'}{drawn}" if drawn else name


def drawn_text(record: Record) -> str:
    """What a record says of its seeds: ``seed=1``, ``seeds=3``, or nothing of the seed 0."""
    if record.options.get("seeds"):
        return f"seeds={len(record.options['seeds'])}"
    return f"seed={record.options['seed']}" if record.options.get("seed") else ""


def piece(slice: str) -> str:
    """The slice that a mean over seeds is of: of ``seeds=3`` it is ``all``; any other slice is itself."""
    before, _, last = slice.rpartition(";")
    return (before or "all") if last.startswith("seeds=") else slice


def without_single_seeds(records: Sequence[Record]) -> list[Record]:
    """Records without those that a summary over seeds among them covers: the same model and data, one of its seeds."""

    def rest(record: Record) -> tuple[str, str]:
        options = {k: v for k, v in record.options.items() if k not in ("seed", "seeds")}
        facts = [record.model.name, record.model.revision, record.model.params, options]
        return json.dumps(plain(facts), sort_keys=True), f"{record.suite.digest} {record.dataset.revision}"

    covered = {(rest(r), seed) for r in records for seed in r.options.get("seeds", ())}
    if not covered:
        return list(records)
    return [r for r in records if "seeds" in r.options or (rest(r), r.options.get("seed", 0)) not in covered]


def ids(folder: Path, which: str) -> str:
    """The full id of the one record whose id starts with `which` (four digits or more), readable or not. Raises `UnknownName`, or `UsageError` for a start
    that several share."""
    known = [path.stem for path in sorted((place(folder) / "records").glob("*.json"))]
    starts = [name for name in known if name.startswith(which)] if len(which) >= 4 else []
    _refuse_several(which, starts)
    if not starts:
        raise UnknownName("result", which, known)
    return starts[0]


def delete(folder: Path, run_id: str) -> None:
    """Remove a run's record, samples and images."""
    folder = place(folder)
    (folder / "records" / f"{run_id}.json").unlink()
    for path in (folder / "samples").glob(f"{run_id}.*"):
        path.unlink()
    images = folder / "images" / run_id
    if isinstance(images, Remote):
        images.remove_all()
    else:
        shutil.rmtree(images, ignore_errors=True)


def names(record: Record) -> set[str]:
    """What a user may call a record's model: its name, as it was asked for, with all its params."""
    return {
        record.model.name,
        label(record),
        f"{record.model.name}:{params_text(record.model.params).replace(';', ',')}",
    }
