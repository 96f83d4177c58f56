"""Columns that are larger than memory read as those that are not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.columns import StoredColumn
from vtbench.engine.store import Measured, Store


def _filled(store: Store, widths: list[int]) -> list[Chunk]:
    """Five samples a chunk, two rows of the first and one of every second other; the last dimension as told."""
    rng = np.random.default_rng(0)
    samples = [SimpleNamespace(id=f"i{n}", digest=str(n)) for n in range(5 * len(widths))]
    chunks = cut(samples, 5)
    image = np.array([0, 0, 2, 4])
    for chunk, width in zip(chunks, widths):
        values = rng.normal(size=(4, width)).astype(np.float32)
        store.put("ab", chunk.key, Measured({"f": (values, image), "other": (np.zeros(5), np.arange(5))}, {1: "bad"}))
    return chunks


@pytest.mark.parametrize("widths", [[3, 3, 3, 3], [3, 3, 7, 3], [2, 3, 3, 3]])
@pytest.mark.parametrize("resident", [0, 60, 100])
def test_a_spilled_column_is_the_resident_one(tmp_path: Path, widths: list[int], resident: int) -> None:
    store = Store(tmp_path)
    chunks = _filled(store, widths)
    alive = np.arange(20)
    alive[[0, 12]] = -1
    alive[alive >= 0] = np.arange(18)
    whole = StoredColumn(store, "ab", "f", chunks, alive)
    spilled = StoredColumn(store, "ab", "f", chunks, alive, spill=tmp_path, resident=resident)
    np.testing.assert_array_equal(whole.image, spilled.image)
    np.testing.assert_array_equal(whole.array(), spilled.array())
    if len(set(widths)) == 1:
        assert isinstance(spilled.array(), np.memmap)
    assert resident or spilled.held == 0 or len(set(widths)) > 1
    for column in (whole, spilled):
        rows = np.concatenate([values[:, :2] for _, values in column.blocks()])
        np.testing.assert_array_equal(rows, whole.array()[:, :2])
        np.testing.assert_array_equal(np.concatenate([image for image, _ in column.blocks()]), whole.image)


def test_failures_are_told_from_the_header_alone(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (chunk,) = _filled(store, [3])
    (path,) = tmp_path.rglob("*.vtm")
    path.write_bytes(path.read_bytes()[:-64])  # the values are cut short
    assert store.failed("ab", chunk.key) == {1: "bad"}
    assert store.failed("ab", "absent") is None
    path.write_bytes(b"nonsense")
    assert store.failed("ab", chunk.key) is None and not path.exists()
