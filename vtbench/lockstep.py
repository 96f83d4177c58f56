"""Sharded models in a process group: every rank calls them equally often, though ranks have unequal work.

A model whose weights lie over the ranks (FSDP) gathers them inside every call, so a rank that called more often than another would wait for ever. Here the
ranks agree before each call on which half is called next; a rank that has nothing for it makes a spare call on a blank image, and nothing of that is
kept. No batch is padded, and no chunk is dropped or moved. Tensor parallelism, which wants equal inputs on all ranks, is another thing and not served.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vtbench.api import Condition, Model, Tokenizer, Tokens
from vtbench.errors import VtbenchError

if TYPE_CHECKING:
    import numpy as np
    import torch

_SHARDED = ("FullyShardedDataParallel", "FSDPModule")


def sharded(model: Model) -> bool:
    """Whether a model's weights lie over the ranks: it says so, or one of its networks is wrapped by FSDP."""
    if model.capabilities.sharded:
        return True
    kinds = {
        kind.__name__ for network in model.modules().values() for m in network.modules() for kind in type(m).__mro__
    }
    return bool(kinds.intersection(_SHARDED))


class InStep(Tokenizer):
    """A sharded tokenizer whose halves all ranks call together. `finish` serves the ranks that are not done yet."""

    def __init__(self, model: Tokenizer, revision: str) -> None:
        import torch.distributed as dist

        self.model, self._dist = model, dist
        self.name, self.revision, self.params = model.name, revision, model.params
        self.budget, self.capabilities = model.budget, model.capabilities
        self.calls: dict[str, int] = {"encode": 0, "decode": 0}
        self._device = "cpu"
        self._spare: Tokens | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def to(self, device: str, dtype: str = "float32") -> InStep:
        """Move this rank's share."""
        self.model = self.model.to(device, dtype)
        self._device = device
        return self

    def modules(self) -> Mapping[str, Any]:
        """The networks."""
        return self.model.modules()

    def codebook(self) -> np.ndarray | None:
        """The codebook."""
        return self.model.codebook()

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first tokens; no network runs."""
        return self.model.prefix(tokens, budget)

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Encode, when it is encoding's turn."""
        found: Tokens = self._turn(
            "encode",
            tuple(images.shape[1:]),
            lambda: self.model.encode(images, budget=budget, condition=condition, sample=sample, seeds=seeds),
        )
        self._spare = self._spare or found
        return found

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Decode, when it is decoding's turn."""
        found: torch.Tensor = self._turn("decode", (), lambda: self.model.decode(tokens, seeds=seeds))
        return found

    def finish(self, problem: BaseException | None = None) -> None:
        """This rank has no more calls of its own: make spare ones until no rank has any. problem: why it stops early; the others then stop too."""
        text = "" if problem is None else f"{type(problem).__name__}: {problem}"
        while True:
            said = self._agree(("failed", text) if problem is not None else ("done", ""))
            if problem is not None:
                return
            self._refuse(said)
            wanted = next((s for s in said if s[0] in self.calls), None)
            if wanted is None:
                return
            self._idle(*wanted)

    def _turn(self, half: str, shape: tuple[int, ...], call: Callable[[], Any]) -> Any:
        import torch

        # gloo writes what it gathers from a thread of its own, where a tensor of inference mode may not be written (torch 2.2 refuses)
        with torch.inference_mode(False), torch.no_grad():
            while True:
                said = self._agree((half, shape))
                self._refuse(said)
                wanted = next(s for s in said if s[0] in self.calls)
                if wanted[0] == half:
                    self.calls[half] += 1
                    return call()
                self._idle(*wanted)

    def _agree(self, what: tuple[str, Any]) -> list[tuple[str, Any]]:
        said: list[Any] = [None] * self._dist.get_world_size()
        self._dist.all_gather_object(said, what)
        return said

    def _refuse(self, said: Sequence[tuple[str, Any]]) -> None:
        for rank, (what, text) in enumerate(said):
            if what == "failed":
                raise VtbenchError(f"rank {rank} of {len(said)} failed: {text}", "Its complete chunks are kept")

    def _idle(self, half: str, shape: tuple[int, ...]) -> None:
        """A call whose result nobody wants: on a blank image, or on its tokens. A rank decodes only after some rank has encoded, so every rank has some."""
        import torch

        self.calls[half] += 1
        with torch.no_grad():
            if half == "encode":
                blank = torch.zeros((1, *shape), device=self._device)
                self._spare = self.model.encode(blank, condition=[Condition("spare", 0, "")], seeds=[0])
                return
            assert self._spare is not None, "a rank decodes before any rank has encoded"
            self.model.decode(self._spare, seeds=[0] * len(self._spare))
