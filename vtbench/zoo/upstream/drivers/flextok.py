"""FlexTok (apple/ml-flextok, arXiv:2502.13967): 256 nested tokens of 64000 codes, any prefix of which a rectified-flow decoder turns into an image.

Published as ``config.json`` (Hydra's ``_target_`` tables) and ``model.safetensors``, the autoencoder's weights among them. The network's range is [-1, 1].
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

VERSION = 1
SIDE = 256
_OURS = ("flextok.", "torch.nn.", "mup.")
_GETTERS = ("hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object")


def load(
    *,
    source: str,
    weights: dict[str, str],
    device: str,
    dtype: str,
    size: Literal["d12_d12_in1k", "d18_d18_in1k", "d18_d28_in1k", "d18_d28_dfn"] = "d18_d28_dfn",
    steps: int = 20,
    guidance: float = 7.5,
    apg: bool = True,
) -> FlexTok:
    """steps: of the flow. guidance: 1 switches it off. apg: normalised guidance (arXiv:2410.02416), as the authors use."""
    if steps < 1:
        raise ValueError(f"steps={steps}: at least 1")
    from flextok.flextok_wrapper import FlexTokFromHub
    from hydra.errors import InstantiationException
    from safetensors.torch import load_file

    state, config = load_file(weights["weights"]), _config(weights)
    try:
        model = FlexTokFromHub(config)
    except InstantiationException as error:
        if not isinstance(error.__cause__, OSError):
            raise
        named = config["vae"].get("hf_hub_path")
        raise FileNotFoundError(f"its autoencoder {named} is not here: `vtbench weights fetch hub:{named}`") from error
    lacking, left = model.load_state_dict(state, strict=False)
    if lacking or left:
        raise ValueError(
            f"{len(lacking)} tensors missing ({', '.join(lacking[:3])}), {len(left)} unknown ({', '.join(left[:3])})"
        )
    model.eval().requires_grad_(False).to(device)
    if device == "cpu":
        _without_compiler(model)
    return FlexTok(model, device, dtype, steps, guidance, apg)


def _without_compiler(model: Any) -> None:
    """The authors' own other way to attend, which needs no compilation: masks written out, PyTorch's plain attention."""
    for module in model.modules():
        for name, value in (("use_flex_attention", False), ("return_materialized_mask", True)):
            if hasattr(module, name):
                setattr(module, name, value)


def _config(weights: dict[str, str]) -> dict[str, Any]:
    """The model's configuration, with the autoencoder's taken from here: nothing is fetched, and only what FlexTok and torch.nn define is made or called."""
    from hydra.utils import get_object

    path = Path(weights["config"])
    config = json.loads(path.read_text("utf-8"))
    config = config.get("config", config)
    for target in _targets(config):
        # the name alone is not enough: flextok.utils.checkpoint.os.system would be os's
        if not target.startswith(_OURS) or not f"{getattr(get_object(target), '__module__', '')}.".startswith(_OURS):
            raise ValueError(f"{path} would make a {target}, which is no part of FlexTok: refused")
    vae = config["vae"]
    named = vae.get("hf_hub_path")
    if named:
        beside = path.parent / named
        if beside.is_dir():
            vae["hf_hub_path"] = str(beside)
        elif vae.get("scaling_factor") is not None:
            vae["hf_hub_path"] = None  # its weights are in the model's own file, its shape is the class's default
    return config


def _targets(node: Any) -> list[str]:
    """Every class or function that a Hydra table names, those that its getters are asked for included."""
    if isinstance(node, dict):
        found = [name for value in node.values() for name in _targets(value)]
        target = node.get("_target_")
        if target in _GETTERS:
            return [*found, str(node.get("path"))]
        return found if target is None else [*found, str(target)]
    if isinstance(node, list):
        return [name for value in node for name in _targets(value)]
    return []


class FlexTok:
    """A loaded model. On a CPU images go through one by one, so that nothing depends on the batch; on a GPU together."""

    def __init__(self, model: Any, device: str, dtype: str, steps: int, guidance: float, apg: bool) -> None:
        self.model, self.device, self.dtype = model, device, dtype
        self.steps, self.guidance, self.apg = steps, guidance, apg
        self.tokens = int(model.encoder.module_dict["enc_register_module"].n_max)
        self.drew = bool(model.vae.sample_posterior)
        model.vae.force_vae_encode = False
        model.pipeline.noise_read_key = "vtbench_noise"

    def describe(self) -> dict[str, Any]:
        model, vae = self.model, self.model.vae.vae
        halves = {
            "encoder": (vae.encoder, vae.quant_conv, model.encoder),
            "decoder": (vae.decoder, vae.post_quant_conv, model.decoder),
        }
        count = {h: sum(p.numel() for m in ms if m is not None for p in m.parameters()) for h, ms in halves.items()}
        sizes = [int(model.regularizer.codebook_size)]
        stream = {"name": "tokens", "kind": "index", "layout": "seq1d", "sizes": sizes, "shape": [self.tokens]}
        told = "the autoencoder's posterior gives its mode; its authors' configuration draws from it"
        return {
            "streams": [{**stream, "ordered": True}],
            "resolution": SIDE,
            "prefix": True,
            "max_tokens": self.tokens,
            "stochastic": True,
            "parameters": count,
            "notes": [told] if self.drew else [],
        }

    def _precision(self) -> Any:
        import torch

        if self.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.partition(":")[0], dtype=getattr(torch, self.dtype))

    def _groups(self, count: int) -> list[slice]:
        step = 1 if self.device == "cpu" else count
        return [slice(i, i + step) for i in range(0, count, step)]

    def encode(
        self, images: np.ndarray, *, seeds: list[int], sample: bool = False, **options: Any
    ) -> dict[str, np.ndarray]:
        import torch

        found = []
        with torch.no_grad(), self._precision():
            for group in self._groups(len(images)):
                pixels = torch.from_numpy(images[group]).to(self.device) * 2 - 1
                latents = self._latents(pixels, seeds[group] if sample else None)
                # given as latents, they pass the autoencoder's own step by
                ids = self.model.encode({self.model.vae.vae_latents_write_key: list(latents.split(1))})
                found += ids[self.model.token_write_key]
        return {"tokens": torch.cat(found).long().cpu().numpy()}

    def _latents(self, pixels: Any, seeds: list[int] | None) -> Any:
        """The autoencoder's scaled latents: the posterior's mode, or a draw with each image's own noise."""
        import torch

        wrapper = self.model.vae
        kind, name = wrapper.device_type, wrapper.dtype_override
        with torch.autocast(kind, dtype=name, enabled=name != torch.float32):
            posterior = wrapper.vae.encode(pixels.to(name)).latent_dist
        latents = posterior.mode()
        if seeds is not None:
            latents = latents + posterior.std * self._noise(seeds, tuple(latents.shape[1:])).to(latents.dtype)
        return latents * wrapper.scaling_factor

    def _noise(self, seeds: list[int], shape: tuple[int, ...]) -> Any:
        import torch

        drawn = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return torch.stack(drawn).to(self.device)

    def decode(self, arrays: dict[str, np.ndarray], *, seeds: list[int], **options: Any) -> np.ndarray:
        import torch

        side = SIDE // self.model.downsample_factor
        shape = (int(self.model.pipeline.out_channels), side, side)
        found = []
        with torch.no_grad(), self._precision():
            for group in self._groups(len(seeds)):
                ids = torch.from_numpy(arrays["tokens"][group]).to(self.device)
                data = self.model._prepare_data_dict_for_detokenization(list(ids.split(1)))
                data["vtbench_noise"] = list(self._noise(seeds[group], shape).split(1))
                data = self.model.decode(
                    data,
                    timesteps=self.steps,
                    vae_image_sizes=side,
                    verbose=False,
                    guidance_scale=self.guidance,
                    perform_norm_guidance=self.apg,
                )
                found += data[self.model.image_write_key]
        return (torch.cat(found).float().cpu().numpy() / 2 + 0.5).clip(0, 1)

    def codebook(self) -> np.ndarray:
        return self.model.regularizer.implicit_codebook.float().cpu().numpy()


