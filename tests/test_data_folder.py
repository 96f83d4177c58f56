"""Folders: ids, labels, problems, identity, the digest cache, subsets and metadata."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vtbench.data import Dataset, Sample, choose, open_dataset, with_metadata
from vtbench.data.identity import DigestCache, identify, revision
from vtbench.data.sources import FileSource
from vtbench.errors import BadData, BadSample, UnknownName, Unread, UsageError

OLD = 1_600_000_000


def write(path: Path, seed: int = 0, size: tuple[int, int] = (12, 8), **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    os.utime(path, (OLD, OLD))
    return path


def ids(dataset: Dataset) -> list[str]:
    return [sample.id for sample in dataset.samples]


def test_any_nesting_any_case_ordered_by_code_point(tmp_path: Path) -> None:
    for i, name in enumerate(["b.JPG", "a/z.jpeg", "a/c/d.v2.PNG", "Z.webp", "é.png", "_.bmp"]):
        write(tmp_path / name, i)
    dataset = open_dataset(str(tmp_path))
    assert ids(dataset) == ["Z", "_", "a/c/d.v2", "a/z", "b", "é"]
    assert [s.stored_as for s in dataset.samples] == ["webp", "bmp", "png", "jpeg", "jpeg", "png"]
    assert dataset.name == f"folder:{tmp_path.name}"
    assert all(s.label is None for s in dataset.samples)
    assert dataset.samples[0].image().size == (12, 8)


def test_a_name_composed_or_decomposed_is_one_id(tmp_path: Path) -> None:
    write(tmp_path / "one" / "e\u0301.png")
    write(tmp_path / "two" / "\u00e9.png")
    one, two = open_dataset(str(tmp_path / "one")), open_dataset(str(tmp_path / "two"))
    assert ids(one) == ids(two) == ["\u00e9"]
    assert one.revision == two.revision


def test_class_folders_are_labels_at_exactly_one_level(tmp_path: Path) -> None:
    for i, name in enumerate(["n02/x.png", "n01/b.png", "n01/a.png", "n10/c.png"]):
        write(tmp_path / name, i)
    assert [s.label for s in open_dataset(str(tmp_path)).samples] == [0, 0, 1, 2]
    write(tmp_path / "loose.png", 9)
    assert {s.label for s in open_dataset(str(tmp_path)).samples} == {None}
    (tmp_path / "loose.png").unlink()
    write(tmp_path / "n01" / "deep" / "d.png", 9)
    assert {s.label for s in open_dataset(str(tmp_path)).samples} == {None}


def test_nothing_is_skipped_without_a_word(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)
    (tmp_path / "README.txt").write_text("hello")
    write(tmp_path / ".hidden" / "x.png")
    (tmp_path / ".DS_Store").touch()
    dataset = open_dataset(str(tmp_path))
    assert ids(dataset) == ["good"]
    problems = dict(dataset.problems)
    assert sorted(problems) == ["circle", "empty", "gone", "text"]
    assert "0 bytes" in problems["empty"]
    assert "not an image" in problems["text"]
    assert problems["gone"] == "a link to nothing"
    assert "leads back" in problems["circle"]
    assert dataset.notes == {"files that are not images": 1, "hidden files and folders": 2}


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    try:
        os.rename(write(tmp_path / "bad.png"), os.fsencode(tmp_path) + b"/\xff.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    dataset = open_dataset(str(tmp_path))
    assert ids(dataset) == ["good"]
    assert dataset.problems == (("\\udcff.png", "its name is not valid UTF-8"),)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_files_without_permission(tmp_path: Path) -> None:
    write(tmp_path / "good.png")
    write(tmp_path / "secret.png").chmod(0)
    assert "Permission denied" in dict(open_dataset(str(tmp_path)).problems)["secret"]


def test_truncated_files_are_listed_and_fail_when_decoded(tmp_path: Path) -> None:
    for name in ("cut.jpg", "cut2.png"):
        path = write(tmp_path / name, size=(64, 64))
        path.write_bytes(path.read_bytes()[:-900])
    dataset = open_dataset(str(tmp_path))
    assert ids(dataset) == ["cut", "cut2"]
    for sample, name in zip(dataset.samples, ("cut.jpg", "cut2.png")):
        with pytest.raises(BadSample, match=f"{name} is damaged"):
            sample.image()


def test_places_where_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="there is nothing at"):
        open_dataset(str(tmp_path / "missing"))
    with pytest.raises(BadData, match=r"no images in .*Looked for images \(\.avif, "):
        open_dataset(str(tmp_path))
    (tmp_path / "a.jpg").touch()
    with pytest.raises(BadData, match=r"none of the 1 images .* can be read \(a: .*0 bytes"):
        open_dataset(str(tmp_path))
    with pytest.raises(BadData, match="no container of images"):
        open_dataset(str(tmp_path / "a.jpg"))
    with pytest.raises(UnknownName, match=r"unknown reader 'tokbnch'.*Did you mean tokbench"):
        open_dataset(str(tmp_path), reader="tokbnch")


def test_ids_that_differ_in_the_extension_only_collide(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.png"):
        write(tmp_path / name)
    with pytest.raises(BadData, match=r"1 ids .* not unique: 'a' is both .*a\.jpg and .*a\.png"):
        open_dataset(str(tmp_path))


def test_known_revisions_get_their_name(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    plain = open_dataset(str(tmp_path))
    assert open_dataset(str(tmp_path), known={plain.revision: "the-set"}).name == "the-set"
    write(tmp_path / "b.png", 1)
    assert open_dataset(str(tmp_path), known={plain.revision: "the-set"}).name == f"folder:{tmp_path.name}"


def test_imagenet_val_is_one_set_flat_or_in_class_folders(tmp_path: Path) -> None:
    for i in range(1, 5):
        stem = f"ILSVRC2012_val_{i:08d}.JPEG"
        write(tmp_path / "flat" / stem, i)
        write(tmp_path / "classes" / f"n0000000{i % 2}" / stem, i)
    flat, classes = open_dataset(str(tmp_path / "flat")), open_dataset(str(tmp_path / "classes"))
    assert ids(flat) == ids(classes) == [f"ILSVRC2012_val_{i:08d}" for i in range(1, 5)]
    assert flat.revision == classes.revision
    assert [s.label for s in classes.samples] == [1, 0, 1, 0]
    write(tmp_path / "classes" / "n00000000" / "mine.JPEG", 9)
    assert ids(open_dataset(str(tmp_path / "classes")))[0] == "n00000000/ILSVRC2012_val_00000002"


# ------------------------------------------------------------------------------------------------ identity


def test_encoded_files_are_their_bytes(tmp_path: Path) -> None:
    content = write(tmp_path / "a.jpg").read_bytes()
    assert identify(content) == (hashlib.sha256(content).hexdigest(), "jpeg")


def test_lossless_files_are_their_pixels(tmp_path: Path) -> None:
    a = write(tmp_path / "a.png", compress_level=0).read_bytes()
    b = write(tmp_path / "b.png", compress_level=9).read_bytes()
    bmp, ppm = (write(tmp_path / name).read_bytes() for name in ("c.bmp", "d.ppm"))
    pixels = np.array(Image.open(tmp_path / "a.png"))
    assert a != b
    assert len({identify(content)[0] for content in (a, b, bmp, ppm, pixels)}) == 1
    assert [identify(content)[1] for content in (a, bmp, ppm, pixels)] == ["png", "bmp", "ppm", "array"]
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    turned = np.ascontiguousarray(pixels.reshape(pixels.shape[1], pixels.shape[0], 3))
    assert len({identify(array)[0] for array in (pixels, other, turned)}) == 3


def test_lossless_files_whose_pixels_rest_on_a_convention_are_their_bytes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (tmp_path / "scaled.ppm").write_bytes(b"P6 12 8 100\n" + (pixels % 100).tobytes())
    write(tmp_path / "cut.png").write_bytes((tmp_path / "turned.png").read_bytes()[:-40])
    for path in tmp_path.iterdir():
        content = path.read_bytes()
        assert identify(content)[0] == hashlib.sha256(content).hexdigest(), path.name


def test_the_revision_is_of_ids_and_contents() -> None:
    pairs = [("a", "1"), ("b", "2")]
    assert revision(pairs) == revision(reversed(pairs))
    others = [[("a", "2"), ("b", "1")], [("a", "1")], [("a", "1"), ("c", "2")], []]
    assert len({revision(p) for p in [pairs, *others]}) == 5
    assert revision(pairs).startswith("sha256:")


def test_labels_and_captions_are_no_part_of_identity(tmp_path: Path) -> None:
    write(tmp_path / "x" / "n1" / "ILSVRC2012_val_00000001.JPEG")
    write(tmp_path / "x" / "n2" / "ILSVRC2012_val_00000002.JPEG", 1)
    before = open_dataset(str(tmp_path / "x"))
    (tmp_path / "x" / "n1").rename(tmp_path / "x" / "n3")
    after = open_dataset(str(tmp_path / "x"))
    assert [s.label for s in before.samples] != [s.label for s in after.samples]
    assert before.revision == after.revision


# ------------------------------------------------------------------------------------------------ the digest cache


def test_digests_are_remembered_until_the_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / "data" / f"{i}.png", i) for i in range(5)]
    first = open_dataset(str(tmp_path / "data"), cache=tmp_path / "cache")
    read: list[str] = []
    original = FileSource.read
    monkeypatch.setattr(FileSource, "read", lambda self: (read.append(self.path), original(self))[1])
    again = open_dataset(str(tmp_path / "data"), cache=tmp_path / "cache")
    assert (again, read) == (first, [])
    write(paths[2], 99)
    os.utime(paths[2], (OLD + 7, OLD + 7))
    changed = open_dataset(str(tmp_path / "data"), cache=tmp_path / "cache")
    assert read == [str(paths[2])]
    assert changed.revision != first.revision
    assert [a.digest == b.digest for a, b in zip(first.samples, changed.samples)] == [True, True, False, True, True]


def test_fresh_files_are_not_remembered(tmp_path: Path) -> None:
    path = write(tmp_path / "data" / "a.png")
    os.utime(path)
    open_dataset(str(tmp_path / "data"), cache=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "tar", "npz"])
@pytest.mark.parametrize("settled", [True, False])
def test_a_file_that_changed_after_it_was_hashed_is_refused(tmp_path: Path, kind: str, settled: bool) -> None:
    folder = tmp_path / "data"
    folder.mkdir()

    def write(value: int) -> Path:
        image = np.full((8, 8, 3), value, np.uint8)
        if kind == "npz":
            np.savez(folder / "a.npz", arr_0=image[None])
            return folder / "a.npz"
        inner = folder / f"a.{'png' if kind == 'tar' else kind}"
        Image.fromarray(image).save(inner)
        if kind == "tar":
            with tarfile.open(folder / "a.tar", "w") as archive:
                archive.add(inner, inner.name)
            inner.unlink()
            return folder / "a.tar"
        return inner

    path = write(10)
    if settled:
        os.utime(path, (1, 1))
    where = path if kind in ("tar", "npz") else folder
    (sample,) = open_dataset(str(where)).samples
    assert (sample.stamp is not None) == settled
    assert np.asarray(sample.image())[0, 0, 0] == 10
    os.utime(path)  # touched, not changed
    assert np.asarray(sample.image())[0, 0, 0] == 10
    write(20)
    with pytest.raises(Unread, match=rf"a\.{kind}.* has changed since it was hashed.*run again"):
        sample.image()
    (again,) = open_dataset(str(where)).samples
    assert again.digest != sample.digest and np.asarray(again.image())[0, 0, 0] == 20


def test_a_torn_or_foreign_line_is_passed_over(tmp_path: Path) -> None:
    cache = DigestCache(tmp_path)
    cache.add([(("/a", 1, OLD), "a" * 64, "png")])
    path = tmp_path / "digests-v1.jsonl"
    path.write_bytes(path.read_bytes() + b'["/b", 2, 16000')
    torn = DigestCache(tmp_path)
    assert torn.known == {("/a", 1, OLD): ("a" * 64, "png")}
    torn.add([(("/c", 3, OLD), "c" * 64, "jpeg")])
    assert set(DigestCache(tmp_path).known) == {("/a", 1, OLD), ("/c", 3, OLD)}
    path.write_bytes(
        path.read_bytes() + b'{"not": "ours"}\n7\n["/d", 4, 5, "short", "png"]\n[[], 4, 5, "x", "png"]\n\xff\n'
    )
    assert set(DigestCache(tmp_path).known) == {("/a", 1, OLD), ("/c", 3, OLD)}


REMEMBER = """
import hashlib, sys
from pathlib import Path
from vtbench.data.identity import DigestCache
cache = DigestCache(Path(sys.argv[1]))
for i in range(40):
    cache.add([((f"/{sys.argv[2]}/{i}/{j}", i, 5), hashlib.sha256(b"%d" % i).hexdigest(), "png") for j in range(5)])
