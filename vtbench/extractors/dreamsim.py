"""DreamSim's embedding (Fu et al. 2023, arXiv 2306.09344): class tokens of vision transformers tuned on human judgements of similarity.

Weights: the folder that the `dreamsim` package unzips (its `cache_dir`, called `dreamsim/` here): one file a trunk, and a `..._lora` folder
with the tuning, which is added to the trunk's weights on loading. The project publishes no digest, so the files' own stand in the record.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from vtbench import weights
from vtbench.api import Batch, Rows
from vtbench.errors import BadWeights, UsageError
from vtbench.extractors.precision import exact, pieces
from vtbench.extractors.vision_transformer import VisionTransformer, pillow_resized

if TYPE_CHECKING:
    import torch

SIDE = 224
HEADS = 12
RELEASES = "https://github.com/ssundaram21/dreamsim/releases/download"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Trunk(NamedTuple):
    """A trunk's files (the first that is there), how its inputs are normalised and how its network differs from DINO's."""

    files: tuple[str, ...]
    normalise: tuple[tuple[float, ...], tuple[float, ...]] = IMAGENET
    clip: bool = False
    quick: bool = False
    scaled: bool = False


def _clip(name: str, quick: bool) -> Trunk:
    return Trunk((f"dreamsim/{name}_pretrain.pth.tar",), OPENAI, clip=True, quick=quick)


TRUNKS = {
    "dino_vitb16": Trunk(("dreamsim/checkpoints/dino_vitbase16_pretrain.pth", "dreamsim/dino_vitbase16_pretrain.pth")),
    "dinov2_vitb14": Trunk(
        ("dreamsim/dinov2_vitb14_pretrain.pth", "dreamsim/checkpoints/dinov2_vitb14_pretrain.pth"), scaled=True
    ),
    "synclr_vitb16": Trunk(("dreamsim/synclr_vit_b_16.pth",)),
    **{name: _clip(name, quick=True) for name in ("clip_vitb16", "clip_vitb32")},
    **{name: _clip(name, quick=False) for name in ("open_clip_vitb16", "open_clip_vitb32")},
}
SINGLE = ("dino_vitb16", "dinov2_vitb14", "synclr_vitb16", "clip_vitb32", "open_clip_vitb32")
# DreamSim's name -> (its trunks, the folder of its tuning).
MODELS = {
    "ensemble": (("dino_vitb16", "clip_vitb16", "open_clip_vitb16"), "ensemble_lora"),
    **{name: ((name,), f"{name}_single_lora") for name in SINGLE},
}
# Of a tensor of the tuning: the trunk's number, the layer, and which factor.
_FACTOR = re.compile(r"extractor_list\.(\d+)\.model\.(.+)\.lora_([AB])(?:\.default)?\.weight$")


def way_out(model: str) -> str:
    """Where the files are to be had."""
    version = "v0.2.1" if model in ("dinov2_vitb14", "synclr_vitb16") else "v0.2.0"
    zipped = f"{RELEASES}/{version}-checkpoints/dreamsim_{model}_checkpoint.zip"
    dino = " and https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth"
    needs_dino = dino if "dino_vitb16" in MODELS[model][0] else ""
    return f"Unzip {zipped}{needs_dino} into the folder dreamsim/ of a folder of VTBENCH_WEIGHTS (MIT; the trunks have licences of their own)"


def tuned(states: Sequence[dict[str, torch.Tensor]], tuning: Mapping[str, torch.Tensor], scale: float) -> None:
    """Add the low-rank tuning to the trunks' weights in place: W + scale B A. Raises `BadWeights` for a tensor that fits no layer."""
    factors: dict[tuple[int, str], dict[str, torch.Tensor]] = {}
    for name, value in tuning.items():
        match = _FACTOR.search(name)
        if match is None:
            raise BadWeights(f"DreamSim's tuning holds '{name}', which is no low-rank factor of a trunk")
        factors.setdefault((int(match[1]), match[2]), {})[match[3]] = value.float()
    for (trunk, layer), pair in factors.items():
        name = f"{layer}.weight"
        if trunk >= len(states) or name not in states[trunk] or set(pair) != {"A", "B"}:
            raise BadWeights(f"DreamSim's tuning of {layer} (trunk {trunk}) does not fit the trunks")
        states[trunk][name] = states[trunk][name].float() + scale * (pair["B"] @ pair["A"])


