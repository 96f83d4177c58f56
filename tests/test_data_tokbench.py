"""TokBench's layout: sets by their files, annotations good and bad."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vtbench.data import open_dataset, tokbench
from vtbench.errors import BadData, UnknownName

WORDS = [
    {
        "file_name": "img_1.jpg",
        "height": 40,
        "width": 60,
        "annotations": [
            {"rec": "Café", "bbox": [1.5, 2, 30, 12], "ratio": 0.12},
            {"rec": "over", "bbox": [50, 30, 75, 45], "ratio": 0.1},
            {"rec": "out", "bbox": [60, 3, 80, 9], "ratio": 0.1},
        ],
    },
    {"file_name": "deep/img_2.png", "height": 40, "width": 60, "annotations": []},
]
FACES = [
    {
        "image_name": "0--Parade/p.jpg",
        "img_height": 40,
        "img_width": 60,
        "faces": [{"kps": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]], "box": [-4, 0, 20, 20], "gt": None, "ratio": 0.4}],
    }
]


def lay_out(root: Path, words: Any = WORDS, faces: Any = FACES, annotations: str = "annotations") -> Path:
    for i, name in enumerate(
        ["text_data/ic13/img_1.jpg", "text_data/ic13/deep/img_2.png", "face_data/wflw/0--Parade/p.jpg"]
    ):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (root / annotations).mkdir(parents=True, exist_ok=True)
    (root / annotations / "text_ic13.json").write_text(json.dumps(words))
    (root / annotations / "face_meta.json").write_text(json.dumps(faces))
    return root


def test_samples_words_and_faces(tmp_path: Path) -> None:
    dataset = open_dataset(str(lay_out(tmp_path)), reader="tokbench")
    parade, empty, sign = dataset.samples
    assert [s.id for s in dataset.samples] == [
        "face_data/wflw/0--Parade/p",
        "text_data/ic13/deep/img_2",
        "text_data/ic13/img_1",
    ]
    assert [s.set for s in dataset.samples] == ["wflw", "ic13", "ic13"]
    assert [s.stored_as for s in dataset.samples] == ["jpeg", "png", "jpeg"]
    assert [(w.text, w.box, w.ratio) for w in sign.words] == [
        ("Café", (1.5, 2, 30, 12), 0.12),
        ("over", (50, 30, 60, 40), 0.1),  # clipped to the image
    ]
    assert empty.words == ()
    (face,) = parade.faces
    assert face.landmarks.tolist() == FACES[0]["faces"][0]["kps"]
    assert (face.box, face.ratio) == ((0, 0, 20, 20), 0.4)
    assert dataset.problems == ()
    assert dataset.notes == {
        "words whose box was clipped to the image": 1,
        "words dropped: their box holds no pixel of the image": 1,
        "faces whose box was clipped to the image": 1,
    }
    assert sign.image().size == (60, 40)


def test_the_folder_above_gives_the_same_dataset(tmp_path: Path) -> None:
    whole = open_dataset(str(lay_out(tmp_path / "TokBench")), reader="tokbench")
    above = open_dataset(str(tmp_path), reader="tokbench")
    assert above.samples == whole.samples
    assert above.revision == whole.revision
    lay_out(tmp_path / "split" / "TokBench", annotations="../annotations")  # images and annotations apart
    assert open_dataset(str(tmp_path / "split"), reader="tokbench").revision == whole.revision


def test_annotations_are_part_of_identity(tmp_path: Path) -> None:
    before = open_dataset(str(lay_out(tmp_path)), reader="tokbench")
    for change in ({"rec": "Cafe"}, {"bbox": [1, 2, 30, 12]}, {"ratio": 0.13}):
        words = copy.deepcopy(WORDS)
        words[0]["annotations"][0].update(change)  # type: ignore[attr-defined]
        after = open_dataset(str(lay_out(tmp_path, words)), reader="tokbench")
        same = [a.digest == b.digest for a, b in zip(before.samples, after.samples)]
        assert same == [True, True, False]
        assert after.revision != before.revision


def test_the_file_name_says_how_a_reconstruction_is_saved(tmp_path: Path) -> None:
    path = lay_out(tmp_path) / "images/text_data/ic13/img_1.jpg"
    Image.open(path).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(path)
    assert open_dataset(str(tmp_path), reader="tokbench").samples[2].stored_as == "jpeg"


def test_missing_images_are_named_and_strangers_counted(tmp_path: Path) -> None:
    root = lay_out(tmp_path)
    (root / "images/text_data/ic13/img_1.jpg").unlink()
    (root / "images/face_data/wflw/0--Parade/p.jpg").rename(root / "images/face_data/wflw/q.jpg")
    dataset = open_dataset(str(root), reader="tokbench")
    assert [s.id for s in dataset.samples] == ["text_data/ic13/deep/img_2"]
    assert [id_ for id_, _ in dataset.problems] == ["face_data/wflw/0--Parade/p", "text_data/ic13/img_1"]
    assert {why for _, why in dataset.problems} == {"the image of its annotation is missing"}
    assert dataset.notes["images without annotation"] == 1


def test_damaged_images_are_problems_or_fail_when_decoded(tmp_path: Path) -> None:
    root = lay_out(tmp_path)
    (root / "images/text_data/ic13/img_1.jpg").write_bytes(b"")
    (root / "images/face_data/wflw/0--Parade/p.jpg").write_text("<html>not found</html>")
    dataset = open_dataset(str(root), reader="tokbench")
    reasons = dict(dataset.problems)
    assert "0 bytes" in reasons["text_data/ic13/img_1"]
    assert "not an image" in reasons["face_data/wflw/0--Parade/p"]


def test_sets_without_images_are_counted_and_sets_can_be_chosen(tmp_path: Path) -> None:
    root = lay_out(tmp_path)
    (root / "annotations" / "text_cord.json").write_text(json.dumps(WORDS))
    dataset = open_dataset(str(root), reader="tokbench")
    assert len(dataset) == 3
    assert dataset.notes["annotated images of the set cord, which has no folder"] == 2
    chosen = open_dataset(str(root), reader="tokbench", options={"sets": "wflw"})
    assert [s.set for s in chosen.samples] == ["wflw"]
    assert [s.set for s in open_dataset(str(root), reader="tokbench", options={"sets": ["ic13"]}).samples] == [
        "ic13"
    ] * 2
    with pytest.raises(UnknownName, match=r"unknown set 'ic31'.*ic13"):
        open_dataset(str(root), reader="tokbench", options={"sets": "ic31"})


def test_the_demo_adds_photographs(tmp_path: Path) -> None:
    root = lay_out(tmp_path)
    plain = open_dataset(str(root), reader="demo")
    (root / "images" / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(root / "images" / "photos" / "sea.png")
    dataset = open_dataset(str(root), reader="demo")
    assert len(dataset) == len(plain) + 1
    assert [(s.id, s.set, s.words) for s in dataset.samples if s.set == "photos"] == [("photos/sea", "photos", ())]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file_name": None}, "entry 0: 'file_name' must be a text, found None"),
        ({"file_name": "../../../etc/x.jpg"}, "leads out of its set's folder"),
        ({"file_name": "/etc/x.jpg"}, "leads out of its set's folder"),
        ({"file_name": ""}, "leads out of its set's folder"),
        ({"annotations": {"rec": "x"}}, "entry 0: 'annotations' must be a list of objects"),
        ({"annotations": ["x"]}, "entry 0: 'annotations' must be a list of objects"),
        ({"annotations": [{"rec": 5, "bbox": [0, 0, 1, 1], "ratio": 1}]}, r"img_1.jpg.: 'rec' must be a text, found 5"),
        (
            {"annotations": [{"rec": "x", "bbox": [0, 0, 1], "ratio": 1}]},
            r"'bbox' must be 4 numbers, found \[0, 0, 1\]",
        ),
        ({"annotations": [{"rec": "x", "bbox": "all", "ratio": 1}]}, "'bbox' must be 4 numbers, found 'all'"),
        ({"annotations": [{"rec": "x", "bbox": [0, 0, 1, 10**400], "ratio": 1}]}, "'bbox' must be 4 numbers"),
        ({"annotations": [{"rec": "x", "bbox": [0, 0, 1, float("nan")], "ratio": 1}]}, "'bbox' must be 4 numbers"),
        ({"annotations": [{"rec": "x", "bbox": [0, 0, 1, 1]}]}, "'ratio' must be a number, found None"),
        ({"annotations": [{"rec": "x", "bbox": [0, 0, 1, 1], "ratio": -1}]}, "'ratio' must not be negative"),
    ],
)
def test_malformed_words(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(BadData, match=said) as raised:
        open_dataset(str(lay_out(tmp_path, [{**WORDS[0], **change}])), reader="tokbench")
    assert "text_ic13.json" in str(raised.value)


def test_malformed_faces(tmp_path: Path) -> None:
    faces = [{"image_name": "0--Parade/p.jpg", "faces": [{"kps": [[1, 2]], "box": [0, 0, 1, 1], "ratio": 1}]}]
    with pytest.raises(BadData, match=r"face_meta.json entry 0 .*'kps' must be 5 x 2 numbers"):
        open_dataset(str(lay_out(tmp_path, faces=faces)), reader="tokbench")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"file_name": "a"', "text_ic13.json is not JSON: "),
        ("", "is not JSON"),
        ("{}", "not a list of objects"),
        ("[1]", "not a list of objects"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_annotations_that_are_no_list_of_images(tmp_path: Path, text: str, said: str) -> None:
    (lay_out(tmp_path) / "annotations" / "text_ic13.json").write_text(text)
    with pytest.raises(BadData, match=said):
        open_dataset(str(tmp_path), reader="tokbench")


def test_absurd_sizes_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(lay_out(tmp_path) / "annotations" / "text_ic13.json", tokbench.MAX_ANNOTATION_BYTES + 1)  # sparse
    with pytest.raises(BadData, match="268,435,457 bytes; the limit is 268,435,456"):
        open_dataset(str(tmp_path), reader="tokbench")


def test_an_image_annotated_twice(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="'text_data/ic13/img_1' is both"):
        open_dataset(str(lay_out(tmp_path, [WORDS[0], WORDS[0]])), reader="tokbench")


def test_another_layout(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(BadData, match="is not laid out like TokBench"):
        open_dataset(str(tmp_path), reader="tokbench")
