"""DINOv2's class token (Oquab et al. 2023, arXiv 2304.07193), for FD-DINOv2 and feature similarity.

Weights: the repository's own `*_pretrain.pth`, checked by layout; the repository publishes no digest, so the file's own stands in the record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import UsageError
from vtbench.extractors.precision import exact
from vtbench.extractors.vision_transformer import VisionTransformer, pillow_resized

if TYPE_CHECKING:
    import torch

# Heads of attention and the file's address, by name; widths and depths are read off the weights.
MODELS = {"vits14": 6, "vitb14": 12, "vitl14": 16}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224


def _url(model: str) -> str:
    return f"https://dl.fbaipublicfiles.com/dinov2/dinov2_{model}/dinov2_{model}_pretrain.pth"


class DINOv2:
    """The class token of images: head `cls`, float32 ``[B, D]`` (D = 1024 for vitl14). args: model (`vitl14`, `vitb14`, `vits14`)."""

    name = "dinov2"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.model = args.get("model", "vitl14")
        if self.model not in MODELS:
            raise UsageError(f"no DINOv2 model '{self.model}'", f"Known: {', '.join(MODELS)}")
        self._network: VisionTransformer | None = None
        self._device = "cpu"

    def _file(self) -> Path:
        name = f"dinov2_{self.model}_pretrain.pth"
        return weights.find(
            [f"dinov2/{name}"],
            what=f"DINOv2 {self.model}",
            way_out=f"Put {_url(self.model)} (Apache-2.0) in a folder of VTBENCH_WEIGHTS",
        )

    def identity(self) -> Mapping[str, str]:
        """The file's digest."""
        return {"weights": weights.digest(self._file())}

    def open(self, device: str) -> None:
        """Load the network."""
        self.use(weights.load_state(self._file()), device)

    def use(self, state: Mapping[str, torch.Tensor], device: str = "cpu") -> None:
        """Take this state dict, whatever it is."""
        self._network = VisionTransformer(state, MODELS[self.model]).to(device)
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Four bytes a feature of the large model."""
        return 4 * 1024

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Class tokens of a batch."""
        import torch

        assert self._network is not None, "open() comes first"
        with exact(self._device):
            x = pillow_resized(batch.images, SIDE).to(self._device)
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in (MEAN, STD))
            found = self._network((x - mean) / std)
        return {"cls": Rows(found.float().cpu().numpy())}
