"""SEED-2 (AILab-CVC/SEED): 32 tokens, decoded by unCLIP of Stable Diffusion 2.1.

Weights: ``seed_quantizer.pt`` of AILab-CVC/seed-tokenizer-2, and the folder of stable-diffusion-2-1-unclip. Images in [0, 1]; the encoder sees them at 224 pixels, squashed, with CLIP's mean and deviation, and is deterministic; the diffusion decoder draws
noise and gives 768 pixels. The encoder has run here with small random weights, the decoder has not run.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 224
MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _net(sizes: dict[str, int]) -> Any:
    """The authors' class of these sizes. Theirs would first fetch BERT, its vocabulary and EVA-CLIP, all of which the checkpoint replaces or leaves unused."""
    from types import SimpleNamespace

    blip: Any = importlib.import_module("models.seed_qformer.blip2")
    vit: Any = importlib.import_module("models.seed_qformer.eva_vit")
    blip.BertTokenizer = SimpleNamespace(
        from_pretrained=lambda *a, **k: SimpleNamespace(add_special_tokens=lambda *a: None)
    )
    config, bert = blip.BertConfig, blip.BertLMHeadModel

    def bert_config(*given: Any, **options: Any) -> Any:
        heads = 12
        return config(hidden_size=sizes["hidden"], num_hidden_layers=sizes["layers"], num_attention_heads=heads)

    blip.BertConfig = SimpleNamespace(from_pretrained=bert_config)
    blip.BertLMHeadModel = SimpleNamespace(from_pretrained=lambda name, config: bert(config))
    blip.create_eva_vit_g = lambda *given: vit.VisionTransformer(
        img_size=SIZE,
        patch_size=14,
        use_mean_pooling=False,
        embed_dim=sizes["width"],
        depth=sizes["depth"],
        num_heads=sizes["width"] // 88,
        mlp_ratio=4.3637,
        qkv_bias=True,
        norm_layer=lambda n: importlib.import_module("torch").nn.LayerNorm(n, eps=1e-6),
    )
    try:
        return importlib.import_module("models.seed_qformer.qformer_quantizer").Blip2QformerQuantizer(
            vit_precision="fp32",
            n_embed=sizes["codes"],
            codebook_embed_dim=sizes["dims"],
            num_query_token=sizes["queries"],
            image_features_dim=sizes["out"],
            decode_depth=sizes["blocks"],
        )
    finally:
        blip.BertConfig, blip.BertLMHeadModel = config, bert


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    steps: int = 20,
    guidance: float = 10.0,
    resolution: int = 224,
) -> Any:
    """The published checkpoint in the authors' class, and their pipeline for the decoder.

    steps, guidance: of the diffusion. resolution: of images on both sides; the decoder's 768 pixels are made as large, the encoder's input 224."""
    state = driving.state_of(weights["weights"])
    sizes = {
        "codes": driving.shape_of(state, "quantize.embedding.weight")[0],
        "dims": driving.shape_of(state, "quantize.embedding.weight")[1],
        "queries": driving.shape_of(state, "query_tokens")[1],
        "hidden": driving.shape_of(state, "query_tokens")[2],
        "layers": driving.count(state, r"Qformer\.bert\.encoder\.layer\.(\d+)\."),
        "width": driving.shape_of(state, "visual_encoder.patch_embed.proj.weight")[0],
        "depth": driving.count(state, r"visual_encoder\.blocks\.(\d+)\."),
        "blocks": driving.count(state, r"blocks_image\.(\d+)\."),
        "out": driving.shape_of(state, "distill_image_proj.weight")[0],
    }
    net = _net(sizes)
    driving.fill(net, state, drop=(r"Qformer\.", r"Reverse_Qformer\.", r"temp$"), absent=(r".*position_ids$",))
    pipeline = None
    if "unclip" in weights:
        made = importlib.import_module("models.pipeline_stable_unclip_img2img").StableUnCLIPImg2ImgPipeline
        pipeline = made.from_pretrained(weights["unclip"], torch_dtype=getattr(importlib.import_module("torch"), dtype))
        pipeline = pipeline.to(device)
        pipeline.set_progress_bar_config(disable=True)
    return SEED(driving.ready(net, device, dtype), pipeline, sizes, steps, guidance, resolution)


class SEED:
    """The loaded model."""

    def __init__(
        self, net: Any, pipeline: Any, sizes: dict[str, int], steps: int, guidance: float, resolution: int
    ) -> None:
        self.net, self.pipeline, self.codes, self.queries = net, pipeline, sizes["codes"], sizes["queries"]
        self.steps, self.guidance, self.resolution = steps, guidance, resolution

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.codes], (self.queries,), ordered=True)
        found = {"streams": [tokens], "resolution": self.resolution, "stochastic": True}
        return {**found, "notes": ["the decoder's 768 pixels are resized (bicubic, antialiased) to the input's size"]}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, 32]."""
        x = _resized(driving.plain(images, self.net), SIZE)
        mean, deviation = (x.new_tensor(v)[:, None, None] for v in (MEAN, DEVIATION))
        found = self.net.get_codebook_indices((x - mean) / deviation)[0]
        return {"tokens": driving.ids(found, (len(images), self.queries))}

    def decode(self, arrays: dict[str, np.ndarray], *, seeds: list[int] | None = None, **options: Any) -> np.ndarray:
        """Tokens -> images, each from latents and noise of its own."""
        import torch

        if self.pipeline is None:
            raise FileNotFoundError("SEED-2 decodes with stable-diffusion-2-1-unclip, whose folder is not there")
        found = []
        for i, row in enumerate(driving.tensor(arrays["tokens"], self.net).split(1)):
            image = self.pipeline(
                image_embeds=self.net.get_codebook_entry(row),
                guidance_scale=self.guidance,
                noise_level=0,
                num_inference_steps=self.steps,
                generator=driving.seed(seeds, i),
                output_type="np",
            ).images
            found.append(torch.from_numpy(np.asarray(image, np.float32)).permute(0, 3, 1, 2))
        return driving.pixels(_resized(torch.cat(found), self.resolution), signed=False)


def _resized(x: Any, size: int) -> Any:
    """Images at another size, bicubic with antialiasing, as torchvision resizes pictures."""
    import torch

    if x.shape[-1] == size:
        return x
    return torch.nn.functional.interpolate(x, size=(size, size), mode="bicubic", antialias=True).clamp(0, 1)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights of the encoder in the published layout: width 176, two layers, 64 codes; no decoder."""
    import torch

    torch.manual_seed(seed)
    sizes = {"codes": 64, "dims": 8, "queries": 32, "hidden": 48, "layers": 2, "width": 176, "depth": 2}
    net = _net({**sizes, "blocks": 1, "out": 32})
    return {"weights": {"weights": driving.save(net, f"{folder}/seed_quantizer.pt")}, "params": {}}
