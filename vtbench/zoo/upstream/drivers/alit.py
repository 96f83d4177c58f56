"""ALIT (ShivamDuggal4/adaptive-length-tokenizer): 32 tokens more at every rollout, until the reconstruction is good enough.

A checkpoint is ``alit_{small,base,semilarge}_vqgan_quantized_latents.pth`` (its state under ``ema``, the base VQGAN included); the widths are read off it. Images of 256 pixels in [0, 1]. Between rollouts the authors drop image patches that
are predicted well, each with its probability: the encoder draws noise. Every rollout encodes all its tokens anew, so the first tokens of a longer code are no shorter code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtbench_distilling as distilling
import vtbench_driving as driving

VERSION = 1


def _made(source: str, base: tuple[Any, ...], halves: list[Any], **sizes: Any) -> Any:
    """The authors' class around a VQGAN of the base's sizes, told that it is in the second stage: it decodes codes, not sampled ids."""
    tokenizers, wrapper, vqgan = distilling.packages(source, "adaptive_tokenizers")
    made, defaults = tokenizers.adaptive_tokenizers["vqgan"], tokenizers.adaptive_tokenizer_args["vqgan"]
    net = distilling.network(made, defaults, distilling.base_of(wrapper, vqgan, *base), *halves, **sizes)
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
    codes, dims = driving.shape_of(state, "quantize.embedding.weight")
    base, halves = distilling.base_sizes(state), distilling.halves(state, heads)
    most = driving.shape_of(state, "timestep_embedding")[0]
    net = _made(source, base, halves, vq_codebook_size=codes, vq_token_dim=dims, max_rollout_iters=most)
    driving.fill(net, state, drop=distilling.TRAINING)
    if not 1 <= rollouts <= most:
        raise ValueError(f"rollouts is 1 to {most}, not {rollouts}")
    net.max_rollout_iters = rollouts
    return ALIT(driving.ready(net, device, dtype), codes, quality, rollouts)


class ALIT:
    """The loaded model."""

    def __init__(self, net: Any, codes: int, quality: float, rollouts: int) -> None:
        self.net, self.codes, self.quality = net, codes, quality
        self.most = rollouts * len(net.latent_tokens)
        self.patches = (distilling.SIZE // net.patch_embed.kernel_size[0]) ** 2

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.codes], (self.most,))
        net, base = self.net, self.net.base_tokenizer.vqgan
        halves = driving.sizes(
            encoder=[base.encoder, net.patch_embed, net.encoder, net.pre_quantizer_mlp],
            decoder=[net.decoder, base.decoder],
        )
        found = {"streams": [tokens], "resolution": distilling.SIZE, "max_tokens": self.most, "stochastic": True}
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
        net = self.net
        codes = distilling.codes_of(net, row[row >= 0])
        logits = net.decoder(codes, net.preprocess_decoder(codes.new_zeros(1, self.patches, 1)))
        return driving.pixels(net.reconstruct_images(logits, distilling.mixed(net, logits)), signed=False)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: width 320, 2 layers, 64 codes. The error asked for is one that only some images meet early."""
    import torch

    torch.manual_seed(seed)
    base, half = (32, [1, 1, 1, 1, 2], 1, 64, 256), (320, 2, 8)
    net = _made(source, base, [half, half], vq_codebook_size=64, vq_token_dim=12)
    file = driving.save(net, f"{folder}/alit_small_vqgan_quantized_latents.pth", "ema")
    return {"weights": {"weights": file}, "params": {"heads": 8, "quality": 0.45}}
