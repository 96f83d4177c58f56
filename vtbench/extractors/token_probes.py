"""What a decoder does with its tokens, probed on the first images of the set: one changed token, a prefix, another seed.

Called once per model with one batch of images; every head says for how many.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench.api import Batch, Rows, Tokens
from vtbench.errors import BadSample

if TYPE_CHECKING:
    import torch


class TokenProbes:
    """Heads, each with one row an image of the batch (an empty array where the model cannot be probed so):

    `sensitivity_l1`, `sensitivity_l2`: ``[B, N]``, the mean absolute and the root mean square change of the decode when token i is
    replaced by a uniform id (`images` images only). `sensitivity_own`: ``[B, N]``, the share of the absolute change inside the
    token's own cell, for grids; `sensitivity_grid`: the grid's height and width (empty where there is none). `prefix_budgets`: ``[P]``; `prefix_mse`, `prefix_l1`: ``[B, P]`` of prefix decodes against the input.
    `complexity`: ``[B]``, bytes a pixel of the input as a JPEG of quality 75. `ambiguity`: ``[B]``, the variance of a pixel
    over decodes with different seeds, averaged; `ambiguity_map`: ``[1, H, W]`` of the first image.

    args: images, seeds (how many decodes), seed.
    """

    name = "token_probes"
    version = 1
    takes: Literal["model"] = "model"
    model: Any = None

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.args = {"images": 4, "seeds": 4, "seed": 0, **args}

    def identity(self) -> Mapping[str, str]:
        """Nothing but the model and the images moves a value."""
        return {}

    def open(self, device: str) -> None:
        """Nothing to load."""

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Probe `model`, which the engine sets."""
        import torch

        pixels = batch.images
        out: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            if any(h.startswith("sensitivity") for h in heads):
                out |= self._sensitivity(pixels[: int(self.args["images"])])
            if any(h.startswith("prefix") for h in heads):
                out |= self._prefixes(pixels)
            if "complexity" in heads:
                out["complexity"] = np.array([_complexity(image) for image in pixels])
            if any(h.startswith("ambiguity") for h in heads):
                out |= self._ambiguity(pixels)
        return {head: Rows(out[head]) for head in heads}

    def _encode(self, pixels: torch.Tensor) -> Tokens:
        found: Tokens = self.model.encode(pixels, seeds=list(range(len(pixels))))
        return found

    def _decode(self, tokens: Tokens, size: tuple[int, int], seeds: Sequence[int]) -> torch.Tensor:
        images: torch.Tensor = self.model.decode(tokens, seeds=list(seeds))
        return images[:, :, : size[0], : size[1]].float().clamp(0, 1)

    def _sensitivity(self, pixels: torch.Tensor) -> dict[str, np.ndarray]:
        import torch

        names = ("sensitivity_l1", "sensitivity_l2", "sensitivity_own", "sensitivity_grid")
        none = dict.fromkeys(names, np.zeros((0, 0)))
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        found = self._encode(pixels)
        stream = found.streams[0]
        if len(found.streams) > 1 or stream.kind != "index" or not stream.sizes:
            return none
        ids = torch.as_tensor(found.data[stream.name])
        rng = np.random.default_rng(int(self.args["seed"]))
        l1, l2, own = (np.full((len(ids), ids.shape[1]), np.nan) for _ in range(3))
        grid = stream.layout == "grid2d" and len(stream.shape) == 2
        for b in range(len(ids)):
            alone = _only(found, b)
            truth = self._decode(alone, size, [b])[0]
            for i in range(ids.shape[1]):
                changed = ids[b : b + 1].clone()
                drawn = [int(rng.integers(0, k)) for k in stream.sizes]
                changed[0, i] = torch.as_tensor(drawn[0] if changed.ndim == 2 else drawn).to(changed)
                image = self._decode(replace(alone, data={stream.name: changed}), size, [b])[0]
                change = (image - truth).abs().mean(dim=0)
                l1[b, i], l2[b, i] = float(change.mean()), float(((image - truth) ** 2).mean().sqrt())
                if grid and float(change.sum()) > 0:
                    own[b, i] = float(_cell(change, stream.shape, i).sum() / change.sum())
        shape = np.array(stream.shape if grid else (), np.int64)
        return {"sensitivity_l1": l1, "sensitivity_l2": l2, "sensitivity_own": own, "sensitivity_grid": shape}

    def _prefixes(self, pixels: torch.Tensor) -> dict[str, np.ndarray]:
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        if not self.model.capabilities.prefix:
            return dict.fromkeys(("prefix_budgets", "prefix_mse", "prefix_l1"), np.zeros(0))
        found = self._encode(pixels)
        most = int(self.model.capabilities.max_tokens or found.positions().max())
        budgets = [b for b in (1 << k for k in range(20)) if b < most] + [most]
        allowed = self.model.capabilities.budgets
        if allowed is not None:
            budgets = sorted(allowed)
        mse, l1 = [], []
        for budget in budgets:
            seeds = range(len(pixels))
            image = self._decode(self.model.prefix(found, budget), size, seeds).to(pixels.device)
            error = (image - pixels).flatten(1)
            mse.append((error**2).mean(dim=1).cpu().numpy())
            l1.append(error.abs().mean(dim=1).cpu().numpy())
        return {
            "prefix_budgets": np.array(budgets),
            "prefix_mse": np.stack(mse, axis=1).astype(np.float64),
            "prefix_l1": np.stack(l1, axis=1).astype(np.float64),
        }

    def _ambiguity(self, pixels: torch.Tensor) -> dict[str, np.ndarray]:
        import torch

        if not self.model.capabilities.stochastic:
            return {"ambiguity": np.zeros(0), "ambiguity_map": np.zeros((0, 0, 0))}
        size = (int(pixels.shape[2]), int(pixels.shape[3]))
        found = self._encode(pixels)
        decodes = torch.stack(
            [
                self._decode(found, size, [1000 * s + i for i in range(len(pixels))])
                for s in range(max(2, int(self.args["seeds"])))
            ]
        )
        variance = decodes.var(dim=0, unbiased=True).mean(dim=1).cpu().numpy().astype(np.float64)
        return {"ambiguity": variance.mean(axis=(1, 2)), "ambiguity_map": variance[:1]}


def _only(tokens: Tokens, row: int) -> Tokens:
    """The tokens of one image of a batch."""
    if tokens.extra is not None and not isinstance(tokens.extra, (str, int, float, tuple, dict)):
        raise BadSample("the model's tokens carry what cannot be cut to one image")
    data = {name: value[row : row + 1] for name, value in tokens.data.items()}
    lengths = None if tokens.lengths is None else tokens.lengths[row : row + 1]
    condition = None if tokens.condition is None else tokens.condition[row : row + 1]
    return replace(tokens, data=data, size=1, lengths=lengths, condition=condition)


def _cell(change: torch.Tensor, shape: tuple[int, ...], position: int) -> torch.Tensor:
    """The part of a map ``[H, W]`` that lies in a token's cell."""
    height, width = change.shape
    row, column = divmod(position, shape[1])
    top, bottom = row * height // shape[0], (row + 1) * height // shape[0]
    left, right = column * width // shape[1], (column + 1) * width // shape[1]
    return change[top:bottom, left:right]


def _complexity(image: torch.Tensor) -> float:
    import torch
    from PIL import Image

    array = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG", quality=75)
    return len(buffer.getvalue()) / (array.shape[0] * array.shape[1])
