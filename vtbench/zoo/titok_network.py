"""TiTok's network: two transformers around N latent tokens, and for the older checkpoints MaskGIT-VQGAN's decoder behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vtbench.zoo import maskgit
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
