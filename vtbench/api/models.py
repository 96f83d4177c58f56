"""Models: what a tokenizer and a generator are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.api.tokens import Condition, Tokens

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


@dataclass(frozen=True)
class Capabilities:
    """What a model can do, as data.

    prefix: a shorter budget decodes. budgets: the budgets that make sense (None: any up to `max_tokens`).
    any_resolution: input sides may be any multiple of `multiple`; otherwise `resolution` is the only one.
    scales_with_area: tokens grow with the area, and a budget is per `budget_per` pixels squared.
    per_image_noise: decode draws its noise per image from `seeds` (otherwise the core runs one image at a time).
    stochastic: decode or encode draws noise at all. sharded: its weights lie over the ranks of a process group (FSDP), so that every rank must call it
    equally often; networks wrapped by FSDP are seen without it. classes, gives_tokens: of a `Generator`.
    """

    prefix: bool = False
    max_tokens: int | None = None
    budgets: tuple[int, ...] | None = None
    any_resolution: bool = True
    resolution: int | None = None
    multiple: int = 1
    scales_with_area: bool = False
    budget_per: int = 256
    stochastic: bool = False
    per_image_noise: bool = True
    needs_caption: bool = False
    text_align: bool = False
    video: bool = False
    sharded: bool = False
    classes: int | None = None
    gives_tokens: bool = False


class Model:
    """What a tokenizer and a generator share.

    name: as on the command line, without params. revision: digest of the weights (`vtbench.weights`), never a name or a path.
    params: what the user chose about the model, resolved (defaults filled in), without the budget. budget: the default
    budget, from `tiny:tokens=64`.
    """

    name: str = ""
    revision: str = ""
    params: Mapping[str, Any] = {}
    budget: int | None = None
    capabilities: Capabilities = Capabilities()

    def modules(self) -> Mapping[str, Any]:
        """The ``torch.nn.Module`` of each part, for costs: `encoder` and `decoder`, and a generator's `generator`; empty when there is none."""
        return {}

    def parameter_counts(self) -> Mapping[str, int]:
        """Parameters of each half, shared ones in both: of its `modules`, unless the model counts otherwise."""
        return {
            half: sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())
            for half, module in self.modules().items()
        }

    def provenance(self) -> Mapping[str, Any]:
        """What else made its outputs and belongs in the record: for models that do not run in this process."""
        return {}

    def to(self, device: str, dtype: str = "float32") -> Self:
        """Move to a device ("cpu", "cuda:0"); called once before the first batch. Returns self."""
        return self


class Tokenizer(Model):
    """A model that encodes images to tokens and decodes tokens to images. Adapters subclass it."""

    def encode(
        self,
        images: torch.Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Encode float32 ``[B, 3, H, W]`` in [0, 1]. A posterior's mode unless `sample`."""
        raise NotImplementedError

    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> torch.Tensor:
        """Decode to float32 ``[B, 3, H, W]``; the core clamps to [0, 1]. Steps and guidance are `params`."""
        raise NotImplementedError

    def prefix(self, tokens: Tokens, budget: int) -> Tokens:
        """The first `budget` tokens (per `capabilities.budget_per` squared pixels where tokens scale with the area).

        The default cuts a single ordered index stream; models with another nesting override it."""
        (stream,) = tokens.streams
        data = tokens.data[stream.name][:, :budget]
        cut = replace(stream, shape=(int(data.shape[1]),), layout="seq1d")
        return replace(tokens, streams=(cut,), data={stream.name: data}, lengths=None)

    def codebook(self) -> np.ndarray | None:
        """The codebook as float ``[K, dims]``, where there is one."""
        return None

    def features(self, images: torch.Tensor, tap: str) -> torch.Tensor | None:
        """The encoder's features at a tap, fp32 ``[B, N, D]``; None where the model has no such tap.

        tap: `hidden` (what the encoder's last normalisation gives), `pre_quant` (what is quantised; a posterior's mode), `aligned`
        (``[B, 1, D]``: of the whole image, in the space of `text_features`). images: as `encode` takes them."""
        return None

    def text_features(self, texts: Sequence[str]) -> torch.Tensor | None:
        """Texts in the space of the tap `aligned`, fp32 ``[B, D]``; None where the model does not align with text."""
        return None


@dataclass
class Generated:
    """What a generator makes of B conditions: images float32 ``[B, 3, H, W]`` in [0, 1], and their tokens where it made any."""

    images: torch.Tensor
    tokens: Tokens | None = None


class Generator(Model):
    """A model that makes images from conditions. Adapters subclass it.

    What a user chooses about sampling (steps, guidance, temperature, the decoder) are its `params`. steps: how many times the network is run for
    an image, where that means anything. capabilities: `resolution` with ``any_resolution=False`` says the size of its images; `classes` how many
    labels it knows; `prefix` that `budget` makes images from fewer tokens; `gives_tokens` that it returns them; ``stochastic=False`` that no seed moves its images;
    ``per_image_noise=False`` that it cannot seed images of one batch apart, and is called with one condition at a time.
    """

    capabilities: Capabilities = Capabilities(stochastic=True)
    steps: int | None = None

    def expect(self, conditions: Sequence[Condition], *, whole: bool) -> None:
        """Told all the conditions of a run before the first is asked for. whole: they are all of the suite's, not a subset. Raises `UsageError` when it
        cannot serve them at all."""

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor | Generated:
        """One image per condition, float32 ``[B, 3, H, W]``; the core clamps to [0, 1]. Whatever is drawn for an image comes from its own seed alone.

        Raises `BadSample` for a condition that it cannot use (a label out of range, no image in a folder)."""
        raise NotImplementedError
