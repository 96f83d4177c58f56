"""The pinned preprocessing: from a source picture to the model's canvas, as a protocol's `[input]` says.

Every rule is one that a published protocol uses (reference: torchvision's Resize and CenterCrop; ADM's centre crop, Dhariwal and
Nichol 2021; TokBench's letterbox, 2025; VTBench's cover and crop, arXiv 2505.13439).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.api import Placement
from vtbench.data.decode import MAX_PIXELS
from vtbench.errors import BadSample, UsageError

if TYPE_CHECKING:
    from PIL import Image

FILTERS = ("lanczos", "bicubic", "bilinear", "box")
LIBRARIES = ("pil", "torchvision", "tensor")
DEFAULT_FILTER = {"letterbox": "lanczos", "cover-crop": "lanczos", "adm-crop": "bicubic"}
"""What a fit's own paper resizes with; other fits default to bicubic."""

Size = tuple[int, int]
"""width, height."""


def prepare(
    image: Image.Image, fields: Mapping[str, Any], resolution: int | None, multiple: int = 1
) -> tuple[np.ndarray, Placement]:
    """Lay a picture (mode RGB) on the model's canvas.

    fields: a protocol's `[input]`:
    - fit: `short-side-crop`, `letterbox`, `adm-crop`, `cover-crop`, `centre-crop`, `squash`, `pad`, `none`.
    - filter: `lanczos`, `bicubic`, `bilinear`, `box` (default: the fit's own).
    - library: `pil`, `torchvision` (its Resize on PIL images, which is PIL's), `tensor` (the float tensor is resized; `bicubic`
      or `bilinear`, antialiased as `antialias` says).
    resolution: side of the square canvas; unused by `pad` and `none`. multiple: what the model's sides must divide by.

    Returns float32 ``[3, H, W]`` in [0, 1] and how the picture lies there. Raises `UsageError` for fields that do not go together,
    `BadSample` for a picture that the fit cannot take."""
    fit = str(fields.get("fit", "short-side-crop"))
    if fit not in FITS:
        raise UsageError(f"[input] fit = {fit!r} is unknown", f"Use one of {', '.join(FITS)}")
    filter_ = str(fields.get("filter") or DEFAULT_FILTER.get(fit, "bicubic"))
    library = str(fields.get("library", "pil"))
    if filter_ not in FILTERS:
        raise UsageError(f"[input] filter = {filter_!r} is unknown", f"Use one of {', '.join(FILTERS)}")
    if library not in LIBRARIES:
        raise UsageError(f"[input] library = {library!r} is unknown", f"Use one of {', '.join(LIBRARIES)}")
    antialias = bool(fields.get("antialias", True))
    if library != "tensor" and not antialias:
        raise UsageError("[input] antialias = false needs library = 'tensor'", "PIL always antialiases")
    if image.mode != "RGB":
        image = image.convert("RGB")
    if fit in ("pad", "none"):
        return _native(image, multiple, padded=fit == "pad")
    if not resolution or resolution < 1:
        raise UsageError(f"[input] fit = {fit!r} needs a resolution", "Give --resolution")
    if resolution % multiple:
        raise UsageError(
            f"the model takes sides that divide by {multiple}, and {resolution} does not",
            f"Use --resolution {max(1, resolution // multiple) * multiple}",
        )
    if library == "tensor":
        return _on_tensor(image, fit, filter_, antialias, resolution)
    canvas, placement = FITS[fit](image, resolution, filter_)
    return to_float(np.asarray(canvas)), placement


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 ``[H, W, 3]`` -> float32 ``[3, H, W]`` in [0, 1]: x / 255, as torchvision's ToTensor."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def resample(image: Image.Image, size: Size, filter_: str) -> Image.Image:
    """PIL's resize (always antialiased). Raises `BadSample` where the result would be larger than `MAX_PIXELS`."""
    from PIL import Image as pil

    _refuse_long(image.size, size)
    return image.resize(size, pil.Resampling[filter_.upper()])


