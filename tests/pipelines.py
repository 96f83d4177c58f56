"""A text-to-image pipeline of diffusers with random weights, small enough to be built in a test."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any


def clip_tokenizer(where: Path) -> tuple[Any, dict[str, int]]:
    """CLIP's tokenizer over letters alone, of 16 positions, with its vocabulary."""
    import transformers

    letters = [chr(c) for c in range(97, 123)]
    vocab = {t: i for i, t in enumerate([*letters, *[c + "</w>" for c in letters], "<|startoftext|>", "<|endoftext|>"])}
    (where / "vocab.json").write_text(json.dumps(vocab))
    (where / "merges.txt").write_text("#version: 0.2\n")
    try:
        tokenizer: Any = transformers.CLIPTokenizer(str(where / "vocab.json"), str(where / "merges.txt"))
    except (TypeError, AttributeError):
        tokenizer = transformers.CLIPTokenizer(vocab=vocab, merges=[])
    tokenizer.model_max_length = 16
    return tokenizer, vocab


def stable_diffusion(where: Path, *, seed: int = 0) -> Path:
    """Write a Stable Diffusion pipeline in the library's layout: images of 32 pixels, prompts of letters. Returns its folder."""
    import diffusers
    import torch
    import transformers

    torch.manual_seed(seed)
    where.mkdir(parents=True)
    tokenizer, vocab = clip_tokenizer(where)
    text = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
            projection_dim=16,
        )
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipe = diffusers.StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=unet,
            scheduler=diffusers.DDIMScheduler(clip_sample=False, steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipe.save_pretrained(where / "pipe")
    return where / "pipe"


def dit(where: Path, *, seed: int = 0) -> Path:
    """Write a class-conditional DiT pipeline in the library's layout: images of 16 pixels, 1000 classes. Returns its folder."""
    import diffusers
    import torch

    torch.manual_seed(seed)
    transformer = diffusers.DiTTransformer2DModel(
        sample_size=8,
        num_layers=1,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    )
    for parameter in transformer.parameters():  # its last layers start at zero, and would ignore the class
        torch.nn.init.normal_(parameter, std=0.1)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers.DiTPipeline(transformer=transformer, vae=vae, scheduler=diffusers.DDIMScheduler()).save_pretrained(
            where
        )
    return where
