"""The VQGAN family: one network, whose files differ in names, in how a code is chosen, and in what lies between encoder and decoder.

`VQGAN` (taming-transformers, f16 and f8, its Gumbel variant, Chameleon and Anole), `LlamaGen` (and Janus, whose tokenizer is LlamaGen's VQ-16),
`IBQ` (SEED-Voken) and `VQGANLC` (VQGAN-LC). Images are in [-1, 1] inside. The KL autoencoders of the same network are in `kl_vae`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vtbench.api import Capabilities
from vtbench.zoo.card import Card
from vtbench.zoo.convnet import ConvConfig, Decoder, Encoder, infer_half
from vtbench.zoo.network import GridTokenizer, Half, NetworkTokenizer
from vtbench.zoo.published import Shapes, count, wanted
from vtbench.zoo.quantise import Rule, lookup, nearest


@dataclass(frozen=True)
class VQGANConfig:
    """codes: (K, D) of the codebook as stored, None for a KL autoencoder. code: what `quant_conv` makes of the encoder's latent. rule: how a code is
    chosen. kind: `vq`, `gumbel` (codes chosen by a 1x1 convolution's logits), `projected` (a frozen codebook behind a projection) or `kl`.
    projection: the widths of the projection. kernel: of the two convolutions beside the codebook; 0 where there are none."""

    encoder: ConvConfig
    decoder: ConvConfig
    codes: tuple[int, int] | None
    code: int
    kind: str = "vq"
    rule: Rule = "distance"
    kernel: int = 1
    projection: tuple[int, ...] = ()
    unit_norm: bool = False


class Codebook(nn.Module):
    """`quantize`: the table of codes, and for the Gumbel variant the convolution that scores them."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        assert config.codes is not None
        if config.kind == "gumbel":
            self.proj = nn.Conv2d(config.code, config.codes[0], 1)
            self.embed = nn.Embedding(*config.codes)
        else:
            self.embedding = nn.Embedding(*config.codes)


class VQGANNet(nn.Module):
    """Encoder, decoder and what lies between them, under the names of taming-transformers."""

    def __init__(self, config: VQGANConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config.encoder), Decoder(config.decoder)
        inside = config.code if config.codes is None else self._inside(config)
        pad = config.kernel // 2
        if config.kernel:
            self.quant_conv = nn.Conv2d(config.encoder.latent, config.code, config.kernel, padding=pad)
            self.post_quant_conv = nn.Conv2d(
                inside if config.codes else config.code // 2, config.decoder.latent, config.kernel, padding=pad
            )
        if config.kind == "projected":
            assert config.codes is not None
            self.tok_embeddings = nn.Embedding(*config.codes)
            if len(config.projection) == 1:
                self.codebook_projection: nn.Module = nn.Linear(config.codes[1], config.projection[0])
            elif config.projection:
                hidden, out = config.projection
                self.codebook_projection = nn.Sequential(
                    nn.Linear(config.codes[1], hidden), nn.ReLU(), nn.Linear(hidden, out)
                )
        elif config.codes is not None:
            self.quantize = Codebook(config)

    @staticmethod
    def _inside(config: VQGANConfig) -> int:
        assert config.codes is not None
        return config.projection[-1] if config.projection else config.codes[1]

    def table(self) -> Tensor:
        """The codes that `decode` is given: fp32 ``[K, D]``."""
        if self.config.kind == "projected":
            stored = self.tok_embeddings.weight
            return self.codebook_projection(stored) if self.config.projection else stored
        return (self.quantize.embed if self.config.kind == "gumbel" else self.quantize.embedding).weight

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1] -> what is quantised (or, for a KL autoencoder, the posterior's moments)."""
        z = self.encoder(images)
        return self.quant_conv(z) if self.config.kernel else z

    def choose(self, z: Tensor) -> Tensor:
        """fp32 ``[B, D, h, w]`` -> ids ``[B, h, w]``."""
        if self.config.kind == "gumbel":
            return self.quantize.proj(z).argmax(1)
        if self.config.unit_norm:
            z = z / z.norm(dim=1, keepdim=True)
        return nearest(z.permute(0, 2, 3, 1), self.table(), self.config.rule)

    def embed(self, ids: Tensor) -> Tensor:
        """ids ``[B, h, w]`` -> fp32 ``[B, D, h, w]``."""
        return lookup(ids, self.table(), self.config.rule).permute(0, 3, 1, 2)

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z) if self.config.kernel else z)


class ConvTokenizer(NetworkTokenizer):
    """What both kinds, discrete and continuous, share: the network, its names and its halves."""

    net: VQGANNet
    value_range = (-1.0, 1.0)
    exact = ("quantize", "tok_embeddings", "codebook_projection")

    @classmethod
    def build(cls, config: VQGANConfig) -> VQGANNet:
        return VQGANNet(config)

    def describe(self) -> Capabilities:
        config: VQGANConfig = self.loaded.config
        stochastic = config.kind == "kl"  # a posterior may be drawn from, when the protocol says so
        return Capabilities(
            any_resolution=True, multiple=config.encoder.factor, scales_with_area=True, stochastic=stochastic
        )

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        codes = {name: part for name, part in net.named_children() if name in self.exact}
        encoder, decoder = {"net": net.encoder, **codes}, {"net": net.decoder, **codes}
        if net.config.kernel:
            encoder["quant"], decoder["post"] = net.quant_conv, net.post_quant_conv
        return {"encoder": Half(net.encode, **encoder), "decoder": Half(net.decode, **decoder)}


