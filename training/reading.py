"""How much harder a word is to read after decoding: the loss of the last stage of training.

A recogniser (EasyOCR's English one, Apache-2.0) reads a word in the original and in the decode; the loss is the Kullback-Leibler divergence of what it says, per image column. T-ACC
is never measured with that recogniser alone (`quality.py` uses rapidocr's).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Box = tuple[int, int, int, int]
HEIGHT, LONGEST = 64, 256
"""Pixels: the recogniser's own height, and the width that words are cut at."""


class ReadingLoss(nn.Module):
    """The divergence, per word."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from easyocr.model.vgg_model import Model

        self.recogniser = Model(input_channel=1, output_channel=256, hidden_size=256, num_class=97)
        state = torch.load(weights, map_location="cpu", weights_only=True)
        self.recogniser.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
        self.requires_grad_(False).eval()
        self.recogniser.FeatureExtraction.to(memory_format=torch.channels_last)

    def read(self, crops: Tensor) -> Tensor:
        """Grey crops [W, 1, 64, 256] in [0, 1] -> log probabilities [W, T, 97]."""
        return F.log_softmax(self.recogniser(crops * 2 - 1, "").float(), dim=-1)

    def forward(self, output: Tensor, images: Tensor, words: list[tuple[int, Box]]) -> Tensor:
        """Grey images [B, 1, H, W] in [0, 1] and words as (image, box) -> the mean divergence, a scalar."""
        if not words:
            return output.sum() * 0
        with torch.no_grad():
            wanted = self.read(cut(images, words))
        said = self.read(cut(output, words))
        return (wanted.exp() * (wanted - said)).sum(-1).mean()


def cut(grey: Tensor, words: list[tuple[int, Box]]) -> Tensor:
    """The words' boxes at the recogniser's height, cut or padded (edge replicated) to one width: [W, 1, 64, 256]."""
    crops = []
    for index, (x0, y0, x1, y1) in words:
        x1 = min(x1, x0 + LONGEST * (y1 - y0) // HEIGHT)
        width = min(LONGEST, max(1, HEIGHT * (x1 - x0) // (y1 - y0)))
        crop = F.interpolate(
            grey[index : index + 1, :, y0:y1, x0:x1], size=(HEIGHT, width), mode="bilinear", align_corners=False
        )
        crops.append(F.pad(crop, (0, LONGEST - width, 0, 0), mode="replicate"))
    return torch.cat(crops)
