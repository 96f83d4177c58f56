"""KL autoencoders of the VQGAN family's network: MAR's KL-16, VA-VAE, latent diffusion's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from vtbench.api import Condition, Stream, Tokens
from vtbench.errors import BadWeights
from vtbench.zoo.convnet import infer_half
from vtbench.zoo.published import Shapes, wanted
from vtbench.zoo.quantise import posterior
from vtbench.zoo.vqgan import ConvTokenizer, VQGANConfig


class KLVAE(ConvTokenizer):
    """A KL autoencoder in the same names: MAR's KL-16, VA-VAE, and latent diffusion's own. One continuous stream: the posterior's mode, or a draw."""

    family = "kl-vae"
    drop: ClassVar[tuple[str, ...]] = ("loss.*", "model_ema.*", "foundation_model.*", "linear_proj.*")

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> VQGANConfig:
        encoder, decoder = infer_half(shapes, "encoder", cls.family), infer_half(shapes, "decoder", cls.family)
        code, _, kernel, _ = wanted(shapes, "quant_conv.weight", cls.family)
        if code % 2 or "quantize.embedding.weight" in shapes:
            raise BadWeights("these weights have a codebook: they are not of a KL autoencoder", "Try the vqgan family")
        return VQGANConfig(encoder, decoder, None, code, kind="kl", kernel=kernel)

    def before_codes(self, images: Tensor) -> Tensor:
        return self.net.encode(images).chunk(2, 1)[0]

    @torch.no_grad()
    def moments(self, images: Tensor) -> Tensor:
        """Images in [0, 1] -> the posterior's mean and log variance, fp32 ``[B, 2 D, h, w]``."""
        return self.net.encode(self._enter(images)).float()

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        *,
        budget: int | None = None,
        condition: Sequence[Condition] | None = None,
        sample: bool = False,
        seeds: Sequence[int] | None = None,
    ) -> Tokens:
        """Images float32 ``[B, 3, H, W]`` in [0, 1] -> one continuous stream ``latents`` ``[B, h * w, D]``."""
        z = posterior(self.moments(images), sample, seeds)
        stream = Stream("latents", "continuous", "grid2d", shape=(int(z.shape[2]), int(z.shape[3])))
        return Tokens((stream,), {"latents": z.flatten(2).transpose(1, 2)}, len(z), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Latents of any grid -> images float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        z = torch.as_tensor(tokens.data[stream.name], device=self._device).transpose(1, 2).unflatten(2, stream.shape)
        return self._leave(self.net.decode(z.to(self._dtype)))