"""


def test_two_processes_share_the_cache(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", REMEMBER, str(tmp_path), str(i)]) for i in range(2)]
    assert [worker.wait() for worker in workers] == [0, 0]
    lines = (tmp_path / "digests-v1.jsonl").read_text().splitlines()
    assert len(lines) == 400
    assert all(json.loads(line) for line in lines)
    assert len(DigestCache(tmp_path).known) == 400


def test_a_cache_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.png")
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(Exception, match="cannot write the digest cache"):
        open_dataset(str(tmp_path / "data"), cache=tmp_path / "cache")


def test_progress_is_told(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"{i}.png", i)
    told: list[tuple[int, int]] = []
    open_dataset(str(tmp_path), progress=lambda done, total: told.append((done, total)))
    assert told == [(3, 3)]


# ------------------------------------------------------------------------------------------------ choosing


def made(labels: list[int | None], problems: tuple[tuple[str, str], ...] = ()) -> Dataset:
    samples = tuple(
        Sample(f"{i:04d}", "0" * 64, FileSource(f"/{i:04d}.png"), label=label) for i, label in enumerate(labels)
    )
    return Dataset("folder:x", "sha256:0", samples, problems)


def test_limit_is_the_first_by_id() -> None:
    dataset = made([None] * 5, (("0001a", "broken"), ("9", "broken")))
    assert ids(choose(dataset, limit=3)) == ["0000", "0001"]
    assert choose(dataset, limit=3).problems == (("0001a", "broken"),)
    assert ids(choose(dataset, limit=99)) == ids(dataset)
    assert choose(dataset) is dataset
    with pytest.raises(UsageError, match="--limit 0"):
        choose(dataset, limit=0)


def test_subset_is_balanced_nested_and_by_hash() -> None:
    dataset = made([i % 10 if i < 900 else 3 for i in range(2000)])
    small, large = choose(dataset, subset="100"), choose(dataset, subset="1k")
    for chosen, n in ((small, 100), (large, 1000)):
        assert len(chosen) == n
        assert ids(chosen) == sorted(ids(chosen))
        assert chosen.revision == dataset.revision
    counts = np.bincount([s.label for s in small.samples])
    assert counts.tolist() == [10] * 10
    # 90 of every label but the third, which fills the rest
    assert np.bincount([s.label for s in large.samples]).tolist() == [90, 90, 90, 190, *[90] * 6]
    assert set(ids(small)) < set(ids(large))
    by_hash = sorted(ids(dataset), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    plain = choose(made([None] * 2000), subset="50")
    assert ids(plain) == sorted(by_hash[:50])
    assert ids(choose(dataset, subset="100", limit=4)) == ids(small)[:4]


@pytest.mark.parametrize("bad", ["many", "0", "5m", "-3", "1.5k", ""])
def test_subset_must_be_a_number(bad: str) -> None:
    with pytest.raises(UsageError, match="no number of images"):
        choose(made([None] * 5), subset=bad)


def test_subset_larger_than_the_dataset() -> None:
    with pytest.raises(UsageError, match="--subset 5000 is more than the 5 images there are"):
        choose(made([None] * 5), subset="5k")


# ------------------------------------------------------------------------------------------------ metadata


def test_metadata_columns_travel_with_samples(tmp_path: Path) -> None:
    for i, name in enumerate(["a/x.png", "a/y.png", "b/z.png"]):
        write(tmp_path / "data" / name, i)
    table = tmp_path / "facts.csv"
    table.write_text('\ufefffile_name,light,"a, note"\nb/z.png,day,"so, so"\na/x,night,\n\n', encoding="utf-8")
    dataset = open_dataset(str(tmp_path / "data"), options={"metadata": str(table)})
    assert [dict(s.meta) for s in dataset.samples] == [
        {"light": "night", "a, note": ""},
        {"light": "", "a, note": ""},
        {"light": "day", "a, note": "so, so"},
    ]
    assert dataset.notes == {"samples without a line in the metadata": 1}
    assert dataset.revision == open_dataset(str(tmp_path / "data")).revision


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (
            "id,x\na,1\nq,2\nr,3\n",
            BadData,
            "2 of 3 ids are not in the dataset, such as q, r. An id here looks like 'a'",
        ),
        ("id,x\na,1\na,2\n", BadData, "line 3: the id 'a' comes twice"),
        ("id,x\na,1,2\n", BadData, "line 2 has 3 cells, not 2"),
        ("name,x\na,1\n", UsageError, "no column of ids .it has name, x."),
        ("id,x,x\na,1,2\n", BadData, "names a column twice"),
        ("", BadData, "is empty"),
        ('id,x\na,"1\n', BadData, "not a UTF-8 CSV file"),
    ],
)
def test_bad_metadata(tmp_path: Path, text: str, error: type[Exception], said: str) -> None:
    write(tmp_path / "data" / "a.png")
    (tmp_path / "facts.csv").write_text(text)
    with pytest.raises(error, match=said):
        with_metadata(open_dataset(str(tmp_path / "data")), tmp_path / "facts.csv")


def test_metadata_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    write(tmp_path / "data" / "a.png")
    dataset = open_dataset(str(tmp_path / "data"))
    (tmp_path / "facts.csv").write_bytes(b"id,x\na,\xff\xfe\n")
    with pytest.raises(BadData, match="not a UTF-8 CSV"):
        with_metadata(dataset, tmp_path / "facts.csv")
    with pytest.raises(BadData, match="No such file"):
        with_metadata(dataset, tmp_path / "none.csv")


# ------------------------------------------------------------------------------------------------ the house


def test_samples_travel_to_other_processes(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    dataset = open_dataset(str(tmp_path))
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, vtbench.data as d; heavy = {'torch', 'numpy', 'PIL', 'pandas', 'pyarrow'} & set(sys.modules);"
        "assert not heavy, heavy; d.open_dataset; d.prepare; d.choose; d.restore;"
        "heavy = {'torch', 'pandas', 'pyarrow'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
