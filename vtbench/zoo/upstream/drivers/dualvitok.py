"""ILLUME+'s DualViTok (illume-unified-mllm/ILLUME_plus): a coarse grid of semantic codes and a fine one of pixel codes.

The checkpoint is ``pytorch_model.bin`` of ILLUME-MLLM/dualvitok, the frozen Qwen2-VL encoder included; widths are read off it. Images in [-1, 1]; deterministic, with the tokenizer's own VQ decoder (the authors' SDXL decoder is another model).
At 256 pixels 9 x 9 semantic and 16 x 16 pixel codes, at 512 18 x 18 and 32 x 32.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SEMANTIC = {256: 9, 512: 18}
"""The side of the semantic grid by resolution: images are resized to 252 and 504 pixels, 28 pixels a code."""
MULTIPLES = [1, 1, 2, 2, 4]


def _net(source: str, sizes: dict[str, Any]) -> Any:
    """The authors' class with the options of their configuration, without fetching the encoder that the checkpoint brings along."""
    driving.bare("tokenizer", f"{source}/vision_tokenizer/tokenizer")
    importlib.import_module("tokenizer.quantizer")
    package: Any = importlib.import_module("tokenizer.dualvitok_model")
    dotted = importlib.import_module("utils.registry_utils").DotDict.convert
    encoder = package.Qwen2VisionTransformerPretrainedModel
    config = package.Qwen2VLVisionConfig(
        depth=sizes["depth"], embed_dim=sizes["width"], hidden_size=sizes["features"], attn_implementation="sdpa"
    )
    encoder.from_pretrained = lambda *given, **options: encoder(config)
    dims, blocks, inner = sizes["dims"], sizes["blocks"], sizes["inner"]
    attention = {"attn_implementation": "sdpa", "embed_dim": inner, "num_blocks": blocks, "z_channels": dims}
    pixel = {
        "attn_resolutions": [4],
        "ch_mult": MULTIPLES,
        "double_z": False,
        "dropout": 0.0,
        "in_channels": 3,
        "num_res_blocks": 2,
        "out_channels": 3,
        "use_dc_up_down_blocks": True,
        "codebook_size": sizes["pixel"],
    }
    quantiser = {"type": "SimVQ", "dim": dims, "channel_first": True, "rotation_trick": False}
    options = {
        "semantic_encoder": {"semantic_encoder": "", "proj_layer": "linear", "target_mlp": "norm", **attention},
        "semantic_decoder": {"proj_layer": "linear_norm", "output_channels": sizes["features"], **attention},
        "semantic_quantizer": {**quantiser, "codebook_size": sizes["semantic"]},
        "pixel_quantizer": {**quantiser, "codebook_size": sizes["pixel"]},
        "pixel_encoder": {**pixel, "ch": sizes["encoder"], "embed_dim": dims, "z_channels": dims},
        "pixel_decoder": {**pixel, "ch": sizes["decoder"], "embed_dim": 2 * dims, "z_channels": 2 * dims},
    }
    return package.DualViTok(dotted(options))


def load(
    *, source: str, weights: dict[str, str], device: str = "cpu", dtype: str = "float32", resolution: int = 256
) -> Any:
    """The published checkpoint in the authors' class. resolution: 256 or 512 pixels."""
    if resolution not in SEMANTIC:
        raise ValueError(f"resolution is one of {', '.join(map(str, SEMANTIC))}, not {resolution}")
    state = driving.state_of(weights["weights"])
    inner, features = driving.shape_of(state, "semantic_encoder.proj_in.weight")[:2]
    semantic, dims = driving.shape_of(state, "semantic_quantizer.frozen_codebook")
    sizes = {
        "inner": inner,
        "features": features,
        "semantic": semantic,
        "dims": dims,
        "pixel": driving.shape_of(state, "pixel_quantizer.frozen_codebook")[0],
        "depth": driving.count(state, r"semantic_encoder\.model\.blocks\.(\d+)\."),
        "blocks": driving.count(state, r"semantic_encoder\.blocks\.(\d+)\."),
        "width": driving.shape_of(state, "semantic_encoder.model.patch_embed.proj.weight")[0],
        "encoder": driving.shape_of(state, "pixel_encoder.conv_in.weight")[0],
        "decoder": driving.shape_of(state, "pixel_decoder.conv_in.weight")[0] // MULTIPLES[-1],
    }
    net = _net(source, sizes)
    driving.fill(net, state)
    return DualViTok(driving.ready(net, device, dtype), semantic, sizes["pixel"], resolution)


class DualViTok:
    """The loaded model at one resolution."""

    def __init__(self, net: Any, semantic: int, pixel: int, resolution: int) -> None:
        self.net, self.codes, self.resolution = net, (semantic, pixel), resolution
        self.sides = (SEMANTIC[resolution], resolution // 2 ** (len(MULTIPLES) - 1))

    def describe(self) -> dict[str, Any]:
        """Its form."""
        streams = [
            driving.stream(name, "index", "grid2d", [codes], (side, side))
            for name, codes, side in zip(("semantic", "pixel"), self.codes, self.sides)
        ]
        net = self.net
        halves = driving.sizes(
            encoder=[net.semantic_encoder, net.pixel_encoder], decoder=[net.pixel_post_quant_conv, net.pixel_decoder]
        )
        return {"streams": streams, "resolution": self.resolution, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``semantic`` [B, h, w] and ``pixel`` [B, H, W]."""
        found = self.net.encode_code(driving.signed(images, self.net))
        return {name: driving.ids(ids, ids.shape) for name, ids in zip(("semantic", "pixel"), found)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Both grids -> images."""
        grids = [
            driving.tensor(arrays[name], self.net).reshape(-1, side, side)
            for name, side in zip(("semantic", "pixel"), self.sides)
        ]
        return driving.pixels(self.net.decode_code(*grids))


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: width 128, one block, 64 and 96 codes."""
    import torch

    torch.manual_seed(seed)
    sizes = {"inner": 128, "features": 64, "semantic": 64, "dims": 8, "pixel": 96, "depth": 1, "blocks": 1}
    net = _net(source, {**sizes, "width": 128, "encoder": 32, "decoder": 32})
    return {"weights": {"weights": driving.save(net, f"{folder}/pytorch_model.bin")}, "params": {}}
