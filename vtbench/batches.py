"""Batch sizes that were found once, remembered with the measurements, so that the same command makes the same batches again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench.atomic import replace_file

if TYPE_CHECKING:
    from vtbench.api import Model
    from vtbench.options import Options
    from vtbench.plan import Plan
    from vtbench.suite import Suite

FILE = "batch-sizes.json"


def facts_of(model: Model, plan: Plan, suite: Suite, device: str, options: Options) -> dict[str, Any]:
    """What a batch size that memory holds depends on."""
    import torch

    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device
    sizes = sorted({str(s.prepared.resolution) for s in plan.stations})
    revision = next((d["model"]["revision"] for d in plan.descriptions.values() if d["model"]), "")
    return {
        "model": [model.name, revision, dict(model.params)], "suite": [suite.name, suite.version, suite.chunk], "resolutions": sizes,
        "device": kind, "dtype": options.dtype, "compile": options.compile,
    }  # fmt: skip


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(store: Path) -> dict[str, Any]:
    try:
        found = json.loads((store / FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return {}  # none yet, or damaged: it is found again
    return found if isinstance(found, dict) else {}


def remembered(store: Path, facts: Mapping[str, Any]) -> int | None:
    """The size found for these facts (model, device, suite, ...); None when none was."""
    entry = _read(store).get(_key(facts))
    size = entry.get("size") if isinstance(entry, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def remember(store: Path, facts: Mapping[str, Any], size: int) -> None:
    """Write down a size. Raises `OSError`."""
    known = _read(store)
    known[_key(facts)] = {"size": size, "for": dict(facts)}
    replace_file(store / FILE, json.dumps(known, indent=1, sort_keys=True, default=str).encode())
