"""GenEval's networks with their published weights, where they are on the search path: plain photographs hold what they plainly show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vtbench
from vtbench.api import Batch
from vtbench.errors import MissingPackage, MissingWeights
from vtbench.extractors.detections import HEADS, Detections
from vtbench.geneval.prompts import CLASSES, COLOURS

PHOTOS = Path(vtbench.__file__).parent / "demo" / "images" / "photos"
SHOWN = {"cat": "cat", "dogs": "dog", "coffee": "cup", "wine": "wine glass", "astronaut": "person"}
pytestmark = pytest.mark.real


@pytest.mark.parametrize("detector", ["mask2former-swin-s-mmdet", "mask2former-swin-s-hf"])
def test_photographs_hold_what_they_show(detector: str) -> None:
    extractor = Detections({"detector": detector})
    try:
        extractor.detector.identity()
    except (MissingPackage, MissingWeights) as error:
        pytest.skip(str(error))
    extractor.detector.open("cpu")
    images = [np.asarray(Image.open(PHOTOS / f"{name}.png").convert("RGB")) for name in SHOWN]
    rows = extractor(Batch([None] * len(images), images=images), HEADS[:3])
    for i, (name, wanted) in enumerate(SHOWN.items()):
        mine = rows["class"].image == i
        found = {CLASSES[c] for c, s in zip(rows["class"].values[mine], rows["score"].values[mine]) if s > 0.5}
        assert wanted in found, name


def test_painted_things_have_their_colours() -> None:
    extractor = Detections({})
    try:
        extractor.namer.identity()
    except (MissingPackage, MissingWeights) as error:
        pytest.skip(str(error))
    extractor.namer.open("cpu")
    paint = {"red": (220, 20, 20), "blue": (20, 40, 220), "green": (20, 150, 30), "white": (250, 250, 250)}
    crops = [np.full((80, 80, 3), rgb, np.uint8) for rgb in paint.values()]
    found = extractor.namer.colours(crops, ["car"] * len(crops))
    assert [COLOURS[i] for i in found.argmax(1)] == list(paint)
