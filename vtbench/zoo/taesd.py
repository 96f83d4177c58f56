"""The TAESD family: tiny convolutional autoencoders that imitate the large ones' latents (github.com/madebyollin/taesd, MIT).

`TAESD` loads the original two-file checkpoints (``*_encoder.pth``, ``*_decoder.pth``) of any member; the number of latent channels and whether the blocks at the
lowest resolution have TAEF2's `pool` branch are read off the tensors. Pixels are in [0, 1] on both sides. `QuantisedTAESD` puts a post-training scalar quantiser on
the latents (the idea of TokenBridge, arXiv:2503.16430), which makes them discrete tokens without training anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, UsageError
from vtbench.zoo.taps import output_of, positions

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

WIDTH = 64
STRIDE = 8


class Block(nn.Module):
    """relu(conv(x) + x) with three 3x3 convolutions; with `pool`, x first gets a wide pointwise branch normalised over the whole image."""

    def __init__(self, pool: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            *(layer for i in range(3) for layer in ([nn.ReLU()] if i else []) + [nn.Conv2d(WIDTH, WIDTH, 3, padding=1)])
        )
        self.pool = None
        if pool:
            self.pool = nn.Sequential(
                nn.Conv2d(WIDTH, 4 * WIDTH, 1, bias=False),
                nn.GroupNorm(4, 4 * WIDTH),
                nn.ReLU(),
                nn.Conv2d(4 * WIDTH, WIDTH, 1, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """tanh(x / 3) * 3: keeps latents from elsewhere in the decoder's range."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def encoder(channels: int, pool: bool) -> nn.Sequential:
    """Images [B, 3, H, W] in [0, 1] -> latents [B, channels, H/8, W/8]. Its layers are numbered as in the published files."""
    layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), Block()]
    for stage in range(3):
        layers.append(nn.Conv2d(WIDTH, WIDTH, 3, padding=1, stride=2, bias=False))
        layers += [Block(pool and stage == 2) for _ in range(3)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTH, channels, 3, padding=1))


def decoder(channels: int, pool: bool) -> nn.Sequential:
    """Latents [B, channels, h, w] -> images [B, 3, 8h, 8w] in [0, 1] (not clamped)."""
    layers: list[nn.Module] = [SoftClamp(), nn.Conv2d(channels, WIDTH, 3, padding=1), nn.ReLU()]
    for stage in range(3):
        layers += [Block(pool and stage == 0) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)]
    return nn.Sequential(*layers, Block(), nn.Conv2d(WIDTH, 3, 3, padding=1))


def _shape(state: Mapping[str, Tensor], where: Path) -> tuple[int, bool]:
    """Latent channels and whether there is a pool branch, from either half's tensors."""
    last = state.get("14.weight")
    first = state.get("1.weight")
    pool = any(".pool." in key for key in state)
    if last is not None and last.ndim == 4 and last.shape[1] == WIDTH and "0.weight" in state:
        return int(last.shape[0]), pool
    if first is not None and first.ndim == 4 and first.shape[0] == WIDTH:
        return int(first.shape[1]), pool
    from vtbench.zoo.recognise import recognise

    guess = recognise(state)
    raise BadWeights(
        f"{where} is no half of a TAESD: its keys are {', '.join(list(state)[:3])}, ...",
        f"They are those of {guess}: --model {guess}" if guess else "",
    )


