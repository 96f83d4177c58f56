"""CLIP's text encoder without its pooling: what TA-TiTok's decoder is given of a caption. The transformer and the tokenizer are open_clip's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vtbench.errors import MissingPackage
from vtbench.weights import load_strict
from vtbench.zoo.published import count, wanted

HEAD = 64
"""Width of an attention head in all of OpenAI's text encoders."""


class ClipText:
    """Captions -> float32 ``[B, 77, width]``: every position after the last layer norm, as TA-TiTok's authors take it.

    state: a CLIP model's tensors under open_clip's names; those of the image tower and the pooling's projection are left out."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        try:
            import open_clip
            from open_clip.transformer import QuickGELU, TextTransformer
        except ImportError as error:
            raise MissingPackage("open_clip", "clip", "a tokenizer that decodes with captions") from error
        shapes = {k: tuple(v.shape) for k, v in state.items()}
        words, width = wanted(shapes, "token_embedding.weight", "CLIP text encoder")
        positions, _ = wanted(shapes, "positional_embedding", "CLIP text encoder")
        build: Any = TextTransformer
        self.net = build(
            context_length=positions,
            vocab_size=words,
            width=width,
            heads=width // HEAD,
            layers=count(shapes, "transformer.resblocks.{}."),
            output_dim=None,
            act_layer=QuickGELU,
        )
        kept = {k: v.float() for k, v in state.items() if not k.startswith("visual.")}
        load_strict(
            self.net,
            kept,
            drop=("logit_scale", "logit_bias", "text_projection*", "attn_mask"),
            where="the CLIP weights",
        )
        self.net.eval().requires_grad_(False)
        self._words = open_clip.SimpleTokenizer(context_length=positions)
        self._positions = positions

    def to(self, device: torch.device) -> ClipText:
        self.net.to(device)
        return self

    @torch.no_grad()
    def __call__(self, captions: Sequence[str]) -> Tensor:
        """One feature sequence a caption; an empty caption is the encoding of no words."""
        device = self.net.token_embedding.weight.device
        ids = self._words(list(captions)).to(device)
        x = self.net.token_embedding(ids) + self.net.positional_embedding
        return self.net.ln_final(
            self.net.transformer(x, attn_mask=self.net.attn_mask[: self._positions, : self._positions])
        )
