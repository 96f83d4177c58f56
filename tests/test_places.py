"""Data and results behind URLs are those of folders; and what the store takes is what the plan says."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys

import vtbench
from vtbench import records, samples, table
from vtbench.api import Batch
from vtbench.data import open_dataset
from vtbench.engine.store import Measured, Store
from vtbench.errors import BadData, UsageError
from vtbench.extractors import inception
from vtbench.places import Remote, place

fsspec = pytest.importorskip("fsspec")

SUITE = """
name = "places"
version = 1
task = "reconstruct"
chunk = 4
resolutions = [32]
[[metrics]]
name = "psnr"
protocols = ["vtbench"]
"""


@pytest.fixture
def bucket(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The photos in a bucket that lives in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    for path in sorted(photos.iterdir()):
        memory.pipe_file(f"/bucket/photos/{path.name}", path.read_bytes())
    yield "memory://bucket"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_a_run_from_a_bucket_into_a_bucket_is_the_local_run(tmp_path: Path, photos: Path, bucket: str) -> None:
    (tmp_path / "places.toml").write_text(SUITE)
    suite, how = [str(tmp_path / "places.toml")], {"device": "cpu", "keep_images": "sample"}
    local = vtbench.evaluate(toys.Patches(), suite, data=str(photos), out=str(tmp_path / "out"), **how).record
    model = toys.Patches()
    remote = vtbench.evaluate(model, suite, data=f"{bucket}/photos", out=f"{bucket}/results", **how).record
    assert remote.rows == local.rows and remote.run_id == local.run_id
    assert remote.dataset.revision == local.dataset.revision
    out = place(f"{bucket}/results")
    (read,), problems = records.read_all(out)
    assert read == remote and not problems
    lines = (out / "table.csv").read_text()
    assert lines == (tmp_path / "out" / "table.csv").read_text().replace(str(photos), f"{bucket}/photos")
    assert samples.read(out, remote.run_id).equals(samples.read(tmp_path / "out", local.run_id))
    kept = fsspec.filesystem("memory").find("/bucket/results/images")
    assert len(kept) == len(list((tmp_path / "out" / "images").rglob("*.png"))) == 20
    again = vtbench.evaluate(second := toys.Patches(), suite, data=f"{bucket}/photos", out=f"{bucket}/results", **how)
    assert again.record.rows == local.rows and second.encoded == 0 < model.encoded
    records.delete(out, remote.run_id)
    assert records.read_all(out) == ([], []) and not fsspec.filesystem("memory").find("/bucket/results/images")
    assert table.write_table(out)[1] == []


def test_file_urls_are_paths(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "places.toml").write_text(SUITE)
    result = vtbench.evaluate(
        toys.Patches(),
        [str(tmp_path / "places.toml")],
        data=f"file://{photos}",
        out=f"file://{tmp_path / 'out'}",
        device="cpu",
    )
    assert result.record.dataset.name == "folder:photos" and (tmp_path / "out" / "table.csv").is_file()
    assert list((tmp_path / "out" / "measurements").rglob("*.vtm"))


def _tar(photos: Path, names: list[str]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for path, name in zip(sorted(photos.iterdir()), names):
            archive.add(path, arcname=name)
    return held.getvalue()


def test_archives_behind_urls_are_fetched_once(tmp_path: Path, photos: Path, bucket: str) -> None:
    memory = fsspec.filesystem("memory")
    names = [p.name for p in sorted(photos.iterdir())]
    memory.pipe_file("/bucket/val.tar", _tar(photos, names))
    for shard in range(2):
        memory.pipe_file(f"/bucket/shards/{shard}.tar", _tar(photos, [f"{shard}/{n}" for n in names]))
    folder = open_dataset(str(photos))
    got = open_dataset(f"{bucket}/val.tar", cache=tmp_path)
    assert got.revision == folder.revision and got.name == "tar:val"
    assert [np.asarray(s.image()).sum() for s in got.samples] == [np.asarray(s.image()).sum() for s in folder.samples]
    fetched = list((tmp_path / "fetched").rglob("*.tar"))
    memory.pipe_file("/bucket/val.tar", _tar(photos, names[:5]))  # another file under the same name
    assert len(open_dataset(f"{bucket}/val.tar", cache=tmp_path).samples) == 5
    assert len(list((tmp_path / "fetched").rglob("*.tar"))) == len(fetched) + 1
    for pattern in ("{0..1}", "*"):
        assert len(open_dataset(f"{bucket}/shards/{pattern}.tar", cache=tmp_path).samples) == 20
    with pytest.raises(BadData, match="nothing at memory://bucket/none"):
        open_dataset(f"{bucket}/none.tar", cache=tmp_path)
    with pytest.raises(BadData, match="nothing at memory://bucket/none"):
        open_dataset(f"{bucket}/none", cache=tmp_path)


def test_names_that_lead_out_are_refused_behind_urls_too(tmp_path: Path, photos: Path, bucket: str) -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/evil.tar", _tar(photos, ["../out.png", "a/../../b.png", "good.png"]))
    got = open_dataset(f"{bucket}/evil.tar", cache=tmp_path)
    assert [s.id for s in got.samples] == ["good"] and len(got.problems) == 2


def test_a_url_that_nothing_opens_is_one_clear_line(tmp_path: Path, bucket: str) -> None:
    with pytest.raises(UsageError, match="what://x"):
        open_dataset("what://x/y")
    assert place("file:///a/b") == Path("/a/b") and place("a/b") == Path("a/b")
    assert isinstance(place(f"{bucket}/a"), Remote) and str(place(f"{bucket}/a/") / "b.c") == f"{bucket}/a/b.c"


def test_workers_cannot_share_the_memory_of_a_process(tmp_path: Path, photos: Path, bucket: str) -> None:
    (tmp_path / "places.toml").write_text(SUITE)
    with pytest.raises(UsageError, match="Name a folder"):
        vtbench.evaluate(
            "jpeg:quality=30", [str(tmp_path / "places.toml")], data=str(photos), out=bucket, device="cpu", workers=2
        )


STATED = {"pool3": 0.41, "sfid": 0.40, "dinov2": 0.20, "ids": 0.05}
"""GB for 50,000 images, as the design states them."""


@pytest.mark.parametrize("what", STATED)
def test_the_store_takes_what_is_stated(tmp_path: Path, what: str) -> None:
    heads: dict[str, tuple[Any, Any]]
    if what == "ids":
        from vtbench.extractors.tokens import TokenRows

        model = toys.Patches()
        import torch

        tokens = model.encode(torch.rand(64, 3, 128, 128))  # 256 tokens an image
        rows = TokenRows({})(Batch([None] * 64, tokens=tokens, pixels=128 * 128), ["ids"])
        heads = {"ids": (rows["ids"].values, np.arange(64))}
    else:
        dims = {"dinov2": 1024, **inception.HEADS}[what]
        heads = {what: (np.zeros((64, dims), np.float32), np.arange(64))}
    Store(tmp_path).put("ab", "c", Measured(heads, environment={"torch": "2.14", "device": "cpu", "threads": 1}))
    (path,) = tmp_path.rglob("*.vtm")
    assert path.stat().st_size / 64 * 50_000 / 1e9 == pytest.approx(STATED[what], rel=0.05)
