"""The way back: from the model's canvas to the source picture, and through the container it would be saved in."""

from __future__ import annotations

import io

import numpy as np

from vtbench.api import Placement
from vtbench.data.preprocess import FILTERS
from vtbench.errors import BadSample, UsageError


def restore(pixels: np.ndarray, placement: Placement, *, filter: str = "lanczos") -> np.ndarray:
    """Put a canvas back on its source: the padding is cropped off and the rest resized by PIL.

    pixels: uint8 ``[H, W, 3]`` of the canvas's size. Returns uint8 of the source's size. Raises `UsageError` when the canvas is a
    crop of the source, `BadSample` when the pixels are not of the canvas's size."""
    from PIL import Image

    if not placement.restorable:
        raise UsageError(
            "a cropped canvas cannot be put back on its source",
            "A metric in the source frame needs fit = 'letterbox', 'squash', 'pad' or 'none'",
        )
    if filter not in FILTERS:
        raise UsageError(f"filter {filter!r} is unknown", f"Use one of {', '.join(FILTERS)}")
    width, height = placement.canvas
    if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
        raise BadSample(
            f"a reconstruction is {pixels.dtype} {tuple(pixels.shape)}; its canvas is uint8 ({height}, {width}, 3)"
        )
    left, top, right, below = placement.box
    part = np.ascontiguousarray(pixels[top:below, left:right])
    if (right - left, below - top) == placement.source:
        return part
    return np.array(Image.fromarray(part).resize(placement.source, Image.Resampling[filter.upper()]))


def through_container(pixels: np.ndarray, stored_as: str, container: str) -> np.ndarray:
    """What is read back after saving under the source's file name.

    pixels: uint8 ``[H, W, 3]``. container: `lossless` (nothing happens) or `jpeg75`: a round trip through Pillow's default JPEG
    (quality 75, 4:2:0), for sources stored as JPEG only, as TokBench's scripts do."""
    if container not in ("lossless", "jpeg75"):
        raise UsageError(f"[view] container = {container!r} is unknown", "Use 'lossless' or 'jpeg75'")
    if container == "lossless" or stored_as != "jpeg":
        return pixels
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    with Image.open(buffer) as image:
        return np.array(image.convert("RGB"))