def small(*, source: str, folder: str, seed: int, registers: int = 32, width: int = 32) -> dict[str, Any]:
    """A FlexTok with two narrow layers a half and a small autoencoder, every weight drawn from `seed`, in the published layout."""
    import torch
    from diffusers.models import AutoencoderKL
    from flextok.flextok_wrapper import FlexTokFromHub
    from safetensors.torch import save_file

    root, channels = Path(folder), 4
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=4,
        scaling_factor=0.5,
    )
    autoencoder.save_pretrained(root / "vae")
    config = _small_config(registers, width, channels)
    (root / "config.json").write_text(json.dumps(config, indent=1))
    weights = {"weights": str(root / "model.safetensors"), "config": str(root / "config.json")}
    model = FlexTokFromHub(_config(weights))
    draw = torch.Generator().manual_seed(seed)
    state = {k: v.clone().contiguous() for k, v in model.state_dict().items()}
    for name in sorted(state):
        value = state[name]
        if "norm" not in name and not name.endswith("posembs"):
            scale = 0.02 if value.ndim < 2 else (value[0].numel()) ** -0.5
            state[name] = torch.randn(value.shape, generator=draw) * scale
    save_file(state, weights["weights"], metadata={k: str(v) for k, v in config.items()})
    return {"weights": weights, "params": {"steps": 2}}


