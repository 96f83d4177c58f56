"""KARL (ShivamDuggal4/karl): as many 1D tokens as the image needs for a given reconstruction error, found in one pass.

A checkpoint is ``karl_small_vqgan_quantized_latents.pth`` (its state under ``ema``, the base VQGAN included); the widths are read off it. Images of 256 pixels in [0, 1]; deterministic. All tokens of the budget are encoded and each
says whether it is halted; halted ones are masked in the decoder. Here a halted token is -1, and the length is the number of the others, as the authors count.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import vtbench_distilling as distilling
import vtbench_driving as driving

VERSION = 1
HALTED = 0.75
"""The authors' threshold on the halting probability."""


def _made(source: str, base: tuple[Any, ...], halves: list[Any], **sizes: Any) -> Any:
    """The authors' class around a VQGAN of the base's sizes; the stage it is built for changes no forward."""
    tokenizers, wrapper, vqgan = distilling.packages(source, "kolmogorov_tokenizers")
    made, defaults = tokenizers.kolmogorov_tokenizers["vqgan"], tokenizers.kolmogorov_tokenizer_args["vqgan"]
    return distilling.network(made, defaults, distilling.base_of(wrapper, vqgan, *base), *halves, **sizes)


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
    codes, dims = driving.shape_of(state, "quantize.embedding.weight")
    base, halves = distilling.base_sizes(state), distilling.halves(state, heads)
    grid = driving.shape_of(state, "encoder_positional_embedding")[-1]
    net = _made(source, base, halves, vq_codebook_size=codes, vq_token_dim=dims, max_grid_tokens=grid)
    driving.fill(net, state, drop=distilling.TRAINING)
    if not 1 <= most <= len(state["latent_tokens"]):
        raise ValueError(f"most is 1 to {len(state['latent_tokens'])} tokens, not {most}")
    return KARL(driving.ready(net, device, dtype), codes, quality, most)


class KARL:
    """The loaded model."""

    def __init__(self, net: Any, codes: int, quality: float, most: int) -> None:
        self.net, self.codes, self.quality, self.most = net, codes, quality, most
        self.side = distilling.SIZE // net.patch_embed.kernel_size[0]

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
            "resolution": distilling.SIZE,
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
        codes = distilling.codes_of(net, row.clamp(min=0)[0])
        masked = net.preprocess_decoder(codes.new_zeros(1, patches, 1), (self.side, self.side))
        off = torch.cat([row.new_zeros(1, patches, dtype=torch.bool), row < 0], 1)
        hidden = (off[:, :, None] | off[:, None, :]) & ~torch.eye(off.shape[1], dtype=torch.bool, device=row.device)
        places = net.decoder_latent_tokens_timestep_embed[: row.shape[1]]
        logits = net.decoder(net.decoder_embed(codes), masked, places, attn_mask=hidden)
        return driving.pixels(
            net.reconstruct_images(logits, distilling.mixed(net, logits), (self.side, self.side)), signed=False
        )


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: width 320, 2 layers, 64 codes (the authors' reshape needs a base of 256 channels)."""
    import torch

    torch.manual_seed(seed)
    base, half = (32, [1, 1, 1, 1, 2], 1, 64, 256), (320, 2, 8)
    net = _made(source, base, [half, half], vq_codebook_size=64, vq_token_dim=12)
    for values in (net.halting_mlp[2].weight, net.halting_mlp[0].weight):
        torch.nn.init.normal_(values, std=0.5)  # so that some tokens halt
    file = driving.save(net, f"{folder}/karl_small_vqgan_quantized_latents.pth", "ema")
    return {"weights": {"weights": file}, "params": {"heads": 8}}
