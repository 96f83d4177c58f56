"""Hita (CVMI-Lab/Hita): 128 holistic tokens beside a grid of 21 x 21 patch tokens, at 336 pixels.

Checkpoints are ``vanilla/tokenizer/hita-tok.pt`` and ``ultra/tokenizer/hita-ultra.pt``, which leave out the frozen DINOv2-L that the encoder reads: ``dinov2_vitl14_reg4_pretrain.pth`` stands beside. Images in [-1, 1]; deterministic.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1


def _net(dinov2: str, sizes: dict[str, Any], device: str) -> Any:
    """The authors' class. Of their imports `refile` opens files, and `torch_fidelity` and `cv2` are not used here."""
    driving.cuda_is(device)
    driving.stand_in("refile", smart_open=open)
    driving.stand_in("torch_fidelity")
    driving.stand_in("cv2")
    from omegaconf import OmegaConf

    arch = {1024: "dinov2_vitl14_reg", 768: "dinov2_vitb14_reg"}[sizes["features"]]
    encoders = importlib.import_module("hita.modules.pretrained_enc.models_pretrained_enc")
    # theirs would fetch the weights that the file below replaces
    setattr(encoders, arch, functools.partial(getattr(encoders, arch), pretrained=False))
    half = {
        "layer_type": "normal",
        "image_size": sizes["resolution"],
        "patch_size": 16,
        "dim": sizes["dim"],
        "depth": sizes["depth"],
        "num_head": 8,
        "mlp_dim": 4 * sizes["dim"],
        "dim_head": 64,
        "dropout": 0.1,
        "n_carrier": sizes["holistic"],
    }
    features = {
        "pretrained_enc_arch": arch,
        "pretrained_enc_path": dinov2,
        "pretrained_enc_withproj": False,
        "proj_dim": sizes["features"],
    }
    visual = {"target": "hita.modules.encoders.pretrained_enc_arch.SelfSupervisedCondtionEmbedder", "params": features}
    encoder = {**half, "in_channels": sizes["features"], "visual_encoder_config": visual}
    decoder = {**half, "enable_vfm_recon": sizes["ultra"], "shift_k": 4}
    config = OmegaConf.create(
        {
            "encoder_config": {"target": "hita.core.layers.Encoder", "params": encoder},
            "decoder_config": {"target": "hita.core.layers.Decoder", "params": decoder},
        }
    )
    made = importlib.import_module("hita.tokenizer.tokenizer_image.vq_model").VQ_models["VQ-16"]
    return made(
        codebook_size=sizes["codes"],
        codebook_embed_dim=sizes["patch_dim"],
        codebook_slots_embed_dim=sizes["slot_dim"],
        transformer_config=config,
        z_channels=sizes["dim"],
    )


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    variant: str = "ultra/tokenizer/hita-ultra.pt",
    resolution: int = 336,
) -> Any:
    """The published checkpoint and DINOv2 in the authors' class. variant: which file of the hub. resolution: what the checkpoint was trained at."""
    state = driving.state_of(weights["weights"])
    codes, patch_dim = driving.shape_of(state, "quantize.embedding.weight")
    _, holistic, dim = driving.shape_of(state, "encode_transformer.carrier_tokens")
    sizes = {
        "resolution": resolution,
        "codes": codes,
        "patch_dim": patch_dim,
        "slot_dim": driving.shape_of(state, "slot_quantize.embedding.weight")[1],
        "holistic": holistic,
        "dim": dim,
        "depth": driving.count(state, r"encode_transformer\.transformer1\.layers\.(\d+)\."),
        "features": driving.shape_of(state, "encode_transformer.proj.mlp.0.weight")[1],
        "ultra": "decode_transformer.mask_embedding" in state,
    }
    if variant.startswith("ultra") != sizes["ultra"]:
        raise ValueError(f"the checkpoint is {'ultra' if sizes['ultra'] else 'vanilla'}, not that of {variant}")
    if "dinov2" not in weights:
        raise FileNotFoundError("Hita's encoder needs DINOv2's own file dinov2_vitl14_reg4_pretrain.pth beside it")
    driving.state_of(weights["dinov2"])  # the authors open it without asking whether it carries code
    net = _net(weights["dinov2"], sizes, device)
    driving.fill(net, state, absent=(r"encode_transformer\.backbone\.",))
    return Hita(driving.ready(net, device, dtype), codes, patch_dim, holistic, resolution)


class Hita:
    """The loaded model."""

    def __init__(self, net: Any, codes: int, dims: int, holistic: int, resolution: int) -> None:
        self.net, self.codes, self.dims, self.holistic, self.resolution = net, codes, dims, holistic, resolution
        self.grid = resolution // 16

    def describe(self) -> dict[str, Any]:
        """Its form."""
        streams = [
            driving.stream("holistic", "index", "seq1d", [self.codes], (self.holistic,)),
            driving.stream("patch", "index", "grid2d", [self.codes], (self.grid, self.grid)),
        ]
        halves = driving.sizes(
            encoder=[self.net.encoder, self.net.encode_transformer],
            decoder=[self.net.decode_transformer, self.net.decoder],
        )
        return {"streams": streams, "resolution": self.resolution, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``holistic`` [B, 128] and ``patch`` [B, 441]."""
        patch, holistic = self.net.encode(driving.signed(images, self.net))[2]
        return {
            "holistic": driving.ids(holistic, (len(images), self.holistic)),
            "patch": driving.ids(patch, (len(images), self.grid**2)),
        }

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Both streams -> images."""
        holistic, patch = (driving.tensor(arrays[name], self.net).reshape(-1) for name in ("holistic", "patch"))
        shape = (len(arrays["patch"]), self.dims, self.grid, self.grid)
        return driving.pixels(self.net.decode_from_indices(patch, holistic, shape)[0])


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: 64 pixels, 8 holistic tokens, 64 codes, the base DINOv2 (the authors fix the other widths)."""
    import torch

    torch.manual_seed(seed)
    driving.cuda_is("cpu")
    backbones = importlib.import_module("hita.modules.pretrained_enc.dino_v2.backbones")
    dinov2 = driving.save(backbones.dinov2_vitb14_reg(pretrained=False), f"{folder}/dinov2.pth")
    sizes = {"resolution": 64, "codes": 64, "patch_dim": 8, "slot_dim": 12, "holistic": 8, "dim": 512, "depth": 1}
    net = _net(dinov2, {**sizes, "features": 768, "ultra": False}, "cpu")
    file = driving.save(net, f"{folder}/hita-tok.pt", "ema", drop=(r"encode_transformer\.backbone\.",))
    return {"weights": {"weights": file, "dinov2": dinov2}, "params": {"variant": "vanilla", "resolution": 64}}
