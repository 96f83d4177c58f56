"""The 1D binary tokenizer of Instella-T2I (AMD-AIG-AIMA/Instella-T2I): 128 tokens of 64 bits.

The checkpoint is ``bae/model.safetensors``; widths and depths are read off it. Images in [-1, 1]; deterministic in evaluation. The authors decode at the size that was asked for, 1024 pixels of their training being the unit of
positions (`scale`).
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
PATCH = 16


def _package() -> Any:
    """The authors' tokenizer. Its attention calls flash-attn; where that is absent torch's own attention stands in, which computes the same without dropout or a mask."""
    package: Any = importlib.import_module("bae.llama_attn")
    if importlib.util.find_spec("flash_attn") is None:
        package._flash_attention_forward = _attention
    return importlib.import_module("bae.ae_model")


def _attention(query: Any, key: Any, value: Any, mask: Any, *rest: Any, is_causal: bool = True, **options: Any) -> Any:
    """softmax(q k' / sqrt(d)) v over [B, N, heads, d], what flash-attn computes without a mask and dropout."""
    import torch

    if mask is not None or options.get("dropout"):
        raise NotImplementedError("the stand-in for flash-attn takes no mask and no dropout")
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal).transpose(1, 2)


class _Options(dict):  # type: ignore[type-arg]
    """What the authors' configuration file becomes: values by attribute and by `get`."""

    __getattr__ = dict.__getitem__


def _net(
    encoder: tuple[int, int],
    decoder: tuple[int, int],
    head: int,
    bits: int,
    tokens: int,
    down: list[int],
    up: list[int],
) -> Any:
    """The authors' class. encoder, decoder: heads and layers."""
    options = _Options(
        in_channels=3,
        encoder_layers=encoder[1],
        encoder_head_dim=head,
        encoder_num_heads=encoder[0],
        patch_size=PATCH,
        num_latent_tkns=tokens,
        axes_dims_rope=[head // 8, head * 7 // 16, head * 7 // 16],
        downsample_idx=down,
        decoder_layers=decoder[1],
        decoder_head_dim=head,
        decoder_num_heads=decoder[0],
        upsample_idx=up,
        codebook_size=bits,
    )
    return _package().BAE_Model(options)


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    resolution: int = 1024,
    scale: int = 1024,
    head: int = 64,
    middle: int = 7,
) -> Any:
    """The published checkpoint in the authors' class.

    resolution: of images, a multiple of 32. scale: the pixels that positions span, whatever the resolution (0: positions count patches). head: the width of an attention head. middle: the block after which the grid halves
    (doubles, in the decoder), as their configuration has it."""
    state = driving.state_of(weights["weights"])
    halves = []
    for name, key in (("encoder", "norm_out.weight"), ("decoder", "norm_out.weight")):
        width = driving.shape_of(state, f"{name}.{key}")[0]
        halves.append((width // head, driving.count(state, rf"{name}\.transformer_blocks\.(\d+)\.")))
    bits = driving.shape_of(state, "quantizer.embed")[0]
    tokens = driving.shape_of(state, "encoder.latent_tokens")[1]
    down = [middle] if any(k.startswith("encoder.down_layers.") for k in state) else []
    up = [middle] if any(k.startswith("decoder.up_layers.") for k in state) else []
    net = _net(halves[0], halves[1], head, bits, tokens, down, up)
    driving.fill(net, state, drop=(r"decoder\.repa_proj\.",))
    if resolution % (2 * PATCH):
        raise ValueError(f"resolution is a multiple of {2 * PATCH}, not {resolution}")
    if scale:
        net.set_scale(scale)
    return Instella(driving.ready(net, device, dtype), bits, tokens, resolution)


class Instella:
    """The loaded model at one resolution."""

    def __init__(self, net: Any, bits: int, tokens: int, resolution: int) -> None:
        self.net, self.bits, self.tokens, self.resolution = net, bits, tokens, resolution

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "bits", "seq1d", [2] * self.bits, (self.tokens,))
        halves = driving.sizes(
            encoder=[self.net.encoder, self.net.quantizer.proj], decoder=[self.net.decoder, self.net.to_pixel]
        )
        return {"streams": [tokens], "resolution": self.resolution, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N, bits]."""
        bits = self.net.encode(driving.signed(images, self.net))[2]["binary_code"]
        return {"tokens": bits.float().cpu().numpy().astype(np.uint8)}

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Bits -> images."""
        bits = driving.tensor(arrays["tokens"], self.net).to(next(self.net.parameters()).dtype)
        side = self.resolution // PATCH
        return driving.pixels(self.net.decode(bits, side, side))


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: 2 blocks of 2 heads, 8 tokens of 8 bits, 64 pixels."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    net = _net((2, 2), (2, 2), 32, 8, 8, [0], [0])
    file = f"{folder}/model.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, file)
    params = {"resolution": 64, "scale": 128, "head": 32, "middle": 0}
    return {"weights": {"weights": file}, "params": params}
