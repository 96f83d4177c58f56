"""Cards: every system has one, they agree with the layouts, and reading them imports nothing heavy."""

import json
import subprocess
import sys
from collections import Counter

import pytest
import torch

from vtbench import weights, zoo
from vtbench.errors import MissingPackage, MissingWeights, UnknownName, UsageError, VtbenchError
from vtbench.registry import resolve
from vtbench.zoo import catalogue as cards
from vtbench.zoo import layout
from vtbench.zoo.card import ROUTES, Card, module_there
from vtbench.zoo.recognise import recognise

SYSTEMS = [
    "selftok",
    "vitvqgan-base",
    "vitvqgan-small",
    "titok-l32",
    "titok-b64",
    "titok-s128",
    "titok-bl64-vq8k",
    "titok-bl128-vq8k",
    "titok-sl256-vq8k",
    "titok-ll32-vae-c16",
    "titok-bl64-vae-c16",
    "titok-bl128-vae-c16",
    "tatitok-bl32-vq",
    "layton",
    "instella-t2i",
    "tokenflow",
    "seed-2",
    "flextok",
    "textok",
    "one-d-piece-s-256",
    "one-d-piece-b-256",
    "one-d-piece-l-256",
    "elm-bae",
    "lavit",
    "dualvitok",
    "karl",
    "alit",
    "hita",
    "tokenbridge",
    "dualtoken",
    "fqgan-dual",
    "meditok",
    "xar",
    "enat",
    "addp",
    "hi-mar",
    "reg",
    "ctf",
    "flowtok",
    "ett",
    "vilex",
    "vat",
    "ait",
    "himtok",
    "aurora",
    "fdt",
    "vqgan-imagenet-f16-1024",
    "vqgan-gumbel-f8",
    "llamagen-vq-ds16",
    "llamagen-vq-ds8",
    "open-magvit2-256",
    "ibq-1024",
    "ibq-8192",
    "ibq-16384",
    "ibq-262144",
    "maskgit-vqgan",
    "mage-vqgan",
    "maskbit-10bit",
    "maskbit-12bit",
    "maskbit-14bit",
    "maskbit-16bit",
    "maskbit-18bit",
    "bsq-vit",
    "infinity-vae-d32",
    "var-vae",
    "cosmos-ci8x8",
    "cosmos-ci16x16",
    "cosmos-di8x8",
    "cosmos-di16x16",
    "sd-vae",
    "sd-vae-ft-mse",
    "sdxl-vae",
    "sd3-vae",
    "flux-vae",
    "dc-ae-f32c32",
    "dc-ae-f64c128",
    "dc-ae-f128c512",
    "taesd",
    "taesdxl",
    "taesd3",
    "taef1",
    "taef2",
    "taef2-q",
    "rae",
    "chameleon-vqgan",
    "emu3",
    "janus-vq",
    "unitok",
    "vqgan-lc-f16-100k",
    "kl-16",
    "va-vae-f16d32",
    "rar",
    "tiny",
    "resize",
    "jpeg",
    "webp",
    "diffusers",
    "precomputed",
]


