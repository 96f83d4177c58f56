"""`vtbench.generator`: a plain function as an image generator, for somebody who has one in memory."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vtbench import weights
from vtbench.api import Capabilities, Condition, Generator
from vtbench.errors import UsageError
from vtbench.zoo.wrapped import _networks, _spelled


def generator(
    generate: Callable[..., Any],
    *,
    classes: int | None = None,
    prompts: bool = False,
    value_range: tuple[float, float] = (0.0, 1.0),
    name: str = "mine",
    modules: Any = (),
    resolution: int | None = None,
    steps: int | None = None,
    params: Mapping[str, Any] | None = None,
    batch: bool = True,
) -> WrappedGenerator:
    """A generator from a function.

    generate: ``generate(conditions, seeds)`` -> images ``[B, 3, H, W]`` in `value_range`. conditions: labels (int64 tensor ``[B]``) with `classes`, texts with `prompts`, None for a
    model that knows neither. seeds: one integer an image, from which alone its noise is to be drawn. modules: the network, as for `vtbench.tokenizer`; looked for behind the
    function without it. batch: False for functions that take one condition at a time (still with a batch axis). steps: of the sampler, for the record.

    Raises `UsageError` for arguments that do not go together."""
    low, high = float(value_range[0]), float(value_range[1])
    if not high > low:
        raise UsageError(f"value_range is (low, high), not {value_range}", "(0, 1), (-1, 1) or (0, 255)")
    if classes is not None and prompts:
        raise UsageError("a generator is given class labels or prompts, not both")
    can = Capabilities(
        any_resolution=resolution is None,
        resolution=resolution,
        stochastic=True,
        per_image_noise=batch,
        needs_caption=prompts,
        classes=classes,
    )
    return WrappedGenerator(name, generate, (low, high), _networks(modules, [generate]), can, steps, dict(params or {}))


class WrappedGenerator(Generator):
    """What `generator` makes."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        value_range: tuple[float, float],
        networks: dict[str, torch.nn.Module],
        can: Capabilities,
        steps: int | None,
        params: dict[str, Any],
    ) -> None:
        self.name, self.capabilities, self.steps, self.params = name, can, steps, params
        self._function, self._range, self._networks = function, value_range, networks

    @property
    def revision(self) -> str:  # type: ignore[override]
        """The digest of the networks' present weights and of the function's own code; without a network, another one each time that it is asked for."""
        if not self._networks:
            return f"unknown:{secrets.token_hex(16)}"
        state = {
            f"{name}/{k}": v
            for name, net in self._networks.items()
            for k, v in net.state_dict().items()
            if torch.is_tensor(v)
        }
        joined = f"{weights.state_digest(state)}\n{[self._range, _spelled(self._function)]}"
        return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor:
        """Call the user's function."""
        given: Any = None
        if self.capabilities.needs_caption:
            given = [c.caption for c in conditions]
        elif self.capabilities.classes is not None:
            first = next((p for net in self._networks.values() for p in net.parameters()), None)
            given = torch.tensor([c.label for c in conditions], device=first.device if first is not None else None)
        low, high = self._range
        return (torch.as_tensor(self._function(given, list(seeds))).float() - low) / (high - low)

    def modules(self) -> Mapping[str, Any]:
        """The networks found; one alone is the generator."""
        if len(self._networks) == 1:
            return {"generator": next(iter(self._networks.values()))}
        return dict(self._networks)
