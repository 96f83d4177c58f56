"""What the authors' own code gives, called as their evaluation scripts call it; runs in an upstream interpreter, beside nothing of vtbench.

``python upstream_direct.py NAME SOURCE IN.npz OUT.npz WEIGHTS.json``: IN holds ``images`` [B, 3, H, W] in [0, 1] and ``seeds``; WEIGHTS the files by role and the parameters that a driver's `small` gave. OUT gets the tokens by stream
and ``pixels`` in [0, 1]. `test_upstream_authors` compares them with what the driver gives through a worker.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch


def unit(x):
    return ((x + 1) / 2).clamp(0, 1)


def flextok(source, images, seeds, weights, params):
    folder = Path(weights["config"]).parent
    os.chdir(folder)  # the small configuration names its autoencoder's folder
    from flextok.flextok_wrapper import FlexTokFromHub

    net = FlexTokFromHub.from_pretrained(str(folder)).eval()
    net.vae.sample_posterior = False
    for (
        module
    ) in net.modules():  # their own switches: attention that takes minutes to compile, and compiled gives the same
        if hasattr(module, "use_flex_attention"):
            module.use_flex_attention = False
        if hasattr(module, "return_materialized_mask"):
            module.return_materialized_mask = True
    tokens = net.tokenize(images * 2 - 1)
    options = {"timesteps": params["steps"], "guidance_scale": 7.5, "perform_norm_guidance": True, "verbose": False}
    drawn = [torch.Generator().manual_seed(int(s)) for s in seeds]
    found = [net.detokenize([t], generator=g, **options) for t, g in zip(tokens, drawn)]
    return {"tokens": torch.cat(tokens)}, unit(torch.cat(found))


def on_a_cpu():
    """The authors' scripts assume CUDA: where they ask for it by name, stay on the CPU."""
    torch.Tensor.cuda = lambda self, *a, **k: self
    torch.nn.Module.cuda = lambda self, *a, **k: self
    torch.Tensor.get_device = lambda self: self.device


def fqgan(source, images, seeds, weights, params):
    from tokenizer.vq_model_dual import VQ_models

    net = VQ_models["VQ-16"](codebook_size=64, codebook_embed_dim=8)
    net.load_state_dict(torch.load(weights["weights"])["ema"])
    net.eval()
    sem, vis, (_, _, of_sem), (_, _, of_vis) = net.encode(images * 2 - 1)
    out = net.decode_code(of_sem, of_vis, sem.shape, vis.shape)
    return {"tokens": torch.stack([of_sem, of_vis], -1).reshape(len(images), 256, 2)}, unit(out)


def elm_bae(source, images, seeds, weights, params):
    on_a_cpu()
    from bae.binaryae import BinaryAutoEncoder, load_pretrain
    from hparams.defaults.binarygan_default import HparamsBinaryAE

    options = HparamsBinaryAE("custom")
    options.update(codebook_size=8, norm_first=True, deterministic=True, nf=32, emb_dim=32)
    net = load_pretrain(BinaryAutoEncoder(options), weights["weights"]).eval()
    bits = net.encode(images)[1]
    return {"tokens": bits.flatten(2).transpose(1, 2)}, net(images)[0].clamp(0, 1)


def infinity(source, images, seeds, weights, params):
    module = type(sys)("infinity.models")  # its own __init__ imports the generator
    module.__path__ = [os.path.join(source, "infinity", "models")]
    sys.modules["infinity.models"] = module
    from infinity.models.bsq_vae.dynamic_resolution import dynamic_resolution_h_w
    from infinity.models.bsq_vae.vae import vae_model

    widths = [1, 1, 1, 1, 1]
    net = vae_model(weights["weights"], "dynamic", 8, 256, encoder_ch_mult=widths, decoder_ch_mult=widths)
    schedule = [(1, h, w) for h, w in dynamic_resolution_h_w[1.0][256]["scales"]]
    _, z, _, bits, _, _ = net.encode(images * 2 - 1, scale_schedule=schedule)
    return {"tokens": torch.cat([b.reshape(len(images), -1, 8) for b in bits], 1)}, unit(net.decode(z))


def meditok(source, images, seeds, weights, params):
    from models.meditok import build_meditok, get_meditok_args

    options = get_meditok_args(256)
    options.model, options.num_codebooks, options.vocab_size, options.vocab_width = "vitamin_base", 4, 256, 32
    net = build_meditok(options, weights["weights"]).eval()
    x = images * 2 - 1
    return {"tokens": net.img_to_idx(x).transpose(1, 2)}, unit(net.img_to_reconstructed_img(x))


