"""Selftok (selftok-team/SelftokTokenizer): 512 or 1024 tokens along the diffusion's time, decoded by an MMDiT flow or a one-step renderer.

Weights: ``{tokenizer,renderer}_{512,1024}_ckpt.pth`` of selftok-team/SelftokTokenizer, and the VAE of stable-diffusion-3-medium-diffusers. Images of 256 pixels in [-1, 1]; the encoder is deterministic (the VAE's mode), the flow starts from noise, the renderer
draws none. The authors' pipeline does the work; sizes other than the published ones are read off a checkpoint.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import vtbench_driving as driving

VERSION = 1
SIZE = 256


def _authors(source: str, device: str) -> Any:
    """Their pipeline's module, without the packages' own imports of training and video code."""
    import logging

    driving.cuda_is(device)
    driving.bare("mimogpt.models", f"{source}/mimogpt/models")
    driving.bare("mimogpt.utils", f"{source}/mimogpt/utils")
    importlib.import_module("mimogpt.utils").hf_logger = logging.getLogger("selftok")  # type: ignore[attr-defined]
    return importlib.import_module("mimogpt.infer.SelftokPipeline")


def _tokenizer(source: str, options: dict[str, Any], sizes: dict[str, int]) -> Any:
    """The authors' class. sizes: of the encoder and the MMDiT where they are not the published ones."""
    zoo = importlib.import_module("mimogpt.models.selftok.model_zoo")
    made = importlib.import_module("mimogpt.models.selftok.image_tokenizer").ImageTokenizer
    if sizes:
        zoo.Enc_models["Enc-Qformer-sized"] = lambda **k: zoo.QformerEncoder(
            patch_size=2,
            hidden_size=sizes["hidden"],
            num_heads=4,
            depth=sizes["layers"],
            query_dim=sizes["query"],
            query_heads=8,
            bidirectional=False,
            **k,
        )
        context = {"in_features": options["encoder_hidden_size"], "out_features": 64 * sizes["depth"]}
        decoder = zoo.MMDiT if options["model"] == "MMDiT_XL" else zoo.MMDiT_Renderer
        zoo.DiT_models["sized"] = lambda **k: decoder(
            pos_embed_max_size=192,
            patch_size=2,
            depth=sizes["depth"],
            num_patches=36864,
            adm_in_channels=options["encoder_hidden_size"],
            context_embedder_config={"target": "torch.nn.Linear", "params": context},
            device="cpu",
            dtype=importlib.import_module("torch").float,
            **k,
        )
        options = {**options, "enc": "Enc-Qformer-sized", "model": "sized"}
    return made(**options)


