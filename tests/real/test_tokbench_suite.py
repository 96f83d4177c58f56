"""The whole path on real words and faces: a model that changes nothing scores as the originals do."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vtbench.evaluation import Evaluator

ASSETS = Path(os.environ.get("VTBENCH_ASSETS", "/nowhere"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ASSETS / "tokbench-mini").is_dir(), reason="VTBENCH_ASSETS does not point at the assets"),
    pytest.mark.slow,
]
SIDE = 256


def squared(image: Image.Image) -> tuple[Image.Image, float]:
    """A picture on a 256 x 256 canvas, its longer side filling it, and the scale."""
    scale = SIDE / max(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(small)
    return canvas, scale


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TokBench folder of 256 x 256 pictures: three of faces, one of rendered words, one word in an alphabet of its own."""
    pytest.importorskip("easyocr")
    os.environ.setdefault("VTBENCH_WEIGHTS", str(ASSETS))
    source, root = ASSETS / "tokbench-mini", tmp_path_factory.mktemp("tokbench")
    for folder in ("annotations", "images/text_data/words", "images/face_data/people"):
        (root / folder).mkdir(parents=True)
    people = []
    for entry in json.loads((source / "annotations/face_meta.json").read_text())[:3]:
        canvas, scale = squared(Image.open(source / "images/face_data/people" / entry["image_name"]).convert("RGB"))
        name = Path(entry["image_name"]).stem + ".png"
        canvas.save(root / "images/face_data/people" / name)
        faces = [
            {
                "kps": [[x * scale, y * scale] for x, y in face["kps"]],
                "box": [v * scale for v in face["box"]],
                "gt": None,
                "ratio": ratio,
            }
            for face, ratio in zip(entry["faces"] * 3, (0.15, 0.25, 0.5))
        ]
        people.append({"image_name": name, "img_height": SIDE, "img_width": SIDE, "faces": faces})
    (root / "annotations/face_meta.json").write_text(json.dumps(people))
    (entry, *_) = json.loads((source / "annotations/text_rendered.json").read_text())
    whole = Image.open(source / "images/text_data/rendered" / entry["file_name"]).convert("RGB")
    whole.crop((0, 90, SIDE, 90 + SIDE)).save(root / "images/text_data/words/words.png")
    words = []
    for word in entry["annotations"]:
        x0, y0, x1, y1 = word["bbox"]
        if x1 <= SIDE and y0 >= 90 and y1 <= 90 + SIDE:
            words.append({**word, "bbox": [x0, y0 - 90, x1, y1 - 90]})
    assert len(words) >= 3
    for number, word in enumerate(words):
        word["ratio"] = (0.025, 0.035, 0.05)[number % 3]
    words.append({**words[0], "rec": "слово"})
    annotated = [{"file_name": "words.png", "height": SIDE, "width": SIDE, "annotations": words}]
    (root / "annotations/text_words.json").write_text(json.dumps(annotated))
    return root


def run(data: Path, out: Path, protocol: str, model: str = "resize") -> dict[tuple[str, str], Any]:
    evaluate = Evaluator(
        "tokbench-light",
        data=str(data),
        out=str(out),
        protocol=(protocol,),
        resolution=(SIDE,),
        baselines=False,
        device="cpu",
        batch_size=2,
    )
    return {(r.metric, r.slice): r for r in evaluate(model).rows() if r.protocol == protocol}


def test_a_model_that_changes_nothing(mini: Path, tmp_path: Path) -> None:
    rows = run(mini, tmp_path, "tokbench-light+container=lossless")
    for size in ("small", "medium", "large", "mean"):
        assert rows["f_sim", size].value == pytest.approx(1.0, abs=1e-6)
        assert rows["t_acc", size].value == rows["t_ned", size].value == 100.0
    scored, dropped = rows["words_scored", "all"], rows["words_dropped", "all"]
    assert scored.value + dropped.value == scored.n
    assert rows["words_dropped", "reason=misread-on-original"].value >= 1  # the word in another alphabet, at least
    assert rows["faces_scored", "all"].value == 9
    assert rows["f_sim", "set=people;size=small"].value == pytest.approx(1.0, abs=1e-6)


def test_without_the_filter_the_originals_own_accuracy_counts(mini: Path, tmp_path: Path) -> None:
    rows = run(mini, tmp_path, "tokbench-light+container=lossless+refine=false")
    assert rows["words_dropped", "all"].value == 0
    assert rows["t_acc", "mean"].notes["with_foreign_characters"] == 1
    assert rows["t_acc", "small"].value < 100.0
    assert rows["words_scored", "all"].value == rows["words_scored", "all"].n


def test_a_poor_codec_costs_words_and_faces(mini: Path, tmp_path: Path) -> None:
    rows = run(mini, tmp_path, "tokbench-light+container=lossless", "jpeg:quality=3")
    assert rows["f_sim", "mean"].value < 0.8
    assert rows["t_ned", "mean"].value < 100.0
