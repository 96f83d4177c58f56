"""Data as it lies on disk, with one identity: readers, decoding, and the pinned preprocessing.

Exports are lazy: importing this package costs nothing but itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtbench.data.metadata import with_metadata
    from vtbench.data.open import open_dataset
    from vtbench.data.placement import restore, through_container
    from vtbench.data.preprocess import prepare
    from vtbench.data.sample import Dataset, Face, Sample, Word
    from vtbench.data.subset import choose

_EXPORTS = {
    "Dataset": "sample",
    "Face": "sample",
    "Sample": "sample",
    "Word": "sample",
    "choose": "subset",
    "open_dataset": "open",
    "prepare": "preprocess",
    "restore": "placement",
    "through_container": "placement",
    "with_metadata": "metadata",
}

__all__ = [
    "Dataset",
    "Face",
    "Sample",
    "Word",
    "choose",
    "open_dataset",
    "prepare",
    "restore",
    "through_container",
    "with_metadata",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
