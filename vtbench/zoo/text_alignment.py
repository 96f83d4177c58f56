"""The contrastive half of a tokenizer that was trained with text: UniTok's text encoder and its projection of images. The transformer and the tokenizer of
words are open_clip's, the names those of UniTok's published file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vtbench.errors import MissingPackage
from vtbench.weights import load_strict
from vtbench.zoo.published import count, wanted

ALIGNED = ("text_encoder.", "fc_norm.", "projection.")
HEAD = 64
"""Width of an attention head."""


class TextAlignment:
    """Images and texts in one space, fp32 ``[B, D]`` of unit length. state: the tensors under the names `ALIGNED`."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        try:
            import open_clip
            from open_clip.transformer import TextTransformer
        except ImportError as error:
            raise MissingPackage("open_clip", "clip", "features that are aligned with text") from error
        shapes = {k: tuple(v.shape) for k, v in state.items()}
        words, width = wanted(shapes, "text_encoder.token_embedding.weight", "text encoder")
        positions, _ = wanted(shapes, "text_encoder.positional_embedding", "text encoder")
        out, source = wanted(shapes, "projection.weight", "projection of images")
        build: Any = TextTransformer
        self.words = build(
            context_length=positions,
            vocab_size=words,
            width=width,
            heads=max(1, width // HEAD),
            layers=count(shapes, "text_encoder.transformer.resblocks.{}."),
            output_dim=out,
        )
        self.head = nn.Sequential(nn.LayerNorm(source, eps=1e-6), nn.Linear(source, out))
        text = {k.removeprefix("text_encoder."): v.float() for k, v in state.items() if k.startswith("text_encoder.")}
        load_strict(self.words, text, drop=("attn_mask",), where="the text encoder")
        names = {"fc_norm": "0", "projection": "1"}
        image = {
            f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v.float()
            for k, v in state.items()
            if k.split(".")[0] in names
        }
        load_strict(self.head, image, where="the projection of images")
        for part in (self.words, self.head):
            part.eval().requires_grad_(False)
        self._spell = open_clip.SimpleTokenizer(context_length=positions)

    def to(self, device: torch.device) -> TextAlignment:
        """Move both halves."""
        self.words.to(device)
        self.head.to(device)
        return self

    def image(self, pooled: Tensor) -> Tensor:
        """Of the mean of an image's tokens, fp32 ``[B, width]``."""
        return F.normalize(self.head(pooled), dim=-1)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """Of texts."""
        device = self.words.token_embedding.weight.device
        return F.normalize(self.words(self._spell(list(texts)).to(device)), dim=-1)
