"""Image generation pipelines of the diffusers library, from a folder or the hub's cache: ``vtbench generate --model diffusers:PATH_OR_ID``.

Text to image (Stable Diffusion and its kin) from the samples' prompts, and class-conditional (DiT) from their labels. Noise comes from each image's own seed,
drawn on the CPU, so a batch is no more than its images.
"""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Generator
from vtbench.errors import BadWeights, MissingPackage, UsageError
from vtbench.zoo.diffusers import loading, root_of
from vtbench.zoo.guidance import scale

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

INDEX = "model_index.json"
LEFT_OUT = ("safety_checker",)
"""Parts that a measurement leaves out: a checker blacks images out, and the metric would measure it."""


def locate(at: str) -> Path:
    """The folder with the pipeline's index: a local folder, one on the weights path, or a hub repository's cached snapshot. Raises `MissingWeights`, `BadWeights`."""
    root = root_of(at, "`hf download` gets it")
    if not (root / INDEX).is_file():
        raise BadWeights(
            f"{root} has no {INDEX}: it is no pipeline of diffusers",
            "An autoencoder alone is a tokenizer: vtbench reconstruct takes it",
        )
    return root


def parts(root: Path) -> dict[str, Any]:
    """The pipeline's index: its class under `_class_name`, and its parts. Raises `BadWeights` for a damaged one and for a part that is not there."""
    try:
        index = json.loads((root / INDEX).read_text("utf-8"))
        named = {k: v for k, v in index.items() if isinstance(v, list) and len(v) == 2 and v[0] is not None}
        kind = index["_class_name"]
    except (ValueError, AttributeError, KeyError, UnicodeDecodeError) as error:
        raise BadWeights(f"{root / INDEX} is damaged: {error}", "Fetch the repository again") from error
    if not isinstance(kind, str):
        raise BadWeights(f"{root} brings a pipeline class of its own ({kind}), which would run its code")
    for name in named:
        if name not in LEFT_OUT and not (root / name).is_dir():
            raise BadWeights(f"{root} lacks its part {name}/", "Fetch the whole repository")
    return {"_class_name": kind, **named}


def _load(root: Path, index: Mapping[str, Any], variant: str | None) -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingPackage("diffusers", "zoo", "a pipeline of diffusers") from error
    if importlib.util.find_spec("transformers") is None:
        raise MissingPackage("transformers", "zoo", "a pipeline of diffusers")
    name = index["_class_name"]
    cls = getattr(diffusers, name, None)
    if cls is None:
        raise UsageError(f"diffusers {diffusers.__version__} has no {name}", "pip install --upgrade diffusers")
    import transformers

    loggers = diffusers.utils.logging, transformers.utils.logging
    for log in loggers:
        log.disable_progress_bar()
    left = {part: None for part in LEFT_OUT if part in index}
    if left:
        left["requires_safety_checker"] = False  # type: ignore[assignment]
    with loading(root, name, *loggers):
        pipe = cls.from_pretrained(root, local_files_only=True, variant=variant, torch_dtype=torch.float32, **left)
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def _digest(root: Path, index: Mapping[str, Any]) -> str:
    kept = [root / INDEX]
    for part in sorted(k for k in index if not k.startswith("_") and k not in LEFT_OUT):
        kept += sorted(
            p for p in (root / part).rglob("*") if p.suffix in (".json", ".safetensors", ".bin", ".txt", ".model")
        )
    return files.joint_digest(kept)