def _small_config(registers: int, width: int, channels: int) -> dict[str, Any]:
    """Hydra's tables of such a model, on the same modules and keys as the published ones use."""

    def made(where: str, **fields: Any) -> dict[str, Any]:
        return {"_target_": f"flextok.{where}", **fields}

    def turned(read: str, write: str, how: str) -> dict[str, Any]:
        turn = {"_target_": f"flextok.model.utils.dict_ops.{how}", "_partial_": True}
        return made("model.utils.dict_ops.PerSampleOp", read_key=read, write_key=write, per_sample_op=turn)

    def embedded(half: str, read: str) -> dict[str, Any]:
        return {
            f"{half}_channels_last": turned(read, f"{half}_pixels", "channels_first_to_last"),
            f"{half}_patch_embedder": made(
                "model.preprocessors.patching.PatchEmbedder",
                input_tensor_list_read_key=f"{half}_pixels",
                patches_list_write_key=f"{half}_patches",
                n_patches_write_key=f"{half}_grid",
                patch_sizes=[2, 2],
                channels_in=channels,
                dim=width,
                flatten_patches=False,
            ),
            f"{half}_posemb": made(
                "model.utils.posembs.PositionalEmbeddingAdder",
                read_key=f"{half}_patches",
                write_key=f"{half}_patches",
                dim=width,
                max_sizes=[16, 16],
            ),
        }

    def transformer(half: str, second: str, mode: str, **fields: Any) -> dict[str, Any]:
        packed = {"emb_packing_fn_write_key": f"{half}_expand"} if fields else {}
        return {
            f"{half}_seq_packer": made(
                "model.preprocessors.flex_seq_packing.BlockWiseSequencePacker",
                input_list_read_keys=[f"{half}_patches", second],
                packed_seq_write_key=f"{half}_packed",
                block_mask_write_key=f"{half}_mask",
                inner_packed_shapes_write_key=f"{half}_inner",
                outer_packed_shapes_write_key=f"{half}_outer",
                mask_mode=mode,
                pad_to_multiple=128,
                **packed,
            ),
            f"{half}_transformer": made(
                "model.trunks.transformers.FlexTransformer",
                input_seq_read_key=f"{half}_packed",
                output_seq_write_key=f"{half}_packed",
                block_mask_read_key=f"{half}_mask",
                dim=width,
                depth=2,
                head_dim=width // 2,
                **fields,
            ),
            f"{half}_unpacker": made(
                "model.postprocessors.seq_unpacking.SequenceUnpacker",
                packed_seq_read_key=f"{half}_packed",
                inner_seq_write_keys=[f"{half}_patches", second],
                inner_packed_shapes_read_key=f"{half}_inner",
                outer_packed_shapes_read_key=f"{half}_outer",
            ),
        }

    encoder = {
        **embedded("enc", "vae_latents"),
        "enc_register_module": made(
            "model.preprocessors.registers.Registers1D",
            input_tensor_list_read_key="enc_patches",
            register_sizes_read_write_key="register_sizes",
            registers_write_key="enc_registers",
            dim=width,
            n_min=1,
            n_max=registers,
        ),
        **transformer("enc", "enc_registers", "causal_last"),
        "enc_to_latents": made(
            "model.postprocessors.heads.LinearHead",
            read_key="enc_registers",
            write_key="enc_codes",
            dim=width,
            dim_out=6,
            use_mup_readout=False,
        ),
    }
    decoder = {
        "dec_from_latents": made(
            "model.preprocessors.linear.LinearLayer", read_key="quants", write_key="dec_tokens", dim_in=6, dim=width
        ),
        "dec_nested_dropout": made(
            "model.preprocessors.token_dropout.MaskedNestedDropout", read_write_key="dec_tokens", dim=width
        ),
        "dec_null": made("model.preprocessors.nullcond.LearnedNullCond", read_write_key="dec_tokens", dim=width),
        **embedded("dec", "noised"),
        "dec_time": made(
            "model.preprocessors.time_embedding.TimestepEmbedder",
            timesteps_read_key="timesteps",
            time_embedding_write_key="dec_time",
            dim=width,
            max_timestep=1.0,
        ),
        **transformer(
            "dec", "dec_tokens", "full", adaLN_emb_read_key="dec_time", adaLN_packing_fn_read_key="dec_expand"
        ),
        "dec_to_patches": made(
            "model.postprocessors.heads.ToPatchesLinearHead",
            read_key="dec_patches",
            write_key="dec_pixels",
            dim=width,
            channels_out=channels,
            patch_sizes=[2, 2],
            use_mup_readout=False,
            adaLN_emb_read_key="dec_time",
        ),
        "dec_channels_first": turned("dec_pixels", "vae_latents_reconst", "channels_last_to_first"),
    }
    return {
        "vae": made(
            "vae_wrapper.StableDiffusionVAE",
            images_read_key="rgb",
            vae_latents_read_key="vae_latents_reconst",
            vae_latents_write_key="vae_latents",
            images_reconst_write_key="rgb_reconst",
            hf_hub_path="vae",
            latent_channels=channels,
        ),
        "encoder": made("model.utils.wrappers.SequentialModuleDictWrapper", module_dict=encoder),
        "decoder": made("model.utils.wrappers.SequentialModuleDictWrapper", module_dict=decoder),
        "regularizer": made(
            "regularizers.quantize_fsq.FSQ",
            latents_read_key="enc_codes",
            quants_write_key="quants",
            tokens_write_key="tokens",
            levels=[8, 8, 8, 5, 5, 5],
        ),
        "flow_matching_noise_module": made(
            "flow_matching.noise_modules.MinRFNoiseModule",
            clean_images_read_key="vae_latents",
            noised_images_write_key="noised",
            timesteps_write_key="timesteps",
            sigmas_write_key="sigmas",
        ),
        "pipeline": made(
            "flow_matching.pipelines.MinRFPipeline",
            _partial_=True,
            latents_read_key="quants",
            timesteps_read_key="timesteps",
            noised_images_read_key="noised",
            reconst_write_key="vae_latents_reconst",
            out_channels=channels,
        ),
    }
