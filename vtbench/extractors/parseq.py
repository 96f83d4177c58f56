"""PARSeq (Bautista and Atienza 2022) as docTR ships it, on ground-truth boxes: the recogniser of TokBench.

A crop is resized as floats, bilinear with antialiasing, to fit 32 x 128 at its own aspect ratio, zero-padded right and below, then
normalised. Two things differ from TokBench's script on purpose. There a batch holds the true words as well, and the longest of its
64 caps how many characters are written; here the network writes until it ends the word itself (at most 32 characters), so a result
depends on its crop alone. And there a character outside the alphabet skips its whole batch; here it counts as misread.
docTR's own predictor also splits crops wider than 8:1; TokBench does not, and neither does this.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import weights
from vtbench.extractors.installed import require
from vtbench.extractors.pinned import pinned
from vtbench.extractors.words import WordReader

if TYPE_CHECKING:
    import torch

HEIGHT, WIDTH = 32, 128
BATCH = 64
MEAN, STD = (0.694, 0.695, 0.693), (0.299, 0.296, 0.301)
# docTR's vocabulary "french", in the order of the network's classes.
VOCABULARY = string.digits + string.ascii_letters + string.punctuation + "°" + "£€¥¢฿" + "àâéèêëîïôùûüçÀÂÉÈÊËÎÏÔÙÛÜÇ"
WAY_OUT = "Put parseq-56125471.pt (https://doctr-static.mindee.com/models?id=v0.7.0/parseq-56125471.pt) in a folder of VTBENCH_WEIGHTS"
PARSEQ = "56125471"
# In checkpoints of docTR before 0.12, never read by the forward.
UNUSED = tuple(
    f"decoder.{which}_norm.{part}" for which in ("attention", "cross_attention") for part in ("weight", "bias")
)


def prepared(pixels: np.ndarray) -> torch.Tensor:
    """A crop (uint8 RGB ``[h, w, 3]``) as the network wants it: float32 ``[3, 32, 128]``, normalised."""
    import torch
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import normalize, resize

    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float().div(255)
    ratio = image.shape[1] / image.shape[2]
    if ratio > HEIGHT / WIDTH:
        size = [HEIGHT, max(int(HEIGHT / ratio), 1)]
    else:
        size = [max(int(WIDTH * ratio), 1), WIDTH]
    image = resize(image, size, InterpolationMode.BILINEAR, antialias=True)
    image = torch.nn.functional.pad(image, (0, WIDTH - size[1], 0, HEIGHT - size[0]))
    normalised: torch.Tensor = normalize(image, list(MEAN), list(STD))
    return normalised


class PARSeq(WordReader):
    """docTR's PARSeq. args: `weights`, the sha256 (or its first digits) that the protocol pins."""

    name = "parseq"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.pin = str(args.get("weights") or PARSEQ)
        self._network: Any = None
        self._device = "cpu"

    def _file(self) -> tuple[Path, str]:
        files = dict.fromkeys(("doctr/parseq-56125471.pt", "parseq-56125471.pt"), f"sha256:{self.pin}")
        return pinned("docTR's PARSeq", files, WAY_OUT)

    def identity(self) -> Mapping[str, str]:
        """The network's digest."""
        require("doctr", "python-doctr", "ocr", "reading words with PARSeq")
        return {"weights": self._file()[1]}

    def open(self, device: str) -> None:
        """Load docTR's PARSeq with the pinned weights; every key must fit."""
        from doctr.models import parseq

        path, _ = self._file()
        network = parseq(pretrained=False, vocab=VOCABULARY)
        unused = [key for key in UNUSED if key not in network.state_dict()]
        weights.load_strict(network, weights.load_state(path), drop=unused, where=str(path))
        self.use(network, device)

    def use(self, network: Any, device: str) -> None:
        """Read with this docTR PARSeq network."""
        self._network = network.eval().to(device)
        self._device = device

    def alphabet(self) -> frozenset[str]:
        """docTR's "french": ASCII, currency signs, accented letters."""
        return frozenset(VOCABULARY)

    def read(self, crops: Sequence[np.ndarray]) -> list[tuple[str, float]]:
        """Read crops, 64 at a time; every input has the same shape."""
        import torch

        out: list[tuple[str, float]] = []
        with torch.inference_mode():
            for start in range(0, len(crops), BATCH):
                inputs = torch.stack([prepared(c) for c in crops[start : start + BATCH]]).to(self._device)
                read = self._network(inputs, return_preds=True)["preds"]
                out += [(str(text), float(confidence)) for text, confidence in read]
        return out