class Pipeline(Generator):
    """A pipeline with its own scheduler.

    steps: of the scheduler (the pipeline's default when None). guidance: `best` is the pipeline's default, `none` switches it off, or a scale. size: side of the images in
    pixels (the pipeline's own when None). variant: of the weights files (``fp16``)."""

    def __init__(
        self,
        *,
        at: str = "",
        weights: Path | None = None,
        card: Card | None = None,
        steps: int | None = None,
        guidance: str = "best",
        size: int | None = None,
        variant: str | None = None,
    ) -> None:
        where = str(weights) if weights is not None else at or (card.hub if card is not None else "")
        if not where:
            raise UsageError("diffusers needs a folder or a hub id", "--model diffusers:PATH_OR_ID")
        root = locate(where)
        index = parts(root)
        self.pipe = _load(root, index, variant)
        call = inspect.signature(self.pipe.__call__).parameters
        self._labels = "class_labels" in call
        if not self._labels and "prompt" not in call:
            raise UsageError(
                f"{index['_class_name']} takes neither prompts nor class labels",
                "Text-to-image and class-conditional pipelines are known",
            )
        if "image" in call and call["image"].default is inspect.Parameter.empty:
            raise UsageError(f"{index['_class_name']} needs an image to start from")
        self.revision = _digest(root, index)
        default = call["num_inference_steps"].default if "num_inference_steps" in call else None
        self.steps = steps if steps is not None else default
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"diffusers: steps is at least 1, not {self.steps}")
        if "guidance_scale" in call:
            self._scale, said = scale(guidance, best=float(call["guidance_scale"].default), none=1.0, model="diffusers")
        elif guidance not in ("best", "none"):
            raise UsageError(f"{index['_class_name']} has no guidance", "Leave guidance away")
        else:
            self._scale, said = float("nan"), "none"
        self.side = size or self._own_side()
        self._sized = "height" in call
        if size is not None and not self._sized and size != self._own_side():
            raise UsageError(f"{index['_class_name']} makes images of {self._own_side()} pixels only")
        self.params = {
            **({"at": at} if at else {}),
            **({"steps": self.steps} if self.steps is not None else {}),
            "guidance": said,
            "size": self.side,
        }
        self.capabilities = Capabilities(
            any_resolution=False,
            resolution=self.side,
            stochastic=True,
            needs_caption=not self._labels,
            classes=self._classes() if self._labels else None,
        )

    @property
    def _network(self) -> Any:
        for name in ("unet", "transformer", "prior"):
            if getattr(self.pipe, name, None) is not None:
                return getattr(self.pipe, name)
        raise UsageError(f"{type(self.pipe).__name__} has neither a unet nor a transformer")

    def _own_side(self) -> int:
        own: Any = getattr(self._network.config, "sample_size", None) or getattr(self.pipe, "default_sample_size", 64)
        own = own[0] if isinstance(own, (list, tuple)) else own
        vae = getattr(self.pipe, "vae", None)
        factor = getattr(self.pipe, "vae_scale_factor", None)
        if factor is None:
            widths = getattr(getattr(vae, "config", None), "block_out_channels", (0,))
            factor = 2 ** (len(widths) - 1)
        return int(own) * int(factor)

    def _classes(self) -> int | None:
        known = getattr(self._network.config, "num_embeds_ada_norm", None)
        return int(known) if known else None

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor:
        """One image a prompt or label, float32 ``[B, 3, H, W]``, not quantised."""
        how: dict[str, Any] = {"generator": [torch.Generator().manual_seed(seed) for seed in seeds]}
        if self._labels:
            how["class_labels"] = [c.label for c in conditions]
        else:
            how["prompt"] = [c.caption for c in conditions]
        if self.steps is not None:
            how["num_inference_steps"] = self.steps
        if self._scale == self._scale:
            how["guidance_scale"] = self._scale
        if self._sized:
            how |= {"height": self.side, "width": self.side}
        made = self.pipe(**how, output_type="np").images
        return torch.as_tensor(made).permute(0, 3, 1, 2).float()

    def modules(self) -> Mapping[str, Any]:
        """The denoiser, and the decoder behind it."""
        vae = getattr(self.pipe, "vae", None)
        decoder = getattr(vae, "decoder", vae)
        return {"generator": self._network, **({"decoder": decoder} if decoder is not None else {})}

    def to(self, device: str, dtype: str = "float32") -> Pipeline:
        """Move the pipeline."""
        from diffusers.utils import logging

        before = logging.get_verbosity()
        logging.set_verbosity_error()
        self.pipe.to(device, getattr(torch, dtype))
        logging.set_verbosity(before)
        return self
