"""The models without published weights: resize, codecs, folders of reconstructions, the user's own functions."""

import io
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image

import vtbench
from vtbench import zoo
from vtbench.api import Condition, Tokenizer
from vtbench.errors import BadData, BadSample, UnknownName, UsageError

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
IDS = [Condition("a/one"), Condition("two")]


def on_grid(images):
    return (images * 255).round() / 255


def test_resize_is_the_identity_and_has_no_bits():
    model = zoo.load("resize")
    tokens = model.encode(IMAGES)
    assert torch.equal(model.decode(tokens), IMAGES) and tokens.bits() is None
    assert model.revision == zoo.load("resize").revision


@pytest.mark.parametrize(
    ("spec", "kind", "options"),
    [
        ("jpeg:quality=30", "JPEG", {"quality": 30}),
        ("jpeg", "JPEG", {}),
        ("webp:quality=30", "WEBP", {"quality": 30}),
        ("webp", "WEBP", {}),
    ],
)
def test_codecs_are_pillows_own_files(spec, kind, options):
    model = zoo.load(spec)
    tokens = model.encode(IMAGES)
    out = model.decode(tokens)
    for i, image in enumerate(IMAGES):
        pixels = (image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        assert tokens.data["file"][i] == file.getvalue() and tokens.bits()[i] == 8 * len(file.getvalue())
        decoded = np.asarray(Image.open(file).convert("RGB"))
        assert np.array_equal((out[i] * 255).round().permute(1, 2, 0).numpy(), decoded)


def test_quality_moves_bytes_and_error_the_right_way():
    bits, errors = [], []
    smooth = torch.nn.functional.interpolate(IMAGES[:, :, :8, :12], size=(64, 96), mode="bicubic").clamp(0, 1)
    for quality in (10, 50, 95):
        model = zoo.load(f"jpeg:quality={quality}")
        tokens = model.encode(smooth)
        bits.append(tokens.bits().mean())
        errors.append(float((model.decode(tokens) - smooth).square().mean()))
    assert bits == sorted(bits) and errors == sorted(errors, reverse=True)


def test_lossless_codecs_lose_only_the_rounding():
    for spec in ("jpeg2000", "webp:lossless=true"):
        model = zoo.load(spec)
        assert torch.allclose(model.decode(model.encode(IMAGES)), on_grid(IMAGES), atol=1e-6)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("jpeg:quality=0", "from 1 to 100"),
        ("jpeg:subsampling=4:1:1", "4:4:4, 4:2:2 or 4:2:0"),
        ("webp:method=9", "from 0 to 6"),
        ("jpeg2000:rate=-1", "above 0"),
        ("jpeg:tokens=4", "does not decode prefixes"),
    ],
)
def test_codec_parameters_out_of_range(spec, says):
    with pytest.raises(UsageError, match=says):
        zoo.load(spec)


# ---------------------------------------------------------------------------------------------- precomputed


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "rec"
    (root / "a").mkdir(parents=True)
    for name, image in zip(("a/one.png", "two.png"), IMAGES):
        Image.fromarray((image * 255).round().permute(1, 2, 0).numpy().astype(np.uint8)).save(root / name)
    return root


def test_precomputed_reconstructions_are_paired_by_id(folder):
    model = zoo.load(f"precomputed:{folder}")
    tokens = model.encode(torch.zeros(2, 3, 32, 48), condition=IDS[::-1])
    assert tokens.bits() is None
    assert torch.allclose(model.decode(tokens), on_grid(IMAGES).flip(0), atol=1e-6)


def test_precomputed_tokens_have_bits(folder):
    np.savez(folder / "tokens.npz", ids=["two", "a/one"], tokens=np.array([[1, 2, 3], [4, 5, 6]]), codebook_size=16)
    tokens = zoo.load(f"precomputed:{folder}").encode(IMAGES, condition=IDS)
    assert tokens.data["tokens"].tolist() == [[4, 5, 6], [1, 2, 3]] and tokens.bits().tolist() == [12.0, 12.0]


def test_a_folder_that_changes_is_another_model(folder):
    before = zoo.load(f"precomputed:{folder}").revision
    (folder / "two.png").write_bytes((folder / "a" / "one.png").read_bytes())
    assert zoo.load(f"precomputed:{folder}").revision != before


