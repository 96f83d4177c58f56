"""What generators of tokens share: a network from a published checkpoint, a tokenizer of the zoo that decodes, draws from each image's own seed,
and for those that make one token after another the loop and the attention with its cache.

A family is a network, a function that reads its configuration off the tensors' shapes, and a sampler (`sample`). `--decoder NAME` swaps the tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Generated, Generator, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, MissingWeights, UsageError
from vtbench.weights import digest, load_strict, state_digest, unchanged
from vtbench.zoo.card import Card
from vtbench.zoo.network import Loaded, Shapes, State, read
from vtbench.zoo.recognise import recognise

G = TypeVar("G", bound="TokenGenerator")


class Draws:
    """Random numbers of B images, each from a generator of its own on the CPU: the same in any batch and on any device."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """float32 ``[B, *shape]`` in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self._generators]).to(self._device)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """One index of each row of ``[B, K]``, by the inverse of its distribution function: int64 ``[B]``."""
        steps = probabilities.double().cumsum(-1)
        drawn = self.uniform().double() * steps[:, -1]
        return (steps <= drawn[:, None]).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def attend(q: Tensor, k: Tensor, v: Tensor, past: list[Tensor]) -> Tensor:
    """Causal attention of new positions over old and new ones. q, k, v: of the new ones ``[B, heads, N, d]``. past: keys and values of the old ones
    (empty at first), extended. Gives ``[B, N, heads * d]``."""
    if past:
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    past[:] = [k, v]
    return F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1).transpose(1, 2).flatten(2)


def one_by_one(
    net: nn.Module,
    labels: Tensor,
    draws: Draws,
    *,
    tokens: int,
    depth: int,
    none: int,
    guidance: Callable[[int], float] | None,
    sharpen: Callable[[Tensor], Tensor],
) -> Tensor:
    """Token ids int64 ``[B, tokens]``, each drawn given those before it.

    net: (ids so far, classes, a cache for each of `depth` blocks) -> logits of what comes next. none: the class that stands for no class. guidance: its scale at
    a step (None: off); two rows an image then. sharpen: what is done to logits ``[B, K]`` before the draw."""
    classes = torch.cat([labels, torch.full_like(labels, none)]) if guidance else labels
    ids = labels.new_empty((len(labels), 0))
    past: list[list[Tensor]] = [[] for _ in range(depth)]
    for step in range(tokens):
        logits = net(torch.cat([ids, ids]) if guidance else ids, classes, past)[:, -1].float()
        if guidance:
            with_, without = logits.chunk(2)
            logits = without + (with_ - without) * guidance(step)
        ids = torch.cat([ids, draws.categorical(sharpen(logits).softmax(-1))[:, None]], 1)
    return ids


