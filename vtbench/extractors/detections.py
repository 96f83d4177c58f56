"""What an object detector found in an image, and the colour of each thing: the measurement behind GenEval.

A detector is a name in `DETECTORS` (or in the entry-point group `vtbench.detectors`, or put there by `@detector`), and so is what names colours
(`COLOUR_NAMERS`, `vtbench.colour_namers`): both stand in the protocol, and every one makes numbers of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal, Protocol

import numpy as np

from vtbench.api import Batch, Rows
from vtbench.errors import UnknownName, VtbenchError
from vtbench.geneval.prompts import CLASSES, COLOURS
from vtbench.geneval.rules import KEPT
from vtbench.registry import load_plugins, resolve

HEADS = ("class", "score", "box", "colour")


@dataclass
class Detected:
    """Detections of one image, in the detector's order.

    classes int ``[R]`` (index in `vtbench.geneval.prompts.CLASSES`), scores float32 ``[R]`` in [0, 1], boxes float32 ``[R, 4]`` (x0, y0, x1, y1 in
    pixels, the far sides outside), masks bool ``[R, H, W]``, or None where the detector has boxes alone (colours are then named from the whole box).
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray | None = None


class Detector(Protocol):
    """Finds things. Constructed cheaply; `identity` and `open` as of an `Extractor`."""

    def identity(self) -> Mapping[str, str]: ...

    def open(self, device: str) -> None: ...

    def detect(self, images: Sequence[np.ndarray]) -> list[Detected]:
        """What is in each image (uint8 RGB ``[H, W, 3]``, of any sizes), at least all above the score of `KEPT`. None depends on its neighbours."""
        ...


class ColourNamer(Protocol):
    """Names colours. Constructed cheaply; `identity` and `open` as of an `Extractor`."""

    def identity(self) -> Mapping[str, str]: ...

    def open(self, device: str) -> None: ...

    def colours(self, crops: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """A figure for each of `COLOURS`, float32 ``[N, 10]``, of N crops (uint8 RGB) of things with these class names; the greatest is the colour."""
        ...


DETECTORS: dict[str, str | Callable[[], Detector]] = {
    "mask2former-swin-s-mmdet": "vtbench.extractors.mask2former:OfMMDetection",
    "mask2former-swin-s-hf": "vtbench.extractors.mask2former:OfTheHub",
}
COLOUR_NAMERS: dict[str, str | Callable[[], ColourNamer]] = {"vit-l14-openai": "vtbench.extractors.colours:CLIPColours"}


def detector(name: str) -> Callable[[type], type]:
    """Register a detector class under a name, from a plug-in's file."""

    def register(cls: type) -> type:
        DETECTORS[name] = cls
        return cls

    return register


def colour_namer(name: str) -> Callable[[type], type]:
    """Register a class that names colours."""

    def register(cls: type) -> type:
        COLOUR_NAMERS[name] = cls
        return cls

    return register


def _made(kind: str, name: str, known: dict[str, Any]) -> Any:
    if name not in known:
        load_plugins()  # a worker has loaded none yet
        for point in entry_points(group=f"vtbench.{kind.replace(' ', '_')}s"):
            known.setdefault(point.name, point.value)
    if name not in known:
        raise UnknownName(kind, name, known)
    target = known[name]
    return (resolve(target) if isinstance(target, str) else target)()


class Detections:
    """One row per detection above the score of `KEPT`. args: `detector`, `colours` (who names them), `background` (``#999``, or ``original``).

    Heads: `class` int16, `score` float32, `box` float32 ``[R, 4]``, `colour` float32 ``[R, 10]``. Pictures in frame `source`; one that nothing is
    found in has no row. For its colour, a thing is cut out along its mask, laid on the background and cropped to its box.
    """

    name = "detections"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.detector_name = str(args.get("detector") or "mask2former-swin-s-mmdet")
        self.background = str(args.get("background") or "#999")
        self.detector: Detector = _made("detector", self.detector_name, DETECTORS)
        self.namer: ColourNamer = _made("colour namer", str(args.get("colours") or "vit-l14-openai"), COLOUR_NAMERS)

    def identity(self) -> Mapping[str, str]:
        """Digests of the detector's and of the colour namer's networks."""
        parts = (("detector", self.detector), ("colours", self.namer))
        return {f"{what}.{k}": v for what, part in parts for k, v in part.identity().items()}

    def open(self, device: str) -> None:
        """Load both networks."""
        self.detector.open(device)
        self.namer.open(device)

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Bytes that the store holds for an image, at about four detections an image."""
        return 4 * sum({"class": 2, "score": 4, "box": 16, "colour": 40}[head] + 8 for head in heads)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Detect in a batch. Raises `VtbenchError` for a class that is not one of the 80."""
        found = self.detector.detect(batch.images)
        image: list[int] = []
        rows: list[tuple[int, float, np.ndarray]] = []
        crops: list[np.ndarray] = []
        for position, (pixels, seen) in enumerate(zip(batch.images, found)):
            for i in np.flatnonzero(np.asarray(seen.scores, np.float32) > np.float32(KEPT)).tolist():
                number = int(seen.classes[i])
                if not 0 <= number < len(CLASSES):
                    raise VtbenchError(
                        f"the detector {self.detector_name} gave the class {number}; GenEval's are 0 to {len(CLASSES) - 1}",
                        "Its classes must be COCO's 80 in their order",
                    )
                image.append(position)
                rows.append((number, float(seen.scores[i]), np.asarray(seen.boxes[i], np.float32)))
                if "colour" in heads:
                    mask = None if seen.masks is None else seen.masks[i]
                    crops.append(cut_out(pixels, seen.boxes[i], mask, self.background))
        where = np.array(image, np.int64)
        values: dict[str, np.ndarray] = {
            "class": np.array([r[0] for r in rows], np.int16),
            "score": np.array([r[1] for r in rows], np.float32),
            "box": np.array([r[2] for r in rows], np.float32).reshape(-1, 4),
        }
        if "colour" in heads:
            values["colour"] = np.zeros((len(rows), len(COLOURS)), np.float32)
            if crops:
                values["colour"][:] = self.namer.colours(crops, [CLASSES[r[0]] for r in rows])
        return {head: Rows(values[head], where) for head in heads}


def cut_out(image: np.ndarray, box: Sequence[float], mask: np.ndarray | None, background: str = "#999") -> np.ndarray:
    """The pixels of a box (uint8 ``[h, w, 3]``), what is not of the mask painted over with the background (``original``: left as it is).

    Outside the picture is black, as Pillow crops; a box without a pixel gives one."""
    from PIL import Image

    picture = Image.fromarray(image)
    if mask is not None and background != "original":
        picture = Image.composite(picture, Image.new("RGB", picture.size, background), Image.fromarray(mask))
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return np.asarray(picture.crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))))
