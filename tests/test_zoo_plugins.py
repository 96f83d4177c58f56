"""A tokenizer of somebody else's package: found by its entry point, listed, loaded, told apart when broken."""

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from vtbench import zoo
from vtbench.errors import UsageError
from vtbench.zoo import catalogue as cards
from vtbench.zoo.card import module_there

DOC = (Path(__file__).parent.parent / "docs" / "zoo.md").read_text("utf-8")
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", DOC, re.DOTALL))
LONE_CARD = """
CARD = Card("lazy", title="A card alone", route="external", adapter="rounded_tokenizer:Rounded")
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A package as pip would have installed it: a module and its dist-info."""

    def install(points):
        (tmp_path / "rounded_tokenizer.py").write_text(FILES["rounded_tokenizer.py"] + LONE_CARD)
        info = tmp_path / "rounded_tokenizer-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rounded-tokenizer\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{cards.GROUP}]\n{points}\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        module_there.cache_clear()

    yield install
    sys.modules.pop("rounded_tokenizer", None)
    module_there.cache_clear()


def documented_entry_points():
    """The entry points of the documented pyproject.toml, as its wheel would have them."""
    section = FILES["pyproject.toml"].split(f'[project.entry-points."{cards.GROUP}"]')[1].split("[")[0]
    return section.replace('"', "").strip()


def test_the_documented_package(plugin):
    plugin(documented_entry_points())
    assert "rounded" in cards.names()
    card = cards.card("rounded")
    assert card.title == "Rounded pixels" and card.origin == "rounded-tokenizer" and card.why_not() == ""
    model = zoo.load("rounded:levels=8")
    images = torch.rand(2, 3, 4, 4)
    tokens = model.encode(images)
    assert model.name == "rounded" and model.params == {"levels": 8} and tokens.bits().tolist() == [16 * 9.0] * 2
    assert (model.decode(tokens) - images).abs().max() <= 0.5 / 7 + 1e-6


def test_a_card_whose_adapter_is_imported_only_when_it_runs(plugin):
    plugin("lazy = rounded_tokenizer:CARD")
    assert zoo.load("lazy:levels=3").revision == "rounded:3"


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("broken = no_such_module_at_all:X", "cannot be loaded"),
        ("broken = rounded_tokenizer:absent", "cannot be loaded"),
        ("broken = rounded_tokenizer:ABSENT", "cannot be loaded"),
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
    plugin("rounded = rounded_tokenizer:Rounded")
    with pytest.raises(UsageError, match="Did you mean rounded"):
        zoo.load("ruonded")
