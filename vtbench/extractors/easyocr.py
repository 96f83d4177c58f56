"""EasyOCR's English recogniser (`english_g2`) on ground-truth boxes, in float32.

EasyOCR's own steps, with its own functions: grey, 64 px high by `cv2.resize` at the crop's aspect ratio (a tall crop is made 64 px
wide first), padded on the right with its last column to the next multiple of 64, greedy CTC, and a second reading with stretched
contrast where the first one's confidence is below 0.1. `easyocr.Reader` reads one crop at a time on a CPU; here crops of the same
padded width share a forward, and the strings are the same. Its dynamic int8 quantisation (the default on CPUs only, and with scales
that depend on the batch) stays off, so that every device measures the same network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtbench import weights
from vtbench.extractors.installed import require
from vtbench.extractors.pinned import pinned
from vtbench.extractors.words import WordReader, by_shape

HEIGHT = 64
BATCH = 32
CONTRAST_BELOW = 0.1
CONTRAST_TARGET = 0.5
WAY_OUT = "Put english_g2.pth (https://github.com/JaidedAI/EasyOCR/releases, v1.3) in a folder of VTBENCH_WEIGHTS"
ENGLISH_G2 = "e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8"


class EasyOCR(WordReader):
    """`english_g2`. args: `weights`, the sha256 that the protocol pins."""

    name = "easyocr"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.pin = str(args.get("weights") or ENGLISH_G2)
        self._network: Any = None
        self._converter: Any = None
        self._device = "cpu"

    def _file(self) -> tuple[Path, str]:
        files = dict.fromkeys(("easyocr/english_g2.pth", "english_g2.pth"), f"sha256:{self.pin}")
        return pinned("EasyOCR's english_g2", files, WAY_OUT)

    def identity(self) -> Mapping[str, str]:
        """The network's digest."""
        require("easyocr", "easyocr", "ocr", "reading words with EasyOCR")
        return {"weights": self._file()[1]}

    def open(self, device: str) -> None:
        """Load `english_g2`; tensors only, nothing of the file is executed."""
        from easyocr.config import recognition_models
        from easyocr.model.vgg_model import Model
        from easyocr.utils import CTCLabelConverter

        path, _ = self._file()
        facts = recognition_models["gen2"]["english_g2"]
        self._converter = CTCLabelConverter(facts["characters"])
        network = Model(input_channel=1, output_channel=256, hidden_size=256, num_class=len(self._converter.character))
        weights.load_strict(network, weights.load_state(path), where=str(path))
        self._network = network.eval().to(device)
        self._device = device

    def alphabet(self) -> frozenset[str]:
        """What english_g2 can write: ASCII, and the euro sign."""
        return frozenset(self._converter.character[1:])

    def read(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Read crops as `easyocr.Reader.recognize` reads each alone."""
        import cv2
        from easyocr.utils import get_image_list

        resized: list[tuple[np.ndarray, int]] = []
        for pixels in crops:
            grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
            height, width = grey.shape
            images, padded = get_image_list([[0, width, 0, height]], [], grey, model_height=HEIGHT)
            resized.append((images[0][1], int(padded)))
        first = self._recognise(resized, 0.0)
        unsure = [i for i, (_, confidence) in enumerate(first) if confidence < CONTRAST_BELOW]
        for i, again in zip(unsure, self._recognise([resized[i] for i in unsure], CONTRAST_TARGET)):
            if not first[i][1] > again[1]:
                first[i] = again
        return first

    def _recognise(self, resized: Sequence[tuple[np.ndarray, int]], contrast: float) -> list[tuple[str, float]]:
        from easyocr.recognition import AlignCollate, recognizer_predict
        from PIL import Image

        out: list[tuple[str, float]] = [("", 0.0)] * len(resized)
        for part in by_shape(resized, lambda item: item[1], BATCH):
            width = resized[part[0]][1]
            collate = AlignCollate(imgH=HEIGHT, imgW=width, keep_ratio_with_pad=True, adjust_contrast=contrast)
            tensors = collate([Image.fromarray(resized[i][0]) for i in part])
            read = recognizer_predict(
                self._network, self._converter, [tensors], width // 10, [], {}, "greedy", device=self._device
            )
            for i, (text, confidence) in zip(part, read):
                out[i] = (str(text), float(confidence))
        return out
