"""Reader of Hugging Face datasets: ``hf:NAME@REVISION?split=...&image=...``, from a folder or from the hub's cache.

NAME is a folder that `datasets` saved (``save_to_disk``), a folder of parquet files, or a dataset's id on the hub. Nothing of the
dataset's own code runs, and nothing is fetched unless told (option `download`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from vtbench import parse
from vtbench.data.sample import Listing
from vtbench.data.tables import list_tables
from vtbench.errors import BadData, MissingPackage, UsageError


def read_hub(where: str, options: Mapping[str, Any]) -> Listing:
    """List the images of one split. options (or behind the `?`): `split`, `config`, `image`, `label`, `caption`, `id`, `download`.

    Ids come from the stored paths, as in `vtbench.data.tables`. Raises `BadData`: not on this machine, incomplete; `UsageError`:
    a split or config that is not there, or none named where there are several."""
    place, _, query = where.removeprefix("hf:").partition("?")
    merged = {**options, **dict(parse_qsl(query))}
    folder = Path(place).expanduser()
    if folder.is_dir():
        saved = folder / "dataset_dict.json"
        if saved.is_file() or (folder / "state.json").is_file():
            return _saved(folder, merged)
        return _parquet("parquet", folder.resolve().name, folder, merged)
    name, _, revision = place.partition("@")
    return _parquet("hf", name.replace("/", "--"), _snapshot(name, revision or "main", merged), merged)


def _saved(folder: Path, options: Mapping[str, Any]) -> Listing:
    """A folder written by ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk``."""
    name = folder.name
    if (folder / "dataset_dict.json").is_file():
        table = parse.loads_json(folder / "dataset_dict.json", BadData)
        parse.expect(table, {"splits": [str]}, str(folder / "dataset_dict.json"), BadData)
        splits = [split for split in table.get("splits", []) if os.path.basename(split) == split]
        folder = folder / _choose("split", splits, options.get("split"), name)
    state = parse.loads_json(folder / "state.json", BadData)
    parse.expect(state, {"_data_files": [dict]}, str(folder / "state.json"), BadData)
    files = [str(item.get("filename", "")) for item in state.get("_data_files", [])]
    paths = [folder / file for file in files if os.path.basename(file) == file]
    missing = [path.name for path in paths if not path.is_file()]
    if missing or not paths:
        raise BadData(f"{folder} is incomplete: {', '.join(missing) or 'it names no data files'}", "Save it again")
    return list_tables("hf", name, [str(path) for path in paths], "arrow", options)


def _snapshot(name: str, revision: str, options: Mapping[str, Any]) -> Path:
    """The dataset's files in the hub's cache (fetched first with `download`)."""
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingPackage("huggingface_hub", "hub", "a dataset of the Hugging Face hub") from error

    download = str(options.get("download", "")).lower() in ("1", "true", "yes")
    fetch = f"hf download {name} --repo-type dataset --revision {revision}"
    try:
        path = huggingface_hub.snapshot_download(
            name,
            repo_type="dataset",
            revision=revision,
            local_files_only=not download,
            allow_patterns=["*.parquet"],
        )
    except HFValidationError as error:
        raise UsageError(
            f"'{name}' is neither a folder nor a dataset's id on the hub", "Write hf:OWNER/NAME"
        ) from error
    except LocalEntryNotFoundError as error:
        raise BadData(f"the dataset {name} at {revision} is not on this machine", f"Fetch it: {fetch}") from error
    except (HfHubHTTPError, OSError) as error:
        raise BadData(
            f"the dataset {name} cannot be fetched: {_line(error)}", f"Fetch it elsewhere: {fetch}"
        ) from error
    return Path(path)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _parquet(kind: str, name: str, folder: Path, options: Mapping[str, Any]) -> Listing:
    """Parquet files in the hub's layouts: ``[config/]SPLIT-00000-of-00004.parquet`` and ``[config/]SPLIT/0000.parquet``."""
    paths = sorted(
        p for p in folder.rglob("*.parquet") if not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )
    if not paths:
        raise BadData(
            f"{name} has no parquet files in {folder}", "Save it with save_to_disk, or give its folder of images"
        )
    placed = [(*_place(path.relative_to(folder)), path) for path in paths]
    config = _choose("config", [config for config, _, _ in placed], options.get("config"), name)
    placed = [item for item in placed if item[0] == config]
    split = _choose("split", [split for _, split, _ in placed], options.get("split"), name)
    chosen = [path for _, of, path in placed if of == split]
    _refuse_gaps(name, chosen)
    return list_tables(kind, name, [str(path) for path in chosen], "parquet", options)


def _place(path: Path) -> tuple[str, str]:
    """(config, split) of a file by its path."""
    folders = [part for part in path.parts[:-1] if part != "data"]
    match = re.fullmatch(r"(.+?)(?:[-_.]\d+)?(?:-of-\d+)?(?:-[0-9a-f]{16})?", path.stem)
    split = match[1] if match else path.stem
    if path.stem.isdigit():
        split = folders.pop() if folders else ""
    return "/".join(folders), split


def _choose(what: str, there: Sequence[str], wanted: Any, name: str) -> str:
    choices = sorted(set(there))
    if wanted is not None:
        if wanted not in choices:
            raise UsageError(f"{name} has no {what} '{wanted}'", f"It has {', '.join(choices) or 'none'}")
        return str(wanted)
    if len(choices) == 1:
        return choices[0]
    raise UsageError(f"{name} has several {what}s", f"Choose one: ?{what}={f' or ?{what}='.join(choices)}")


def _refuse_gaps(name: str, paths: Sequence[Path]) -> None:
    """All shards of a split, or an error: a cache may hold some of them only."""
    totals = {int(m[1]) for path in paths if (m := re.search(r"-of-(\d+)", path.stem))}
    if len(totals) == 1 and len(paths) != (total := totals.pop()):
        raise BadData(f"only {len(paths)} of {total} shards of {name} are on this machine", "Fetch the others")