@pytest.fixture(autouse=True)
def _empty_path(tmp_path, monkeypatch):
    monkeypatch.setenv("VTBENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def test_every_system_has_a_card():
    assert set(SYSTEMS) <= set(cards.names())


@pytest.mark.parametrize("card", cards.cards(), ids=lambda c: c.name)
def test_a_card_says_what_a_user_needs(card):
    assert card.title and card.family and card.route in ROUTES
    if card.origin != "vtbench":
        return
    if not card.adapter:
        assert card.missing, "a system that does not run says what is missing"
        assert card.why_not() == card.missing
    if card.route in ("own", "library", "upstream") and card.family != "vtbench":
        assert card.code.startswith("https://") and card.code_licence
    if card.files:
        roles = [f.role for f in card.files]
        assert len(set(roles)) == len(roles)
        assert all(f.wanted() and (f.repository or f.url) for f in card.files), "every file says where it is to be had"
        assert all(not f.digest or len(f.digest) == 71 for f in card.files)
    if card.bits is not None and card.kind == "index" and card.tokens:
        import math

        each = sum(math.log2(k) for k in card.codebook[: 1 if card.name == "tokenflow" else None])
        assert card.bits == pytest.approx(card.tokens * each, abs=0.01)


@pytest.mark.parametrize("name", layout.names())
def test_cards_agree_with_the_layouts(name):
    card, known = cards.card(name), layout.layout(name)
    assert card.adapter == known.adapter
    if card.family != "vit-vqgan":  # the page counts what is used, the file holds the training loss's buffers too
        assert card.parameters == pytest.approx(known.parameters / 1e6, abs=0.01) and card.tensors == known.tensors


def test_adapters_that_a_card_names_and_that_are_here_can_be_imported():
    seen = Counter()
    for card in cards.cards():
        if isinstance(card.adapter, str) and card.adapter and module_there(card.adapter.partition(":")[0]):
            assert callable(resolve(card.adapter)), card.name
            seen[card.route] += 1
    assert seen["control"] >= 5 and seen["own"] >= 3


def test_listing_imports_nothing_heavy():
    code = "import sys; from vtbench.zoo.catalogue import cards; [c.why_not() for c in cards()]; print([m for m in ('torch','numpy','pandas','diffusers','safetensors') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_flextok_is_known_and_says_what_is_missing_in_one_line():
    with pytest.raises(VtbenchError, match=r"FlexTok does not run here: .*(precomputed:DIR|setup flextok)") as caught:
        zoo.load("flextok")
    assert "\n" not in str(caught.value)


def test_unknown_models_show_the_nearest():
    with pytest.raises(UnknownName, match=r"unknown model 'titok-l23'. Did you mean titok-l32"):
        zoo.load("titok-l23")
    with pytest.raises(UsageError, match="precomputed:DIR"):
        zoo.load("/tmp")


def test_missing_weights_tell_how_to_get_them():
    with pytest.raises(
        MissingWeights,
        match=r"weights fetch llamagen-vq-ds16.*huggingface.co/FoundationVision/LlamaGen.*VTBENCH_WEIGHTS.*--weights",
    ):
        zoo.load("llamagen-vq-ds16")
    with pytest.raises(MissingWeights, match=r"github.com/madebyollin/taesd"):
        zoo.load("taef2")
    with pytest.raises(MissingWeights, match="no weights file /nowhere"):
        zoo.load("taef2", weights="/nowhere")


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda n, *a: None if n == "diffusers" else real(n, *a))
    module_there.cache_clear()
    with pytest.raises(MissingPackage, match=r"needs the package 'diffusers'. pip install 'vtbench\[zoo\]'"):
        zoo.load("sd-vae-ft-mse")
    assert "pip install" in cards.card("sd-vae-ft-mse").why_not()
    module_there.cache_clear()


def test_a_card_refuses_fields_that_it_does_not_have():
    with pytest.raises(UnknownName, match=r"'licence'.*Did you mean code_licence"):
        Card.from_table({"name": "x", "licence": "MIT"}, "x")
    with pytest.raises(UnknownName, match="route"):
        Card.from_table({"name": "x", "route": "magic"}, "x")


def test_locate_takes_a_file_a_folder_or_one_half(tmp_path):
    card = cards.card("taef2")
    for half in ("encoder", "decoder"):
        (tmp_path / f"taef2_{half}.pth").write_bytes(b"x")
    wanted = {half: tmp_path / f"taef2_{half}.pth" for half in ("encoder", "decoder")}
    assert card.locate(tmp_path) == wanted and card.locate(wanted["encoder"]) == wanted and card.locate() == wanted
    single = cards.card("titok-l32")
    assert single.locate(wanted["encoder"]) == {"weights": wanted["encoder"]}
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingWeights, match="does not hold the encoder of taef2"):
        card.locate(tmp_path / "empty")


def test_a_card_as_plain_data_is_json():
    for card in cards.cards():
        assert json.loads(json.dumps(card.to_dict()))["name"] == card.name


@pytest.mark.parametrize("name", ["titok-l32", "llamagen-vq-ds16", "maskgit-vqgan", "kl-16"])
def test_a_checkpoint_is_recognised_by_its_keys(name):
    state = {k: torch.empty(s, device="meta") for k, s in layout.layout(name).shapes.items()}
    assert recognise(state) == name


def test_a_checkpoint_of_another_model_names_the_nearest_card():
    from vtbench.errors import BadWeights

    state = {k: torch.empty(s, device="meta") for k, s in layout.layout("titok-s128").shapes.items()}
    with pytest.raises(BadWeights, match=r"missing: .*unexpected: .*--model titok-s128"):
        weights.load_strict(torch.nn.Linear(2, 2), state)
    assert recognise({"backbone.weight": torch.zeros(1)}) == ""