def instella_t2i(source, images, seeds, weights, params):
    import bae.llama_attn as attention
    from safetensors.torch import load_file

    def attend(q, k, v, mask, length, **options):  # what flash-attn computes, written out
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return ((q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5).softmax(-1).matmul(v).transpose(1, 2)

    attention._flash_attention_forward = attend
    from bae.ae_model import BAE_Model

    class Config(dict):
        __getattr__ = dict.__getitem__

    shared = {
        "in_channels": 3,
        "patch_size": 16,
        "num_latent_tkns": 8,
        "codebook_size": 8,
        "axes_dims_rope": [4, 14, 14],
    }
    halves = {
        f"{half}_{k}": v
        for half in ("encoder", "decoder")
        for k, v in (("layers", 2), ("head_dim", 32), ("num_heads", 2))
    }
    net = BAE_Model(Config(**shared, **halves, downsample_idx=[0], upsample_idx=[0]))
    net.load_state_dict(load_file(weights["weights"]), strict=True)
    net.eval().set_scale(128)
    x = images * 2 - 1
    return {"tokens": net.encode(x)[2]["binary_code"]}, unit(net(x)["hidden_states"].clamp(-1, 1))


def tokenflow(source, images, seeds, weights, params):
    import packaging
    import packaging.version

    sys.modules.setdefault("pkg_resources", SimpleNamespace(packaging=packaging))
    from tokenizer import vq_model
    from tokenizer.clip.model import VisionTransformer

    teacher = VisionTransformer(224, 16, 768, 1, 12, 768)
    del teacher.proj
    vq_model.clip.load_clip_vision = lambda *a, **k: teacher  # instead of a download
    made = vq_model.VQ_models["TokenFlow"]
    net = made(
        codebook_size=64, codebook_embed_dim=8, teacher="clipb_224", enhanced_decoder=False, infer_interpolate=True
    )
    net.load_state_dict(torch.load(weights["weights"])["ema"])
    net.eval()
    latent, _, ids = net.encode(images * 2 - 1)
    return {"tokens": ids}, unit(net.decode(latent)[1])


def hita(source, images, seeds, weights, params):
    on_a_cpu()
    sys.modules["refile"] = SimpleNamespace(smart_open=open)
    for name in ("torch_fidelity", "cv2"):
        sys.modules.setdefault(name, SimpleNamespace())
    from hita.modules.pretrained_enc import models_pretrained_enc as encoders
    from hita.tokenizer.tokenizer_image.vq_model import VQ_models
    from omegaconf import OmegaConf

    made_of = encoders.dinov2_vitb14_reg
    encoders.dinov2_vitb14_reg = lambda: made_of(pretrained=False)  # instead of a download
    config = OmegaConf.load(os.path.join(source, "configs", "hita_vqgan.yaml"))
    inner = config.encoder_config.params
    inner.image_size, inner.depth, inner.n_carrier, inner.in_channels = 64, 1, 8, 768
    features = inner.visual_encoder_config.params
    features.pretrained_enc_arch, features.pretrained_enc_path = "dinov2_vitb14_reg", weights["dinov2"]
    features.proj_dim = 768
    net = VQ_models["VQ-16"](codebook_size=64, transformer_config=config, z_channels=512)
    net.eval()
    missing, unexpected = net.load_state_dict(torch.load(weights["weights"])["ema"], strict=False)
    assert not unexpected and all("backbone" in m for m in missing)
    (out, _, _), _, (patch, holistic) = net(images * 2 - 1)
    n = len(images)
    return {"holistic": holistic.reshape(n, -1), "patch": patch.reshape(n, -1)}, unit(out)


def dualvitok(source, images, seeds, weights, params):
    package = type(sys)("tokenizer")  # its own __init__ imports the losses
    package.__path__ = [os.path.join(source, "vision_tokenizer", "tokenizer")]
    sys.modules["tokenizer"] = package
    import tokenizer.quantizer  # noqa: F401 - registers the quantisers
    from tokenizer import dualvitok_model as module
    from tokenizer.builder import build_vq_model
    from utils.registry_utils import read_config

    encoder = module.Qwen2VisionTransformerPretrainedModel
    qwen = module.Qwen2VLVisionConfig(depth=1, embed_dim=128, hidden_size=64, attn_implementation="sdpa")
    encoder.from_pretrained = lambda *a, **k: encoder(qwen)  # instead of a download
    config = read_config(os.path.join(source, "configs/example/dualvitok/dualvitok_anyres_max512.py")).vq_model
    inner = config.config
    for name in ("semantic_encoder", "semantic_decoder"):
        inner[name].update(embed_dim=128, num_blocks=1, z_channels=8)
    inner.semantic_decoder.output_channels = 64
    inner.semantic_quantizer.update(dim=8, codebook_size=64)
    inner.pixel_quantizer.update(dim=8, codebook_size=96)
    inner.pixel_encoder.update(ch=32, embed_dim=8, z_channels=8, codebook_size=96)
    inner.pixel_decoder.update(ch=32, embed_dim=16, z_channels=16, codebook_size=96)
    net = build_vq_model(config).eval()
    net.load_state_dict(torch.load(weights["weights"]), strict=True)
    (sem, _, of_sem, _), (pix, _, of_pix) = net.encode(images * 2 - 1)
    return {"semantic": of_sem, "pixel": of_pix}, unit(net.decode(sem, pix))


def seed_2(source, images, seeds, weights, params):
    from functools import partial

    from models.seed_qformer import blip2, eva_vit
    from models.seed_qformer.qformer_quantizer import Blip2QformerQuantizer
    from torchvision.transforms import Normalize

    Words = SimpleNamespace(add_special_tokens=lambda *a: None)
    blip2.BertTokenizer = SimpleNamespace(from_pretrained=lambda *a, **k: Words)  # instead of three downloads
    small = blip2.BertConfig(hidden_size=48, num_hidden_layers=2)
    blip2.BertConfig.from_pretrained = lambda *a, **k: small
    blip2.BertLMHeadModel.from_pretrained = lambda name, config: blip2.BertLMHeadModel(config)
    norm = partial(torch.nn.LayerNorm, eps=1e-6)
    options = {"embed_dim": 176, "depth": 2, "num_heads": 2, "mlp_ratio": 4.3637, "qkv_bias": True, "norm_layer": norm}
    blip2.create_eva_vit_g = lambda *a: eva_vit.VisionTransformer(224, 14, use_mean_pooling=False, **options)
    sizes = {"n_embed": 64, "codebook_embed_dim": 8, "image_features_dim": 32, "decode_depth": 1}
    net = Blip2QformerQuantizer(vit_precision="fp32", **sizes).eval()
    net.load_state_dict(torch.load(weights["weights"]), strict=False)
    normalise = Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    return {"tokens": net.get_codebook_indices(normalise(images))[0]}, images


def selftok(source, images, seeds, weights, params):
    import logging

    import yaml

    on_a_cpu()
    utils = type(sys)("mimogpt.utils")  # its own __init__ imports video and training code
    utils.__path__ = [os.path.join(source, "mimogpt", "utils")]
    sys.modules["mimogpt.utils"] = utils
    utils.hf_logger, utils.Registry = logging.getLogger(), lambda name: None
    backbones = type(sys)("mimogpt.models")
    backbones.__path__ = [os.path.join(source, "mimogpt", "models")]
    sys.modules["mimogpt.models"] = backbones
    from mimogpt.infer.SelftokPipeline import RectifiedFlow, SelftokPipeline
    from mimogpt.models.selftok import model_zoo as zoo

    class Names(dict):
        __getattr__ = dict.__getitem__
        __setattr__ = dict.__setitem__

        def __hash__(self):
            return id(self)

    def names(x):
        return Names({k: names(v) for k, v in x.items()}) if isinstance(x, dict) else x

    cfg = names(yaml.safe_load(Path(source, "configs/res256/256-eval.yml").read_text()))
    tokenizer = cfg.tokenizer.params
    tokenizer.update(k=16, k_per_stage="6,5,3,1,1", enc="Enc-Qformer-small", model="small")
    tokenizer.quantizer_config.update(K=16, codebook_size=64)
    tokenizer["cut_of_k"] = None
    zoo.Enc_models["Enc-Qformer-small"] = lambda **k: zoo.QformerEncoder(
        patch_size=2, hidden_size=32, num_heads=4, depth=2, query_dim=64, query_heads=8, bidirectional=False, **k
    )
    context = {"target": "torch.nn.Linear", "params": {"in_features": 16, "out_features": 128}}
    zoo.DiT_models["small"] = lambda **k: zoo.MMDiT(
        pos_embed_max_size=192,
        patch_size=2,
        depth=2,
        num_patches=36864,
        adm_in_channels=16,
        context_embedder_config=context,
        device="cpu",
        dtype=torch.float,
        **k,
    )
    schedule = dict(tokenizer.noise_schedule_config)
    root = str(Path(weights["vae"]).parent)
    pipe = SelftokPipeline(cfg, weights["weights"], root, dtype=torch.float32, device="cpu")
    pipe._steps = 2
    pipe.flow = RectifiedFlow(2, 1.0, None, val_schedule="uniform", shift=1.0, **schedule, is_eval=True)
    tokens = pipe.encoding(images * 2 - 1, "cpu")
    rows = tokens.reshape(len(images), -1).numpy()
    pictures = []
    for row, number in zip(rows, seeds):
        torch.manual_seed(int(number))
        pictures.append(pipe.decoding(row[None], "cpu"))
    return {"tokens": torch.from_numpy(rows)}, unit(torch.cat(pictures))


def latent_distillation(source, weights, package, module):
    """KARL's and ALIT's class around a base VQGAN that their own wrapper loads, from a folder with small configurations."""
    import yaml

    on_a_cpu()
    here = Path(weights["weights"]).parent / "work"
    for name in ("base_tokenizers", package):
        (here / name / "configs").mkdir(parents=True, exist_ok=True)
        for file in Path(source, name, "configs").glob("*.yaml"):
            (here / name / "configs" / file.name).write_text(file.read_text())
    config = yaml.safe_load((here / "base_tokenizers/configs/vqgan.yaml").read_text())
    config["model"]["params"]["n_embed"] = 64
    config["model"]["params"]["ddconfig"].update(ch=32, ch_mult=[1, 1, 1, 1, 2], num_res_blocks=1)
    (here / "base_tokenizers/configs/vqgan.yaml").write_text(yaml.safe_dump(config))
    state = torch.load(weights["weights"])["ema"]
    inner = {k.removeprefix("base_tokenizer.vqgan."): v for k, v in state.items() if k.startswith("base_tokenizer.")}
    torch.save(inner, here / "vqgan.ckpt")
    os.chdir(here)
    sys.path.append(os.path.join(source, "base_tokenizers"))
    made = getattr(__import__(package, fromlist=["x"]), module)["vqgan"]
    options = dict(getattr(sys.modules[package], module.removesuffix("s") + "_args")["vqgan"])
    from modules.base_tokenizers import VQGANWrapper

    options.update(vq_codebook_size=64)
    net = made(VQGANWrapper(pretrained_ckpt_path="vqgan.ckpt"), 320, 2, 8, 320, 2, 8, quantize_latent=True, **options)
    net.load_state_dict(state, strict=True)
    return net.eval()


def karl(source, images, seeds, weights, params):
    net = latent_distillation(source, weights, "kolmogorov_tokenizers", "kolmogorov_tokenizers")
    rows, pictures, lengths = [], [], []
    net.quantize.register_forward_hook(lambda m, i, out: rows.append(out[1]["min_encoding_indices"]))
    for image in images.split(1):
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            _, found, _ = net.encode(image, input_token_budget=[256], desired_reconstruction_quality=0.05)
        lengths.append(float(re.search(r"complexity: ([\d.]+)", told.getvalue()).group(1)))
        pictures.append(found[0])
    return {"tokens": torch.cat(rows), "lengths": torch.tensor(lengths)}, torch.cat(pictures).clamp(0, 1)


def alit(source, images, seeds, weights, params):
    net = latent_distillation(source, weights, "adaptive_tokenizers", "adaptive_tokenizers")
    net.train_stage = "full_finetuning"
    tokens, lengths, pictures = np.full((len(images), 256), -1), [], []
    for i, image in enumerate(images.split(1)):
        torch.manual_seed(int(seeds[i]))
        latent, found = net.encode(image, threshold=params["quality"])
        ids = net.quantize(net.pre_quantizer_mlp(net.encoder_ln_post(latent)))[1]["min_encoding_indices"][0]
        tokens[i, : len(ids)] = ids.numpy()
        lengths.append(len(ids))
        pictures.append(found)
    return {"tokens": torch.from_numpy(tokens), "lengths": torch.tensor(lengths)}, torch.cat(pictures).clamp(0, 1)


if __name__ == "__main__":
    name, source, given, out, table = sys.argv[1:]
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    case = json.loads(Path(table).read_text())
    for folder in reversed(case["path"]):
        sys.path.insert(0, folder)
    with np.load(given) as data:
        images, seeds = torch.from_numpy(data["images"]), data["seeds"]
    arrays, pixels = globals()[name](source, images, seeds, case["weights"], case["params"])
    np.savez(out, pixels=pixels.float().numpy(), **{k: v.numpy() for k, v in arrays.items()})
