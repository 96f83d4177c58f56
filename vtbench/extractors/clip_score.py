"""How well an image fits its prompt, by CLIP (Radford et al. 2021): the cosine of the two embeddings.

The network is transformers' `CLIPModel` with the weights and the tokenizer of a hub repository that lies in the cache or in a folder of VTBENCH_WEIGHTS. Images are prepared as its own
processor does it: the short side to the network's size by Pillow's bicubic, the centre, 8-bit pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadSample, BadWeights
from vtbench.extractors.clip import MEAN, STD, checked, found, identity_of
from vtbench.extractors.precision import exact

if TYPE_CHECKING:
    import torch


class CLIPScore:
    """Head `cosine`: float32 ``[B]``, of an image and its sample's caption (cut at the network's longest text).

    args: model (a name of `vtbench.extractors.clip.MODELS`)."""

    name = "clip_score"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.model = checked(args.get("model", "vit-l14"))
        self._network: Any = None
        self._tokenizer: Any = None
        self._device = "cpu"

    def identity(self) -> Mapping[str, str]:
        """The file's digest; raises `MissingPackage` without transformers."""
        return identity_of(self.model)

    def open(self, device: str) -> None:
        """Load the network with the configuration and the tokenizer that lie beside the weights."""
        from transformers import AutoTokenizer

        path, config = found(self.model)
        try:
            tokenizer = AutoTokenizer.from_pretrained(path.parent, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise BadWeights(
                f"{path.parent} has no tokenizer of CLIP ({reason})", "Fetch the whole repository"
            ) from error
        self.use(weights.load_state(path), config, tokenizer, device)

    def use(
        self, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], tokenizer: Any, device: str = "cpu"
    ) -> None:
        """Take this state dict, configuration and tokenizer."""
        from transformers import CLIPConfig, CLIPModel

        known = {k: v for k, v in config.items() if k in ("text_config", "vision_config", "projection_dim")}
        network = CLIPModel(CLIPConfig(**known)).eval().requires_grad_(False)
        tensors = {k: v.float() for k, v in state.items() if not k.endswith("position_ids")}
        weights.load_strict(network, tensors, drop=["*position_ids"], where=f"CLIP {self.model}")
        self._network, self._tokenizer, self._device = network.to(device), tokenizer, device
        self._side = int(network.config.vision_config.image_size)
        self._longest = int(network.config.text_config.max_position_embeddings)

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """One number an image."""
        return 4

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Cosines of a batch. `BadSample` for a sample without a caption."""
        import torch

        from vtbench.view import to_bytes

        assert self._network is not None, "open() comes first"
        captions = [s.caption for s in batch.samples]
        for sample in batch.samples:
            if not sample.caption:
                raise BadSample(f"{sample.id} has no prompt to compare its image with")
        text = self._tokenizer(
            captions, padding=True, truncation=True, max_length=self._longest, return_tensors="pt"
        ).to(self._device)
        pixels = torch.from_numpy(np.stack([_prepared(a, self._side) for a in to_bytes(batch.images, "round")]))
        with exact(self._device):
            out = self._network(
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
                pixel_values=pixels.to(self._device),
            )
            cosine = (_unit(out.image_embeds) * _unit(out.text_embeds)).sum(-1)
        return {"cosine": Rows(cosine.float().cpu().numpy())}


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


def _prepared(array: np.ndarray, side: int) -> np.ndarray:
    """float32 ``[3, side, side]`` as the network wants it."""
    from PIL import Image

    image = Image.fromarray(array)
    width, height = image.size
    short = min(width, height)
    size = (side, int(side * height / width)) if width == short else (int(side * width / height), side)
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    out: np.ndarray = (
        ((pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1).astype(np.float32)
    )
    return out
