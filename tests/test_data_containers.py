"""Containers: the same images give the same ids, digests and revision in all of them; damaged and hostile ones are refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench.data import Dataset, open_dataset
from vtbench.data.shards import braces
from vtbench.errors import BadData, BadSample, UsageError, VtbenchError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Files = dict[str, bytes]


def encoded(seed: int, format_: str, size: tuple[int, int] = (20, 12)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def files() -> Files:
    return {
        "b/dog.v2.JPG": encoded(1, "JPEG"),
        "a/cat.png": encoded(2, "PNG", (7, 9)),
        "a/dog.jpeg": encoded(3, "JPEG"),
        "b/Zebra.webp": encoded(4, "WEBP"),
        "a/10.bmp": encoded(5, "BMP"),
        "a/9.png": encoded(6, "PNG"),
    }


def as_folder(root: Path, files: Files) -> str:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return str(root)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def as_tar(path: Path, files: Files, prefix: str = "", mode: str = "w") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            add(archive, prefix + name, content)
    return str(path)


def as_shards(root: Path, files: Files, sidecars: bool = True) -> str:
    items = list(files.items())
    for i in range(3):
        shard: Files = {}
        for name, content in items[i::3]:
            stem = os.path.splitext(name)[0]
            if sidecars:
                shard |= {f"{stem}.cls": b"7", f"{stem}.txt": f"a picture of {stem}".encode()}
            shard[name] = content
        as_tar(root / f"{i:04d}.tar", shard)
    return str(root)


def table(files: Files, path: Callable[[str], str | None] = str, **columns: list) -> pa.Table:
    structs = [{"bytes": content, "path": path(name)} for name, content in files.items()]
    image = pa.array(structs, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    return pa.table({"image": image, **columns})


def as_parquet(path: Path, files: Files, path_of: Callable[[str], str | None] = str, **columns: list) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(files, path_of, **columns), path, row_group_size=4)
    return str(path)


def as_saved(root: Path, files: Files) -> str:
    """What `datasets` writes with save_to_disk: two Arrow streams and state.json."""
    root.mkdir(parents=True)
    whole = table(files, label=[i % 2 for i in range(len(files))])
    names = [f"data-0000{i}-of-00002.arrow" for i in range(2)]
    for name, part in zip(names, (whole.slice(0, 2), whole.slice(2))):
        with pa.OSFile(str(root / name), "wb") as sink, pa.ipc.new_stream(sink, whole.schema) as writer:
            writer.write_table(part)
    (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (root / "dataset_info.json").write_text("{}")
    return str(root)


def identity(dataset: Dataset) -> tuple[list[tuple[str, str, str]], str]:
    return [(s.id, s.digest, s.stored_as) for s in dataset.samples], dataset.revision


def test_one_identity_in_every_container(tmp_path: Path, files: Files) -> None:
    places = {
        "folder": as_folder(tmp_path / "folder", files),
        "tar": as_tar(tmp_path / "x.tar", files),
        "tar with ./": as_tar(tmp_path / "y.tar", files, "./"),
        "tar of a folder of its name": as_tar(tmp_path / "val.tar", files, "val/"),
        "shards in a folder": as_shards(tmp_path / "shards", files),
        "shards by braces": str(tmp_path / "shards" / "{0000..0002}.tar"),
        "shards by a glob": str(tmp_path / "shards" / "*.tar"),
        "parquet": as_parquet(tmp_path / "x.parquet", files),
        "parquet with absolute paths": as_parquet(tmp_path / "abs.parquet", files, lambda name: f"/home/me/val/{name}"),
        "parquet with ids": as_parquet(
            tmp_path / "keys.parquet", files, lambda name: None, file_name=list(files), other=[1] * len(files)
        ),
        "hf, saved": "hf:" + as_saved(tmp_path / "saved", files),
        "hf, a folder": str(tmp_path / "saved"),
        "hf, parquet": "hf:"
        + os.path.dirname(as_parquet(tmp_path / "hub" / "data" / "val-00000-of-00001.parquet", files)),
    }
    datasets = {name: open_dataset(place) for name, place in places.items()}
    wanted = identity(datasets["folder"])
    assert [id_ for id_, _, _ in wanted[0]] == ["a/10", "a/9", "a/cat", "a/dog", "b/Zebra", "b/dog.v2"]
    for name, dataset in datasets.items():
        assert identity(dataset) == wanted, name
        assert dataset.problems == (), name
        for one, other in zip(datasets["folder"].samples, dataset.samples):
            np.testing.assert_array_equal(np.asarray(one.image()), np.asarray(other.image()))
    kinds = {name: dataset.name.split(":")[0] for name, dataset in datasets.items()}
    assert kinds["tar"] == "tar"
    assert kinds["shards in a folder"] == "webdataset"
    assert kinds["parquet"] == "parquet"
    assert kinds["hf, saved"] == "hf"


def test_npz_is_one_with_a_folder_of_lossless_files(tmp_path: Path) -> None:
    files = {f"{i:06d}.{ext}": encoded(i, kind) for i, (ext, kind) in enumerate([("png", "PNG"), ("bmp", "BMP")] * 3)}
    folder = open_dataset(as_folder(tmp_path / "folder", files))
    array = np.stack([np.asarray(Image.open(io.BytesIO(content))) for content in files.values()])
    np.savez(tmp_path / "plain.npz", array)
    np.savez(tmp_path / "labelled.npz", array, np.arange(6) % 3)
    np.savez_compressed(tmp_path / "small.npz", array)
    for name in ("plain", "labelled", "small"):
        dataset = open_dataset(str(tmp_path / f"{name}.npz"), cache=tmp_path / "cache")
        assert dataset.revision == folder.revision
        assert [s.id for s in dataset.samples] == [s.id for s in folder.samples]
        assert {s.stored_as for s in dataset.samples} == {"array"}
        for i, sample in enumerate(dataset.samples):
            np.testing.assert_array_equal(np.asarray(sample.image()), array[i])
            assert sample.label == (i % 3 if name == "labelled" else None)
    with pytest.raises(BadData, match=r"small\.npz is compressed.*Save it with np\.savez"):
        open_dataset(str(tmp_path / "small.npz"))
    assert len(list((tmp_path / "cache" / "unpacked").iterdir())) == 1


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 8, 8, 3), np.float32), r"arr_0 is float32 \(2, 8, 8, 3\)"),
        (np.zeros((2, 3, 8, 8), np.uint8), r"arr_0 is uint8 \(2, 3, 8, 8\)"),
        (np.zeros((8, 8, 3), np.uint8), r"arr_0 is uint8 \(8, 8, 3\)"),
        (np.zeros((0, 8, 8, 3), np.uint8), r"arr_0 is uint8 \(0, 8, 8, 3\)"),
        (np.asfortranarray(np.ones((2, 8, 8, 3), np.uint8)), "in Fortran order"),
        (np.array([{"a": 1}], dtype=object), "arr_0 is object"),
    ],
)
def test_npz_of_another_shape_or_kind(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "x.npz", array)
    with pytest.raises(BadData, match=said):
        open_dataset(str(tmp_path / "x.npz"))


def test_npz_damaged(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", np.zeros((2, 8, 8, 3), np.uint8))
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:200])
    np.savez(tmp_path / "named.npz", images=np.zeros((2, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "lying.npz", "w") as archive:
        archive.writestr("arr_0.npy", zipfile.ZipFile(tmp_path / "x.npz").read("arr_0.npy").replace(b"(2,", b"(3,"))
    (tmp_path / "text.npz").write_text("no zip")
    for name, said in (
        ("cut", "no whole .npz"),
        ("named", r"has no arr_0 .it has images"),
        ("lying", "is cut short"),
        ("text", "no whole .npz"),
        ("absent", "there is no file"),
    ):
        with pytest.raises(BadData, match=said):
            open_dataset(str(tmp_path / f"{name}.npz"))


# ------------------------------------------------------------------------------------------------ tar


def test_labels_and_captions_travel_with_samples(tmp_path: Path, files: Files) -> None:
    dataset = open_dataset(as_shards(tmp_path / "shards", files))
    assert {s.label for s in dataset.samples} == {7}
    assert [s.caption for s in dataset.samples] == [f"a picture of {s.id}" for s in dataset.samples]
    plain = open_dataset(as_shards(tmp_path / "plain", files, sidecars=False))
    assert [s.label for s in plain.samples] == [0, 0, 0, 0, 1, 1]  # class folders


@pytest.mark.parametrize("as_", [as_folder, as_tar])
def test_sidecars_of_every_kind(tmp_path: Path, as_: Callable[[Path, Files], str]) -> None:
    files = {
        name: encoded(i, "PNG") for i, name in enumerate(["a.png", "b.png", "c.png", "d.input.png", "e.png", "f.png"])
    }
    files |= {
        "a.json": b'{"label": 3, "caption": "a sea", "width": 20}',
        "b.cls": b"5\n",
        "b.json": b'{"cls": 6, "text": "from json"}',
        "b.txt": "caf\u00e9\n".encode(),
        "c.cls": b"tench",
        "d.cls": b"1",
        "e.json": b"[1, 2",
        "f.txt": b"\xff",
        "README.txt": b"hello",
    }
    dataset = open_dataset(as_(tmp_path / "x.tar", files))
    facts = {s.id: (s.label, s.caption) for s in dataset.samples}
    assert facts == {
        "a": (3, "a sea"),
        "b": (5, "caf\u00e9"),
        "c": (None, None),
        "d.input": (1, None),
        "e": (None, None),
        "f": (None, None),
    }
    assert dataset.notes == {
        "labels that are no number": 1,
        "labels or captions that cannot be read": 2,
        "files that are not images": 1,
    }


def test_compressed_tar_is_unpacked_once(tmp_path: Path, files: Files) -> None:
    path = as_tar(tmp_path / "x.tar.gz", files, mode="w:gz")
    first = open_dataset(path, cache=tmp_path / "cache")
    assert first.revision == open_dataset(as_folder(tmp_path / "folder", files)).revision
    (copy,) = (tmp_path / "cache" / "unpacked").iterdir()
    before = copy.stat().st_mtime_ns
    assert open_dataset(path, cache=tmp_path / "cache").revision == first.revision
    assert copy.stat().st_mtime_ns == before
    with pytest.raises(BadData, match=r"is compressed.*gunzip"):
        open_dataset(path)
    Path(path).write_bytes(Path(path).read_bytes()[:-300])
    with pytest.raises(BadData, match="is damaged"):
        open_dataset(path, cache=tmp_path / "cache2")
    assert list((tmp_path / "cache2" / "unpacked").iterdir()) == []
    (tmp_path / "cache3").write_text("a file")
    with pytest.raises(VtbenchError, match="cannot unpack"):
        open_dataset(path, cache=tmp_path / "cache3")


def test_unsafe_members_are_problems(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "good.png", encoded(0, "PNG"))
        add(archive, "../up.png", encoded(1, "PNG"))
        add(archive, "/etc/root.png", encoded(2, "PNG"))
        add(archive, "a/../../up2.png", encoded(3, "PNG"))
        add(archive, "._good.png", b"mac")
        add(archive, "empty.jpg", b"")
        add(archive, "notes.md", b"x")
        for name, kind in (("soft.png", tarfile.SYMTYPE), ("hard.png", tarfile.LNKTYPE), ("pipe", tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "good.png"
            archive.addfile(member)
    dataset = open_dataset(str(tmp_path / "x.tar"))
    assert [s.id for s in dataset.samples] == ["good"]
    problems = dict(dataset.problems)
    assert {id_ for id_, why in problems.items() if "leads out" in why} == {"../up", "/etc/root", "a/../../up2"}
    assert {id_ for id_, why in problems.items() if "a link or a device" in why} == {"soft", "hard"}
    assert "0 bytes" in problems["empty"]
    assert dataset.notes == {"hidden files and folders": 1, "files that are not images": 2}


def test_tar_cut_short(tmp_path: Path, files: Files) -> None:
    content = Path(as_tar(tmp_path / "x.tar", files)).read_bytes()
    for cut in (100, 700, 512 + 1024, len(content) // 2):
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        with pytest.raises(BadData, match="is no whole tar"):
            open_dataset(str(tmp_path / "cut.tar"))
    (tmp_path / "text.tar").write_text("hello" * 500)
    (tmp_path / "empty.tar").touch()
    for name in ("text", "empty"):
        with pytest.raises(BadData, match="is no whole tar"):
            open_dataset(str(tmp_path / f"{name}.tar"))


def test_a_tar_without_its_last_blocks_between_members(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        add(archive, "a.png", encoded(0, "PNG"))
        end = archive.offset
        add(archive, "b.png", encoded(1, "PNG"))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:end])
    with pytest.raises(BadData, match="cut short"):
        open_dataset(str(tmp_path / "cut.tar"))


def test_a_tar_overwritten_after_listing(tmp_path: Path, files: Files) -> None:
    path = Path(as_tar(tmp_path / "x.tar", files))
    dataset = open_dataset(str(path))
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BadSample, match=r"x\.tar:.* (is cut short|is damaged)"):
        dataset.samples[-1].image()


def test_duplicate_keys_across_shards(tmp_path: Path) -> None:
    for i in range(2):
        as_tar(tmp_path / f"{i}.tar", {"0001.png": encoded(i, "PNG")})
    with pytest.raises(BadData, match=r"'0001' is both .*0\.tar:0001\.png and .*1\.tar:0001\.png"):
        open_dataset(str(tmp_path))


def test_missing_shards(tmp_path: Path) -> None:
    as_tar(tmp_path / "0.tar", {"a.png": encoded(0, "PNG")})
    with pytest.raises(BadData, match=r"there is no tar at .*1\.tar, .*2\.tar"):
        open_dataset(str(tmp_path / "{0..2}.tar"))
    with pytest.raises(BadData, match="there is no tar at"):
        open_dataset(str(tmp_path / "none*.tar"))


def test_braces() -> None:
    assert list(braces("x/{008..011}.tar")) == ["x/008.tar", "x/009.tar", "x/010.tar", "x/011.tar"]
    assert list(braces("{8..11}")) == ["8", "9", "10", "11"]
    assert list(braces("{a,b}-{0..1}")) == ["a-0", "a-1", "b-0", "b-1"]
    assert list(braces("plain.tar")) == ["plain.tar"]
    with pytest.raises(BadData, match="the limit is"):
        list(braces("{0..99999999}"))


def test_digests_of_members_are_remembered(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    from vtbench.data import identity as module

    places = [
        as_tar(tmp_path / "x.tar", files),
        as_parquet(tmp_path / "x.parquet", files),
        as_saved(tmp_path / "saved", files),
    ]
    for path in tmp_path.rglob("*.*"):
        os.utime(path, (1.6e9, 1.6e9))
    first = [open_dataset(place, cache=tmp_path / "cache") for place in places]
    monkeypatch.setattr(module, "identify", lambda *_: pytest.fail("hashed again"))
    assert [open_dataset(place, cache=tmp_path / "cache") for place in places] == first


# ------------------------------------------------------------------------------------------------ tables


def test_columns_are_found_or_chosen(tmp_path: Path, files: Files) -> None:
    columns = {
        "label": [3, 1, 4, 1, 5, 9],
        "caption": [["first", "second"]] * 6,
        "mask": list(files.values()),
        "title": [f"t{i}" for i in range(6)],
    }
    place = as_parquet(tmp_path / "x.parquet", files, **columns)
    dataset = open_dataset(place)
    by_id = {s.id: s for s in dataset.samples}
    assert [by_id[os.path.splitext(name)[0]].label for name in files] == columns["label"]
    assert {s.caption for s in dataset.samples} == {"first"}
    chosen = open_dataset(f"{place}?image=mask&id=title&caption=title")
    assert [s.id for s in chosen.samples] == [f"t{i}" for i in range(6)]
    assert [s.caption for s in chosen.samples] == [f"t{i}" for i in range(6)]
    assert sorted(s.digest for s in chosen.samples) == sorted(s.digest for s in dataset.samples)
    for option, said in (
        ("image=photo", "no column 'photo'"),
        ("image=title", "holds string, not images. Columns of images: image, mask"),
        ("id=nope", "no column 'nope'"),
        ("label=title", "does not hold integers"),
    ):
        with pytest.raises(UsageError, match=said):
            open_dataset(f"{place}?{option}")


def test_ids_fall_back_to_row_numbers(tmp_path: Path, files: Files) -> None:
    unnamed = open_dataset(as_parquet(tmp_path / "x.parquet", files, lambda name: None))
    assert [s.id for s in unnamed.samples] == [f"{i:06d}" for i in range(6)]
    twice = open_dataset(as_parquet(tmp_path / "y.parquet", files, lambda name: "image.png"))
    assert [s.id for s in twice.samples] == [f"{i:06d}" for i in range(6)]


def test_bad_tables(tmp_path: Path, files: Files) -> None:
    content = Path(as_parquet(tmp_path / "x.parquet", files)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[: len(content) // 2])
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    pq.write_table(pa.table({"left": [b"x"], "right": [b"y"]}), tmp_path / "two.parquet")
    for name, error, said in (
        ("cut", BadData, "no whole parquet file"),
        ("text", BadData, "no column of images. It has text"),
        ("two", UsageError, r"several columns of images. Choose with \?image=left or \?image=right"),
        ("absent", BadData, "there is no parquet file"),
    ):
        with pytest.raises(error, match=said):
            open_dataset(str(tmp_path / f"{name}.parquet"))


def test_empty_cells_are_problems(tmp_path: Path) -> None:
    files = {"a.png": encoded(0, "PNG"), "b.png": b"", "c.png": b"not an image"}
    dataset = open_dataset(as_parquet(tmp_path / "x.parquet", files))
    assert [s.id for s in dataset.samples] == ["a"]
    assert [id_ for id_, _ in dataset.problems] == ["b", "c"]


def test_row_groups_that_are_too_large_to_read(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtbench.data.tables.MAX_GROUP_BYTES", 100)
    with pytest.raises(BadData, match="row_group_size=100"):
        open_dataset(as_parquet(tmp_path / "x.parquet", files))


# ------------------------------------------------------------------------------------------------ Hugging Face


def test_what_datasets_writes(tmp_path: Path, files: Files) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    flat = {name.replace("/", "-"): content for name, content in files.items()}
    folder = as_folder(tmp_path / "folder", flat)
    wanted = identity(open_dataset(folder))
    paths = [str(tmp_path / "folder" / name) for name in flat]
    whole = datasets.Dataset.from_dict({"image": paths, "label": [0, 1] * 3}).cast_column("image", datasets.Image())
    whole.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    datasets.DatasetDict({"train": whole.select([0]), "val": whole}).save_to_disk(str(tmp_path / "both"))
    whole.to_parquet(str(tmp_path / "paths.parquet"))
    with pytest.raises(BadData, match="has no bytes, only the path"):
        open_dataset(str(tmp_path / "paths.parquet"))
    embed = datasets.table.embed_table_storage  # what push_to_hub does
    whole.with_format("arrow").map(embed, batched=True).to_parquet(str(tmp_path / "x.parquet"))
    for place in (f"hf:{tmp_path}/saved", f"hf:{tmp_path}/both?split=val&image=image", f"{tmp_path}/x.parquet"):
        dataset = open_dataset(place)
        assert identity(dataset) == wanted, place
        assert {s.label for s in dataset.samples} == {0, 1}
    with pytest.raises(UsageError, match=r"both has several splits. Choose one: \?split=train or \?split=val"):
        open_dataset(f"hf:{tmp_path}/both")
    with pytest.raises(UsageError, match=r"no split 'test'. It has train, val"):
        open_dataset(f"hf:{tmp_path}/both?split=test")


def in_hub_cache(root: Path, files: Files, shard: str, revision: str = "main") -> Path:
    """A hub cache with one dataset, as huggingface_hub lays it out."""
    home = root / "datasets--owner--pictures"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / revision).write_text(commit)
    as_parquet(home / "snapshots" / commit / shard, files)
    return home / "snapshots" / commit


def test_a_dataset_in_the_hubs_cache(tmp_path: Path, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = in_hub_cache(tmp_path / "hub", files, "data/validation-00000-of-00001.parquet", "v1.0")
    as_parquet(snapshot / "data" / "train-00000-of-00002.parquet", files)
    dataset = open_dataset("hf:owner/pictures@v1.0?split=validation&image=image")
    assert identity(dataset) == identity(open_dataset(as_folder(tmp_path / "folder", files)))
    assert dataset.name == "hf:owner--pictures"
    with pytest.raises(UsageError, match="owner--pictures has several splits"):
        open_dataset("hf:owner/pictures@v1.0")
    with pytest.raises(BadData, match="only 1 of 2 shards"):
        open_dataset("hf:owner/pictures@v1.0?split=train")
    with pytest.raises(
        BadData, match=r"owner/pictures at main is not on this machine. Fetch it: hf download owner/pictures"
    ):
        open_dataset("hf:owner/pictures?split=validation")
    with pytest.raises(BadData, match="owner/others at main is not on this machine"):
        open_dataset("hf:owner/others")
    with pytest.raises(UsageError, match="neither a folder nor a dataset's id"):
        open_dataset("hf:a/b/c")


def test_layouts_of_parquet_on_the_hub(tmp_path: Path, files: Files) -> None:
    root = tmp_path / "set"
    for name in (
        "plain/test.parquet",
        "fancy/test/0000.parquet",
        "fancy/test/0001.parquet",
        "fancy/train/0000.parquet",
    ):
        as_parquet(root / name, {f"{name}-{k}": v for k, v in files.items()})
    assert len(open_dataset(f"hf:{root}?config=plain")) == 6
    assert len(open_dataset(f"hf:{root}?config=fancy&split=test")) == 12
    with pytest.raises(UsageError, match="has several configs"):
        open_dataset(f"hf:{root}")


def test_what_a_folder_is(tmp_path: Path, files: Files) -> None:
    """Nothing that is an image is passed over because a tar or a table lies beside it."""
    mixed = as_folder(tmp_path / "mixed", files)
    as_tar(tmp_path / "mixed" / "old.tar", {"x.png": encoded(9, "PNG")})
    as_parquet(tmp_path / "mixed" / "old.parquet", {"y.png": encoded(9, "PNG")})
    dataset = open_dataset(mixed)
    assert len(dataset) == len(files)
    assert dataset.notes == {"files that are not images": 2}
    for i in range(2):
        as_parquet(tmp_path / "numbered" / f"000{i}.parquet", {f"{i}-{k}": v for k, v in files.items()})
        as_parquet(
            tmp_path / "named" / "data" / f"val-0000{i}-of-00002.parquet", {f"{i}-{k}": v for k, v in files.items()}
        )
        as_parquet(tmp_path / "splits" / f"{'ab'[i]}.parquet", files)
    assert open_dataset(str(tmp_path / "numbered")).revision == open_dataset(str(tmp_path / "named")).revision
    assert len(open_dataset(str(tmp_path / "numbered"))) == 12
    assert open_dataset(str(tmp_path / "named")).name == "parquet:named"
    with pytest.raises(UsageError, match="has several splits"):
        open_dataset(str(tmp_path / "splits"))
    assert len(open_dataset(f"{tmp_path}/splits?split=a")) == 6


def test_saved_datasets_that_are_incomplete(tmp_path: Path, files: Files) -> None:
    root = Path(as_saved(tmp_path / "saved", files))
    (root / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(BadData, match=r"incomplete: data-00001-of-00002\.arrow"):
        open_dataset(str(root))
    (root / "state.json").write_text('{"_data_files": [{"filename": "../../x.arrow"}]}')
    with pytest.raises(BadData, match="names no data files"):
        open_dataset(str(root))
    (root / "state.json").write_text("{")
    with pytest.raises(BadData, match="is not a JSON file"):
        open_dataset(str(root))
