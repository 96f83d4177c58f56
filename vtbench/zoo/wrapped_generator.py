"""`vtbench.generator`: a plain function as an image generator, for somebody who has one in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from vtbench.api import Capabilities, Condition, Generator
from vtbench.errors import UsageError, VtbenchError
from vtbench.zoo.behind import checked_range, device_of, networks_of, revision_of, spelled


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

    generate: ``generate(conditions, seeds)`` -> images ``[B, 3, H, W]`` in `value_range`, or a list of images ``[3, H, W]`` or of Pillow's. conditions: labels (int64 tensor ``[B]``) with `classes`, texts with `prompts`, None for a
    model that knows neither. seeds: one integer an image, from which alone its noise is to be drawn. modules: the network, as for `vtbench.tokenizer`; looked for behind the
    function without it. batch: False for functions that take one condition at a time (still with a batch axis). steps: of the sampler, for the record.

    Raises `UsageError` for arguments that do not go together."""
    low, high = checked_range(value_range)
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
    return WrappedGenerator(
        name, generate, (low, high), networks_of(modules, [generate]), can, steps, dict(params or {})
    )


def _stacked(made: Any, value_range: tuple[float, float]) -> torch.Tensor:
    """What a function made as float32 ``[B, 3, H, W]``, mapped from `value_range` to [0, 1]; Pillow's images have a range of their own."""
    low, high = value_range
    if isinstance(made, (list, tuple)):
        if made and all(isinstance(image, Image.Image) for image in made):
            arrays = [np.asarray(image.convert("RGB")) for image in made]
            return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        made = torch.stack([torch.as_tensor(image) for image in made]) if made else torch.zeros(0, 3, 0, 0)
    return (torch.as_tensor(made).float() - low) / (high - low)


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
        return revision_of(self._networks, [self._range, spelled(self._function)])

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor:
        """Call the user's function."""
        given: Any = None
        if self.capabilities.needs_caption:
            given = [c.caption for c in conditions]
        elif self.capabilities.classes is not None:
            given = torch.tensor([c.label for c in conditions], device=device_of(self._networks))
        images = _stacked(self._function(given, list(seeds)), self._range)
        self._look(images)
        return images

    def _look(self, images: torch.Tensor) -> None:
        """Refuse what another `value_range` was meant for: values between -1 and 1, or up to 255, taken as [0, 1]."""
        strayed = float(((images < -0.25) | (images > 1.25)).float().mean()) if images.numel() else 0.0
        if strayed > 0.25:
            low, high = self._range
            given = [float(v) * (high - low) + low for v in (images.min(), images.max())]
            raise VtbenchError(
                f"{strayed:.0%} of the values that {self.name} made lie far outside its value_range {self._range}: they go from {given[0]:.3g} to {given[1]:.3g}",
                "vtbench.generator(..., value_range=(-1, 1)) or (0, 255); clamp them where they are to be cut",
            )

    def modules(self) -> Mapping[str, Any]:
        """The networks found; one alone is the generator."""
        if len(self._networks) == 1:
            return {"generator": next(iter(self._networks.values()))}
        return dict(self._networks)
