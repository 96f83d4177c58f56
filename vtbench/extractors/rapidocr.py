"""RapidOCR's recogniser (PP-OCRv6 small, ONNX) on ground-truth boxes; the network comes inside the `rapidocr` wheel.

The steps of `rapidocr`'s text recogniser on one crop: BGR, 48 px high by bilinear `cv2.resize` at the crop's aspect ratio, scaled to
[-1, 1], zero-padded on the right to 320 px (a crop wider than that keeps its own width), greedy CTC over the characters that the
network file names. Run here without the package's own code, whose interface changes between releases; crops of equal padded width
share a forward, so a result never depends on its neighbours.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import weights
from vtbench.errors import BadWeights, MissingWeights
from vtbench.extractors.installed import require
from vtbench.extractors.onnx import session
from vtbench.extractors.words import WordReader, by_shape

HEIGHT, LEAST_WIDTH = 48, 320
BATCH = 8
FILE = "PP-OCRv6_rec_small.onnx"
PP_OCRV6_SMALL = "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"
WAY_OUT = "pip install 'rapidocr>=3.9,<4', whose wheel carries it"


def padded_width(height: int, width: int) -> int:
    """The width of the network's input for a crop of this size, in pixels."""
    return int(HEIGHT * max(LEAST_WIDTH / HEIGHT, width / height))


def prepared(pixels: np.ndarray) -> np.ndarray:
    """A crop (uint8 RGB ``[h, w, 3]``) as the network wants it: float32 ``[3, 48, W]``, BGR."""
    import cv2

    height, width = pixels.shape[:2]
    canvas = np.zeros((3, HEIGHT, padded_width(height, width)), np.float32)
    taken = min(canvas.shape[2], math.ceil(HEIGHT * (width / height)))
    resized = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), (taken, HEIGHT)).astype(np.float32)
    canvas[:, :, :taken] = (resized.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return canvas


class RapidOCR(WordReader):
    """PP-OCRv6 small. args: `weights`, the sha256 that the protocol pins."""

    name = "rapidocr"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.pin = str(args.get("weights") or PP_OCRV6_SMALL)
        self._session: Any = None
        self._characters: list[str] = []

    def _file(self) -> tuple[Path, str]:
        for module in ("rapidocr", "onnxruntime"):
            require(module, module, "demo", "reading words with RapidOCR")
        require("cv2", "opencv-python", "demo", "reading words with RapidOCR")
        spec = importlib.util.find_spec("rapidocr")
        assert spec is not None
        folders = [Path(place) / "models" for place in spec.submodule_search_locations or ()]
        path = next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)
        if path is None:
            raise MissingWeights(f"the installed rapidocr does not carry {FILE}", WAY_OUT)
        digest = weights.digest(path)
        if not digest.startswith(f"sha256:{self.pin}"):
            raise BadWeights(f"{path} is not the recogniser that the protocol pins ({digest[:19]}...)", WAY_OUT)
        return path, digest

    def identity(self) -> Mapping[str, str]:
        """The network's digest."""
        return {"weights": self._file()[1]}

    def open(self, device: str) -> None:
        """Load the network and the characters that it names."""
        path, _ = self._file()
        self._session = session(path, device)
        named = self._session.get_modelmeta().custom_metadata_map.get("character")
        if not named:
            raise BadWeights(f"{path} does not name its characters", WAY_OUT)
        self._characters = ["", *named.splitlines(), " "]

    def alphabet(self) -> frozenset[str]:
        """Some 18,700 characters: Chinese, Latin, Japanese and more."""
        return frozenset(self._characters[1:])

    def read(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Read crops as RapidOCR's recogniser reads each alone."""
        out: list[tuple[str, float]] = [("", 0.0)] * len(crops)
        feed = self._session.get_inputs()[0].name
        for part in by_shape(crops, lambda c: padded_width(*c.shape[:2]), BATCH):
            (probabilities,) = self._session.run(None, {feed: np.stack([prepared(crops[i]) for i in part])})
            for i, steps, best in zip(part, probabilities.argmax(2), probabilities.max(2)):
                out[i] = self._decode(steps, best)
        return out

    def _decode(self, steps: np.ndarray, best: np.ndarray) -> tuple[str, float]:
        """Greedy CTC: repeats collapse, then blanks (0) go; the confidence is the mean over the characters that stay."""
        stays = steps != 0
        stays[1:] &= steps[1:] != steps[:-1]
        text = "".join(self._characters[c] for c in steps[stays])
        return text, float(best[stays].mean()) if stays.any() else 0.0
