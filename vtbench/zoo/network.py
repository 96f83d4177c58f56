"""What the adapters of published tokenizers share: value ranges, devices, taps, grids of tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import UsageError
from vtbench.weights import state_digest
from vtbench.zoo.card import Card
from vtbench.zoo.published import Published, State, averaged
from vtbench.zoo.taps import output_of, positions

N = TypeVar("N", bound="NetworkTokenizer")


class Half(nn.Module):
    """One half of a tokenizer: what it runs, and the modules whose parameters it counts. A codebook belongs to both."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self._run = run

    def forward(self, *args: Any) -> Tensor:
        return self._run(*args)


class NetworkTokenizer(Published, Tokenizer):
    """Base of the adapters. A family is a `Published` one that sets `value_range` too, and defines `describe`, encoding and decoding.

    Images enter and leave in [0, 1]; `value_range` is the network's own. exact: its parts that stay in float32 whatever the dtype.
    trunk: the layer of `net` whose output is the tap `hidden` ("": none)."""

    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    exact: ClassVar[tuple[str, ...]] = ("quantize",)
    trunk: ClassVar[str] = "encoder.norm_out"

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
    ) -> None:
        """Load from the card's file, or from `weights`. A family with parameters of its own has them as further keywords."""
        self._open(card, weights, state_key, allow_code)

    def _open(self, card: Card | None, weights: Path | None, state_key: str, allow_code: bool, **params: Any) -> None:
        """Read the file and adopt its tensors; params: what shapes cannot tell."""
        state, revision, where = self._read(card, weights, state_key, allow_code)
        self._adopt(state.tensors, params, revision=revision, where=where, notes=state.notes)

    def _adopt(
        self, state: State, params: Mapping[str, Any], *, revision: str, where: str, notes: Sequence[str] = ()
    ) -> None:
        self._fill(state, params, where=where, notes=notes)
        self.revision = revision
        self.capabilities = self.describe()

    def describe(self) -> Capabilities:
        """The capabilities of the network at hand."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- making one

    @classmethod
    def from_state(
        cls: type[N], state: State, *, name: str = "", revision: str = "", where: str = "the weights", **params: Any
    ) -> N:
        """A tokenizer from a state dict of the published layout (or of another size of the family).

        params: what shapes cannot tell, as on the card. revision: the digest of the file; that of the tensors when empty. Raises `BadWeights`."""
        made = cls.__new__(cls)
        notes: list[str] = []
        tensors = averaged(dict(state), notes)
        made._adopt(tensors, params, revision=revision or state_digest(state), where=where, notes=notes)
        made.name, made.params = name or cls.family, dict(params)
        return made

    # ---------------------------------------------------------------------------------------- running

    def to(self: N, device: str, dtype: str = "float32") -> N:
        """Move the network; codes are chosen in float32 whatever `dtype`."""
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self.net.to(self._device)
        for name, child in self.net.named_children():
            child.to(torch.float32 if name in self.exact else self._dtype)
        for parameter in self.net.parameters(recurse=False):
            parameter.data = parameter.data.to(self._dtype)
        return self

    def _enter(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to the network's range, device and dtype, the size checked."""
        caps = self.capabilities
        height, width = int(images.shape[-2]), int(images.shape[-1])
        if caps.resolution is not None and not caps.any_resolution and (height, width) != (caps.resolution,) * 2:
            raise UsageError(
                f"{self.name} takes {caps.resolution}x{caps.resolution} images only, not {width}x{height}",
                f"Use --resolution {caps.resolution}",
            )
        if height % caps.multiple or width % caps.multiple:
            raise UsageError(f"{self.name} takes sides that are multiples of {caps.multiple}, not {width}x{height}")
        low, high = self.value_range
        return (images.to(self._device, torch.float32) * (high - low) + low).to(self._dtype)

    def _leave(self, pixels: Tensor) -> Tensor:
        """The network's output to float32 in [0, 1]."""
        low, high = self.value_range
        return ((pixels.float() - low) / (high - low)).clamp(0, 1)

    def _ids(self, tokens: Tokens, name: str) -> Tensor:
        """A stream's ids on the network's device."""
        return torch.as_tensor(tokens.data[name]).to(self._device).long()

    def before_codes(self, images: Tensor) -> Tensor:
        """Images in the network's range -> what is quantised, ``[B, D, h, w]`` or ``[B, N, D]``."""
        return self.net.encode(images)  # type: ignore[operator]

    @torch.no_grad()
    def features(self, images: Tensor, tap: str) -> Tensor | None:
        """The taps `pre_quant` and, where the family names its `trunk`, `hidden`; see `vtbench.api.Tokenizer.features`."""
        if tap == "pre_quant":
            return positions(self.before_codes(self._enter(images)))
        if tap == "hidden" and self.trunk:
            entered = self._enter(images)
            return positions(output_of(self.net.get_submodule(self.trunk), lambda: self.before_codes(entered)))
        return None


class GridTokenizer(NetworkTokenizer):
    """An adapter whose tokens lie on one grid of indices.

    A family gives `latents` (images to what is quantised, ``[B, D, h, w]``), `quantise` (to ids), `embed` (ids to codes) and `pixels`."""

    def latents(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def before_codes(self, images: Tensor) -> Tensor:
        return self.latents(images)

    def quantise(self, z: Tensor) -> Tensor:
        """``[B, D, h, w]`` -> int64 ``[B, h, w]``."""
        raise NotImplementedError

    def embed(self, ids: Tensor) -> Tensor:
        """int64 ``[B, h, w]`` -> fp32 ``[B, D, h, w]``."""
        raise NotImplementedError

    def pixels(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def sizes(self) -> tuple[int, ...]:
        """The codebook sizes of the stream."""
        raise NotImplementedError

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
        """Images float32 ``[B, 3, H, W]`` in [0, 1] -> one stream ``tokens``, in raster order."""
        z = self.latents(self._enter(images)).float()
        ids = self.quantise(z)
        stream = Stream("tokens", "index", "grid2d", self.sizes(), (int(ids.shape[1]), int(ids.shape[2])))
        return Tokens((stream,), {"tokens": ids.flatten(1)}, len(ids), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Ids of any grid -> images float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        ids = self._ids(tokens, stream.name).unflatten(1, stream.shape)
        return self._leave(self.pixels(self.embed(ids).to(self._dtype)))
