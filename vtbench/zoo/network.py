"""What the adapters of published networks share: building from a state dict, value ranges, devices, grids of tokens.

A family is a network (`nn.Module`), a function that reads its configuration off the tensors' shapes, and the names that its files use. A file of
any size of the family then loads without a card: the configuration follows from the shapes, the network is built on the meta device, and the
tensors must fit it by name and shape, but for an explicit drop list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.checkpoint import read as read_checkpoint
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.weights import State as ReadState
from vtbench.weights import digest, load_strict, state_digest, unchanged, unwrap
from vtbench.zoo.card import Card
from vtbench.zoo.recognise import recognise
from vtbench.zoo.taps import output_of, positions

State = Mapping[str, Tensor]
Shapes = Mapping[str, Sequence[int]]
N = TypeVar("N", bound="NetworkTokenizer")


class Half(nn.Module):
    """One half of a tokenizer: what it runs, and the modules whose parameters it counts. A codebook belongs to both."""

    def __init__(self, run: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self._run = run

    def forward(self, *args: Any) -> Tensor:
        return self._run(*args)


def count(names: Iterable[str], pattern: str) -> int:
    """How many consecutive numbers, from 0, `pattern` (with one ``{}``) has among the names, as a prefix."""
    known, number = list(names), 0
    while any(name.startswith(pattern.format(number)) for name in known):
        number += 1
    return number


def wanted(shapes: Shapes, name: str, family: str) -> tuple[int, ...]:
    """The shape of a tensor that the family cannot do without; `BadWeights` names it when it is absent."""
    if name not in shapes:
        raise BadWeights(
            f"no tensor '{name}' among the {len(shapes)} of these weights: they are not of the {family} family",
            "`vtbench models list` shows the families",
        )
    return tuple(shapes[name])


@dataclass(frozen=True)
class Loaded:
    """How weights were taken: the configuration that their shapes gave, the keys left out, and remarks for the record."""

    config: Any
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def averaged(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    """The moving average where a file keeps one beside the weights, as Lightning's users do: the names without their dots under `model_ema.`."""
    shadows = {k: v for k, v in state.items() if k.startswith("model_ema.")}
    if not shadows:
        return state
    plain = {k: v for k, v in state.items() if k not in shadows}
    found = {
        k: shadows[f"model_ema.{k.replace('.', '')}"] for k in plain if f"model_ema.{k.replace('.', '')}" in shadows
    }
    notes.append(f"took the EMA weights ('model_ema.', {len(found)} of {len(plain)} tensors)")
    return {**plain, **found}


def read(
    path: Path, state_key: str = "auto", allow_code: bool = False, entry: str = "", prefixes: Sequence[str] = ()
) -> tuple[ReadState, bool]:
    """The tensors of a checkpoint, and whether they are those that `auto` takes. entry: where the family's published files have them.
    prefixes: see `vtbench.checkpoint.read`.

    A moving average counts as `ema` wherever it lies: as an entry of the file, or as `model_ema.` names among the weights."""
    content = read_checkpoint(path, allow_code=allow_code, prefixes=prefixes)
    if entry and state_key in ("auto", entry) and has(content, entry):
        return unwrap(content, entry, where=str(path)), True
    usual = unwrap(content, "auto", where=str(path))
    if any(name.startswith("model_ema.") for name in usual.tensors):
        if state_key in ("auto", "ema"):
            usual.tensors = averaged(usual.tensors, usual.notes)
            return usual, True
        usual.tensors = {k: v for k, v in usual.tensors.items() if not k.startswith("model_ema.")}
        usual.notes.append("left the EMA weights ('model_ema.') aside")
        return usual, False
    if state_key == "auto":
        return usual, True
    chosen = unwrap(content, state_key, where=str(path))
    return chosen, chosen.key == usual.key


def has(content: Any, entry: str) -> bool:
    """Whether a checkpoint has an entry ``a.b``."""
    for part in entry.split("."):
        if not isinstance(content, Mapping) or part not in content:
            return False
        content = content[part]
    return True


class NetworkTokenizer(Tokenizer):
    """Base of the adapters. A family sets `family`, `value_range` and `drop`, and defines `rename`, `infer`, `build`, and encoding and decoding.

    net: the network. loaded: what `from_state` made of the file. Images enter and leave in [0, 1]; `value_range` is the
    network's own. drop: patterns of keys that the network has no use for. exact: its parts that stay in
    float32 whatever the dtype. entry: where its published files hold the tensors, if not under a usual name. inside: the prefixes that they
    have inside a whole model, of whose file nothing else is read. trunk: the layer of `net` whose output is the tap `hidden` ("": none)."""

    family: ClassVar[str] = ""
    value_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    drop: ClassVar[tuple[str, ...]] = ()
    exact: ClassVar[tuple[str, ...]] = ("quantize",)
    entry: ClassVar[str] = ""
    inside: ClassVar[tuple[str, ...]] = ()
    trunk: ClassVar[str] = "encoder.norm_out"

    net: nn.Module
    loaded: Loaded

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
        if card is None and weights is None:
            raise MissingWeights(f"no weights for {self.family}", "Name a checkpoint with --weights")
        path = Path(weights) if card is None and weights is not None else card.locate(weights)["weights"]  # type: ignore[union-attr]
        with unchanged(path):
            state, usual = read(path, state_key, allow_code, self.entry, self.inside)
            # A shard's index says nothing of the weights themselves.
            revision = state_digest(state.tensors) if path.suffix == ".json" else digest(path)
        revision += "" if usual else f"#{state_key}"
        self._adopt(state.tensors, params, revision=revision, where=str(path), notes=state.notes)

    def _adopt(
        self, state: State, params: Mapping[str, Any], *, revision: str, where: str, notes: Sequence[str] = ()
    ) -> None:
        renamed = self.rename(dict(state))
        try:
            config = self.infer({k: tuple(v.shape) for k, v in renamed.items()}, **params)
        except BadWeights as error:
            guess = recognise(state)
            way_out = f"Its keys look like {guess}: try --model {guess}" if guess else error.way_out
            raise BadWeights(f"{where}: {error.message}", way_out) from error
        with torch.device("meta"):
            net = self.build(config)
        renamed = {k: v.float() if v.is_floating_point() else v for k, v in renamed.items()}
        report = load_strict(net, renamed, drop=self.drop, where=where, assign=True)
        self.net = net.eval().requires_grad_(False)
        self.loaded = Loaded(config, report.dropped, tuple(notes))
        self.revision = revision
        self._device, self._dtype = torch.device("cpu"), torch.float32
        self.capabilities = self.describe()

    # ---------------------------------------------------------------------------------------- what a family defines

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The file's names to the network's own. Works on tensors of any device, so on layouts too."""
        return state

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> Any:
        """The configuration that the tensors' shapes give; params: what shapes cannot tell."""
        raise NotImplementedError

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """The network of a configuration, on whatever device is current."""
        raise NotImplementedError

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

    @classmethod
    def expected_layout(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the network of a configuration, found on the meta device: no memory is taken."""
        with torch.device("meta"):
            return {name: tuple(t.shape) for name, t in cls.build(config).state_dict().items()}

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


def square(positions: int) -> int:
    """The side of a square grid of so many positions; `BadWeights` when there is none."""
    side = math.isqrt(positions)
    if side * side != positions:
        raise BadWeights(f"{positions} positions do not make a square grid")
    return side
