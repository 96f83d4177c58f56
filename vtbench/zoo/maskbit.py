"""MaskBit's tokenizers (Weber et al., arXiv:2409.16211): MaskGIT's network with strided downsampling, and lookup-free quantisation.

A token is the signs of 10 to 18 numbers. Images are in [0, 1]. Files of VQGAN+ (a table of codes instead of signs) load too.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vtbench.zoo.maskgit import MaskGIT, MaskGITConfig, infer_half
from vtbench.zoo.published import Shapes, count
from vtbench.zoo.quantise import ids_to_signs, signs_to_ids


class MaskBit(MaskGIT):
    """MaskBit's tokenizers with 10 to 18 bits a token, and VQGAN+."""

    family = "maskbit"
    drop = ("quantize.bits_to_indices", "quantize.codebook")

    @classmethod
    def rename(cls, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """To open-muse's names: the decoder's levels are counted from the lowest resolution in the file."""
        levels = count(state, "decoder.up.{}.")

        def new(name: str) -> str:
            name = name.replace(".mid.res_blocks.", ".mid.").replace(".res_blocks.", ".block.")
            return re.sub(r"^decoder\.up\.(\d+)\.", lambda m: f"decoder.up.{levels - 1 - int(m[1])}.", name)

        return {new(name): tensor for name, tensor in state.items()}

    @classmethod
    def infer(cls, shapes: Shapes, **params: Any) -> MaskGITConfig:
        if "quantize.embedding.weight" in shapes:
            return super().infer(shapes, **params)
        encoder, decoder = (infer_half(shapes, half, cls.family) for half in ("encoder", "decoder"))
        return MaskGITConfig(encoder, decoder, None)

    @property
    def _bits(self) -> int:
        """Bits of a token; 0 where there is a table of codes."""
        config: MaskGITConfig = self.loaded.config
        return 0 if config.codes else config.encoder.latent

    def sizes(self) -> tuple[int, ...]:
        return (2**self._bits,) if self._bits else super().sizes()

    def quantise(self, z: Tensor) -> Tensor:
        return signs_to_ids(z.permute(0, 2, 3, 1)) if self._bits else super().quantise(z)

    def embed(self, ids: Tensor) -> Tensor:
        return ids_to_signs(ids, self._bits).permute(0, 3, 1, 2) if self._bits else super().embed(ids)

    def codebook(self) -> np.ndarray | None:
        """float32 ``[K, bits]`` of signs."""
        return ids_to_signs(torch.arange(2**self._bits), self._bits).numpy() if self._bits else super().codebook()
