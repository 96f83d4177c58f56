"""Names to things, resolved late: metrics, extractors, suites, protocols.

Metrics are found by reading the folder `metrics/` (one file, one or a few metrics); extractors by the table below or by the
`@extractor` decorator in a metric's own file. Plug-ins: the entry-point groups `vtbench.metrics` and `vtbench.extractors`, and the
files that VTBENCH_PLUGINS names (separated as in PATH).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from vtbench import api
from vtbench._source import folder
from vtbench.errors import UnknownName, UsageError

EXTRACTOR_TARGETS: dict[str, str] = {
    "pixels": "vtbench.extractors.pixels:Pixels",
    "lpips": "vtbench.extractors.lpips:LPIPS",
    "dists": "vtbench.extractors.dists:DISTS",
    "inception": "vtbench.extractors.inception:Inception",
    "dinov2": "vtbench.extractors.dinov2:DINOv2",
    "clip": "vtbench.extractors.clip:CLIP",
    "dreamsim": "vtbench.extractors.dreamsim:DreamSim",
    "tokens": "vtbench.extractors.tokens:TokenRows",
    "parseq": "vtbench.extractors.parseq:PARSeq",
    "easyocr": "vtbench.extractors.easyocr:EasyOCR",
    "rapidocr": "vtbench.extractors.rapidocr:RapidOCR",
    "arcface": "vtbench.extractors.faces:ArcFace",
    "token_probes": "vtbench.extractors.token_probes:TokenProbes",
    "codebook": "vtbench.extractors.codebook:Codebook",
    "encoder_features": "vtbench.extractors.encoder_features:EncoderFeatures",
    "costs": "vtbench.extractors.costs:Costs",
    "detections": "vtbench.extractors.detections:Detections",
    "answers": "vtbench.extractors.answers:Answers",
    "clip_score": "vtbench.extractors.clip_score:CLIPScore",
    "generation_costs": "vtbench.extractors.generation_costs:GenerationCosts",
    "alarms": "vtbench.extractors.alarms:PairLook",
    "alarms-set": "vtbench.extractors.alarms:SetLook",
}


def resolve(target: str) -> Any:
    """The object that ``package.module:attribute`` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def _load_metrics() -> None:
    for path in sorted(folder("metrics").glob("*.py")):
        if not path.stem.startswith("_"):
            importlib.import_module(f"vtbench.metrics.{path.stem}")
    for point in entry_points(group="vtbench.metrics"):
        point.load()
    load_plugins()


@cache
def load_plugins() -> None:
    """Run the files that VTBENCH_PLUGINS names, once."""
    for name in filter(None, os.environ.get("VTBENCH_PLUGINS", "").split(os.pathsep)):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"VTBENCH_PLUGINS names '{name}', which is not a file")
        spec = importlib.util.spec_from_file_location(f"vtbench_plugin_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def metrics() -> Mapping[str, api.Metric]:
    """Every metric by name."""
    _load_metrics()
    return api.METRICS


def metric(name: str) -> api.Metric:
    """One metric; an unknown name raises `UnknownName` with the nearest."""
    known = metrics()
    if name not in known:
        raise UnknownName("metric", name, known)
    return known[name]


def extractor(name: str, args: Mapping[str, Any]) -> api.Extractor:
    """A new extractor, its network not yet loaded."""
    if name not in api.EXTRACTORS and name not in EXTRACTOR_TARGETS:
        _load_metrics()
        for point in entry_points(group="vtbench.extractors"):
            api.EXTRACTORS.setdefault(point.name, point.value)
    target = api.EXTRACTORS.get(name) or EXTRACTOR_TARGETS.get(name)
    if target is None:
        raise UnknownName("extractor", name, {*api.EXTRACTORS, *EXTRACTOR_TARGETS})
    cls = resolve(target) if isinstance(target, str) else target
    made: api.Extractor = cls(dict(args))
    return made
