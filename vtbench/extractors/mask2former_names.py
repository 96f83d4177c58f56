"""mmdetection's Mask2Former with a Swin backbone, renamed to the tensors of the Hugging Face hub's files (transformers' own format).

Three things are more than names. mmdetection keeps query, key and value of an attention in one tensor. Its patch merging unfolds a 2 x 2 window
channel by channel, where Swin's own code lays four pixels end to end, so the merged features stand in another order. Its backbone has one norm a stage.
Source: mmdet 2.28.2, its classes built and compared; the layout lies in ``mask2former_swin-s.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.zoo.layout import shapes_of

if TYPE_CHECKING:
    import torch

PIXEL = "model.pixel_level_module"
DECODER = "model.transformer_module"
WHOLE = (
    (r"backbone\.patch_embed\.projection", rf"{PIXEL}.encoder.embeddings.patch_embeddings.projection"),
    (r"backbone\.patch_embed\.norm", rf"{PIXEL}.encoder.embeddings.norm"),
    (r"backbone\.stages\.(\d+)\.blocks\.(\d+)", rf"{PIXEL}.encoder.encoder.layers.\1.blocks.\2"),
    (r"backbone\.stages\.(\d+)\.downsample", rf"{PIXEL}.encoder.encoder.layers.\1.downsample"),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.conv", rf"{PIXEL}.decoder.input_projections.\1.0"),
    (r"panoptic_head\.pixel_decoder\.input_convs\.(\d+)\.gn", rf"{PIXEL}.decoder.input_projections.\1.1"),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv", rf"{PIXEL}.decoder.adapter_1.0"),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn", rf"{PIXEL}.decoder.adapter_1.1"),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv", rf"{PIXEL}.decoder.layer_1.0"),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn", rf"{PIXEL}.decoder.layer_1.1"),
    (r"panoptic_head\.pixel_decoder\.mask_feature", rf"{PIXEL}.decoder.mask_projection"),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", rf"{PIXEL}.decoder.level_embed"),
    (r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)", rf"{PIXEL}.decoder.encoder.layers.\1"),
    (r"panoptic_head\.transformer_decoder\.layers\.(\d+)", rf"{DECODER}.decoder.layers.\1"),
    (r"panoptic_head\.transformer_decoder\.post_norm", rf"{DECODER}.decoder.layernorm"),
    (r"panoptic_head\.query_embed", rf"{DECODER}.queries_embedder"),
    (r"panoptic_head\.query_feat", rf"{DECODER}.queries_features"),
    (r"panoptic_head\.level_embed", rf"{DECODER}.level_embed"),
    (r"panoptic_head\.cls_embed", "class_predictor"),
)
"""The part of a network that a name begins with."""
INSIDE = {
    "encoder.encoder": (
        (".norm1", ".layernorm_before"),
        (".norm2", ".layernorm_after"),
        (".attn.w_msa.relative_position_bias_table", ".attention.self.relative_position_bias_table"),
        (".attn.w_msa.proj", ".attention.output.dense"),
        (".ffn.layers.0.0", ".intermediate.dense"),
        (".ffn.layers.1", ".output.dense"),
    ),
    "decoder.encoder": (
        (".attentions.0", ".self_attn"),
        (".norms.0", ".self_attn_layer_norm"),
        (".norms.1", ".final_layer_norm"),
        (".ffns.0.layers.0.0", ".fc1"),
        (".ffns.0.layers.1", ".fc2"),
    ),
    f"{DECODER}.decoder": (
        (".attentions.0.attn", ".cross_attn"),
        (".attentions.1.attn", ".self_attn"),
        (".norms.0", ".cross_attn_layer_norm"),
        (".norms.1", ".self_attn_layer_norm"),
        (".norms.2", ".final_layer_norm"),
        (".ffns.0.layers.0.0", ".fc1"),
        (".ffns.0.layers.1", ".fc2"),
    ),
}
"""What follows it, by where the name now is."""
UNFOLDED = (0, 2, 1, 3)
"""The place in mmdetection's window (by rows) of each of Swin's four pixels (by columns)."""


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An mmdetection state dict under the hub's names; tensors are reordered and split where the two differ. Unknown names stay as they are."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("relative_position_index"):
            continue  # a constant
        new = _renamed(name)
        if "downsample" in new:
            tensor = swin_order(tensor)
        if ".attn.w_msa.qkv." in new:
            names = [new.replace("attn.w_msa.qkv", f"attention.self.{part}") for part in ("query", "key", "value")]
        elif ".self_attn.in_proj_" in new:
            names = [new.replace("in_proj_", f"{part}_proj.") for part in "qkv"]
        else:
            out[new] = tensor
            continue
        out.update(zip(names, (part.contiguous() for part in tensor.chunk(3))))
    return out


def _renamed(name: str) -> str:
    if stage := re.match(r"backbone\.norm(\d)\.", name):
        return f"{PIXEL}.encoder.hidden_states_norms.stage{int(stage[1]) + 1}.{name[stage.end() :]}"
    if layer := re.match(r"panoptic_head\.mask_embed\.(\d)\.", name):
        return f"{DECODER}.decoder.mask_predictor.mask_embedder.{int(layer[1]) // 2}.0.{name[layer.end() :]}"
    for old, new in WHOLE:
        moved, found = re.subn(rf"^{old}(?![\w])", new, name)
        if found:
            break
    else:
        return name
    for place, pairs in INSIDE.items():
        if moved.startswith((f"{PIXEL}.{place}.", f"{place}.")):
            for old, new in pairs:
                if re.search(rf"{re.escape(old)}(?=\.|$)", moved):
                    return moved.replace(old, new, 1)
    return moved


def swin_order(tensor: torch.Tensor) -> torch.Tensor:
    """The merged features (the last axis, four times the channels) in Swin's order: four pixels end to end, from mmdetection's channel by channel."""
    channels = tensor.shape[-1] // 4
    window = tensor.reshape(*tensor.shape[:-1], channels, 4)[..., list(UNFOLDED)]
    return window.transpose(-1, -2).reshape(tensor.shape).contiguous()


def published() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the mmdetection checkpoint (Swin-S, 80 classes)."""
    table = json.loads((Path(__file__).parent / "mask2former_swin-s.json").read_text("utf-8"))
    return shapes_of(table["keys"])
