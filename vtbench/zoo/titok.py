"""TiTok (Yu et al., arXiv:2406.07550), TA-TiTok (arXiv:2501.07730) and One-D-Piece (arXiv:2501.10064): an image as a sequence of latent tokens.

A transformer reads image patches and N latent tokens and keeps the latter; another reads the quantised latents and mask tokens and keeps those. Images
are in [0, 1]. Everything but the use of unit length follows from the tensors' shapes: any N, codebook, width and depth loads.

The older, "legacy" checkpoints (L-32, B-64, S-128, and all of One-D-Piece) predict MaskGIT-VQGAN's codes, and their encoder reads the latents ``[B, N, D]``
as if they lay ``[B, D, N]``. The weights were trained so, and their tokens mean nothing without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vtbench.api import Capabilities, Condition, Stream, Tokens
from vtbench.errors import MissingWeights, UsageError
from vtbench.weights import digest, find, load_state
from vtbench.zoo import maskgit
from vtbench.zoo.card import Card
from vtbench.zoo.clip_text import ClipText
from vtbench.zoo.network import Half, NetworkTokenizer
from vtbench.zoo.published import Shapes, count, square, wanted
from vtbench.zoo.quantise import lookup, nearest, posterior
from vtbench.zoo.titok_network import TiTokConfig, TiTokNet, Vit


class TiTok(NetworkTokenizer):
    """All nine published sizes and any other. params: unit, whether latents and codes have unit length: `auto` is yes for legacy files, else no."""

    family = "titok"
    trunk = "encoder.ln_post"
    net: TiTokNet

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        unit: Literal["auto", "yes", "no"] = "auto",
    ) -> None:
        self._open(card, weights, state_key, allow_code, unit=unit)

    @classmethod
    def infer(cls, shapes: Shapes, *, unit: str = "auto", **params: Any) -> TiTokConfig:
        def vit(half: str, patch: int) -> Vit:
            positions, width = wanted(shapes, f"{half}.positional_embedding", cls.family)
            return Vit(width, count(shapes, f"{half}.transformer.{{}}."), square(positions - 1), patch)

        legacy = "pixel_quantize.embedding.weight" in shapes
        patch = wanted(shapes, "encoder.patch_embed.weight", cls.family)[-1]
        codes = shapes.get("quantize.embedding.weight")
        text = None
        if "decoder.text_guidance_proj.weight" in shapes:
            positions = wanted(shapes, "decoder.text_guidance_positional_embedding", cls.family)[0]
            text = (int(positions), int(shapes["decoder.text_guidance_proj.weight"][1]))
        return TiTokConfig(
            encoder=vit("encoder", patch),
            decoder=vit("decoder", patch),
            latents=wanted(shapes, "latent_tokens", cls.family)[0],
            token=wanted(shapes, "decoder.decoder_embed.weight", cls.family)[1],
            moments=wanted(shapes, "encoder.conv_out.weight", cls.family)[0],
            codes=(int(codes[0]), int(codes[1])) if codes is not None else None,
            unit=legacy if unit == "auto" else unit == "yes",
            pixel_codes=tuple(shapes["pixel_quantize.embedding.weight"]) if legacy else None,  # type: ignore[arg-type]
            pixel_decoder=maskgit.infer_half(
                {
                    k.replace("pixel_decoder.", "decoder.", 1): v
                    for k, v in shapes.items()
                    if k.startswith("pixel_decoder.")
                },
                "decoder",
                cls.family,
            )
            if legacy
            else None,
            text=text,
        )

    @classmethod
    def build(cls, config: TiTokConfig) -> TiTokNet:
        return TiTokNet(config)

    def describe(self) -> Capabilities:
        config: TiTokConfig = self.loaded.config
        side = config.encoder.grid * config.encoder.patch
        return Capabilities(
            any_resolution=False,
            resolution=side,
            multiple=side,
            max_tokens=config.latents,
            stochastic=config.codes is None,
            needs_caption=config.text is not None,
        )

    # ---------------------------------------------------------------------------------------- running

    @property
    def _rule(self) -> Literal["cosine", "distance"]:
        return "cosine" if self.loaded.config.unit else "distance"

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
        """Images float32 ``[B, 3, S, S]`` in [0, 1] -> one sequence ``tokens`` ``[B, N]``, or continuous ``latents`` ``[B, N, D]``."""
        z = self.net.encode(self._enter(images)).float()
        if self.loaded.config.codes is None:
            z = posterior(z, sample, seeds, dim=2)
            stream = Stream("latents", "continuous", "seq1d", shape=(int(z.shape[1]),))
            return Tokens((stream,), {"latents": z}, len(z), condition=condition)
        ids = nearest(z, self.net.quantize.embedding.weight, self._rule)
        stream = Stream(
            "tokens",
            "index",
            "seq1d",
            self.loaded.config.codes[:1],
            (int(ids.shape[1]),),
            ordered=self.capabilities.prefix,
        )
        tokens = Tokens((stream,), {"tokens": ids}, len(ids), condition=condition)
        return self.prefix(tokens, budget) if budget is not None else tokens

    def before_codes(self, images: Tensor) -> Tensor:
        z = self.net.encode(images)
        return z if self.loaded.config.codes is not None else z.chunk(2, 2)[0]

    def _text(self, tokens: Tokens) -> Tensor | None:
        """The features of the captions, for a decoder that reads them."""
        return None

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Tokens -> images float32 ``[B, 3, S, S]`` in [0, 1]."""
        (stream,) = tokens.streams
        if stream.kind == "continuous":
            z = torch.as_tensor(tokens.data[stream.name], device=self._device).float()
        else:
            z = lookup(self._ids(tokens, stream.name), self.net.quantize.embedding.weight, self._rule)
        return self._leave(self.net.decode(z.to(self._dtype), self._text(tokens)))

    @torch.no_grad()
    def codebook(self) -> np.ndarray | None:
        """float32 ``[K, D]`` as the decoder is given them; None for the variational kind."""
        if self.loaded.config.codes is None:
            return None
        ids = torch.arange(self.loaded.config.codes[0], device=self._device)
        return lookup(ids, self.net.quantize.embedding.weight, self._rule).cpu().numpy()

    def modules(self) -> dict[str, nn.Module]:
        net = self.net
        parts = dict(net.named_children())
        latents = nn.ParameterList([net.latent_tokens])
        return {
            "encoder": Half(
                net.encode, latents=latents, **{k: m for k, m in parts.items() if k in ("encoder", "quantize")}
            ),
            "decoder": Half(net.decode, **{k: m for k, m in parts.items() if k != "encoder"}),
        }


