"""Hugging Face `model-index` metadata of a record, for the top of a model's README."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from vtbench.record import Record, Row
from vtbench.records import label


def model_card(records: Sequence[Record]) -> str:
    """YAML front matter with every recommended, unlimited value. Strings are JSON strings, which YAML reads as they are."""
    names = list(dict.fromkeys(label(r) for r in records))
    out = ["---", "model-index:"]
    for name in names:
        out += [f"- name: {_text(name)}", "  results:"]
        for record in records:
            if label(record) == name:
                for row in record.rows:
                    if (
                        row.recommended
                        and row.value is not None
                        and row.status in ("ok", "partial")
                        and not row.volatile
                    ):
                        out += _result(record, row)
    return "\n".join([*out, "---", ""])


def _result(record: Record, row: Row) -> list[str]:
    kind = row.metric if row.slice == "all" else f"{row.metric} {row.slice}"
    where = f"{record.suite.name}" + (f", {row.resolution} px" if row.resolution else "")
    value = row.value
    assert value is not None
    number = (
        (".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf") if not math.isfinite(value) else repr(value)
    )
    task, title = "image-to-image", "Image reconstruction"
    if record.generated:
        labels = str(record.options["conditions"]).startswith("labels:")
        task = "unconditional-image-generation" if labels else "text-to-image"
        title = "Class-conditional image generation" if labels else "Text to image"
    args: dict[str, Any] = {"protocol": row.protocol, "n": row.n}
    args |= {
        k: v
        for k, v in (("tokens", row.tokens), ("bpp", row.bpp), ("ci_low", row.ci_low), ("ci_high", row.ci_high))
        if v is not None
    }
    return [
        "  - task:",
        f"      type: {task}",
        f"      name: {title}",
        "    dataset:",
        f"      type: {_text(record.dataset.name)}",
        f"      name: {_text(where)}",
        f"      revision: {_text(record.dataset.revision)}",
        "    metrics:",
        f"    - type: {_text(row.metric)}",
        f"      name: {_text(kind)}",
        f"      value: {number}",
        "      args:",
        *(f"        {k}: {_text(v) if isinstance(v, str) else _plain(v)}" for k, v in args.items()),
        "    source:",
        f"      name: {_text('vtbench ' + record.environment.vtbench.version)}",
    ]


def _text(text: str) -> str:
    return json.dumps(text)


def _plain(value: float) -> str:
    return repr(value) if math.isfinite(value) else ".inf" if value > 0 else "-.inf"
