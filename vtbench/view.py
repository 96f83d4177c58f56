"""Pixels as an extractor wants them: the 8-bit grid, and the way back to the source image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vtbench.api import Placement, View
from vtbench.data import prepare, restore, through_container
from vtbench.errors import VtbenchError


@dataclass
class Item:
    """One sample on its way: its position in the chunk, the model's canvas, and how it lies there."""

    position: int
    sample: Any
    source: np.ndarray
    pixels: np.ndarray | None = None
    placement: Placement | None = None


def quantise(images: torch.Tensor, how: str) -> torch.Tensor:
    """Floats in [0, 1] to the 8-bit grid, still as floats: `round`, `truncate` (of 255 x), or `none`."""
    images = images.clamp(0, 1)
    if how == "none":
        return images
    scaled = images * 255
    return (scaled.round() if how == "round" else scaled.floor()) / 255


def to_bytes(images: torch.Tensor, how: str) -> np.ndarray:
    """uint8 ``[B, H, W, 3]`` under a quantiser (`none` rounds: bytes are bytes)."""
    grid = quantise(images.float(), "truncate" if how == "truncate" else "round")
    return (grid * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def from_bytes(arrays: Sequence[np.ndarray]) -> torch.Tensor:
    """Pictures of one size, uint8 ``[H, W, 3]``, as a batch: float32 ``[B, 3, H, W]`` in [0, 1]."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def fitted(pixels: torch.Tensor, view: View) -> torch.Tensor:
    """Generated images of another size, brought to the view's as a protocol prepares its reference: from 8-bit pixels, like files."""
    from PIL import Image

    how = dict(zip(("fit", "library", "filter", "antialias"), view.resize.split(":")))
    fields = {k: v if k != "antialias" else v != "False" for k, v in how.items() if v}
    arrays = [prepare(Image.fromarray(a), fields, view.size)[0] for a in to_bytes(pixels, view.quantise)]
    return torch.from_numpy(np.stack(arrays)).to(pixels.device)


def see(
    pixels: torch.Tensor | None,
    items: Sequence[Item],
    view: View,
    *,
    truth: bool,
    each: Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]] = map,
) -> Any:
    """Pixels of a pass through a view: a tensor (frame `model`), or uint8 arrays on the source images (frame `source`). each: how images are put back on
    their sources, one by one (`map`) or by threads."""
    if view.frame == "model":
        assert pixels is not None
        if view.size and tuple(pixels.shape[2:]) != (view.size, view.size):
            pixels = fitted(pixels, view)
        return quantise(pixels, view.quantise)
    if truth:
        return [i.source for i in items]
    assert pixels is not None

    def back_on_source(pair: tuple[np.ndarray, Item]) -> np.ndarray:
        array, item = pair
        if item.placement is None:  # generated: no source image but itself
            return array
        if not item.placement.restorable:
            raise VtbenchError("this protocol crops its inputs, so a reconstruction cannot be put back on its source")
        back = restore(array, item.placement, filter=view.filter)
        return through_container(back, item.sample.stored_as, view.container)

    return list(each(back_on_source, zip(to_bytes(pixels, view.quantise), items)))


def pad(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad bottom and right by edge replication, to a multiple of the model's."""
    height, width = images.shape[2:]
    down, right = -height % multiple, -width % multiple
    if not (down or right):
        return images
    return torch.nn.functional.pad(images, (0, right, 0, down), mode="replicate")
