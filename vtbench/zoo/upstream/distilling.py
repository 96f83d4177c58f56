"""What the drivers of ALIT and KARL share: latents distilled out of a VQGAN's tokens, by the same authors in the same modules. Drivers find it as ``vtbench_distilling``.

A checkpoint has its state under ``ema``, the base VQGAN included; the widths are read off it. Images of 256 pixels in [0, 1].
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import vtbench_driving as driving

if TYPE_CHECKING:
    import torch

SIZE = 256
TRAINING = (r"gan_losses\.", r"criterion\.")
"""Parts of a checkpoint that only training needs."""
HEADS = {(768, 12): 12, (1024, 16): 16}
"""Heads of every attention in the authors' configurations, by width and layers; 8 in the others."""

Half = tuple[int, int, int]
"""Width, layers and heads of the encoder or the decoder."""


def packages(source: str, name: str) -> tuple[Any, Any, Any]:
    """The authors' tokenizers (the package of that name), base wrapper and VQGAN. Their packages open configurations relative to the checkout."""
    driving.device_of_tensors()
    with driving.within(source):
        tokenizers = importlib.import_module(name)
        wrapper = importlib.import_module("modules.base_tokenizers").VQGANWrapper
    return tokenizers, wrapper, importlib.import_module("base_tokenizers.taming.models.vqgan").VQModel


def base_of(wrapper: Any, vqgan: Any, ch: int, multiples: list[int], blocks: int, codes: int, dims: int) -> Any:
    """The authors' wrapper around a VQGAN of these sizes; its own constructor reads one fixed configuration and a file."""
    import torch

    base = wrapper.__new__(wrapper)
    torch.nn.Module.__init__(base)
    base.is_requires_grad, base.embed_dim, base.codebook_emb_dim, base.codebook_size = False, dims, dims, codes
    config = {
        "double_z": False,
        "z_channels": dims,
        "resolution": SIZE,
        "in_channels": 3,
        "out_ch": 3,
        "ch": ch,
        "ch_mult": multiples,
        "num_res_blocks": blocks,
        "attn_resolutions": [16],
    }
    base.vqgan = vqgan(config, codes, dims)
    return base


def network(made: Any, defaults: dict[str, Any], base: Any, encoder: Half, decoder: Half, **sizes: Any) -> Any:
    """The authors' class around a base. Built for their first stage, which needs no perceptual loss."""
    return made(
        base_tokenizer=base,
        **dict(zip(("encoder_width", "encoder_num_layers", "encoder_num_heads"), encoder)),
        **dict(zip(("decoder_width", "decoder_num_layers", "decoder_num_heads"), decoder)),
        quantize_latent=True,
        train_stage="latent_distillation_pretrain",
        **{**defaults, **sizes},
    )


def base_sizes(state: dict[str, torch.Tensor]) -> tuple[int, list[int], int, int, int]:
    """Channels, their multiples, blocks a level, codes and their dimensions of a checkpoint's VQGAN."""
    vqgan = "base_tokenizer.vqgan."
    ch = driving.shape_of(state, f"{vqgan}encoder.conv_in.weight")[0]
    levels = driving.count(state, r"base_tokenizer\.vqgan\.encoder\.down\.(\d+)\.")
    multiples = [
        driving.shape_of(state, f"{vqgan}encoder.down.{i}.block.0.conv1.weight")[0] // ch for i in range(levels)
    ]
    blocks = driving.count(state, r"base_tokenizer\.vqgan\.encoder\.down\.0\.block\.(\d+)\.")
    codes, dims = driving.shape_of(state, f"{vqgan}quantize.embedding.weight")
    return ch, multiples, blocks, codes, dims


def halves(state: dict[str, torch.Tensor], heads: int) -> list[Half]:
    """The encoder and the decoder of a checkpoint. heads: of every attention; 0: as the authors' configuration of this width and depth has."""
    found = []
    for name, key, axis in (("encoder", "latent_tokens", 1), ("decoder", "decoder_mask_token", 2)):
        width = driving.shape_of(state, key)[axis]
        layers = driving.count(state, rf"{name}\.transformer\.(\d+)\.")
        found.append((width, layers, heads or HEADS.get((width, layers), 8)))
    return found


def codes_of(net: Any, ids: torch.Tensor) -> torch.Tensor:
    """The codes of one image's tokens ``[N]``, as the decoder takes them: ``[1, N, D]``."""
    import torch

    codes: torch.Tensor = net.quantize.get_codebook_entry(ids)[None]
    return torch.nn.functional.normalize(codes, dim=-1) if net.quantize.use_l2_norm else codes


def mixed(net: Any, logits: torch.Tensor) -> torch.Tensor:
    """The base VQGAN's codes, mixed as the decoder's logits say."""
    import torch

    table = net.base_tokenizer.vqgan.quantize.embedding.weight
    return torch.einsum("nlc,cd->nld", logits.softmax(-1), table)