class TokenGenerator(Generator):
    """Base of the families. net: the network. decoder: the tokenizer whose `decode` makes images of the tokens.

    A family sets `family`, `drop`, `grid` (tokens lie in a square) and defines `infer`, `build`, `best` (guidance), `off` (the scale that means none) and `sample`."""

    family: ClassVar[str] = ""
    drop: ClassVar[tuple[str, ...]] = ()
    entry: ClassVar[str] = ""
    grid: ClassVar[bool] = True

    net: nn.Module
    decoder: Tokenizer
    loaded: Loaded
    untold: Mapping[str, Any] = {}

    # ---------------------------------------------------------------------------------------- what a family defines

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The file's names to the network's own; they are the same unless a family says otherwise."""
        return state

    @classmethod
    def expected_layout(cls, config: Any) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the network of a configuration, found on the meta device: no memory is taken."""
        with torch.device("meta"):
            return {name: tuple(t.shape) for name, t in cls.build(config).state_dict().items()}

    @classmethod
    def infer(cls, shapes: Shapes, **untold: Any) -> Any:
        """The configuration that the tensors' shapes give; untold: what they cannot tell (`self.untold`)."""
        raise NotImplementedError

    @classmethod
    def build(cls, config: Any) -> nn.Module:
        """The network of a configuration."""
        raise NotImplementedError

    def sample(self, labels: Tensor, draws: Draws) -> Tensor:
        """Token ids int64 ``[B, N]`` for labels int64 ``[B]``."""
        raise NotImplementedError

    def facts(self) -> tuple[int, int, int]:
        """(classes, tokens, codebook size) of the network at hand."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- making one

    def _open(
        self, card: Card | None, weights: Path | None, state_key: str, allow_code: bool, decoder: str, other: str
    ) -> None:
        """Read the checkpoint and the decoder. decoder: its name ("" for the card's). other: its own checkpoint, where it is not the card's."""
        from vtbench import zoo

        if card is None and weights is None:
            raise MissingWeights(f"no weights for {self.family}", "Name a checkpoint with --weights")
        if not decoder:
            raise UsageError(f"{self.family} needs a tokenizer to decode with", "--decoder NAME")
        path = Path(weights) if card is None and weights is not None else card.locate(weights)["weights"]  # type: ignore[union-attr]
        with unchanged(path):
            state, usual = read(path, state_key, allow_code, self.entry)
            revision = digest(path) + ("" if usual else f"#{state_key}")
        self._adopt(state.tensors, where=str(path), notes=state.notes)
        try:
            tokenizer = zoo.load(decoder, weights=other or None, allow_code=allow_code)
        except MissingWeights as error:
            raise MissingWeights(
                f"{self.family} decodes with {decoder}: {error.message}",
                f"`vtbench weights fetch {decoder}` gets it, or name its file with decoder_weights=FILE after the model's colon",
            ) from error
        self._join(tokenizer, revision)

    def _adopt(self, state: State, *, where: str, notes: Sequence[str] = ()) -> None:
        state = self.rename(dict(state))
        try:
            config = self.infer({k: tuple(v.shape) for k, v in state.items()}, **self.untold)
        except BadWeights as error:
            guess = recognise(state)
            way_out = f"Its keys look like {guess}: try --model {guess}" if guess else error.way_out
            raise BadWeights(f"{where}: {error.message}", way_out) from error
        with torch.device("meta"):
            net = self.build(config)
        tensors = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        report = load_strict(net, tensors, drop=self.drop, where=where, assign=True)
        self.net = net.eval().requires_grad_(False)
        self.loaded = Loaded(config, report.dropped, tuple(notes))
        self._device, self._dtype = torch.device("cpu"), torch.float32

    def _join(self, decoder: Tokenizer, revision: str) -> None:
        """Take a tokenizer as decoder; its codebook must be the network's."""
        classes, count, size = self.facts()
        book = decoder.codebook()
        if book is not None and len(book) != size:
            raise UsageError(
                f"{decoder.name} has {len(book)} codes, and {self.family}'s network makes tokens of {size}",
                "Decode with the tokenizer that it was trained on, or another decoder of the same codes",
            )
        self.decoder = decoder
        self.revision = f"{revision}+{decoder.revision}"
        side = decoder.capabilities.resolution
        if side is None and self.grid:
            side = round(count**0.5) * decoder.capabilities.multiple
        self.capabilities = Capabilities(
            any_resolution=False,
            resolution=side,
            stochastic=True,
            classes=classes,
            gives_tokens=True,
            max_tokens=count,
        )

    @classmethod
    def from_state(cls: type[G], state: State, decoder: Tokenizer, *, name: str = "", **params: Any) -> G:
        """A generator from a state dict and a tokenizer; params: as of the constructor. Raises `BadWeights`, `UsageError`."""
        made = cls.__new__(cls)
        made._set(**params)
        made._adopt(state, where="the weights")
        made._join(decoder, state_digest(state))
        made.name = name or cls.family
        return made

    def _set(self, **params: Any) -> None:
        """Take the sampler's parameters; fills `params` and `steps`."""
        raise NotImplementedError

    # ---------------------------------------------------------------------------------------- running

    @torch.no_grad()
    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> Generated:
        """Images of class labels, with their tokens."""
        labels = torch.tensor([c.label for c in conditions], device=self._device)
        ids = self.sample(labels, Draws(seeds, self._device))
        side = round(ids.shape[1] ** 0.5)
        layout, shape = ("grid2d", (side, side)) if self.grid else ("seq1d", (int(ids.shape[1]),))
        stream = Stream("tokens", "index", layout, (self.facts()[2],), shape)  # type: ignore[arg-type]
        tokens = Tokens((stream,), {"tokens": ids}, len(ids), condition=conditions)
        return Generated(self.finish(self.decoder.decode(tokens, seeds=seeds)), tokens)

    def finish(self, images: Tensor) -> Tensor:
        """What a family does with decoded images."""
        return images

    def modules(self) -> Mapping[str, Any]:
        """The network, and the tokenizer's decoder."""
        half = self.decoder.modules().get("decoder")
        return {"generator": self.net, **({"decoder": half} if half is not None else {})}

    def to(self: G, device: str, dtype: str = "float32") -> G:
        """Move both networks."""
        self._device, self._dtype = torch.device(device), getattr(torch, dtype)
        self.net.to(self._device, self._dtype)
        self.decoder.to(device, dtype)
        return self
