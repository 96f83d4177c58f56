"""ALIT (ShivamDuggal4/adaptive-length-tokenizer): 32 tokens more at every rollout, until the reconstruction is good enough.

A checkpoint is ``alit_{small,base,semilarge}_vqgan_quantized_latents.pth`` (its state under ``ema``, the base VQGAN included); the widths are read off it. Images of 256 pixels in [0, 1]. Between rollouts the authors drop image patches that
are predicted well, each with its probability: the encoder draws noise. Every rollout encodes all its tokens anew, so the first tokens of a longer code are no shorter code.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256
TRAINING = (r"gan_losses\.", r"criterion\.")


def _packages(source: str) -> tuple[Any, Any, Any]:
    """The authors' tokenizers, base wrapper and VQGAN. Their packages open configurations relative to the checkout."""
    driving.device_of_tensors()
    with driving.within(source):
        tokenizers = importlib.import_module("adaptive_tokenizers")
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
    """The authors' class: width, layers and heads of each half. Built for their first stage, which needs no perceptual loss, then told that it is in the second: it decodes codes, not sampled ids."""
    tokenizers = _packages(source)[0]
    options = {**tokenizers.adaptive_tokenizer_args["vqgan"], **sizes}
    net = tokenizers.adaptive_tokenizers["vqgan"](
        base_tokenizer=base,
        **dict(zip(("encoder_width", "encoder_num_layers", "encoder_num_heads"), encoder)),
        **dict(zip(("decoder_width", "decoder_num_layers", "decoder_num_heads"), decoder)),
        quantize_latent=True,
        train_stage="latent_distillation_pretrain",
        **options,
    )
    net.train_stage = "full_finetuning"
    return net


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    quality: float = 0.07,
    rollouts: int = 8,
    heads: int = 0,
) -> Any:
    """The published checkpoint in the authors' class.

    quality: the mean absolute error below which an image needs no more tokens; 0: every image takes all rollouts. rollouts: the most, 32 tokens each. heads: of every attention; 0: as the authors' configuration of this width and depth has."""
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
    most = driving.shape_of(state, "timestep_embedding")[0]
    net = _tokenizer(source, base, *halves, vq_codebook_size=codes, vq_token_dim=dims, max_rollout_iters=most)
    driving.fill(net, state, drop=TRAINING)
    if not 1 <= rollouts <= most:
        raise ValueError(f"rollouts is 1 to {most}, not {rollouts}")
    net.max_rollout_iters = rollouts
    return ALIT(driving.ready(net, device, dtype), codes, quality, rollouts)


class ALIT:
    """The loaded model."""

    def __init__(self, net: Any, codes: int, quality: float, rollouts: int) -> None:
        self.net, self.codes, self.quality = net, codes, quality
        self.most = rollouts * len(net.latent_tokens)
        self.patches = (SIZE // net.patch_embed.kernel_size[0]) ** 2

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.codes], (self.most,))
        net, base = self.net, self.net.base_tokenizer.vqgan
        halves = driving.sizes(
            encoder=[base.encoder, net.patch_embed, net.encoder, net.pre_quantizer_mlp],
            decoder=[net.decoder, base.decoder],
        )
        found = {"streams": [tokens], "resolution": SIZE, "max_tokens": self.most, "stochastic": True}
        return {**found, "parameters": halves} | ({"nmax": self.most} if self.quality > 0 else {})

    def encode(self, images: np.ndarray, *, seeds: list[int] | None = None, **options: Any) -> dict[str, np.ndarray]:
        """Images, each with its own noise and its own length -> ``tokens`` [B, most], -1 beyond `lengths`."""
        rows = []
        for i, image in enumerate(driving.plain(images, self.net).split(1)):
            driving.seed(seeds, i)
            rows.append(self._one(image))
        lengths = np.array([len(row) for row in rows], np.int64)
        tokens = np.full((len(rows), self.most), -1, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return {"tokens": tokens, "lengths": lengths} if self.quality > 0 else {"tokens": tokens}

    def _one(self, image: Any) -> np.ndarray:
        """The first rollout that is good enough, or the best of all, as the authors' `encode` picks it; without a quality, the last."""
        found: list[Any] = []
        hook = self.net.quantize.register_forward_hook(lambda m, i, out: found.append(out[1]["min_encoding_indices"]))
        try:
            logs = self.net(image, reconstruction_iters="all" if self.quality > 0 else [])
        finally:
            hook.remove()
        kept = len(found) - 1
        if self.quality > 0:
            errors = [float((log[f"reconstructed_imgs_{i}"] - image).abs().mean()) for i, log in enumerate(logs)]
            kept = next((i for i, error in enumerate(errors) if error < self.quality), int(np.argmin(errors)))
        return driving.ids(found[kept], (-1,))

    def decode(self, arrays: dict[str, np.ndarray], **options: Any) -> np.ndarray:
        """Tokens, -1 beyond the length -> images."""
        return np.concatenate([self._image(row) for row in driving.tensor(arrays["tokens"], self.net).split(1)])

    def _image(self, row: Any) -> np.ndarray:
        import torch

        net = self.net
        codes = net.quantize.get_codebook_entry(row[row >= 0])[None]
        if net.quantize.use_l2_norm:
            codes = torch.nn.functional.normalize(codes, dim=-1)
        logits = net.decoder(codes, net.preprocess_decoder(codes.new_zeros(1, self.patches, 1)))
        mixed = torch.einsum("nlc,cd->nld", logits.softmax(-1), net.base_tokenizer.vqgan.quantize.embedding.weight)
        return driving.pixels(net.reconstruct_images(logits, mixed), signed=False)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: width 320, 2 layers, 64 codes. The error asked for is one that only some images meet early."""
    import torch

    torch.manual_seed(seed)
    base = _base(source, 32, [1, 1, 1, 1, 2], 1, 64, 256)
    net = _tokenizer(source, base, (320, 2, 8), (320, 2, 8), vq_codebook_size=64, vq_token_dim=12)
    file = driving.save(net, f"{folder}/alit_small_vqgan_quantized_latents.pth", "ema")
    return {"weights": {"weights": file}, "params": {"heads": 8, "quality": 0.45}}