class OneDPiece(TiTok):
    """One-D-Piece: TiTok's legacy network, trained so that the first k tokens decode. Only k latents, with the first k position embeddings, are given to the
    decoder: padding to N would be another input."""

    family = "one-d-piece"

    def describe(self) -> Capabilities:
        return replace(super().describe(), prefix=True)


class TATiTok(TiTok):
    """TA-TiTok: the decoder also reads the caption, as CLIP ViT-L/14-336's text encoder sees it. The card's file `clip` holds that encoder.

    Without a caption the decoder is given the encoding of the empty text."""

    family = "ta-titok"
    clip: ClipText | None = None

    def __init__(
        self,
        *,
        card: Card | None = None,
        weights: Path | None = None,
        state_key: str = "auto",
        allow_code: bool = False,
        unit: Literal["auto", "yes", "no"] = "auto",
    ) -> None:
        if card is None:
            raise MissingWeights(
                "TA-TiTok needs CLIP's text encoder beside its own weights",
                "Name it with its card: --model tatitok-...",
            )
        own, clip = _files(card, weights)
        self._open(None, own, state_key, allow_code, unit=unit)
        self.clip = ClipText(load_state(clip, allow_code=allow_code))
        self.revision = f"{self.revision}+{digest(clip)}"

    def _text(self, tokens: Tokens) -> Tensor | None:
        if self.clip is None:
            raise UsageError(
                "TA-TiTok decodes with captions, and no text encoder is loaded", "Set `clip` to a ClipText"
            )
        captions = [(c.caption or "") for c in tokens.condition] if tokens.condition else [""] * len(tokens)
        return self.clip(captions).to(self._dtype)

    def to(self, device: str, dtype: str = "float32") -> TATiTok:
        super().to(device, dtype)
        if self.clip is not None:
            self.clip.to(self._device)
        return self


def _files(card: Card, weights: Path | None) -> tuple[Path, Path]:
    """TA-TiTok's weights and CLIP's: of a checkpoint given by itself, only the former lie there, and the latter on the weights path."""
    if weights is None or weights.is_dir():
        files = card.locate(weights)
        return files["weights"], files["clip"]
    clip = next(file for file in card.files if file.role == "clip")
    return weights, find(clip.wanted(), what="CLIP's text encoder", way_out=card.how_to_get(clip))
