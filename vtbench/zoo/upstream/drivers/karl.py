"""KARL (ShivamDuggal4/karl): as many 1D tokens as the image needs for a given reconstruction error, found in one pass.

A checkpoint is ``karl_small_vqgan_quantized_latents.pth`` (its state under ``ema``, the base VQGAN included); the widths are read off it. Images of 256 pixels in [0, 1]; deterministic. All tokens of the budget are encoded and each
says whether it is halted; halted ones are masked in the decoder. Here a halted token is -1, and the length is the number of the others, as the authors count.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256
HALTED = 0.75
"""The authors' threshold on the halting probability."""
TRAINING = (r"gan_losses\.", r"criterion\.")


def _packages(source: str) -> tuple[Any, Any, Any]:
    """The authors' tokenizer, base wrapper and VQGAN. Their packages open configurations relative to the checkout."""
    driving.device_of_tensors()
    with driving.within(source):
        tokenizers = importlib.import_module("kolmogorov_tokenizers")
        wrapper = importlib.import_module("modules.base_tokenizers").VQGANWrapper
    return tokenizers, wrapper, importlib.import_module("base_tokenizers.taming.models.vqgan").VQModel


def _base(source: str, ch: int, multiples: list[int], blocks: int, codes: int, dims: int) -> Any:
    """The authors' wrapper around a VQGAN of these sizes; its own constructor reads one fixed configuration and a file."""
    import torch

    _, wrapper, made = _packages(source)
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
    base.vqgan = made(config, codes, dims)
    return base


def _tokenizer(
    source: str, base: Any, encoder: tuple[int, int, int], decoder: tuple[int, int, int], **sizes: Any
) -> Any:
    """The authors' class: width, layers and heads of each half. Built for their first stage, which needs no perceptual loss; nothing else differs."""
    tokenizers = _packages(source)[0]
    options = {**tokenizers.kolmogorov_tokenizer_args["vqgan"], **sizes}
    return tokenizers.kolmogorov_tokenizers["vqgan"](
        base_tokenizer=base,
        **dict(zip(("encoder_width", "encoder_num_layers", "encoder_num_heads"), encoder)),
        **dict(zip(("decoder_width", "decoder_num_layers", "decoder_num_heads"), decoder)),
        quantize_latent=True,
        train_stage="latent_distillation_pretrain",
        **options,
    )


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    quality: float = 0.05,
    most: int = 256,
    heads: int = 0,
) -> Any:
    """The published checkpoint in the authors' class.

    quality: the mean absolute error that is asked for (their epsilon: smaller keeps more tokens). most: the token budget T. heads: of every attention; 0: as the authors' configuration of this width and depth has."""
    state = driving.state_of(weights["weights"])
    vqgan = "base_tokenizer.vqgan."
    ch = driving.shape_of(state, f"{vqgan}encoder.conv_in.weight")[0]
    levels = driving.count(state, r"base_tokenizer\.vqgan\.encoder\.down\.(\d+)\.")
    multiples = [
        driving.shape_of(state, f"{vqgan}encoder.down.{i}.block.0.conv1.weight")[0] // ch for i in range(levels)
    ]
    blocks = driving.count(state, r"base_tokenizer\.vqgan\.encoder\.down\.0\.block\.(\d+)\.")
    base = _base(source, ch, multiples, blocks, *driving.shape_of(state, f"{vqgan}quantize.embedding.weight"))
    codes, dims = driving.shape_of(state, "quantize.embedding.weight")
    halves = []
    for name, key, axis in (("encoder", "latent_tokens", 1), ("decoder", "decoder_mask_token", 2)):
        width = driving.shape_of(state, key)[axis]
        layers = driving.count(state, rf"{name}\.transformer\.(\d+)\.")
        halves.append((width, layers, heads or {(768, 12): 12, (1024, 16): 16}.get((width, layers), 8)))
    grid = driving.shape_of(state, "encoder_positional_embedding")[-1]
    net = _tokenizer(source, base, *halves, vq_codebook_size=codes, vq_token_dim=dims, max_grid_tokens=grid)
    driving.fill(net, state, drop=TRAINING)
    if not 1 <= most <= len(state["latent_tokens"]):
        raise ValueError(f"most is 1 to {len(state['latent_tokens'])} tokens, not {most}")
    return KARL(driving.ready(net, device, dtype), codes, quality, most)


