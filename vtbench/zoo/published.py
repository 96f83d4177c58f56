"""Networks from published checkpoints: read, recognised by the shapes of their tensors, built and filled.

A family is a network (`nn.Module`), a function that reads its configuration off the tensors' shapes, and the names that its files use. A file of
any size of the family then loads without a card: the configuration follows from the shapes, the network is built on the meta device, and the
tensors must fit it by name and shape, but for an explicit drop list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vtbench.checkpoint import read as read_checkpoint
from vtbench.errors import BadWeights, MissingWeights
from vtbench.weights import State as ReadState
from vtbench.weights import digest, load_strict, state_digest, unchanged, unwrap
from vtbench.zoo.card import Card
from vtbench.zoo.recognise import recognise

State = Mapping[str, Tensor]
Shapes = Mapping[str, Sequence[int]]


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


class Published:
    """A model whose network comes from a published checkpoint. A family sets `family` and `drop`, and defines `rename`, `infer` and `build`.

    net: the network. loaded: what was made of the file. drop: patterns of keys that the network has no use for. entry: where its published files hold
    the tensors, if not under a usual name. inside: the prefixes that they have inside a whole model, of whose file nothing else is read."""

    family: ClassVar[str] = ""
    drop: ClassVar[tuple[str, ...]] = ()
    entry: ClassVar[str] = ""
    inside: ClassVar[tuple[str, ...]] = ()

    net: nn.Module
    loaded: Loaded

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

    def _read(
        self, card: Card | None, weights: Path | None, state_key: str, allow_code: bool
    ) -> tuple[ReadState, str, str]:
        """(tensors, revision, file) of the card's checkpoint, or of `weights`."""
        if card is None and weights is None:
            raise MissingWeights(f"no weights for {self.family}", "Name a checkpoint with --weights")
        path = Path(weights) if card is None and weights is not None else card.locate(weights)["weights"]  # type: ignore[union-attr]
        with unchanged(path):
            state, usual = read(path, state_key, allow_code, self.entry, self.inside)
            # A shard's index says nothing of the weights themselves.
            revision = state_digest(state.tensors) if path.suffix == ".json" else digest(path)
        return state, revision + ("" if usual else f"#{state_key}"), str(path)

    def _fill(self, state: State, params: Mapping[str, Any], *, where: str, notes: Sequence[str] = ()) -> None:
        """Build the network that the tensors belong to, and give it them in float32. params: what shapes cannot tell."""
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
        self._device, self._dtype = torch.device("cpu"), torch.float32


def square(positions: int) -> int:
    """The side of a square grid of so many positions; `BadWeights` when there is none."""
    side = math.isqrt(positions)
    if side * side != positions:
        raise BadWeights(f"{positions} positions do not make a square grid")
    return side
