"""`tiny`: the tokenizer that the package carries, so that everything works after one install.

Its network is in `tiny_network.py`; `training/tiny.py` makes its weights; its card says from what and how good they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, UsageError
from vtbench.weights import digest
from vtbench.zoo.taps import positions
from vtbench.zoo.tiny_network import STRIDES, TinyNet

MAX_TOKENS = 1600
"""Tokens of a 256 x 256 image."""
WEIGHTS = Path(__file__).with_suffix(".safetensors")
Net = TypeVar("Net", bound=nn.Module)


def load_net(weights: Path = WEIGHTS) -> TinyNet:
    """The network with the weights of a file, as `filled` has it."""
    return filled(TinyNet(), weights, "tiny")


def filled(net: Net, weights: Path, name: str) -> Net:
    """`net` with float32 weights from a safetensors file (stored as float16), in evaluation mode. Raises `BadWeights` for another model's file."""
    try:
        net.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    except SafetensorError as error:
        raise BadWeights(f"{weights} is damaged or cut short: {error}", "Fetch or train it again") from error
    except RuntimeError as error:
        script = f"training/{name.replace('-', '_')}.py"
        raise BadWeights(f"{weights} does not hold a {name} network", f"{script} makes such files") from error
    return net.eval().requires_grad_(False)


class Tiny(Tokenizer):
    """The adapter: any image size (edges replicated up to multiples of 32 and cut off again), budgets per 256 x 256 pixels.

    budget: the default budget, all 1600 tokens when None. weights: another file from `training/tiny.py`.
    """

    name = "tiny"
    capabilities = Capabilities(prefix=True, max_tokens=MAX_TOKENS, scales_with_area=True, budget_per=256)

    def __init__(self, *, budget: int | None = None, weights: Path | None = None) -> None:
        self.budget = self._checked(budget)
        self.revision = digest(weights or WEIGHTS)
        self.net = load_net(weights or WEIGHTS)
        self._device = torch.device("cpu")

    @staticmethod
    def _checked(budget: int | None) -> int | None:
        if budget is not None and not 1 <= budget <= MAX_TOKENS:
            raise UsageError(f"tiny has 1 to {MAX_TOKENS} tokens per 256 x 256 pixels, not {budget}", "Ask for fewer")
        return budget

    @staticmethod
    def _padding(height: int, width: int) -> tuple[int, int]:
        return -height % STRIDES[0], -width % STRIDES[0]

    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Images float32 [B, 3, H, W] in [0, 1] -> one ordered stream of ids; `extra` carries (H, W) to the decoder."""
        height, width = images.shape[-2:]
        bottom, right = self._padding(height, width)
        padded = F.pad(images.to(self._device, torch.float32), (0, right, 0, bottom), mode="replicate")
        # One image at a time: a convolution may sum in another order in another batch, and a value on the edge between two codes would then flip.
        ids = torch.cat([self.net.encode_ids(image[None]) for image in padded])
        stream = Stream("tokens", "index", "seq1d", (len(self.net.codebook()),), (ids.shape[1],), ordered=True)
        tokens = Tokens((stream,), {"tokens": ids}, len(ids), condition=condition, extra=(height, width))
        budget = self._checked(budget if budget is not None else self.budget)
        return tokens if budget is None else self.prefix(tokens, budget)

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first `budget` tokens per 256 x 256 pixels of the padded image (at least one)."""
        self._checked(budget)
        height, width = tokens.extra
        bottom, right = self._padding(height, width)
        count = max(1, round(budget * (height + bottom) * (width + right) / 256**2))
        ids = tokens.data["tokens"][:, :count]
        stream = dataclasses.replace(tokens.streams[0], shape=(int(ids.shape[1]),))
        return dataclasses.replace(tokens, streams=(stream,), data={"tokens": ids})

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Ids of any prefix -> images float32 [B, 3, H, W] in [0, 1]."""
        height, width = tokens.extra
        bottom, right = self._padding(height, width)
        ids = torch.as_tensor(tokens.data["tokens"], device=self._device).long()
        return self.net.decode_ids(ids, height + bottom, width + right)[..., :height, :width]

    def codebook(self) -> np.ndarray:
        """float32 [64, 4]: the FSQ grid."""
        return self.net.codebook().cpu().numpy()

    @torch.no_grad()
    def features(self, images: Tensor, tap: str) -> Tensor | None:
        """`hidden`: the deepest map, 32 pixels a position. `pre_quant`: what is rounded, of every level, one after another."""
        height, width = images.shape[-2:]
        bottom, right = self._padding(height, width)
        padded = F.pad(images.to(self._device, torch.float32), (0, right, 0, bottom), mode="replicate")
        if tap == "hidden":
            return positions(self.net.features(padded)[0])
        if tap != "pre_quant":
            return None
        levels: list[Tensor] = []
        hooks = [head.register_forward_hook(lambda _, given, out: levels.append(out)) for head in self.net.head]
        try:
            self.net.encode_levels(padded)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([positions(level.tanh()) for level in levels], 1)

    def modules(self) -> Mapping[str, nn.Module]:
        """Encoder and decoder as modules; they share `embed` and `ladder`."""
        return {"encoder": _Encoder(self.net), "decoder": _Decoder(self.net)}

    def to(self, device: str, dtype: str = "float32") -> Tiny:
        """Move the network; it always computes in float32."""
        self._device = torch.device(device)
        self.net.to(self._device)
        return self


class _Encoder(nn.Module):
    """What encoding runs: images [B, 3, H, W] -> ids [B, N]."""

    def __init__(self, net: TinyNet) -> None:
        super().__init__()
        self.parts = nn.ModuleList([net.stem, net.down, net.head, net.embed[:-1], net.ladder])
        self._run = net.encode_ids

    def forward(self, images: Tensor) -> Tensor:
        return self._run(images)


class _Decoder(nn.Module):
    """What decoding runs: ids [B, k], height, width -> images [B, 3, H, W]."""

    def __init__(self, net: TinyNet) -> None:
        super().__init__()
        self.parts = nn.ModuleList([net.embed, net.ladder, net.paint])
        self._run = net.decode_ids

    def forward(self, ids: Tensor, height: int, width: int) -> Tensor:
        return self._run(ids, height, width)