def _options(source: str, renderer: bool, tokens: int) -> dict[str, Any]:
    """The authors' configuration of the tokenizer. Theirs is for 512 tokens: for others the tokens of every stage of time grow alike."""
    import yaml

    file = "renderer/renderer-eval.yml" if renderer else "res256/256-eval.yml"
    with open(f"{source}/configs/{file}", encoding="utf-8") as text:
        options = yaml.safe_load(text)["tokenizer"]["params"]
    shares = [int(n) for n in options["k_per_stage"].split(",")]
    options["k_per_stage"] = ",".join(str(n * tokens // options["k"]) for n in shares)
    options["k"] = options["quantizer_config"]["K"] = tokens
    options["noise_schedule_config"]["is_eval"] = True
    return dict(options)


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str = "cpu",
    dtype: str = "float32",
    variant: str = "tokenizer_512",
    steps: int = 50,
) -> Any:
    """The published checkpoint in the authors' pipeline.

    variant: tokenizer_512, tokenizer_1024, renderer_512 or renderer_1024. steps: of the flow; a renderer takes one."""
    kind, _, number = variant.partition("_")
    if kind not in ("tokenizer", "renderer") or not number.isdigit():
        raise ValueError(f"variant is tokenizer_512, tokenizer_1024, renderer_512 or renderer_1024, not {variant}")
    authors = _authors(source, device)
    state = driving.state_of(weights["weights"], ("ema", "state_dict"))
    tokens, query = driving.shape_of(state, "encoder.query_tokens")[1:]
    if tokens != int(number):
        raise ValueError(f"the checkpoint has {tokens} tokens: say variant={kind}_{tokens}")
    options = _options(source, kind == "renderer", tokens)
    codes = options["quantizer_config"]["codebook_size"]
    sizes = {
        "hidden": driving.shape_of(state, "encoder.x_embedder.proj.weight")[0],
        "layers": driving.count(state, r"encoder\.blocks\.(\d+)\."),
        "query": query,
        "depth": driving.count(state, r"model\.joint_blocks\.(\d+)\."),
    }
    published = {"hidden": 64, "layers": 16, "query": 512, "depth": 24}
    if sizes != published:
        book = next((k for k in state if k.startswith("encoder.quantizer._codebook.embed") and state[k].ndim >= 2), "")
        codes = options["quantizer_config"]["codebook_size"] = driving.shape_of(state, book)[-2]
    net = _tokenizer(source, options, {} if sizes == published else sizes)
    buffers = [name for name, _ in net.named_buffers() if not name.endswith((".embed", ".initted"))]
    driving.fill(net, state, drop=(".*",), absent=buffers)  # the authors' own loading is not strict
    from diffusers import AutoencoderKL

    torch: Any = importlib.import_module("torch")
    pipe = authors.SelftokPipeline.__new__(authors.SelftokPipeline)
    pipe.cfg = importlib.import_module("types").SimpleNamespace(tokenizer=_Names(params=_Names(**options)))
    pipe.datasize, pipe.model_type, pipe.dtype = SIZE, "sd3", getattr(torch, dtype)
    pipe.vae = driving.ready(AutoencoderKL.from_pretrained(weights["vae"]), device, dtype)
    pipe.model = driving.ready(net, device)
    pipe.ema_decoder, pipe.diti, pipe.K, pipe.cond_vary, pipe._steps = False, net.diti, net.diti.K, True, steps
    pipe.flow = authors.RectifiedFlow(
        steps, 1.0, None, val_schedule="uniform", shift=1.0, **options["noise_schedule_config"]
    )
    return Selftok(pipe, codes, tokens, device, kind == "renderer")


class _Names:
    """Values by attribute, as the authors' configuration has them."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)


class Selftok:
    """The loaded pipeline."""

    def __init__(self, pipe: Any, codes: int, tokens: int, device: str, renderer: bool) -> None:
        self.pipe, self.codes, self.tokens, self.device, self.renderer = pipe, codes, tokens, device, renderer

    def describe(self) -> dict[str, Any]:
        """Its form."""
        tokens = driving.stream("tokens", "index", "seq1d", [self.codes], (self.tokens,), ordered=True)
        halves = driving.sizes(
            encoder=[self.pipe.vae.encoder, self.pipe.model.encoder],
            decoder=[self.pipe.model.model, self.pipe.vae.decoder],
        )
        found = {"streams": [tokens], "resolution": SIZE, "stochastic": not self.renderer}
        return {**found, "parameters": halves}

    def encode(self, images: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        """Images -> ``tokens`` [B, N]."""
        found = self.pipe.encoding(driving.signed(images, self.pipe.vae), self.device)
        return {"tokens": driving.ids(found, (len(images), self.tokens))}

    def decode(self, arrays: dict[str, np.ndarray], *, seeds: list[int] | None = None, **options: Any) -> np.ndarray:
        """Tokens -> images, each from noise of its own."""
        found = []
        for i, row in enumerate(np.asarray(arrays["tokens"], np.int64)):
            driving.seed(seeds, i)
            decode = self.pipe.decoding_with_renderer if self.renderer else self.pipe.decoding
            found.append(driving.pixels(decode(row[None], self.device)))
        return np.concatenate(found)


def small(*, source: str, folder: str, seed: int = 0) -> dict[str, Any]:
    """Random weights in the published layout: 16 tokens of 64 codes, 2 layers on both sides, a VAE of 32 channels; 2 steps."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    _authors(source, "cpu")
    options = _options(source, False, 16)
    options["k_per_stage"] = "6,5,3,1,1"
    options["quantizer_config"]["codebook_size"] = 64
    net = _tokenizer(source, options, {"hidden": 32, "layers": 2, "query": 64, "depth": 2})
    book = net.encoder.quantizer._codebook
    torch.nn.init.normal_(book.embed)
    book.initted.fill_(True)  # an untrained one would take its first images for its codes
    for values in net.model.parameters():
        if not values.any():
            torch.nn.init.normal_(values, std=0.02)  # the flow starts as zero: let it do something
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4}
    vae: Any = AutoencoderKL(
        block_out_channels=[32] * 4, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, **blocks
    )
    vae.save_pretrained(f"{folder}/vae")
    file = driving.save(net, f"{folder}/tokenizer_16_ckpt.pth")
    return {"weights": {"weights": file, "vae": f"{folder}/vae"}, "params": {"variant": "tokenizer_16", "steps": 2}}
