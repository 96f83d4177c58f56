"""Inputs loaded ahead are those loaded in turn; memory that runs out costs halves, once; nothing illegal is tried again."""

from __future__ import annotations

import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toys
from PIL import Image

import vtbench
from vtbench.batches import remember, remembered
from vtbench.data import open_dataset
from vtbench.engine.chunks import Chunk, cut
from vtbench.errors import UsageError, VtbenchError
from vtbench.feed import Feed, Order, Ready, Refused
from vtbench.options import Options
from vtbench.plan import Prepared

SQUARE = Prepared((("fit", "short-side-crop"),), 32)
NATIVE = Prepared((("exif", "apply"), ("fit", "none")), None)


def _orders(photos: Path, batch: int) -> list[Order]:
    (photos / "image_04.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    Image.new("RGB", (40, 30)).save(photos / "image_06.png")
    samples = open_dataset(str(photos)).samples
    return [Order(c, {SQUARE: [], NATIVE: []}, frozenset([SQUARE, NATIVE]), batch) for c in cut(samples, 4)]


def _told(feed: Feed, order: Order) -> list[Any]:
    out: list[Any] = []
    for got in feed.take(order):
        if isinstance(got, Refused):
            out.append(("refused", got.position, [p.resolution for p in got.prepared]))
        else:
            assert isinstance(got, Ready) and got.images is not None
            assert all(np.shares_memory(i.pixels, got.images.numpy()) for i in got.items if i.pixels is not None)
            out.append((got.prepared.resolution, [i.position for i in got.items], got.images.numpy().tobytes()))
    return out


@pytest.mark.parametrize("loaders", [1, 8])
def test_what_comes_does_not_depend_on_who_was_faster(photos: Path, loaders: int) -> None:
    orders = _orders(photos, 3)
    feed = Feed("cpu", loaders)
    for order in orders:
        feed.expect(order)
    got = [_told(feed, order) for order in orders]
    feed.close()
    one = Feed("cpu", 1)
    assert got == [_told(one, order) for order in orders]
    one.close()
    places = [p for r, ps, _ in (t for t in got[0] if t[0] != "refused") if r == 32 for p in ps]
    assert places == [0, 1, 2, 3]
    # the broken file is told for both preparations, and pictures of another shape do not join a batch
    assert [t[:2] for t in got[1] if t[0] == "refused"] in ([("refused", 0), ("refused", 0)], [])
    assert set(feed.seconds) == {"decode", "prepare", "stack"}


def test_orders_that_nobody_takes_do_not_stand_in_the_way(photos: Path) -> None:
    orders = _orders(photos, 1)
    feed = Feed("cpu", 2)
    for order in orders:
        feed.expect(order)
    assert _told(feed, orders[2]) and not feed._expected  # the two before it were dropped
    assert _told(feed, orders[0])
    feed.close()
    deadline = time.monotonic() + 10
    while any(t.name == "vtbench-feed" for t in threading.enumerate()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.name == "vtbench-feed" for t in threading.enumerate())
    assert _told(feed, orders[0])  # it starts anew when it is asked again
    feed.close()


def test_what_was_expected_is_known_again_when_it_comes_from_another_process(photos: Path) -> None:
    order = _orders(photos, 3)[0]
    feed = Feed("cpu", 2)
    feed.expect(order)
    expected = feed._expected[0]
    assert _told(feed, pickle.loads(pickle.dumps(order)))
    assert expected.out.empty() and expected.dropped.is_set() and not feed._expected  # it was served, not loaded again
    feed.close()


def test_a_wrong_preparation_is_raised_where_batches_are_taken(photos: Path) -> None:
    chunk = Chunk(0, 0, open_dataset(str(photos)).samples, "x")
    wrong = Prepared((("fit", "nonsense"),), 32)
    feed = Feed("cpu", 2)
    with pytest.raises(UsageError, match="nonsense"):
        list(feed.take(Order(chunk, {wrong: []}, frozenset([wrong]), 4)))
    feed.close()


# ------------------------------------------------------------------------------------------------ memory

SUITE = """
name = "feed"
version = 1
task = "reconstruct"
chunk = 8
resolutions = [32]
[[metrics]]
name = "psnr"
protocols = ["vtbench"]
"""


class Greedy(toys.Patches):
    """Runs out of memory on more than three images, as a device or as the machine says it."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error, self.calls = error, 0

    def decode(self, tokens: Any, *, seeds: Any = None) -> torch.Tensor:
        self.calls += 1
        if len(tokens) > 3:
            raise self.error
        return super().decode(tokens, seeds=seeds)


def _suite(folder: Path) -> list[str]:
    (folder / "feed.toml").write_text(SUITE)
    return [str(folder / "feed.toml")]


FULL = [
    torch.cuda.OutOfMemoryError("CUDA out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


@pytest.mark.parametrize("error", FULL, ids=["oom", "cublas", "cpu", "python"])
def test_memory_that_runs_out_costs_a_halving_once(tmp_path: Path, photos: Path, error: Exception) -> None:
    suite, how = _suite(tmp_path), {"data": str(photos), "device": "cpu", "alarms": False}
    model = Greedy(error)
    got = vtbench.evaluate(model, suite, out=str(tmp_path / "a"), batch_size=8, **how).record
    plain = vtbench.evaluate(toys.Patches(), suite, out=str(tmp_path / "b"), batch_size=8, **how).record
    assert [r.value for r in got.rows] == [r.value for r in plain.rows]
    assert got.environment.more["backed_off"] is True and not plain.environment.more["backed_off"]
    # 8 -> 4 -> 2 on the first chunk: two failures, four halves; then two images at once without a failure: one call
    assert model.calls == 2 + 4 + 1


def test_larger_images_go_in_smaller_batches_unless_a_size_is_given(tmp_path: Path, photos: Path) -> None:
    class Counting(toys.Patches):
        def __init__(self) -> None:
            super().__init__()
            self.seen: dict[int, list[int]] = {}

        def encode(self, images: torch.Tensor, **how: Any) -> Any:
            self.seen.setdefault(images.shape[-1], []).append(len(images))
            return super().encode(images, **how)

    made: list[Any] = []
    for size, seen in (
        (None, {256: [8, 2], 512: [4, 4, 2], 1024: [1] * 10}),
        (8, {s: [8, 2] for s in (256, 512, 1024)}),
    ):
        model, out = Counting(), str(tmp_path / str(size))
        how: dict[str, Any] = {"data": str(photos), "device": "cpu", "alarms": False, "resolution": (256, 512, 1024)}
        made.append(vtbench.evaluate(model, _suite(tmp_path), out=out, batch_size=size, **how).record)
        assert model.seen == seen
        assert made[-1].environment.more.get("batch_by_area", False) == (size is None)
    assert [r.value for r in made[0].rows] == [r.value for r in made[1].rows]


def test_an_illegal_access_is_never_tried_again(tmp_path: Path, photos: Path) -> None:
    model = Greedy(RuntimeError("CUDA error: an illegal memory access was encountered (out of memory?)"))
    with pytest.raises(VtbenchError, match="illegal memory access"):
        vtbench.evaluate(model, _suite(tmp_path), data=str(photos), out=str(tmp_path), device="cpu", batch_size=8)
    assert model.calls == 1


def test_auto_finds_a_size_once_and_remembers_it(tmp_path: Path, photos: Path) -> None:
    suite = _suite(tmp_path)
    how: dict[str, Any] = {
        "data": str(photos),
        "device": "cpu",
        "out": str(tmp_path),
        "batch_size": "auto",
        "alarms": False,
    }
    model = Greedy(MemoryError())
    first = vtbench.evaluate(model, suite, **how).record
    assert (first.environment.batch_size, first.environment.more["batch_size_found"]) == (2, "auto")
    assert model.calls == 2 + 4 + 1
    again = Greedy(MemoryError())
    second = vtbench.evaluate(again, suite, fresh=True, **how).record
    assert second.environment.batch_size == 2 and not second.environment.more["backed_off"]
    assert again.calls == 5 and second.rows == first.rows
    (tmp_path / "measurements" / "batch-sizes.json").write_text("damaged")
    assert remembered(tmp_path / "measurements", {"a": 1}) is None
    remember(tmp_path / "measurements", {"a": 1}, 7)
    assert remembered(tmp_path / "measurements", {"a": 1}) == 7
    with pytest.raises(UsageError, match="a number, or auto"):
        Options(batch_size="many")  # type: ignore[arg-type]
    assert Options(batch_size="12").batch_size == 12  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ torch.compile


class Once(torch.nn.Module):
    """Times one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 1.0


class Networked(toys.Patches):
    """Decodes through a module."""

    def __init__(self, called: bool) -> None:
        super().__init__()
        self.network, self.called = Once(), called

    def modules(self) -> dict[str, Any]:
        return {"decoder": self.network}

    def decode(self, tokens: Any, *, seeds: Any = None) -> torch.Tensor:
        out = super().decode(tokens, seeds=seeds)
        return self.network(out) if self.called else out


class Heard(vtbench.Evaluator):
    """An evaluator whose warnings are kept."""

    def __init__(self, *given: Any, **options: Any) -> None:
        from vtbench.progress import Silent

        heard: list[str] = []

        class Talk(Silent):
            def warn(self, text: str) -> None:
                heard.append(text)

        super().__init__(*given, talk=Talk(), **options)
        self.heard = heard


def test_compile_is_for_the_run_alone_and_says_when_it_is_nothing(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: plain(self, backend="eager"))  # no compiler is needed
    ev = Heard(
        _suite(tmp_path), data=str(photos), out=str(tmp_path), device="cpu", compile=True, fresh=True, alarms=False
    )
    model = Networked(True)
    record = ev(model).record
    assert record.environment.more["compiled"] is True and not ev.heard
    assert model.network._compiled_call_impl is None
    assert record.rows == ev(toys.Patches()).record.rows
    assert len(ev.heard) == 1 and "names no network" in ev.heard[0]
    ev(Networked(False))
    assert len(ev.heard) == 2 and "nothing was compiled" in ev.heard[1]
