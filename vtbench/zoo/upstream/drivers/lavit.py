"""LaVIT's dynamic visual tokenizer (jy0205/LaVIT): as many tokens as the image's patches that are kept, then SDXL.

Weights are the folder of rain1011/LaVIT-7B-v2 (``visual_tokenizer/``, ``highres_pixel_decoding/``). Images in [0, 1] of 1024 pixels; the encoder sees them at 224 with CLIP's mean and deviation, and draws which patches it keeps (Gumbel), so it is stochastic, as is
the diffusion decoder. Written for the published weights: it has not run with them, nor with small ones, since the authors fix every width (a billion parameters in the encoder alone).
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SPECIAL = 32002
"""What the authors add to ids, so that they lie behind the language model's words."""
MOST = 256


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    steps: int = 50,
    guidance: float = 5.0,
) -> Any:
    """The published folder in the authors' detokenizer. steps, guidance: of the diffusion decoder."""
    made = importlib.import_module("models.image_detokenize").LaVITDetokenizer
    net = made(weights["model"], model_dtype="bf16" if dtype == "bfloat16" else "fp16", use_xformers=False)
    return LaVIT(driving.ready(net, device, dtype), steps, guidance)


class LaVIT:
    """The loaded model."""

    def __init__(self, net: Any, steps: int, guidance: float) -> None:
        self.net, self.steps, self.guidance = net, steps, guidance
        net.numpy_to_pil = lambda images: images  # their last step rounds to 8 bits

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.net.visual_tokenizer.quantize.num_tokens], (MOST,))
        found = {"streams": [tokens], "resolution": 1024, "max_tokens": MOST, "nmax": MOST, "stochastic": True}
        halves = driving.sizes(encoder=self.net.visual_tokenizer, decoder=[self.net.tokenizer_decoder, self.net.unet])
        return {**found, "parameters": halves}

    def encode(self, images: np.ndarray, *, seeds: list[int] | None = None, **options: Any) -> dict[str, np.ndarray]:
        """Images, each with its own noise -> ``tokens`` [B, 256], -1 beyond `lengths`."""
        x = self.net.pre_process(driving.plain(images, self.net), process_type="clip")
        rows = []
        for i, image in enumerate(x.split(1)):
            driving.seed(seeds, i)
            (ids,) = self.net.visual_tokenizer.tokenize_image(image)
            rows.append(driving.ids(ids - SPECIAL, (-1,)))
        tokens = np.full((len(rows), MOST), -1, np.int32)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = row
        return {"tokens": tokens, "lengths": np.array([len(row) for row in rows], np.int64)}

    def decode(self, arrays: dict[str, np.ndarray], *, seeds: list[int] | None = None, **options: Any) -> np.ndarray:
        """Tokens, -1 beyond the length -> images. The authors' function encodes and decodes: it is handed the tokens in place of what it would encode."""
        import torch

        net, found = self.net, []
        for i, row in enumerate(driving.tensor(arrays["tokens"], net)):
            driving.seed(seeds, i)
            kept = row[row >= 0]
            given = net.visual_tokenizer.quantize.embedding(kept), torch.tensor([len(kept)], device=row.device)
            blank = torch.zeros(1, 3, 1024, 1024, device=row.device)
            tokenize = net.visual_tokenizer.tokenize_image
            try:
                net.visual_tokenizer.tokenize_image = lambda *a, given=given, **k: given
                image = net.reconstruct_from_token(blank, num_inference_steps=self.steps, guidance_scale=self.guidance)
            finally:
                net.visual_tokenizer.tokenize_image = tokenize
            found.append(np.asarray(image, np.float32).transpose(0, 3, 1, 2))
        return np.concatenate(found)
