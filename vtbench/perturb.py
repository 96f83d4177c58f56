"""Changes of images and of tokens that passes ask for: JPEG, noise, shifts; tokens replaced by their neighbours in the codebook."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from vtbench.api import Pass, Tokenizer, Tokens
from vtbench.errors import VtbenchError

IMAGE_OPS = ("jpeg", "noise", "shift")


def images(pixels: torch.Tensor, at: Pass, seeds: Sequence[int]) -> torch.Tensor:
    """Changed images of a pass ``[B, 3, H, W]`` in [0, 1].

    jpeg[quality]: Pillow's JPEG of the rounded image. noise[sigma]: Gaussian, in units of [0, 1], drawn per image on the CPU, clamped.
    shift[dx, dy]: the picture moves right by dx and down by dy pixels, its edge repeated into the gap."""
    args = dict(at.args)
    if at.op == "jpeg":
        return torch.stack([_jpeg(image, int(args["quality"])) for image in pixels])
    if at.op == "noise":
        drawn = [
            torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
            for image, seed in zip(pixels, seeds)
        ]
        return (pixels + float(args["sigma"]) * torch.stack(drawn).to(pixels.device)).clamp(0, 1)
    if at.op == "shift":
        return _shift(pixels, int(args["dx"]), int(args["dy"]))
    raise VtbenchError(f"the pass '{at.op}' is not a change of images")


def _jpeg(image: torch.Tensor, quality: int) -> torch.Tensor:
    from PIL import Image

    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=quality)
    back = np.asarray(Image.open(buffer).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(back).permute(2, 0, 1).to(image.device)


def _shift(pixels: torch.Tensor, dx: int, dy: int) -> torch.Tensor:
    height, width = pixels.shape[2:]
    rows = (torch.arange(height, device=pixels.device) - dy).clamp(0, height - 1)
    columns = (torch.arange(width, device=pixels.device) - dx).clamp(0, width - 1)
    return pixels[:, :, rows][:, :, :, columns]


def tokens(found: Tokens, at: Pass, model: Tokenizer, seeds: Sequence[int]) -> Tokens:
    """Tokens with a fraction `alpha` replaced by one of the `delta` nearest codebook entries, the token itself among them.

    Raises `VtbenchError` for a model that hands out no codebook, or whose tokens are not indices into it."""
    args = dict(at.args)
    book = model.codebook()
    stream = found.streams[0]
    if book is None or len(found.streams) > 1 or stream.kind != "index" or stream.sizes[:1] != (len(book),):
        raise VtbenchError(
            f"{model.name} hands out no codebook that its tokens index, so their neighbours are unknown",
            "Leave pfid away for this model",
        )
    ids = found.data[stream.name]
    given = torch.as_tensor(ids)
    near = neighbours(np.asarray(book, np.float32), int(args["delta"]))
    out = given.clone()
    for row, seed in zip(out, seeds):
        rng = np.random.default_rng(seed)
        chosen = rng.random(tuple(row.shape)) < float(args["alpha"])
        which = rng.integers(0, near.shape[1], tuple(row.shape))
        old = row.cpu().numpy()
        new = np.where(chosen & (old >= 0), near[np.maximum(old, 0), which], old)
        row.copy_(torch.from_numpy(new).to(row))
    return replace(found, data={stream.name: out}, extra=found.extra)


def neighbours(book: np.ndarray, delta: int) -> np.ndarray:
    """The `delta` nearest entries (Euclidean) of every codebook entry, itself first: int64 ``[K, delta]``."""
    delta = min(delta, len(book))
    out = np.empty((len(book), delta), np.int64)
    square = (book**2).sum(axis=1)
    for start in range(0, len(book), 1024):
        part = book[start : start + 1024]
        distance = square - 2 * part @ book.T
        distance[np.arange(len(part)), start + np.arange(len(part))] = -np.inf
        near = np.argpartition(distance, delta - 1, axis=1)[:, :delta]
        order = np.argsort(np.take_along_axis(distance, near, axis=1), axis=1, kind="stable")
        out[start : start + 1024] = np.take_along_axis(near, order, axis=1)
    return out
