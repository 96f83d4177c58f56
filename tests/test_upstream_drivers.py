"""Drivers without their authors' code: what they say of the published models, how they read checkpoints, and the cards that name them."""

from __future__ import annotations

import inspect
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vtbench.api import Stream, Tokens
from vtbench.extractors.tokens import id_rows
from vtbench.zoo.catalogue import card, cards
from vtbench.zoo.upstream import DESCRIPTION, driving, place
from vtbench.zoo.upstream.adapter import GIVEN, Upstream

UPSTREAM = [c for c in cards() if c.upstream]


class Anything(torch.nn.Module):
    """A network of which every part is a network without parameters."""

    def __init__(self, **parts):
        super().__init__()
        self.__dict__["parts"] = parts

    def __getattr__(self, name):
        parts = self.__dict__["parts"]
        return parts[name] if name in parts else Anything()

    def __len__(self):
        return 32


PATCHES = SimpleNamespace(kernel_size=(16, 16), parameters=list)
MODELS = {  # what `load` makes of the published checkpoint, its network apart
    "alit": lambda d: d.ALIT(Anything(patch_embed=PATCHES), 4096, 0.07, 8),
    "dualvitok": lambda d: d.DualViTok(Anything(), 32768, 98304, 256),
    "elm-bae": lambda d: d.BAE(Anything(), 16),
    "fqgan-dual": lambda d: d.FQGAN(Anything(), 2, 16384, 8, 16),
    "fqgan-triple": lambda d: d.FQGAN(Anything(), 3, 16384, 8, 16),
    "hita": lambda d: d.Hita(Anything(), 16384, 8, 128, 336),
    "infinity-vae-d32": lambda d: d.Infinity(Anything(), 32, [1, 2, 4, 6, 8, 12, 16], 256),
    "instella-t2i": lambda d: d.Instella(Anything(), 64, 128, 1024),
    "karl": lambda d: d.KARL(Anything(patch_embed=PATCHES), 4096, 0.05, 256),
    "lavit": lambda d: d.LaVIT(_lavit(), 50, 5.0),
    "meditok": lambda d: d.MedITok(Anything(), 8, 4096),
    "seed-2": lambda d: d.SEED(Anything(), None, {"codes": 8192, "queries": 32}, 20, 10.0, 224),
    "selftok": lambda d: d.Selftok(Anything(), 32768, 512, "cpu", False),
    "tokenflow": lambda d: d.TokenFlow(Anything(scale_rq_layers=[1, 2, 4, 6, 8, 10, 12, 14, 16]), 32768, 256),
}
BITS = {"alit": 256 * 12, "karl": 256 * 12, "lavit": 256 * 14, "dualvitok": 81 * 15 + 256 * np.log2(98304)}
"""Where the card gives no number: lengths that vary (here the greatest), streams of different sizes."""


def _lavit():
    quantiser = SimpleNamespace(num_tokens=16384)
    return SimpleNamespace(visual_tokenizer=Anything(quantize=quantiser), tokenizer_decoder=Anything(), unet=Anything())


