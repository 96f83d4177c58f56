"""The colour of a thing as GenEval names it: OpenAI's CLIP ViT-L/14 (Radford et al. 2021), zero-shot among ten colours.

The network is open_clip's, in float32 (the original runs under autocast: float16 on a GPU, which can turn a near tie). Weights in either of the two
formats that the hub has them in: open_clip's own, or transformers', renamed here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench import weights
from vtbench.extractors.installed import require
from vtbench.extractors.precision import exact
from vtbench.geneval.prompts import COLOURS

if TYPE_CHECKING:
    import torch

ARCHITECTURE, SIDE = "ViT-L-14", 224
FILES = (
    "timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
    "timm/vit_large_patch14_clip_224.openai/open_clip_pytorch_model.bin",
    "openai/clip-vit-large-patch14/model.safetensors",
    "openai/clip-vit-large-patch14/pytorch_model.bin",
)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
TEMPLATES = ("a photo of a {colour} {name}", "a photo of a {colour}-colored {name}", "a photo of a {colour} object")
TOGETHER = 16

NAMES = (
    (r"^vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
    (r"^vision_model\.embeddings\.patch_embedding", "visual.conv1"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
    (r"^vision_model\.pre_layrnorm", "visual.ln_pre"),
    (r"^vision_model\.post_layernorm", "visual.ln_post"),
    (r"^vision_model\.encoder\.layers", "visual.transformer.resblocks"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^text_model\.embeddings\.token_embedding", "token_embedding"),
    (r"^text_model\.encoder\.layers", "transformer.resblocks"),
    (r"^text_model\.final_layer_norm", "ln_final"),
    (r"\.self_attn\.out_proj", ".attn.out_proj"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1", ".mlp.c_fc"),
    (r"\.mlp\.fc2", ".mlp.c_proj"),
)


def open_clip_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A CLIP in transformers' names under open_clip's; one that has those already stays as it is."""
    import torch

    if "visual.proj" in state:
        return dict(state)
    turned = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name in turned:
            out[turned[name]] = tensor.T.contiguous()
            continue
        parts = re.match(r"(.*)\.self_attn\.q_proj\.(weight|bias)$", name)
        if parts:
            tensor = torch.cat([state[f"{parts[1]}.self_attn.{p}_proj.{parts[2]}"] for p in "qkv"])
            name = f"{parts[1]}.attn.in_proj_{parts[2]}"
        elif re.search(r"\.self_attn\.[kv]_proj\.", name):
            continue
        for old, new in NAMES:
            name = re.sub(old, new, name)
        out[name] = tensor
    return out


def prepared(crop: np.ndarray, side: int = SIDE) -> np.ndarray:
    """A crop (uint8 RGB ``[h, w, 3]``) as CLIP's own preprocessing makes it: short side to `side` by Pillow's bicubic, centre crop, normalised; float32
    ``[3, side, side]``."""
    from PIL import Image

    height, width = crop.shape[:2]
    short = min(height, width)
    size = (int(side * width / short), int(side * height / short))
    image = Image.fromarray(crop).resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / np.float32(255)
    return np.ascontiguousarray(((pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1))


class CLIPColours:
    """GenEval's colours: 100 times the cosine between a crop and each colour's mean text."""

    def __init__(self) -> None:
        self._network: Any = None
        self._tokenise: Any = None
        self._device, self._side = "cpu", SIDE
        self._texts: dict[str, Any] = {}

    def _file(self) -> Path:
        way_out = "Fetch it: hf download timm/vit_large_patch14_clip_224.openai open_clip_model.safetensors (MIT)"
        return weights.find(FILES, what="CLIP ViT-L/14 by OpenAI", way_out=way_out)

    def identity(self) -> Mapping[str, str]:
        """The file's digest."""
        require("open_clip", "open-clip-torch", "clip", "naming colours")
        return {"weights": weights.digest(self._file())}

    def open(self, device: str) -> None:
        """Load the network; every tensor must fit."""
        import open_clip

        path = self._file()
        network = open_clip.create_model(ARCHITECTURE, pretrained=None, load_weights=False, force_quick_gelu=True)
        state = {k: v.float() for k, v in open_clip_names(weights.load_state(path)).items()}
        weights.load_strict(network, state, drop=["*position_ids"], where=str(path))
        self.use(network, open_clip.get_tokenizer(ARCHITECTURE), device)

    def use(self, network: Any, tokenise: Any, device: str = "cpu", side: int = SIDE) -> None:
        """Name colours with this open_clip network and tokenizer."""
        self._network = network.eval().requires_grad_(False).to(device)
        self._tokenise, self._device, self._side = tokenise, device, side
        self._texts = {}

    def texts(self, name: str) -> Any:
        """The ten colours' embeddings for a class, ``[D, 10]``: of each template normalised, their mean, normalised again."""
        if name not in self._texts:
            texts = [t.format(colour=colour, name=name) for colour in COLOURS for t in TEMPLATES]
            with exact(self._device):
                found = self._network.encode_text(self._tokenise(texts).to(self._device))
                found = found / found.norm(dim=-1, keepdim=True)
                mean = found.view(len(COLOURS), len(TEMPLATES), -1).mean(1)
                self._texts[name] = (mean / mean.norm(dim=-1, keepdim=True)).T
        return self._texts[name]

    def colours(self, crops: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
        """100 times the cosines, float32 ``[N, 10]``."""
        import torch

        out = np.zeros((len(crops), len(COLOURS)), np.float32)
        for start in range(0, len(crops), TOGETHER):
            part = slice(start, start + TOGETHER)
            inputs = torch.from_numpy(np.stack([prepared(c, self._side) for c in crops[part]])).to(self._device)
            with exact(self._device):
                seen = self._network.encode_image(inputs)
                seen = seen / seen.norm(dim=-1, keepdim=True)
                rows = [100 * row @ self.texts(name) for row, name in zip(seen, names[part])]
                out[part] = torch.stack(rows).float().cpu().numpy()
        return out
