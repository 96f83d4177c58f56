"""Words and faces of the real assets, read by vtbench and by the packages called directly on the same crops."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vtbench import registry
from vtbench.api import Batch
from vtbench.data import open_dataset

ASSETS = Path(os.environ.get("VTBENCH_ASSETS", "/nowhere"))
pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not (ASSETS / "tokbench-mini").is_dir(), reason="VTBENCH_ASSETS does not point at the assets"),
]
HEADS = ("text", "truth", "confidence", "foreign", "status")


@pytest.fixture(scope="module", autouse=True)
def weights() -> None:
    os.environ.setdefault("VTBENCH_WEIGHTS", str(ASSETS))


def of_set(name: str) -> tuple[list[Any], list[np.ndarray]]:
    dataset = open_dataset(str(ASSETS / "tokbench-mini"), reader="tokbench", options={"sets": [name]})
    samples = [s for s in dataset.samples if s.set == name]
    return samples, [np.asarray(s.image("ignore")) for s in samples]


def worse(image: np.ndarray) -> np.ndarray:
    """A quarter of the resolution and back: some words become hard to read."""
    small = Image.fromarray(image)
    size = (small.width // 4, small.height // 4)
    return np.asarray(small.resize(size, Image.Resampling.LANCZOS).resize(small.size, Image.Resampling.LANCZOS))


@pytest.fixture(scope="module")
def reader() -> Any:
    pytest.importorskip("easyocr")
    made = registry.extractor("easyocr", {})
    made.identity()
    made.open("cpu")
    return made


def test_easyocr_reads_161_of_the_168_rendered_words(reader: Any) -> None:
    samples, images = of_set("rendered")
    rows = reader(Batch(samples, images), HEADS)
    right = rows["text"].values == rows["truth"].values
    assert (int(right.sum()), len(right)) == (161, 168)
    assert not rows["foreign"].values.any()


def test_easyocr_equals_the_package_string_for_string(reader: Any) -> None:
    import easyocr

    package = easyocr.Reader(
        ["en"],
        gpu=False,
        detector=False,
        model_storage_directory=str(ASSETS / "easyocr"),
        download_enabled=False,
        quantize=False,
        verbose=False,
    )
    assert set(package.character) == reader.alphabet()
    assert set(package.character) <= set(package.lang_char)  # so nothing is on its ignore list
    samples, images = of_set("rendered")
    sets = [(samples[:1], images[:1]), (samples[3:4], [worse(images[3])])]
    receipts, pictures = of_set("wildreceipt")
    sets.append(([replace(receipts[0], words=receipts[0].words[:20])], [worse(pictures[0])]))
    unsure = 0
    for chosen, arrays in sets:
        rows = reader(Batch(chosen, arrays), HEADS)
        texts, confidences = iter(rows["text"].values), iter(rows["confidence"].values)
        for sample, image in zip(chosen, arrays):
            for word in sample.words:
                x0, y0, x1, y1 = (int(v) for v in word.box)
                bgr = np.ascontiguousarray(image[y0:y1, x0:x1, ::-1])
                ((_, text, confidence),) = package.recognize(bgr)
                assert next(texts) == text
                assert next(confidences) == pytest.approx(float(confidence), rel=1e-3, abs=1e-5)
                unsure += confidence < 0.1
    assert unsure >= 3  # the second reading with stretched contrast has been compared too


def test_arcface_equals_insightface() -> None:
    pytest.importorskip("insightface")
    from insightface.app.common import Face
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    package = ArcFaceONNX(str(ASSETS / "insightface/models/buffalo_s/w600k_mbf.onnx"))
    assert (package.input_mean, package.input_std) == (127.5, 127.5)
    extractor = registry.extractor("arcface", {"pack": "buffalo_s"})
    extractor.identity()
    extractor.open("cpu")
    samples, images = of_set("people")
    samples, images = samples[:4], [images[0], worse(images[1]), images[2], worse(images[3])]
    rows = extractor(Batch(samples, images), ["embedding", "status"])
    embeddings = iter(rows["embedding"].values.astype(np.float64))
    count = 0
    for sample, image in zip(samples, images):
        for face in sample.faces:
            direct = package.get(np.ascontiguousarray(image[..., ::-1]), Face(kps=face.landmarks)).astype(np.float64)
            mine = next(embeddings)
            assert mine @ direct / np.linalg.norm(mine) / np.linalg.norm(direct) > 1 - 1e-6
            assert np.linalg.norm(mine) == pytest.approx(np.linalg.norm(direct), rel=1e-3)
            count += 1
    assert count == len(rows["status"].values) >= 6


def test_one_face_does_not_move_another() -> None:
    extractor = registry.extractor("arcface", {"pack": "buffalo_s"})
    extractor.identity()
    extractor.open("cpu")
    samples, images = of_set("people")
    together = extractor(Batch(samples[:3], images[:3]), ["embedding"])["embedding"].values
    alone = [extractor(Batch([s], [i]), ["embedding"])["embedding"].values for s, i in zip(samples[:3], images[:3])]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=1e-4, atol=1e-4)