def test_bad_reconstructions_are_bad_samples(folder):
    model = zoo.load(f"precomputed:{folder}")
    with pytest.raises(BadSample, match="no image of 'three'"):
        model.encode(IMAGES[:1], condition=[Condition("three")])
    with pytest.raises(BadSample, match="48 x 32 pixels, the prepared input 64 x 64"):
        model.decode(model.encode(torch.zeros(1, 3, 64, 64), condition=IDS[:1]))
    (folder / "two.png").write_bytes(b"no image")
    with pytest.raises(BadSample, match="not an image"):
        zoo.load(f"precomputed:{folder}").decode(model.encode(IMAGES[1:], condition=IDS[1:]))


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"ids": ["two"]}, "lacks tokens, codebook_size"),
        ({"ids": ["two"], "tokens": np.zeros((2, 3), int), "codebook_size": 4}, "tokens are integers"),
        ({"ids": ["two"], "tokens": np.full((1, 3), 9), "codebook_size": 4}, "from 9 to 9"),
        ({"ids": ["two"], "tokens": np.zeros((1, 3, 2), int), "codebook_size": 4}, "2 codebooks in tokens and 1"),
    ],
)
def test_bad_token_archives(folder, arrays, says):
    np.savez(folder / "tokens.npz", **arrays)
    with pytest.raises(BadData, match=says):
        zoo.load(f"precomputed:{folder}")


def test_a_token_archive_with_objects_is_not_unpickled(folder):
    np.savez(
        folder / "tokens.npz", ids=np.array([{"a": 1}], dtype=object), tokens=np.zeros((1, 3), int), codebook_size=4
    )
    with pytest.raises(BadData, match="never executed"):
        zoo.load(f"precomputed:{folder}")


