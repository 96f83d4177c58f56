"""What the alarms look at: small facts about a pair, or about one image, cheap beside any network.

A pair is compared as it stands and as it would be after undoing a common mistake (channels swapped, mirrored, moved by a pixel, another range, another
crop): an alarm is raised where the undone pair agrees better. Nothing here is a metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench.api import Batch, Rows
from vtbench.errors import UsageError

if TYPE_CHECKING:
    import torch

PAIR_HEADS = ("means", "maps", "offsets", "zooms", "thumbs")
SET_HEADS = ("means", "edges", "thumbs")
MAPS = ("as it is", "channels swapped", "mirrored left-right", "mirrored top-bottom", "half range", "double range")
"""Columns of `maps`. half range: the image is (x + 1) / 2 of the ground truth; double range: it is 2 x - 1, cut at 0."""
OFFSETS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (-1, 1), (1, -1), (1, 1))
"""Columns of `offsets`: (down, right), by how much the image's content lies away from the ground truth's."""
SCALES = ((4 / 3, 1.0), (3 / 2, 1.0), (1.0, 4 / 3), (1.0, 3 / 2), (8 / 7, 8 / 7), (4 / 3, 4 / 3))
ZOOMS = ((1.0, 1.0), *SCALES, *((1 / x, 1 / y) for x, y in SCALES))
"""Columns of `zooms`: (across, down), by how much the image's content is larger than the ground truth's."""
POOLED, SMALL, THUMB, CENTRE = 64, 32, 16, 128


def _pool(images: torch.Tensor, side: int) -> torch.Tensor:
    """Averaged down to at most `side` pixels a side; never enlarged."""
    import torch.nn.functional as F

    height, width = (min(side, int(n)) for n in images.shape[-2:])
    return F.adaptive_avg_pool2d(images, (height, width))


def _error(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(1)


def _maps(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """``[B, 6]``: mean squared error after undoing each of `MAPS`."""
    import torch

    small, wanted = _pool(images, POOLED), _pool(truth, POOLED)
    found = [_error(small, wanted), _error(small.flip(1), wanted)]
    found += [_error(small.flip(3), wanted), _error(small.flip(2), wanted)]
    found += [_error(2 * small - 1, wanted), _error(small, _pool((2 * truth - 1).clamp_min(0), POOLED))]
    return torch.stack(found, 1)


def _offsets(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """``[B, 9]``: error of the centre, grey, with the image moved back by each of `OFFSETS`; nan for images below 8 pixels."""
    import torch

    a, b = images.mean(1), truth.mean(1)
    height, width = a.shape[1:]
    if min(height, width) < 8:
        return torch.full((len(a), len(OFFSETS)), float("nan"))
    rows, columns = min(CENTRE, height - 2), min(CENTRE, width - 2)
    top, left = (height - rows) // 2, (width - columns) // 2
    centre = b[:, top : top + rows, left : left + columns]
    found = [
        _error(a[:, top + down : top + down + rows, left + right : left + right + columns], centre)
        for down, right in OFFSETS
    ]
    return torch.stack(found, 1)


def _middle(grey: torch.Tensor, across: float, down: float) -> torch.Tensor:
    """The central part of ``[B, 1, H, W]``, 1 / across wide and 1 / down high."""
    height, width = grey.shape[2:]
    rows, columns = max(1, round(height / down)), max(1, round(width / across))
    top, left = (height - rows) // 2, (width - columns) // 2
    return grey[:, :, top : top + rows, left : left + columns]


def _zooms(images: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """``[B, 13]``: error at low resolution if the image's content were scaled by each of `ZOOMS` about the centre."""
    import torch
    import torch.nn.functional as F

    a, b = images.mean(1, keepdim=True), truth.mean(1, keepdim=True)
    size = (min(SMALL, int(a.shape[2])), min(SMALL, int(a.shape[3])))

    def small(grey: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(grey, size)

    found = []
    for across, down in ZOOMS:
        if across > 1 or down > 1:
            found.append(_error(small(a), small(_middle(b, across, down))))
        else:
            found.append(_error(small(_middle(a, 1 / across, 1 / down)), small(b)))
    return torch.stack(found, 1)


def _thumbs(*images: torch.Tensor) -> torch.Tensor:
    """uint8 ``[B, n, 16, 16]``: grey thumbnails."""
    import torch
    import torch.nn.functional as F

    small = [F.adaptive_avg_pool2d(x.mean(1, keepdim=True), (THUMB, THUMB)) for x in images]
    return (torch.cat(small, 1) * 255).round().to(torch.uint8)


def _rows(values: torch.Tensor) -> Rows:
    array = values.cpu().numpy()
    return Rows(array if array.dtype == np.uint8 else array.astype(np.float32))


class PairLook:
    """Of a pair. Heads: `means` ``[B, 6]`` (RGB of the image, then of the ground truth), `maps` (`MAPS`), `offsets` (`OFFSETS`), `zooms`
    (`ZOOMS`): mean squared errors of [0, 1]; `thumbs` uint8 ``[B, 2, 16, 16]``."""

    name = "alarms"
    version = 1
    takes: Literal["pair"] = "pair"

    def __init__(self, args: Mapping[str, Any]) -> None:
        if args:
            raise UsageError("the extractor alarms takes no arguments")

    def identity(self) -> Mapping[str, str]:
        """Nothing but the code moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """About 650 bytes."""
        sizes = {"means": 24, "maps": 24, "offsets": 36, "zooms": 52, "thumbs": 512}
        return sum(sizes[h] for h in heads)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Look at a batch."""
        import torch

        images, truth = batch.images.float(), batch.reference.float()
        with torch.inference_mode():
            makers = {
                "means": lambda: torch.cat([images.mean((2, 3)), truth.mean((2, 3))], 1),
                "maps": lambda: _maps(images, truth),
                "offsets": lambda: _offsets(images, truth),
                "zooms": lambda: _zooms(images, truth),
                "thumbs": lambda: _thumbs(images, truth),
            }
            return {head: _rows(makers[head]()) for head in heads}


class SetLook:
    """Of single images, for sets that are not paired. Heads: `means` ``[B, 3]``; `edges` ``[B, 4]`` (least value, greatest value, share of
    values at 0, share at 1); `thumbs` uint8 ``[B, 1, 16, 16]``."""

    name = "alarms-set"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        if args:
            raise UsageError("the extractor alarms-set takes no arguments")

    def identity(self) -> Mapping[str, str]:
        """Nothing but the code moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """About 280 bytes."""
        sizes = {"means": 12, "edges": 16, "thumbs": 256}
        return sum(sizes[h] for h in heads)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Look at a batch."""
        import torch

        images = batch.images.float()
        flat = images.flatten(1)
        with torch.inference_mode():
            makers = {
                "means": lambda: images.mean((2, 3)),
                "edges": lambda: torch.stack(
                    [flat.amin(1), flat.amax(1), (flat <= 0).float().mean(1), (flat >= 1).float().mean(1)], 1
                ),
                "thumbs": lambda: _thumbs(images),
            }
            return {head: _rows(makers[head]()) for head in heads}
