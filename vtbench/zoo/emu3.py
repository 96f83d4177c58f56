"""Emu3's vision tokenizer through transformers' `Emu3VQVAE`: a video tokenizer, used on single pictures.

Its weights are published in the names of the authors' own class (BAAI/Emu3-VisionTokenizer) and, inside the whole language model, in those of transformers. Both are taken; of
the latter only the tensors of the tokenizer are read from the file or shards. A picture is repeated over the frames that the network joins, and the first decoded frame
is the reconstruction, as in both implementations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vtbench import weights as files
from vtbench.api import Capabilities, Condition, Stream, Tokenizer, Tokens
from vtbench.errors import BadWeights, MissingPackage
from vtbench.zoo.quantise import lookup, nearest

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

PREFIXES = ("model.vqmodel.", "vqmodel.", "")
_LEVEL = re.compile(r"^(encoder\.down|decoder\.up)\.(\d+)\.")
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj_out": "out_proj"}


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names to those of transformers (which are left alone); their 1x1 convolutions of attention become matrices."""
    out = {}
    for old, tensor in state.items():
        new = old.replace(".mid.", ".middle_block.")
        new = _LEVEL.sub(lambda m: f"{m[1].split('.')[0]}.{m[1].split('.')[1]}_block.{m[1].split('.')[1]}.{m[2]}.", new)
        new = re.sub(r"\.middle_block\.attn_1\.norm\.", ".middle_block.attn_norm.", new)
        new = re.sub(r"\.attn\.(\d+)\.norm\.", r".attn_norms.\1.", new)
        matched = re.search(r"\.(attn_1|attn\.\d+)\.(q|k|v|proj_out)\.(weight|bias)$", new)
        if matched:
            new = f"{new[: matched.start()]}.{matched[1]}.{_ATTENTION[matched[2]]}.{matched[3]}"
            tensor = tensor.flatten(1) if tensor.ndim == 4 else tensor
        out[new] = tensor
    return out


def infer(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The configuration that the tensors' shapes give, in the words of `Emu3VQVAEConfig`; state in transformers' names."""
    if (
        "quantize.embedding.weight" not in state
        or "encoder.conv_in.weight" not in state
        or "quant_conv.conv.weight" not in state
    ):
        raise BadWeights(f"these {len(state)} tensors are not of Emu3's tokenizer ({', '.join(list(state)[:3])}, ...)")
    numbers = sorted({int(m[1]) for k in state if (m := re.match(r"encoder\.down_block\.down\.(\d+)\.", k))})
    base = int(state["encoder.conv_in.weight"].shape[0])
    widths = [int(state[f"encoder.down_block.down.{i}.block.0.conv1.weight"].shape[0]) for i in numbers]
    blocks = len({m[1] for k in state if (m := re.match(r"encoder\.down_block\.down\.0\.block\.(\d+)\.", k))})
    times = len({m[1] for k in state if (m := re.match(r"encoder\.time_conv\.(\d+)\.", k))})
    latent = int(state["quant_conv.conv.weight"].shape[1])
    size, dims = state["quantize.embedding.weight"].shape
    return {
        "codebook_size": int(size),
        "embed_dim": int(dims),
        "latent_channels": latent,
        "double_latent": int(state["encoder.conv_out.weight"].shape[0]) == 2 * latent,
        "in_channels": int(state["encoder.conv_in.weight"].shape[1]),
        "out_channels": int(state["decoder.conv_out.weight"].shape[0]),
        "base_channels": base,
        "channel_multiplier": [w // base for w in widths],
        "num_res_blocks": blocks,
        "attn_resolutions": [i for i in numbers if f"encoder.down_block.down.{i}.attn.0.q_proj.weight" in state],
        "temporal_downsample_factor": 2**times,
        "hidden_size": widths[-1],
    }


class Emu3(Tokenizer):
    """One index a position of 1/8 of the side; pixels in [-1, 1] inside."""

    def __init__(
        self, *, card: Card, weights: Path | None = None, state_key: str = "auto", allow_code: bool = False
    ) -> None:
        try:
            from transformers import Emu3VQVAE, Emu3VQVAEConfig
        except ImportError as error:
            raise MissingPackage("transformers", "zoo", "Emu3's tokenizer") from error
        path = card.locate(weights)["weights"]
        state = files.read_state(path, key=state_key, allow_code=allow_code, prefixes=PREFIXES)
        renamed = {k: v.float() if v.is_floating_point() else v for k, v in rename(state.tensors).items()}
        config = infer(renamed)
        self.net: Any = Emu3VQVAE(Emu3VQVAEConfig(**config))
        files.load_strict(self.net, renamed, where=str(path))
        self.net.eval().requires_grad_(False)
        self.notes = tuple(state.notes)
        # A shard's index says nothing of the weights themselves.
        self.revision = files.state_digest(state.tensors) if path.suffix == ".json" else files.digest(path)
        if state_key != "auto":
            self.revision += f"#{state_key}"
        self.capabilities = Capabilities(multiple=2 ** (len(config["channel_multiplier"]) - 1), scales_with_area=True)
        self._frames = int(config["temporal_downsample_factor"])

    def _like(self, images: Tensor) -> Tensor:
        first = next(self.net.parameters())
        return images.to(first.device, first.dtype)

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
        """float32 ``[B, 3, H, W]`` in [0, 1] -> ids ``[B, h * w]``; the nearest code is found in float32."""
        frames = self._like(images * 2 - 1)[:, None].expand(-1, self._frames, -1, -1, -1)
        z = self.net.quant_conv(self.net.encoder(frames).transpose(1, 2))[:, :, 0]
        ids = nearest(z.float().permute(0, 2, 3, 1), self.net.quantize.embedding.weight)
        stream = Stream("tokens", "index", "grid2d", (self.net.config.codebook_size,), tuple(ids.shape[1:]))
        return Tokens((stream,), {"tokens": ids.flatten(1)}, len(ids), condition=condition)

    @torch.no_grad()
    def decode(self, tokens: Tokens, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Ids of any grid -> float32 ``[B, 3, H, W]`` in [0, 1]."""
        (stream,) = tokens.streams
        ids = torch.as_tensor(tokens.data["tokens"]).to(self.net.quantize.embedding.weight.device).long()
        pixels: Tensor = self.net.decode(ids.unflatten(1, stream.shape)).float()
        return ((pixels + 1) / 2).clamp(0, 1)

    @torch.no_grad()
    def codebook(self) -> np.ndarray:
        """float32 ``[K, D]``."""
        book = self.net.quantize.embedding.weight
        return lookup(torch.arange(len(book), device=book.device), book).cpu().numpy()

    def modules(self) -> Mapping[str, Any]:
        """Both halves, each with the convolution beside the codebook."""
        net = self.net
        return {
            "encoder": torch.nn.ModuleList([net.encoder, net.quant_conv]),
            "decoder": torch.nn.ModuleList([net.decoder, net.post_quant_conv]),
        }

    def to(self, device: str, dtype: str = "float32") -> Emu3:
        """Move the network."""
        self.net.to(device, getattr(torch, dtype))
        return self
