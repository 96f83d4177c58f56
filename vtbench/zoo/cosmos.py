"""NVIDIA's Cosmos image tokenizers (arXiv:2501.03575), continuous (CI) and discrete (DI), as they are published: TorchScript programs.

A program is code, and runs only with ``--allow-code``. Images are in [-1, 1] inside. The programs were traced in bfloat16, and so they run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.weights import joint_digest
from vtbench.zoo.card import Card

ALIGN = 16
"""The authors pad sides to multiples of 16, whatever the factor."""
CODES = 64_000
"""Codes of the discrete kind: finite scalar quantisation with 8, 8, 8, 5, 5 and 5 levels."""
_PROBE = 64


class Cosmos(Tokenizer):
    """The card's files `encoder` and `decoder`. Whether tokens are continuous, and how large a token's patch is, is seen from what the encoder makes of a
    grey image. params: precision, of weights and activations: bfloat16 as the authors run it, or float32 where the program allows it."""

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        allow_code: bool = False,
        precision: Literal["bfloat16", "float32"] = "bfloat16",
    ) -> None:
        if card is None:
            raise MissingWeights(
                "Cosmos has two files, which its card names",
                "--model cosmos-di16x16, with --weights FOLDER for local files",
            )
        files = card.locate(weights)
        if not allow_code:
            raise UsageError(
                f"{card.title or card.name} is a TorchScript program, which runs whatever its file holds: {files['encoder']}",
                "If you trust it, --allow-code runs it",
            )
        self._precision: torch.dtype = getattr(torch, precision)
        self._halves: dict[str, Any] = {role: _program(files[role]) for role in ("encoder", "decoder")}
        self.revision = joint_digest([files["encoder"], files["decoder"]])
        self.name, self.params = card.name, {"precision": precision}
        self._codes = card.codebook[0] if card.codebook else CODES
        self._device = torch.device("cpu")
        self.to("cpu")
        probe = self._latents(torch.full((1, 3, _PROBE, _PROBE), 0.5))
        self._discrete = not probe.is_floating_point()
        self.capabilities = Capabilities(any_resolution=True, multiple=ALIGN, scales_with_area=True)

    def to(self, device: str, dtype: str = "float32") -> Cosmos:
        """Move the programs; they keep `precision`."""
        self._device = torch.device(device)
        for half in self._halves.values():
            half.to(self._device, self._precision)
        return self

    def _latents(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> indices ``[B, h, w]`` or latents ``[B, D, h, w]``, whatever else the program gives left out."""
        made = self._halves["encoder"]((images.to(self._device, torch.float32) * 2 - 1).to(self._precision))
        return made if isinstance(made, Tensor) else made[0]

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Images float32 ``[B, 3, H, W]`` in [0, 1] -> one stream: ``tokens`` (indices), or continuous ``latents`` ``[B, h * w, D]``."""
        z = self._latents(images)
        shape = (int(z.shape[-2]), int(z.shape[-1]))
        if self._discrete:
            stream = Stream("tokens", "index", "grid2d", (self._codes,), shape)
            return Tokens((stream,), {"tokens": z.flatten(1).long()}, len(z), condition=condition)
        stream = Stream("latents", "continuous", "grid2d", shape=shape)
        return Tokens((stream,), {"latents": z.float().flatten(2).transpose(1, 2)}, len(z), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Tokens of any grid -> images float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        data = torch.as_tensor(tokens.data[stream.name]).to(self._device)
        if stream.kind == "index":
            z = data.to(torch.int32).unflatten(1, stream.shape)
        else:
            z = data.to(self._precision).transpose(1, 2).unflatten(2, stream.shape)
        return ((self._halves["decoder"](z).float() + 1) / 2).clamp(0, 1)

    def modules(self) -> dict[str, nn.Module]:
        return dict(self._halves)


def _program(path: Path) -> Any:
    """A TorchScript program on the CPU. Raises `BadWeights` when the file is none."""
    load: Any = torch.jit.load
    try:
        return load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise BadWeights(f"{path} is no TorchScript program, or is cut short ({reason})", "Fetch it again") from error