def described(name):
    """The description of a published model, and its tokens of one image as the core counts them."""
    told = MODELS[name](place.driver(card(name).recipe().driver_file())).describe()
    streams, data = [], {}
    for table in told["streams"]:
        stream = Stream(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
        count = sum(s * s for s in stream.shape) if stream.layout == "multiscale" else int(np.prod(stream.shape))
        streams.append(stream)
        deep = stream.kind == "bits" or (len(stream.sizes) > 1 and not stream.shared_index)
        data[stream.name] = np.zeros((1, count, len(stream.sizes)) if deep else (1, count), np.int64)
    return told, Tokens(tuple(streams), data, 1)


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_bits_are_those_of_the_card(name):
    told, tokens = described(name)
    known = card(name)
    assert not set(told) - set(DESCRIPTION)
    assert int(tokens.positions()[0]) == known.tokens
    assert told["resolution"] == known.resolution
    assert float(tokens.bits()[0]) == pytest.approx(known.bits or BITS[name])
    if "budgets" in told:
        assert told["budgets"][-1] == told["max_tokens"] == known.tokens


def test_every_upstream_card_has_a_driver_that_is_tested_here():
    ours = {c.name for c in UPSTREAM if c.recipe().driver_file().parent == place.DRIVERS} - {"flextok"}
    assert ours == set(MODELS)


@pytest.mark.parametrize("known", UPSTREAM, ids=lambda c: c.name)
def test_a_card_names_its_drivers_parameters_and_licence(known):
    module = place.driver(known.recipe().driver_file())
    assert isinstance(module.VERSION, int)
    signature = inspect.signature(module.load)
    assert all(p.kind is p.KEYWORD_ONLY for p in signature.parameters.values())
    own = [n for n in signature.parameters if n not in GIVEN]
    assert set(known.params) == set(own)
    assert set(known.defaults) <= set(own)
    assert known.recipe().licence and len(known.recipe().commit) == 40


@pytest.mark.parametrize(("name", "most"), [("karl", 256), ("alit", 256), ("lavit", 256)])
def test_a_length_that_varies_is_sent_too(name, most):
    told, whole = described(name)
    assert told["nmax"] == most
    tokens = Tokens(whole.streams, whole.data, 1, lengths=np.array([96]), nmax=told["nmax"])
    each = np.log2(whole.streams[0].sizes[0])
    assert float(tokens.bits()[0]) == pytest.approx(96 * each + 8)


def test_alit_without_a_quality_has_one_length():
    told = (
        place.driver(card("alit").recipe().driver_file()).ALIT(Anything(patch_embed=PATCHES), 4096, 0.0, 4).describe()
    )
    assert "nmax" not in told and told["streams"][0]["shape"] == [128]


def test_rows_keep_positions_that_an_encoder_marked_itself():
    stream = Stream("tokens", "index", "seq1d", (9,), (4,))
    halted = Tokens((stream,), {"tokens": np.array([[5, -1, 7, -1]])}, 1, lengths=np.array([2]))
    padded = Tokens((stream,), {"tokens": np.array([[5, 6, 0, 0]])}, 1, lengths=np.array([2]))
    assert id_rows(halted).tolist() == [[5, -1, 7, -1]]
    assert id_rows(padded).tolist() == [[5, 6, -1, -1]]


# ---------------------------------------------------------------------------------------------- what drivers share


def test_a_state_is_found_below_its_key_and_below_wrappers(tmp_path):
    tensor = torch.arange(3.0)
    torch.save({"ema": {"module.a": tensor}, "model": {"a": tensor + 1}, "epoch": 3}, tmp_path / "x.pt")
    assert torch.equal(driving.state_of(tmp_path / "x.pt")["a"], tensor)
    assert torch.equal(driving.state_of(tmp_path / "x.pt", ("model",))["a"], tensor + 1)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with (tmp_path / "x.pt").open("wb") as out:
        pickle.dump({"a": Trap()}, out)
    with pytest.raises(ValueError, match="cannot be read as weights"):
        driving.state_of(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(FileNotFoundError):
        driving.state_of(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("bias"), "lacks bias"),
        (lambda s: s.update(more=torch.zeros(1)), "has besides more"),
        (lambda s: s.update(weight=torch.zeros(1, 1)), r"has other shapes: weight \(1, 1\) for \(2, 3\)"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_its_keys(change, told):
    net = torch.nn.Linear(3, 2)
    state = {k: torch.ones_like(v) for k, v in net.state_dict().items()}
    change(state)
    with pytest.raises(ValueError, match=told):
        driving.fill(net, state)


def test_dropped_and_absent_keys_are_let_through():
    net = torch.nn.Linear(3, 2)
    driving.fill(net, {"weight": torch.ones(2, 3), "loss.x": torch.ones(1)}, drop=(r"loss\.",), absent=("bias",))
    assert float(net.weight.sum()) == 6


def test_pixels_go_there_and_back():
    net = torch.nn.Linear(1, 1)
    images = np.linspace(0, 1, 3 * 4, dtype=np.float32).reshape(1, 3, 2, 2)
    there = driving.signed(images, net)
    assert float(there.min()) == -1 and float(there.max()) == 1
    assert np.allclose(driving.pixels(there), images, atol=1e-6)
    assert np.allclose(driving.pixels(driving.plain(images, net), signed=False), images)
    assert driving.pixels(there * 9).max() == 1


def test_noise_of_an_image_does_not_depend_on_its_neighbours():
    drawn = []
    for seeds, i in (([7, 2**62 + 5], 1), ([2**62 + 5], 0)):
        generator = driving.seed(seeds, i)
        drawn.append((torch.rand(3), torch.rand(3, generator=generator)))
    assert all(torch.equal(a, b) for a, b in zip(*drawn))


def test_a_stand_in_never_replaces_the_real_one():
    before = np.float32
    driving.stand_in("numpy", float32="no")
    driving.stand_in("vtbench_no_such_kernel", attend=max)
    assert np.float32 is before
    import vtbench_no_such_kernel

    assert vtbench_no_such_kernel.attend is max


@pytest.mark.parametrize(("asked", "given"), [(3, 1), (5, 5), (10, 5), (100, 21)])
def test_a_prefix_is_a_whole_number_of_scales(asked, given):
    model = Upstream.__new__(Upstream)
    model._description = {"budgets": [1, 5, 21]}
    stream = Stream("tokens", "bits", "multiscale", (2, 2), (1, 2, 4), ordered=True)
    tokens = Tokens((stream,), {"tokens": torch.zeros(2, 21, 2, dtype=torch.long)}, 2)
    assert model.prefix(tokens, asked).data["tokens"].shape == (2, given, 2)
