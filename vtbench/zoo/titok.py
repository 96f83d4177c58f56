"""TiTok (Yu et al., arXiv:2406.07550), TA-TiTok (arXiv:2501.07730) and One-D-Piece (arXiv:2501.10064): an image as a sequence of latent tokens.

A transformer reads image patches and N latent tokens and keeps the latter; another reads the quantised latents and mask tokens and keeps those. Images
are in [0, 1]. Everything but the use of unit length follows from the tensors' shapes: any N, codebook, width and depth loads.

The older, "legacy" checkpoints (L-32, B-64, S-128, and all of One-D-Piece) predict MaskGIT-VQGAN's codes, and their encoder reads the latents ``[B, N, D]``
as if they lay ``[B, D, N]``. The weights were trained so, and their tokens mean nothing without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
from vtbench.zoo.network import Half, NetworkTokenizer, Shapes, count, square, wanted
from vtbench.zoo.quantise import lookup, nearest, posterior
from vtbench.zoo.transformer import Layer


@dataclass(frozen=True)
class Vit:
    """One of the two transformers: its width and depth, the grid's side, the patch's side."""

    width: int
    layers: int
    grid: int
    patch: int


@dataclass(frozen=True)
class TiTokConfig:
    """codes: (K, D), None for the variational kind. token: numbers of a latent token as the decoder is given it. moments: what the encoder gives of one.
    pixel_codes, pixel_decoder: of the legacy kind. text: positions and width of the caption's features, where the decoder reads them."""

    encoder: Vit
    decoder: Vit
    latents: int
    token: int
    moments: int
    codes: tuple[int, int] | None
    unit: bool = False
    pixel_codes: tuple[int, int] | None = None
    pixel_decoder: maskgit.HalfConfig | None = None
    text: tuple[int, int] | None = None

    @property
    def legacy(self) -> bool:
        return self.pixel_decoder is not None


class Encoder(nn.Module):
    """Images and the N latent tokens -> ``[B, moments, N]``."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        vit, width = config.encoder, config.encoder.width
        self.legacy = config.legacy
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(vit.grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(config.latents, width))
        self.patch_embed = nn.Conv2d(3, width, vit.patch, stride=vit.patch)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Layer(width, 4 * width) for _ in range(vit.layers))
        self.conv_out = nn.Conv2d(width, config.moments, 1)

    def forward(self, images: Tensor, latents: Tensor) -> Tensor:
        batch, number = len(images), len(latents)
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(batch, 1, -1), patches], 1) + self.positional_embedding
        x = torch.cat([x, (latents + self.latent_token_positional_embedding).expand(batch, -1, -1)], 1)
        x = self.ln_pre(x)
        for layer in self.transformer:
            x = layer(x)
        kept = self.ln_post(x[:, -number:])
        channels_first = kept.reshape(batch, -1, number) if self.legacy else kept.transpose(1, 2)
        return self.conv_out(channels_first[..., None])[..., 0]


class Decoder(nn.Module):
    """Latents ``[B, k, token]``, k <= N, and a caption's features where the model has them -> pixels, or logits of MaskGIT-VQGAN's codes."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        vit, width = config.decoder, config.decoder.width
        self.grid, self.patch, self.legacy = vit.grid, vit.patch, config.legacy
        self.decoder_embed = nn.Linear(config.token, width)
        self.class_embedding = nn.Parameter(torch.empty(1, width))
        self.positional_embedding = nn.Parameter(torch.empty(vit.grid**2 + 1, width))
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(config.latents, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Layer(width, 4 * width) for _ in range(vit.layers))
        if config.text is not None:
            self.text_guidance_proj = nn.Linear(config.text[1], width)
            self.text_guidance_positional_embedding = nn.Parameter(torch.empty(config.text[0], width))
        if config.legacy:
            assert config.pixel_codes is not None
            logits = nn.Conv2d(2 * width, config.pixel_codes[0], 1)
            self.ffn = nn.Sequential(nn.Conv2d(width, 2 * width, 1), nn.Tanh(), logits)
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * vit.patch**2, 1))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, z: Tensor, text: Tensor | None = None) -> Tensor:
        batch, positions = len(z), self.grid**2
        masks = self.mask_token.expand(batch, positions, -1)
        canvas = torch.cat([self.class_embedding.expand(batch, 1, -1), masks], 1) + self.positional_embedding
        latents = self.decoder_embed(z) + self.latent_token_positional_embedding[: z.shape[1]]
        parts = [canvas, latents]
        if text is not None:
            parts.append(self.text_guidance_proj(text) + self.text_guidance_positional_embedding)
        x = self.ln_pre(torch.cat(parts, 1))
        for layer in self.transformer:
            x = layer(x)
        x = self.ln_post(x[:, 1 : 1 + positions]).transpose(1, 2).unflatten(2, (self.grid, self.grid))
        x = self.ffn(x)
        if self.legacy:
            return x
        # Channels run (row in the patch, column in the patch, colour): not the order of torch's pixel_shuffle.
        tiles = x.unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
        return self.conv_out(tiles.flatten(4, 5).flatten(2, 3))


class TiTokNet(nn.Module):
    """Both transformers, the latent tokens, the codebook, and for the legacy kind MaskGIT-VQGAN's codebook and decoder."""

    def __init__(self, config: TiTokConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_tokens = nn.Parameter(torch.empty(config.latents, config.encoder.width))
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        if config.codes is not None:
            self.quantize = maskgit.Codebook(*config.codes)
        if config.pixel_decoder is not None and config.pixel_codes is not None:
            self.pixel_quantize = maskgit.Codebook(*config.pixel_codes)
            self.pixel_decoder = maskgit.Decoder(config.pixel_decoder)

    def encode(self, images: Tensor) -> Tensor:
        """Images -> ``[B, N, moments]``."""
        return self.encoder(images, self.latent_tokens).transpose(1, 2)

    def decode(self, z: Tensor, text: Tensor | None = None) -> Tensor:
        """``[B, k, token]`` -> images, not clamped."""
        x = self.decoder(z, text)
        if not self.config.legacy:
            return x
        return self.pixel_decoder(torch.einsum("bkhw,kd->bdhw", x.softmax(1), self.pixel_quantize.embedding.weight))


class TiTok(NetworkTokenizer):
    """All nine published sizes and any other. params: unit, whether latents and codes have unit length: `auto` is yes for legacy files, else no."""

    family = "titok"
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
        pixels = {"pixels": net.pixel_decoder} if self.loaded.config.legacy else {}
        return {"encoder": Half(net.encode, net=net.encoder), "decoder": Half(net.decode, net=net.decoder, **pixels)}


class OneDPiece(TiTok):
    """One-D-Piece: TiTok's legacy network, trained so that the first k tokens decode. Only k latents, with the first k position embeddings, are given to the
    decoder: padding to N would be another input."""

    family = "one-d-piece"

    def describe(self) -> Capabilities:
        from dataclasses import replace

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
    return weights, find(clip.wanted(), what="of CLIP's text encoder", way_out=card.how_to_get(clip))