class TAESD(Tokenizer):
    """A TAESD: continuous latents, 8 x 8 pixels a position. The network computes in float32 whatever the files hold, unless moved to another dtype."""

    capabilities = Capabilities(multiple=STRIDE)

    def __init__(self, *, card: Card, weights: Path | None = None, state_key: str = "auto") -> None:
        found = card.locate(weights)
        states = {role: files.read_state(path, key=state_key) for role, path in found.items()}
        shapes = {role: _shape(state.tensors, found[role]) for role, state in states.items()}
        if shapes["encoder"] != shapes["decoder"]:
            raise BadWeights(
                f"encoder and decoder do not belong together: {shapes['encoder'][0]} and {shapes['decoder'][0]} latent channels"
            )
        self.channels, pool = shapes["encoder"]
        self.encoder, self.decoder = encoder(self.channels, pool), decoder(self.channels, pool)
        for role, net in (("encoder", self.encoder), ("decoder", self.decoder)):
            state = {k: v.float() for k, v in states[role].tensors.items()}
            files.load_strict(net, state, where=str(found[role]))
            net.eval().requires_grad_(False)
        self.revision = files.joint_digest([found["encoder"], found["decoder"]])
        if state_key != "auto":
            self.revision += f"#{state_key}"
        self.notes = tuple(note for state in states.values() for note in state.notes)

    def latents(self, images: Tensor) -> Tensor:
        """float32 ``[B, 3, H, W]`` in [0, 1] -> ``[B, C, H/8, W/8]``."""
        first = next(self.encoder.parameters())
        z: Tensor = self.encoder(images.to(first.device, first.dtype)).float()
        return z

    def pixels(self, latents: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> float32 ``[B, 3, 8h, 8w]`` in [0, 1]."""
        first = next(self.decoder.parameters())
        x: Tensor = self.decoder(latents.to(first.device, first.dtype)).float()
        return x.clamp(0, 1)

    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """One continuous stream ``[B, h * w, C]``; TAESD has no posterior, so `sample` changes nothing."""
        z = self.latents(images)
        stream = Stream("latents", "continuous", "grid2d", shape=(z.shape[2], z.shape[3]))
        return Tokens((stream,), {"latents": z.flatten(2).transpose(1, 2)}, len(z))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents back to images."""
        z = torch.as_tensor(tokens.data["latents"])
        return self.pixels(z.transpose(1, 2).unflatten(2, tokens.streams[0].shape))

    def features(self, images: Tensor, tap: str) -> Tensor | None:
        """`pre_quant`: the latents. `hidden`: what the last layer but one gives."""
        if tap == "pre_quant":
            return positions(self.latents(images))
        if tap == "hidden":
            return positions(output_of(self.encoder[-2], lambda: self.latents(images)))
        return None

    def modules(self) -> Mapping[str, nn.Module]:
        """Both halves."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    def to(self, device: str, dtype: str = "float32") -> TAESD:
        """Move both halves."""
        for net in (self.encoder, self.decoder):
            net.to(device, getattr(torch, dtype))
        return self


class QuantisedTAESD(TAESD):
    """A TAESD whose latents are rounded to `levels` evenly spaced values in [-range, range], channel by channel: one position is a product code.

    levels: values per latent channel. range: where the outermost values lie; latents beyond are clipped. Bits of a position: channels x log2(levels). The spacing is
    ``2 range / (levels - 1)``, so the ends are code values and an odd number of levels has 0 among them.
    """

    def __init__(
        self, *, card: Card, weights: Path | None = None, state_key: str = "auto", levels: int = 8, range: float = 2.0
    ) -> None:
        if not 2 <= levels <= 65536:
            raise UsageError(f"levels is from 2 to 65536, not {levels}")
        if not (range > 0 and math.isfinite(range)):
            raise UsageError(f"range is above 0, not {range}")
        super().__init__(card=card, weights=weights, state_key=state_key)
        self.levels, self.range = levels, float(range)

    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """One index stream ``[B, h * w, C]``, each index below `levels`."""
        z = self.latents(images)
        step = 2 * self.range / (self.levels - 1)
        ids = ((z.clamp(-self.range, self.range) + self.range) / step).round().long()
        sizes = (self.levels,) * self.channels
        stream = Stream("tokens", "index", "grid2d", sizes, (z.shape[2], z.shape[3]))
        return Tokens((stream,), {"tokens": ids.flatten(2).transpose(1, 2)}, len(z))

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Indices to the values they stand for, and those to images."""
        ids = torch.as_tensor(tokens.data["tokens"])
        z = ids.float() * (2 * self.range / (self.levels - 1)) - self.range
        return self.pixels(z.transpose(1, 2).unflatten(2, tokens.streams[0].shape))

    def codebook(self) -> np.ndarray:
        """float32 ``[levels, 1]``: the values of every channel's code."""
        return np.linspace(-self.range, self.range, self.levels, dtype=np.float32)[:, None]