def _refuse_long(source: Size, size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise BadSample(
            f"a picture of {source[0]} x {source[1]} is too large once scaled: {size[0]} x {size[1]} is more than the limit of {MAX_PIXELS:,} pixels"
        )


def short_side_size(source: Size, side: int) -> Size:
    """torchvision's rule: the short side becomes `side`, the long one is cut to whole pixels."""
    width, height = source
    short, long = min(width, height), max(width, height)
    other = int(side * long / short)
    return (side, other) if width <= height else (other, side)


def letterbox_size(source: Size, side: int) -> Size:
    """TokBench's rule: r = min(S/W, S/H), both sides ceil(x r); never more than S, which float rounding could exceed."""
    width, height = source
    ratio = min(side / width, side / height)
    return min(side, math.ceil(width * ratio)), min(side, math.ceil(height * ratio))


def _cropped(image: Image.Image, left: int, top: int, side: int, source: Size) -> tuple[Image.Image, Placement]:
    canvas = image.crop((left, top, left + side, top + side))
    return canvas, Placement(source, (side, side), (0, 0, side, side), restorable=False)


def _short_side_crop(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    scaled = resample(image, short_side_size(image.size, side), filter_)
    # torchvision's CenterCrop rounds half to even
    left, top = round((scaled.width - side) / 2.0), round((scaled.height - side) / 2.0)
    return _cropped(scaled, left, top, side, image.size)


def _adm_crop(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    scaled = image
    while min(scaled.size) >= 2 * side:
        scaled = resample(scaled, (scaled.width // 2, scaled.height // 2), "box")
    ratio = side / min(scaled.size)
    scaled = resample(scaled, (round(scaled.width * ratio), round(scaled.height * ratio)), filter_)
    return _cropped(scaled, (scaled.width - side) // 2, (scaled.height - side) // 2, side, image.size)


def _cover_crop(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    ratio = max(side / image.width, side / image.height)
    scaled = resample(image, (round(image.width * ratio), round(image.height * ratio)), filter_)
    return _cropped(scaled, (scaled.width - side) // 2, (scaled.height - side) // 2, side, image.size)


def _centre_crop(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    """torchvision's CenterCrop: a picture that is too small is first padded with black, the odd pixel right and below."""
    from PIL import Image as pil

    width, height = max(image.width, side), max(image.height, side)
    padded = image
    if (width, height) != image.size:
        padded = pil.new("RGB", (width, height))
        padded.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
    return _cropped(padded, round((width - side) / 2.0), round((height - side) / 2.0), side, image.size)


def _letterbox(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    from PIL import Image as pil

    size = letterbox_size(image.size, side)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    canvas = pil.new("RGB", (side, side))
    canvas.paste(resample(image, size, filter_), (left, top))
    return canvas, Placement(image.size, (side, side), (left, top, left + size[0], top + size[1]))


def _squash(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    return resample(image, (side, side), filter_), Placement(image.size, (side, side), (0, 0, side, side))


Fit = Callable[["Image.Image", int, str], tuple["Image.Image", Placement]]


def _unsized(image: Image.Image, side: int, filter_: str) -> tuple[Image.Image, Placement]:
    raise AssertionError("native fits take no resolution")


FITS: dict[str, Fit] = {
    "short-side-crop": _short_side_crop,
    "letterbox": _letterbox,
    "adm-crop": _adm_crop,
    "cover-crop": _cover_crop,
    "centre-crop": _centre_crop,
    "squash": _squash,
    "pad": _unsized,
    "none": _unsized,
}


def _native(image: Image.Image, multiple: int, *, padded: bool) -> tuple[np.ndarray, Placement]:
    """The picture at its own size; `padded` repeats its last column and row until both sides divide by `multiple`."""
    width, height = image.size
    right, below = -width % multiple, -height % multiple
    if (right or below) and not padded:
        raise BadSample(
            f"{width} x {height} does not divide by the model's {multiple}", "Use a protocol whose fit is 'pad'"
        )
    pixels = np.pad(np.asarray(image), ((0, below), (0, right), (0, 0)), mode="edge")
    return to_float(pixels), Placement(image.size, (width + right, height + below), (0, 0, width, height))


def _on_tensor(image: Image.Image, fit: str, filter_: str, antialias: bool, side: int) -> tuple[np.ndarray, Placement]:
    """ToTensor first, then resize and crop; a bicubic overshoot is clamped to [0, 1]."""
    import torch
    from torch.nn import functional

    if fit not in ("short-side-crop", "squash"):
        raise UsageError(f"[input] fit = {fit!r} is defined on PIL images", "Use library = 'pil'")
    if filter_ not in ("bicubic", "bilinear"):
        raise UsageError(f"[input] library = 'tensor' cannot filter by {filter_}", "Use 'bicubic' or 'bilinear'")
    width, height = (side, side) if fit == "squash" else short_side_size(image.size, side)
    _refuse_long(image.size, (width, height))
    tensor = torch.from_numpy(to_float(np.asarray(image)))[None]
    if (width, height) != image.size:
        tensor = functional.interpolate(tensor, (height, width), mode=filter_, align_corners=False, antialias=antialias)
    left, top = round((width - side) / 2.0), round((height - side) / 2.0)
    canvas = tensor[0, :, top : top + side, left : left + side].clamp(0, 1).contiguous().numpy()
    box = (0, 0, side, side)
    return canvas, Placement(image.size, (side, side), box, restorable=fit == "squash")