class KARL:
    """The loaded model."""

    def __init__(self, net: Any, codes: int, quality: float, most: int) -> None:
        self.net, self.codes, self.quality, self.most = net, codes, quality, most
        self.side = SIZE // net.patch_embed.kernel_size[0]

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.codes], (self.most,))
        net, base = self.net, self.net.base_tokenizer.vqgan
        halves = driving.sizes(
            encoder=[base.encoder, net.patch_embed, net.encoder, net.pre_quantizer_mlp, net.halting_mlp],
            decoder=[net.decoder_embed, net.decoder, base.decoder],
        )
        return {
            "streams": [tokens],
            "resolution": SIZE,
            "max_tokens": self.most,
            "nmax": self.most,
            "parameters": halves,
            "notes": ["tokens halt one by one; which ones is not counted in the bits, only how many"],
        }

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images, one at a time as the authors' own evaluation does -> ``tokens`` [B, most] with -1 where halted, and `lengths`."""
        rows = [self._one(x) for x in driving.plain(images, self.net).split(1)]
        tokens = np.concatenate(rows)
        return {"tokens": tokens, "lengths": (tokens >= 0).sum(1).astype(np.int64)}

    def _one(self, image: Any) -> np.ndarray:
        seen: dict[str, Any] = {}
        hooks = [
            self.net.quantize.register_forward_hook(lambda m, i, out: seen.update(ids=out[1]["min_encoding_indices"])),
            self.net.halting_mlp.register_forward_hook(lambda m, i, out: seen.update(halt=out.sigmoid() > HALTED)),
        ]
        try:
            self.net.encode(image, input_token_budget=[self.most], desired_reconstruction_quality=float(self.quality))
        finally:
            for hook in hooks:
                hook.remove()
        return driving.ids(seen["ids"].masked_fill(seen["halt"][..., 0], -1), (1, self.most))

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Tokens, -1 where there is none -> images."""
        return np.concatenate([self._image(row) for row in driving.tensor(arrays["tokens"], self.net).split(1)])

    def _image(self, row: Any) -> np.ndarray:
        import torch

        net, patches = self.net, self.side**2
        codes = net.quantize.get_codebook_entry(row.clamp(min=0)[0])[None]
        if net.quantize.use_l2_norm:
            codes = torch.nn.functional.normalize(codes, dim=-1)
        masked = net.preprocess_decoder(codes.new_zeros(1, patches, 1), (self.side, self.side))
        off = torch.cat([row.new_zeros(1, patches, dtype=torch.bool), row < 0], 1)
        hidden = (off[:, :, None] | off[:, None, :]) & ~torch.eye(off.shape[1], dtype=torch.bool, device=row.device)
        places = net.decoder_latent_tokens_timestep_embed[: row.shape[1]]
        logits = net.decoder(net.decoder_embed(codes), masked, places, attn_mask=hidden)
        mixed = torch.einsum("nlc,cd->nld", logits.softmax(-1), net.base_tokenizer.vqgan.quantize.embedding.weight)
        return driving.pixels(net.reconstruct_images(logits, mixed, (self.side, self.side)), signed=False)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: width 320, 2 layers, 64 codes (the authors' reshape needs a base of 256 channels)."""
    import torch

    torch.manual_seed(seed)
    base = _base(source, 32, [1, 1, 1, 1, 2], 1, 64, 256)
    net = _tokenizer(source, base, (320, 2, 8), (320, 2, 8), vq_codebook_size=64, vq_token_dim=12)
    for values in (net.halting_mlp[2].weight, net.halting_mlp[0].weight):
        torch.nn.init.normal_(values, std=0.5)  # so that some tokens halt
    file = driving.save(net, f"{folder}/karl_small_vqgan_quantized_latents.pth", "ema")
    return {"weights": {"weights": file}, "params": {"heads": 8}}
