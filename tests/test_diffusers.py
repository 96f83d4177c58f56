"""diffusers' autoencoders, small and with random weights, saved in its own layout and read back."""

import pytest
import torch

from vtbench import zoo
from vtbench.errors import BadWeights, MissingWeights, UsageError

diffusers = pytest.importorskip("diffusers")

IMAGES = torch.rand(2, 3, 16, 32, generator=torch.Generator().manual_seed(1))
SMALL = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "norm_num_groups": 4,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("diffusers")
    torch.manual_seed(0)
    made = {
        "kl": diffusers.AutoencoderKL(latent_channels=4, **SMALL),
        "vq": diffusers.VQModel(latent_channels=4, num_vq_embeddings=16, vq_embed_dim=3, **SMALL),
        "lookup": diffusers.VQModel(
            latent_channels=4, num_vq_embeddings=16, vq_embed_dim=4, lookup_from_codebook=True, **SMALL
        ),
        "tiny": diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
    }
    for name, model in made.items():
        model.save_pretrained(root / name)
    made["kl"].save_pretrained(root / "pipeline" / "vae")
    return root, {name: model.eval() for name, model in made.items()}


@torch.no_grad()
def test_a_posterior_gives_its_mode_or_a_seeded_draw(folders):
    root, made = folders
    model = zoo.load(f"diffusers:{root / 'kl'}")
    assert model.capabilities.multiple == 2 and model.revision.startswith("sha256:")
    tokens = model.encode(IMAGES)
    mean = made["kl"].encode(IMAGES * 2 - 1).latent_dist.mode()
    assert (
        torch.allclose(tokens.data["latents"].transpose(1, 2).unflatten(2, (8, 16)), mean, atol=1e-5)
        and tokens.bits() is None
    )
    assert torch.allclose(model.decode(tokens), (made["kl"].decode(mean).sample / 2 + 0.5).clamp(0, 1), atol=1e-5)
    drawn = model.encode(IMAGES, sample=True, seeds=[3, 4]).data["latents"]
    assert not torch.allclose(drawn, tokens.data["latents"])
    assert torch.allclose(drawn[1:], model.encode(IMAGES[1:], sample=True, seeds=[4]).data["latents"], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vq", "lookup"])
def test_a_vqmodel_gives_indices_and_decodes_from_its_codebook(folders, name):
    root, made = folders
    model = zoo.load(f"diffusers:{root / name}")
    tokens = model.encode(IMAGES)
    assert tokens.bits().tolist() == [8 * 16 * 4.0] * 2
    ids = tokens.data["tokens"]
    latents = made[name].encode(IMAGES * 2 - 1).latents
    book = torch.from_numpy(model.codebook())
    flat = latents.permute(0, 2, 3, 1).reshape(2, -1, book.shape[1])
    assert torch.equal(ids, torch.cdist(flat, book.expand(2, -1, -1)).argmin(-1))
    if name == "vq":  # the library's own way quantises inside decode
        assert torch.allclose(
            model.decode(tokens), (made[name].decode(latents).sample / 2 + 0.5).clamp(0, 1), atol=1e-5
        )
    assert model.decode(tokens).shape == IMAGES.shape


@torch.no_grad()
def test_autoencoder_tiny(folders):
    root, made = folders
    model = zoo.load(f"diffusers:{root / 'tiny'}")
    direct = made["tiny"].decode(made["tiny"].encode(IMAGES * 2 - 1).latents).sample
    assert torch.allclose(model.decode(model.encode(IMAGES)), (direct / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_autoencoder_dc(tmp_path):
    torch.manual_seed(0)
    net = diffusers.AutoencoderDC(
        latent_channels=4,
        encoder_block_types=("ResBlock",) * 2,
        decoder_block_types=("ResBlock",) * 2,
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    ).eval()
    net.save_pretrained(tmp_path)
    model = zoo.load(f"diffusers:{tmp_path}")
    with torch.no_grad():
        direct = net.decode(net.encode(IMAGES * 2 - 1).latent).sample
    assert model.capabilities.multiple == 2
    assert torch.allclose(model.decode(model.encode(IMAGES)), (direct / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("grid", [True, False])
def test_autoencoder_rae(tmp_path, grid):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = diffusers.AutoencoderRAE(
        encoder_type="mae",
        encoder_hidden_size=64,
        encoder_patch_size=8,
        encoder_num_hidden_layers=1,
        encoder_input_size=32,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=32,
        patch_size=4,
        image_size=16,
        reshape_to_2d=grid,
    ).eval()
    net.save_pretrained(tmp_path)
    model = zoo.load(f"diffusers:{tmp_path}")
    assert model.capabilities.resolution == 16 and not model.capabilities.any_resolution
    images = IMAGES[..., :16]
    with torch.no_grad():
        direct = net.decode(net.encode(images).latent).sample  # its pixels are in [0, 1]
    assert torch.allclose(model.decode(model.encode(images)), direct.clamp(0, 1), atol=1e-5)


def test_a_pipelines_folder_a_weights_folder_and_the_hubs_cache(folders, tmp_path, monkeypatch):
    root, _ = folders
    direct = zoo.load(f"diffusers:{root / 'kl'}")
    assert zoo.load(f"diffusers:{root / 'pipeline'}").revision == direct.revision
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(root))
    assert zoo.load("diffusers:kl").revision == direct.revision
    snapshot = tmp_path / "hub" / "models--stabilityai--sd-vae-ft-mse" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(root / "kl")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    model = zoo.load("sd-vae-ft-mse")  # its card names the repository
    assert model.revision == direct.revision and model.name == "sd-vae-ft-mse"


def test_a_repository_that_is_not_here_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"weights fetch hub:owner/name"):
        zoo.load("diffusers:owner/name")
    with pytest.raises(UsageError, match="needs a folder or a hub id"):
        zoo.load("diffusers")


def copied(folders, tmp_path, name="kl"):
    import shutil

    return shutil.copytree(folders[0] / name, tmp_path / name)


def test_damaged_and_wrong_folders_are_refused(folders, tmp_path):
    folder = copied(folders, tmp_path)
    file = folder / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadWeights, match=str(folder)):
        zoo.load(f"diffusers:{folder}")
    file.write_bytes((folders[0] / "tiny" / file.name).read_bytes())
    with pytest.raises(BadWeights, match=r"do not fit their config\.json|cannot be loaded"):
        zoo.load(f"diffusers:{folder}")
    file.write_bytes(whole)
    (folder / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(BadWeights, match="UNet2DModel, which is no image autoencoder"):
        zoo.load(f"diffusers:{folder}")
    (folder / "config.json").write_text("{")
    with pytest.raises(BadWeights, match="is not JSON"):
        zoo.load(f"diffusers:{folder}")
    (folder / "config.json").unlink()
    with pytest.raises(BadWeights, match=r"no config.json"):
        zoo.load(f"diffusers:{folder}")


def test_weights_overwritten_in_place_are_another_model(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copied(folders, tmp_path)
    before = zoo.load(f"diffusers:{folder}").revision
    state = load_file(folder / "diffusion_pytorch_model.safetensors")
    state["quant_conv.bias"] += 1
    save_file(state, folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert zoo.load(f"diffusers:{folder}").revision != before
