"""A tokenizer of somebody else's package: found by its entry point, listed, loaded, told apart when broken."""

import importlib
import sys
import textwrap

import pytest
import torch

from vtbench import zoo
from vtbench.errors import UsageError
from vtbench.zoo import card as cards

ADAPTER = '''
"""A tokenizer in one file: its card and its adapter."""
from vtbench.api import Stream, Tokenizer, Tokens
from vtbench.zoo.card import Card


class Rounded(Tokenizer):
    """Every channel rounded to `levels` values."""

    card = Card("rounded", title="Rounded pixels", family="example", route="external", form="2d", kind="index", code_licence="MIT")

    def __init__(self, *, levels: int = 4):
        self.levels, self.revision = levels, f"rounded:{levels}"

    def encode(self, images, *, budget=None, condition=None, sample=False, seeds=None):
        ids = (images * (self.levels - 1)).round().long().flatten(2).transpose(1, 2)
        stream = Stream("tokens", "index", "grid2d", (self.levels,) * 3, tuple(images.shape[2:]))
        return Tokens((stream,), {"tokens": ids}, len(images))

    def decode(self, tokens, *, seeds=None):
        return tokens.data["tokens"].transpose(1, 2).unflatten(2, tokens.streams[0].shape) / (self.levels - 1)


CARD = Card("lazy", title="A card alone", route="external", adapter="example_plugin:Rounded", missing="")
'''


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package as pip would have installed it: a module and its dist-info."""

    def install(points):
        (tmp_path / "example_plugin.py").write_text(textwrap.dedent(ADAPTER))
        info = tmp_path / "example_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{cards.GROUP}]\n{points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        cards._module_there.cache_clear()

    yield install
    sys.modules.pop("example_plugin", None)
    cards._module_there.cache_clear()


def test_a_class_with_its_card(plugin):
    plugin("rounded = example_plugin:Rounded")
    assert "rounded" in cards.names()
    card = cards.card("rounded")
    assert card.title == "Rounded pixels" and card.origin == "example-plugin" and card.why_not() == ""
    model = zoo.load("rounded:levels=8")
    images = torch.rand(2, 3, 4, 4)
    tokens = model.encode(images)
    assert model.name == "rounded" and model.params == {"levels": 8} and tokens.bits().tolist() == [16 * 9.0] * 2
    assert (model.decode(tokens) - images).abs().max() <= 0.5 / 7 + 1e-6


def test_a_card_whose_adapter_is_imported_only_when_it_runs(plugin):
    plugin("lazy = example_plugin:CARD")
    assert zoo.load("lazy:levels=3").revision == "rounded:3"


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("broken = no_such_module_at_all:X", "cannot be loaded"),
        ("broken = example_plugin:absent", "cannot be loaded"),
        ("broken = example_plugin:ADAPTERS", "cannot be loaded"),
        ("broken = sys:path", "neither a vtbench.zoo.card.Card"),
    ],
)
def test_a_broken_plug_in_is_named_and_hides_nothing_else(plugin, points, says):
    plugin(points)
    with pytest.raises(UsageError, match=f"the plug-in broken .*{says}"):
        zoo.load("broken")
    listed = {c.name: c for c in cards.cards()}
    assert "tiny" in listed and says in listed["broken"].why_not()


def test_a_typo_of_a_plug_in_is_suggested(plugin):
    plugin("rounded = example_plugin:Rounded")
    with pytest.raises(UsageError, match="Did you mean rounded"):
        zoo.load("ruonded")