def test_folders_that_are_none(tmp_path, folder):
    with pytest.raises(UsageError, match="no folder"):
        zoo.load(f"precomputed:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadData, match="holds no images"):
        zoo.load(f"precomputed:{tmp_path / 'empty'}")
    (folder / "two.jpg").write_bytes(b"x")
    with pytest.raises(BadData, match="two reconstructions of 'two'"):
        zoo.load(f"precomputed:{folder}")


# ---------------------------------------------------------------------------------------------- the user's own

FILE = """
import torch, vtbench
from vtbench.api import Tokenizer

class Half(Tokenizer):
    def __init__(self, *, scale: float = 0.5):
        self.scale, self.revision = scale, f"half:{scale}"

def build(scale: float = 0.5):
    return vtbench.tokenizer(reconstruct=lambda x: x * scale, name="halver", params={"scale": scale})

ready = vtbench.tokenizer(reconstruct=lambda x: x, name="ready")
nothing = 3
def wrong(): return 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(textwrap.dedent(FILE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    yield "own_models"
    __import__("sys").modules.pop("own_models", None)


@pytest.mark.parametrize("head", ["own_models.py", "own_models"])
def test_a_function_in_a_file_or_module(module, head):
    model = zoo.load(f"{head}:build,scale=0.25")
    assert model.name == "halver" and model.params == {"scale": 0.25}
    assert torch.allclose(model.decode(model.encode(IMAGES)), IMAGES * 0.25)
    assert zoo.load(f"{head}:ready").name == "ready"
    assert zoo.load(f"{head}:Half,scale=2").params == {"scale": 2.0}


def test_an_attribute_of_an_installed_module(tmp_path, monkeypatch):
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "zoo.py").write_text(textwrap.dedent(FILE))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = zoo.load("own_package.zoo:build,scale=0.25")
    assert model.name == "halver" and isinstance(model, Tokenizer)


@pytest.mark.parametrize(
    ("spec", "error", "says"),
    [
        ("own_models.py:biuld", UnknownName, "Did you mean build"),
        ("own_models.py:build,sclae=1", UnknownName, "Did you mean scale"),
        ("own_models.py:wrong", UsageError, "returned int, not a tokenizer"),
        ("own_models.py:nothing", UsageError, "is a int, not a function"),
        ("own_models.py", UsageError, "no function in it"),
        ("absent.py:build", UsageError, "no Python file absent.py"),
        ("no.such.module:build", UsageError, "no Python module 'no.such.module'"),
    ],
)
def test_what_is_wrong_with_a_users_file(module, spec, error, says):
    with pytest.raises(error, match=says):
        zoo.load(spec)


def test_a_file_with_a_mistake_is_told_by_line(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("def build(:\n")
    with pytest.raises(UsageError, match=r"broken.py, line 1"):
        zoo.load(f"{path}:build")
    path.write_text("import a_package_that_is_absent\n")
    with pytest.raises(UsageError, match="a_package_that_is_absent"):
        zoo.load(f"{path}:build")


# ---------------------------------------------------------------------------------------------- vtbench.tokenizer


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.book = torch.nn.Parameter(torch.linspace(0, 1, 16))

    def encode_ids(self, images):
        assert images.min() >= -1 and images.max() <= 1 and images.min() < -0.5
        grey = (images.mean(1) + 1) / 2
        return (grey * 15).round().long()  # [B, h, w]

    def decode_ids(self, ids):
        assert ids.ndim == 3
        return (self.book[ids] * 2 - 1)[:, None].expand(-1, 3, -1, -1)


def wrap(net, **more):
    return vtbench.tokenizer(
        encode=net.encode_ids, decode=net.decode_ids, codebook_size=16, value_range=(-1, 1), name="mine", **more
    )


def test_plain_functions_become_a_tokenizer_with_bits():
    model = wrap(Network())
    tokens = model.encode(IMAGES)
    assert tokens.bits().tolist() == [32 * 48 * 4] * 2 and tokens.streams[0].shape == (32, 48)
    grey = IMAGES.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert (model.decode(tokens) - grey).abs().max() <= 0.5 / 15 + 1e-6


def test_the_revision_follows_the_weights_of_the_network_behind_the_functions():
    net = Network()
    model = wrap(net)
    before = model.revision
    assert before == wrap(net).revision and before.startswith("sha256:")
    with torch.no_grad():
        net.book += 0.01
    assert model.revision != before
    assert set(model.modules().values()) == {net}


@pytest.mark.parametrize("how", ["closure", "partial", "given", "mapping", "object"])
def test_networks_are_found_behind_closures_partials_and_objects(how):
    from functools import partial

    net = Network()

    class Trainer:
        def __init__(self):
            self.model = net

        def encode(self, x):
            return self.model.encode_ids(x)

    functions = {
        "closure": (lambda x: net.encode_ids(x), lambda i: net.decode_ids(i), {}),
        "partial": (partial(Network.encode_ids, net), partial(Network.decode_ids, net), {}),
        "given": (len, len, {"modules": net}),
        "mapping": (len, len, {"modules": {"encoder": net, "decoder": net}}),
        "object": (Trainer().encode, len, {}),
    }
    encode, decode, more = functions[how]
    model = vtbench.tokenizer(encode=encode, decode=decode, codebook_size=16, **more)
    assert any(m is net for m in model.modules().values()) and model.revision.startswith("sha256:")


def test_without_a_network_nothing_is_ever_reused():
    model = vtbench.tokenizer(reconstruct=lambda x: x)
    assert model.revision != model.revision and model.revision.startswith("unknown:")


def test_other_functions_over_the_same_weights_are_another_model():
    net = Network()
    one = vtbench.tokenizer(encode=lambda x: net.encode_ids(x), decode=lambda i: net.decode_ids(i), codebook_size=16)
    two = vtbench.tokenizer(
        encode=lambda x: net.encode_ids(x), decode=lambda i: net.decode_ids(i // 2), codebook_size=16
    )
    three = wrap(net)
    assert len({one.revision, two.revision, three.revision}) == 3


def test_ids_in_several_codebooks_and_prefixes():
    model = vtbench.tokenizer(
        encode=lambda x: torch.zeros(len(x), 6, 2, dtype=torch.long),
        decode=lambda i: torch.full((len(i), 3, 4, 4), i.shape[1] / 10),
        codebook_size=(4, 8),
        prefix=True,
    )
    tokens = model.encode(IMAGES)
    assert tokens.bits().tolist() == [30.0, 30.0]
    short = model.prefix(tokens, 2)
    assert short.bits().tolist() == [10.0, 10.0] and float(model.decode(short).mean()) == pytest.approx(0.2)
    assert float(model.decode(tokens).mean()) == pytest.approx(0.6)


def test_continuous_latents_have_no_bits():
    model = vtbench.tokenizer(
        encode=lambda x: x[:, :, ::2, ::2], decode=lambda z: z.repeat_interleave(2, 2).repeat_interleave(2, 3)
    )
    tokens = model.encode(IMAGES)
    assert tokens.bits() is None and model.decode(tokens).shape == IMAGES.shape


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({}, "encode and decode, or reconstruct"),
        ({"encode": len}, "encode and decode, or reconstruct"),
        ({"reconstruct": len, "encode": len}, "either"),
        ({"reconstruct": len, "value_range": (1, 0)}, "low, high"),
        ({"reconstruct": len, "prefix": True}, "only tokens have a prefix"),
    ],
)
def test_functions_that_do_not_go_together(kwargs, says):
    with pytest.raises(UsageError, match=says):
        vtbench.tokenizer(**kwargs)


@pytest.mark.parametrize(
    ("ids", "sizes", "says"),
    [
        (torch.full((2, 3), 16), 16, "an id of 16"),
        (torch.full((2, 3), -1), 16, "least -1"),
        (torch.zeros(3, 3, dtype=torch.long), 16, r"shape \(3, 3\) for 2 images"),
        (torch.zeros(2, 3, dtype=torch.long), None, "codebook size is not known"),
    ],
)
def test_ids_that_cannot_be(ids, sizes, says):
    model = vtbench.tokenizer(encode=lambda x: ids, decode=lambda i: i, codebook_size=sizes)
    with pytest.raises(UsageError, match=says):
        model.encode(IMAGES)