class DreamSim:
    """The embedding whose cosine distance is DreamSim: head `embedding`, float32 ``[B, D]``, centred and of length 1.

    args: model (`ensemble`, as the package's default and the paper have it, D = 1792; or one of its single models); resize (`pillow`: to
    224 x 224 as the package prepares images; `none`: fed as they are, cut to whole patches, which scripts that skip the preparation do)."""

    name = "dreamsim"
    version = 1
    takes: Literal["images"] = "images"

    def __init__(self, args: Mapping[str, Any]) -> None:
        self.model = args.get("model", "ensemble")
        if self.model not in MODELS:
            raise UsageError(f"no DreamSim model '{self.model}'", f"Known: {', '.join(MODELS)}")
        self.resize = args.get("resize", "pillow")
        if self.resize not in ("pillow", "none"):
            raise UsageError(f"DreamSim has no resize '{self.resize}'", "Known: pillow, none")
        self._networks: list[tuple[Trunk, VisionTransformer, Any]] = []
        self._device = "cpu"

    def _files(self) -> tuple[list[Path], Path, Path]:
        """The trunks' files, the tuning and its configuration."""
        trunks, folder = MODELS[self.model]
        told = {"what": f"DreamSim ({self.model})", "way_out": way_out(self.model)}
        found = [weights.find(TRUNKS[t].files, **told) for t in trunks]
        names = [f"dreamsim/{folder}/adapter_model.{end}" for end in ("safetensors", "bin")]
        return found, weights.find(names, **told), weights.find(f"dreamsim/{folder}/adapter_config.json", **told)

    def identity(self) -> Mapping[str, str]:
        """One digest of all files."""
        trunks, tuning, configuration = self._files()
        return {"weights": weights.joint_digest([*trunks, tuning, configuration])}

    def open(self, device: str) -> None:
        """Load the trunks, tuned."""
        files, tuning, configuration = self._files()
        states = []
        for file in files:
            state = weights.load_state(file)
            states.append({k.removeprefix("module.").removeprefix("visual."): v for k, v in state.items()})
        try:
            told = json.loads(configuration.read_text("utf-8"))
            scale = float(told["lora_alpha"]) / int(told["r"])
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise BadWeights(f"{configuration} does not say lora_alpha and r", way_out(self.model)) from error
        if told.get("use_rslora") or told.get("use_dora"):
            raise BadWeights(f"{configuration}: a kind of tuning that DreamSim was not published with")
        tuned(states, weights.load_state(tuning), scale)
        self._networks = []
        for name, state in zip(MODELS[self.model][0], states):
            trunk = TRUNKS[name]
            projection = state.pop("proj").float().to(device) if trunk.clip and "proj" in state else None
            if trunk.clip and projection is None:
                raise BadWeights(f"the file is not DreamSim's {name}: it lacks proj", way_out(self.model))
            network = VisionTransformer(
                state, HEADS, what=f"DreamSim's {name}", eps=1e-5 if trunk.clip else 1e-6, quick=trunk.quick,
                scaled=trunk.scaled, early=trunk.clip,
            )  # fmt: skip
            self._networks.append((trunk, network.to(device), projection))
        self._device = device

    def bytes_per_sample(self, heads: Sequence[str]) -> int:
        """Four bytes a feature of the ensemble."""
        return 4 * 1792

    def _embedding(self, images: torch.Tensor) -> torch.Tensor:
        import torch

        parts = []
        for trunk, network, projection in self._networks:
            mean, std = (torch.tensor(v, device=self._device).view(1, 3, 1, 1) for v in trunk.normalise)
            ready = (images - mean) / std
            parts.append(network.last_block(ready) if projection is None else network(ready) @ projection)
        found = torch.cat(parts, 1)
        found = found - found.mean(1, keepdim=True)
        return found / found.norm(dim=1, keepdim=True)

    def __call__(self, batch: Batch, heads: Sequence[str]) -> Mapping[str, Rows]:
        """Embeddings of a batch."""
        import torch

        assert self._networks, "open() comes first"
        with exact(self._device):
            ready = batch.images if self.resize == "none" else pillow_resized(batch.images, SIDE)
            ready = ready.to(self._device)
            found = torch.cat([self._embedding(x) for x in pieces(ready)])
        return {"embedding": Rows(found.float().cpu().numpy().astype(np.float32))}