class VQGAN(ConvTokenizer, GridTokenizer):
    """taming-transformers' VQGAN and what keeps its names: f16 and f8, any codebook, the Gumbel variant (detected), Chameleon, Anole.

    params: rule, how a code is chosen (`vtbench.zoo.quantise.Rule`), which shapes cannot tell; `auto` is the family's own."""

    family = "vqgan"
    drop: ClassVar[tuple[str, ...]] = (
        "loss.*",
        "model_ema.*",
        "quantize.codebook_used",
        "colorize",
        "discriminator.*",
        "perceptual_loss.*",
    )
    own_rule: ClassVar[Rule] = "distance"

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        rule: Literal["auto", "distance", "cosine", "dot"] = "auto",
    ) -> None:
        self._open(card, weights, state_key, allow_code, rule=rule)

    @classmethod
    def infer(cls, shapes: Shapes, *, rule: str = "auto", **params: Any) -> VQGANConfig:
        """The configuration; params: `rule` where it is not the class's own."""
        encoder, decoder = infer_half(shapes, "encoder", cls.family), infer_half(shapes, "decoder", cls.family)
        kernel = shapes["quant_conv.weight"][-1] if "quant_conv.weight" in shapes else 0
        code = wanted(shapes, "quant_conv.weight", cls.family)[0] if kernel else encoder.latent
        base = VQGANConfig(encoder, decoder, None, code, kernel=kernel, rule=cls.own_rule if rule == "auto" else rule)  # type: ignore[arg-type]
        if "tok_embeddings.weight" in shapes:
            rows, dims = shapes["tok_embeddings.weight"]
            layers = sorted(k for k in shapes if k.startswith("codebook_projection.") and k.endswith("weight"))
            projection = tuple(shapes[k][0] for k in layers)
            # VQGAN-LC scales the latents, not the codes, to unit length when they are as wide as CLIP's features.
            return replace(base, codes=(rows, dims), kind="projected", projection=projection, unit_norm=code == 768)
        if "quantize.embed.weight" in shapes:
            rows, dims = shapes["quantize.embed.weight"]
            return replace(base, codes=(rows, dims), kind="gumbel")
        rows, dims = wanted(shapes, "quantize.embedding.weight", cls.family)
        return replace(base, codes=(rows, dims))

    def sizes(self) -> tuple[int, ...]:
        return (self.loaded.config.codes[0],)

    def latents(self, images: Tensor) -> Tensor:
        return self.net.encode(images)

    def quantise(self, z: Tensor) -> Tensor:
        return self.net.choose(z)

    def embed(self, ids: Tensor) -> Tensor:
        return self.net.embed(ids)

    def pixels(self, z: Tensor) -> Tensor:
        return self.net.decode(z)

    @torch.no_grad()
    def codebook(self) -> np.ndarray:
        """float32 ``[K, D]``, as the decoder is given them."""
        ids = torch.arange(self.loaded.config.codes[0], device=self._device)
        return lookup(ids, self.net.table(), self.net.config.rule).cpu().numpy()


_CONV_BLOCKS = re.compile(r"^(encoder|decoder)\.conv_blocks\.(\d+)\.(.*)$")
_NUMBERED_MID = re.compile(r"^(encoder|decoder)\.mid\.([012])\.")
_UP = re.compile(r"^decoder\.up\.(\d+)\.")


def within(state: dict[str, Tensor], prefixes: Sequence[str], marker: str) -> dict[str, Tensor]:
    """The part of a whole model's state under the first prefix that holds `marker`, the prefix taken off."""
    for prefix in prefixes:
        if prefix and prefix + marker in state:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return state


class LlamaGen(VQGAN):
    """LlamaGen's VQ-16 and VQ-8: other names, levels of the decoder counted from the lowest resolution, codes of unit length."""

    family = "llamagen"
    own_rule = "cosine"

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        levels = count(state, "decoder.conv_blocks.{}.")

        def new(name: str) -> str:
            if match := _CONV_BLOCKS.match(name):
                half, level, rest = match[1], int(match[2]), match[3]
                place = f"down.{level}" if half == "encoder" else f"up.{levels - 1 - level}"
                return f"{half}.{place}.{re.sub('^res', 'block', rest)}"
            middle = {"0": "block_1", "1": "attn_1", "2": "block_2"}
            return _NUMBERED_MID.sub(lambda m: f"{m[1]}.mid.{middle[m[2]]}.", name)

        return {new(name): tensor for name, tensor in state.items()}


class Janus(LlamaGen):
    """The tokenizer inside Janus and Janus-Pro, which is LlamaGen's VQ-16: in the whole model's file, or alone, in the names of its authors or of
    transformers. transformers' own `JanusVQVAE.encode` omits the unit length that the authors' code gives latents and codes."""

    family = "janus"
    inside = ("model.vqmodel.", "vqmodel.", "gen_vision_model.")

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        own = within(state, cls.inside, "encoder.conv_in.weight")
        if any(name.startswith("decoder.conv_blocks.") for name in own):
            return super().rename(own)
        levels = count(own, "decoder.up.{}.")
        return {
            _UP.sub(lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name): tensor for name, tensor in own.items()
        }


class IBQ(VQGAN):
    """Index backpropagation quantisation (SEED-Voken): VQGAN's names, four blocks a level, a code chosen by the greatest dot product."""

    family = "ibq"
    own_rule = "dot"


class VQGANLC(VQGAN):
    """VQGAN-LC: a frozen codebook of CLIP features behind a learned projection."""

    family = "vqgan-lc"

    @classmethod
    def infer(cls, shapes: Shapes, *, rule: str = "auto", **params: Any) -> VQGANConfig:
        wanted(shapes, "tok_embeddings.weight", cls.family)
        return super().infer(shapes, rule=rule, **params)
