"""The measurement store: what goes in comes out, damage is found, nothing is half written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vtbench.engine.rows import stack
from vtbench.engine.store import Measured, Store, station_key
from vtbench.errors import VtbenchError
from vtbench.hashing import groups_of, seed_of


def _measured() -> Measured:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    words = np.array(["Straße", "", "汉字"])
    return Measured(
        {"f": (values, np.arange(3)), "text": (words, np.array([0, 0, 2]))}, {1: "truncated"}, {"torch": "2"}
    )


def test_round_trip_of_numbers_and_words(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("ab12", "c0", _measured())
    got = store.get("ab12", "c0")
    assert got is not None
    np.testing.assert_array_equal(got.heads["f"][0], _measured().heads["f"][0])
    assert got.heads["text"][0].tolist() == ["Straße", "", "汉字"]
    assert got.heads["text"][1].tolist() == [0, 0, 2]
    assert got.failed == {1: "truncated"}
    assert store.get("ab12", "c1") is None


def test_a_new_head_joins_those_that_are_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("ab12", "c0", _measured())
    store.put("ab12", "c0", Measured({"g": (np.zeros(3), np.arange(3))}))
    got = store.get("ab12", "c0")
    assert got is not None and set(got.heads) == {"f", "text", "g"}


@pytest.mark.parametrize("where", [0, 12, 200, -1, -70])
def test_a_flipped_byte_is_found_said_and_measured_anew(tmp_path: Path, where: int) -> None:
    said: list[str] = []
    store = Store(tmp_path, said.append)
    store.put("ab12", "c0", _measured())
    (path,) = tmp_path.rglob("*.vtm")
    raw = bytearray(path.read_bytes())
    raw[where] ^= 0xFF
    path.write_bytes(raw)
    assert store.get("ab12", "c0") is None
    assert said and "c0" in said[0]


@pytest.mark.parametrize("length", [0, 7, 20, 100])
def test_a_truncated_file_is_absent(tmp_path: Path, length: int) -> None:
    store = Store(tmp_path)
    store.put("ab12", "c0", _measured())
    (path,) = tmp_path.rglob("*.vtm")
    path.write_bytes(path.read_bytes()[:length])
    assert store.get("ab12", "c0") is None


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(VtbenchError, match="cannot write"):
        Store(tmp_path / "file").put("ab12", "c0", _measured())


def test_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Store(tmp_path).put("ab12", "c0", Measured({"x": (np.array([None], dtype=object), np.arange(1))}))


def test_station_keys_do_not_depend_on_the_order_of_fields() -> None:
    assert station_key({"a": 1, "b": (1, 2)}) == station_key({"b": [1, 2], "a": 1})


def test_seeds_are_of_the_image_and_stable() -> None:
    assert seed_of(0, "a", "run") == seed_of(0, "a", "run") < 2**63
    assert len({seed_of(s, i, p) for s in (0, 1) for i in "ab" for p in ("run", "again")}) == 8


def test_groups_are_fixed_and_even() -> None:
    ids = [f"i{n}" for n in range(43)]
    groups = groups_of(ids, 20)
    assert sorted(np.bincount(groups))[0] >= 2
    shuffled = ids[::-1]
    assert dict(zip(ids, groups)) == dict(zip(shuffled, groups_of(shuffled, 20)))


def test_stacking_pads_token_rows() -> None:
    out = stack([np.ones((1, 2), int), np.zeros((0, 9), int), np.full((2, 3), 5)])
    assert out.tolist() == [[1, 1, -1], [5, 5, 5], [5, 5, 5]]
