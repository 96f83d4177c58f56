"""TokenFlow (ByteVisionLab/TokenFlow): one index a position reads a semantic and a pixel codebook, residual over scales.

Checkpoints are ``tokenflow_clipb_32k_enhanced.pt`` (CLIP-B teacher, 256 or 224 pixels) and ``tokenflow_siglip_32k.pt`` (SigLIP teacher, 384 pixels); which it is, and its sizes, are read off its keys. Images in [-1, 1];
deterministic. The first scales alone decode to a coarser image. Only the pixel half is decoded here.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIGLIP: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
}


def _clip(state: dict[str, Any]) -> Any:
    """The authors' CLIP encoder with the checkpoint's sizes; theirs would fetch OpenAI's weights first, only to overwrite them."""
    made = importlib.import_module("tokenizer.clip.model").VisionTransformer
    width, _, patch, _ = driving.shape_of(state, "conv1.weight")
    side = round((driving.shape_of(state, "positional_embedding")[0] - 1) ** 0.5)
    layers = driving.count(state, r"transformer\.resblocks\.(\d+)\.")
    visual = made(side * patch, patch, width, layers, width // 64, width)
    del visual.proj
    return visual


def _siglip(state: dict[str, Any]) -> Any:
    """transformers' SigLIP encoder with the checkpoint's depth, for the same reason."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    layers = driving.count(state, r"vision_model\.encoder\.layers\.(\d+)\.") or SIGLIP["num_hidden_layers"]
    return SiglipVisionModel(
        SiglipVisionConfig(**{**SIGLIP, "num_hidden_layers": layers, "image_size": 384, "patch_size": 14})
    )


def _net(package: Any, teacher: str, visual: Any, codes: int, dims: tuple[int, int], enhanced: bool, wide: bool) -> Any:
    """The authors' class around a teacher's encoder."""
    if teacher == "clipb_224":
        package.clip.load_clip_vision = lambda *given, **options: visual
    else:
        package.SiglipVisionModel.from_pretrained = lambda *given, **options: visual
    return package.VQ_models["TokenFlow"](
        codebook_size=codes,
        semantic_code_dim=dims[0],
        codebook_embed_dim=dims[1],
        teacher=teacher,
        enhanced_decoder=enhanced,
        infer_interpolate=wide,
    )


def _package() -> Any:
    import packaging
    import packaging.version

    driving.stand_in("pkg_resources", packaging=packaging)
    return importlib.import_module("tokenizer.vq_model")


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    variant: str = "clipb_32k_enhanced",
    resolution: int = 0,
) -> Any:
    """The published checkpoint in the authors' class.

    variant: which, as in its name. resolution: of the CLIP-B model, 256 (their default, 9 scales) or 224 (8 scales); 0: the default."""
    package = _package()
    state = driving.state_of(weights["weights"])
    codes, semantic = driving.shape_of(state, "quantize.embedding_vqkd.weight")
    pixel = driving.shape_of(state, "quantize.embedding_vqgan.weight")[1]
    inner = driving.part(state, "encoder_vqkd.")
    clip = "conv1.weight" in inner
    if variant.startswith("clipb") != clip:
        raise ValueError(f"the checkpoint has the {'CLIP-B' if clip else 'SigLIP'} teacher, not that of {variant}")
    allowed = (256, 224) if clip else (384,)
    if resolution and resolution not in allowed:
        raise ValueError(f"resolution is one of {', '.join(map(str, allowed))} for this checkpoint, not {resolution}")
    resolution = resolution or allowed[0]
    net = _net(
        package,
        "clipb_224" if clip else "siglip_384",
        _clip(inner) if clip else _siglip(inner),
        codes,
        (semantic, pixel),
        driving.shape_of(state, "decoder.conv_in.weight")[0] == 1024,
        resolution == 256,
    )
    driving.fill(net, state)
    return TokenFlow(driving.ready(net, device, dtype), codes, resolution)


class TokenFlow:
    """The loaded model at one resolution."""

    def __init__(self, net: Any, codes: int, resolution: int) -> None:
        self.net, self.codes, self.resolution = net, codes, resolution
        self.sides = list(net.scale_rq_layers)

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream(
            "tokens",
            "index",
            "multiscale",
            [self.codes] * 2,
            self.sides,
            ordered=True,
            residual=True,
            shared_index=True,
        )
        budgets = list(itertools.accumulate(side * side for side in self.sides))
        net = self.net
        halves = driving.sizes(
            encoder=[net.encoder, net.encoder_vqkd, net.encode_task_layer], decoder=[net.post_quant_conv, net.decoder]
        )
        return {
            "streams": [tokens],
            "resolution": self.resolution,
            "prefix": True,
            "max_tokens": budgets[-1],
            "budgets": budgets,
            "parameters": halves,
        }

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N], the scales one after another."""
        found = self.net.encode(driving.signed(images, self.net))[2]
        return {"tokens": driving.ids(found, found.shape)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Indices of all scales, or of the first ones -> images."""
        net = self.net
        seen: list[Any] = []
        kept = net.decode  # `decode_code` sums the scales and hands them on: take the sum, and decode its pixel half
        try:
            net.decode = seen.append
            net.decode_code(driving.tensor(arrays["tokens"], net))
        finally:
            net.decode = kept
        image = net.decoder(net.post_quant_conv(seen[0][:, net.semantic_code_dim :]))
        if image.shape[-1] != self.resolution:
            import torch

            image = torch.nn.functional.interpolate(image, size=(self.resolution,) * 2, mode="bicubic")
        return driving.pixels(image)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: one CLIP layer, 64 codes, the plain decoder (the authors fix the widths)."""
    import torch

    torch.manual_seed(seed)
    package = _package()
    visual = importlib.import_module("tokenizer.clip.model").VisionTransformer(224, 16, 768, 1, 12, 768)
    del visual.proj
    net = _net(package, "clipb_224", visual, 64, (32, 8), False, True)
    return {"weights": {"weights": driving.save(net, f"{folder}/tokenflow_clipb.pt", "ema")}, "params": {}}
