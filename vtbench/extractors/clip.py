"""CLIP's image embedding (Radford et al. 2021, arXiv 2103.00020), for CMMD and feature similarity.

The network is transformers' `CLIPVisionModelWithProjection` with the weights of a hub repository that lies in the cache or in a
folder of VTBENCH_WEIGHTS; the file's digest stands in the record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadWeights, UsageError
from vtbench.extractors.installed import require
from vtbench.extractors.precision import exact

if TYPE_CHECKING:
    import torch

MODELS = {
    "vit-l14-336": ("openai/clip-vit-large-patch14-336", 336),
    "vit-l14": ("openai/clip-vit-large-patch14", 224),
    "vit-b32": ("openai/clip-vit-base-patch32", 224),
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def checked(model: str) -> str:
    """A name of `MODELS`. Raises `UsageError` for any other."""
    if model not in MODELS:
        raise UsageError(f"no CLIP model '{model}'", f"Known: {', '.join(MODELS)}")
    return model


def identity_of(model: str) -> dict[str, str]:
    """The digest of a model's file; raises `MissingPackage` without transformers."""
    require("transformers", "transformers>=4.44", "clip", "CLIP")
    return {"weights": weights.digest(_file(model))}


def found(model: str) -> tuple[Path, dict[str, Any]]:
    """A model's weights file and the configuration that lies beside it. Raises `MissingWeights`, `BadWeights`."""
    path = _file(model)
    config = path.parent / "config.json"
    if not config.is_file():
        raise BadWeights(f"{config} is missing", "Keep the repository's config.json beside its weights")
    return path, json.loads(config.read_text("utf-8"))


def _file(model: str) -> Path:
    repository, _ = MODELS[model]
    return weights.find(
        [f"{repository}/{file}" for file in ("model.safetensors", "pytorch_model.bin")],
        what=f"CLIP {model}",
        way_out=f"Fetch it: hf download {repository} (MIT), or put its folder in one of VTBENCH_WEIGHTS",
    )


def _vision(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The image tower of a whole CLIP; `position_ids` is a constant that older files carry."""
    return {
        k: v.float()
        for k, v in state.items()
        if k.startswith(("vision_model.", "visual_projection.")) and not k.endswith("position_ids")
    }


class CLIP:
    """Image embeddings: head `embedding`, float32 ``[B, D]``, not normalised.

    args: model (`vit-l14-336`, `vit-l14`, `vit-b32`). Images are resized to the network's square by bicubic interpolation without antialias, as
    the PyTorch port of CMMD does it (https://github.com/sayakpaul/cmmd-pytorch).
    """

    name = "clip"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.model = checked(args.get("model", "vit-l14-336"))
        self._network: Any = None
        self._device = "cpu"

    def identity(self) -> Mapping[str, str]:
        """The file's digest; raises `MissingPackage` without transformers."""
        return identity_of(self.model)

    def open(self, device: str) -> None:
        """Load the network with the configuration that lies beside the weights."""
        path, config = found(self.model)
        self.use(weights.load_state(path), config.get("vision_config", {}), device)

    def use(self, state: Mapping[str, torch.Tensor], vision_config: Mapping[str, Any], device: str = "cpu") -> None:
        """Take this state dict and this `vision_config`."""
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        own = {k: v for k, v in vision_config.items() if k in CLIPVisionConfig().to_dict()}
        network = CLIPVisionModelWithProjection(CLIPVisionConfig(**own)).eval().requires_grad_(False)
        weights.load_strict(network, _vision(state), drop=["*position_ids"], where=f"CLIP {self.model}")
        self._network, self._device = network.to(device), device
        self._side = int(network.config.image_size)

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Four bytes a feature of the large models."""
        return 4 * 768

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Embeddings of a batch."""
        import torch
        from torch.nn import functional as F

        assert self._network is not None, "open() comes first"
        with exact(self._device):
            x = F.interpolate(
                batch.images.to(self._device), (self._side, self._side), mode="bicubic", align_corners=False
            )
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (MEAN, STD))
            embeddings = self._network(pixel_values=(x.clamp(0, 1) - mean) / std).image_embeds
        return {"embedding": Rows(embeddings.float().cpu().numpy())}
