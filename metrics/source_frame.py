"""Reconstructions put back on their source images, as TokBench scores them."""

from __future__ import annotations

from vtbench.api import Fields, View
from vtbench.errors import UsageError

ALLOWED = {
    "quantise": ("round", "truncate"),
    "container": ("lossless", "jpeg75"),
    "restore": ("lanczos", "bicubic", "bilinear", "box"),
}


def source_view(p: Fields) -> View:
    """The view that a protocol's `quantise`, `container` and `restore` describe; raises `UsageError` for a value they do not have."""
    for field, values in ALLOWED.items():
        if p[field] not in values:
            raise UsageError(f"the protocol field '{field}' is one of {', '.join(values)}, not '{p[field]}'")
    return View(frame="source", quantise=p["quantise"], container=p["container"], filter=p["restore"])
