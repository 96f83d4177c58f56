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
from vtbench.errors import MissingWeights, UsageError
from vtbench.weights import state_digest
from vtbench.zoo.card import Card
from vtbench.zoo.published import Published, State

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


class TokenGenerator(Published, Generator):
    """Base of the families. net: the network. decoder: the tokenizer whose `decode` makes images of the tokens.

    A family is a `Published` one that sets `grid` too (tokens lie in a square), and defines `facts` and `sample`. untold: what shapes cannot tell."""

    grid: ClassVar[bool] = True

    decoder: Tokenizer
    untold: Mapping[str, Any] = {}

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

        if not decoder:
            raise UsageError(f"{self.family} needs a tokenizer to decode with", "--decoder NAME")
        state, revision, where = self._read(card, weights, state_key, allow_code)
        self._fill(state.tensors, self.untold, where=where, notes=state.notes)
        try:
            tokenizer = zoo.load(decoder, weights=other or None, allow_code=allow_code)
        except MissingWeights as error:
            raise MissingWeights(
                f"{self.family} decodes with {decoder}: {error.message}",
                f"`vtbench weights fetch {decoder}` gets it, or name its file with decoder_weights=FILE after the model's colon",
            ) from error
        self._join(tokenizer, revision)

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
        made._fill(state, made.untold, where="the weights")
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
