"""The catalogue: every system that has a card. One TOML file a system in ``cards/``; plug-ins bring theirs as objects."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from vtbench import parse
from vtbench.errors import UnknownName, UsageError, VtbenchError
from vtbench.zoo.card import Card

FOLDER = Path(__file__).parent / "cards"
GROUP = "vtbench.models"
"""Of entry points that plug-ins name their models in."""


def _plugins() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def names() -> list[str]:
    """Every model that ``--model`` knows by name, plug-ins among them."""
    return sorted({p.stem for p in FOLDER.glob("*.toml")} | set(_plugins()))


def known(name: str) -> bool:
    """Whether there is a card of this name."""
    return (FOLDER / f"{name}.toml").is_file() or name in _plugins()


def card(name: str) -> Card:
    """One card. Raises `UnknownName` with the nearest names."""
    path = FOLDER / f"{name}.toml"
    if path.parent == FOLDER and path.is_file():
        return read(path)
    plugins = _plugins()
    if name in plugins:
        return _from_plugin(plugins[name])
    raise UnknownName("model", name, names())


def cards() -> list[Card]:
    """All cards by name. A plug-in that cannot be loaded becomes a card that says so."""
    made = [read(p) for p in sorted(FOLDER.glob("*.toml"))]
    for point in _plugins().values():
        try:
            made.append(_from_plugin(point))
        except VtbenchError as error:
            made.append(Card(point.name, route="external", missing=str(error), origin=point.value))
    return sorted(made, key=lambda c: c.name)


@cache
def read(path: Path) -> Card:
    """The card in one TOML file."""
    table = parse.toml(path, UsageError)
    if table.get("name") != path.stem:
        raise UsageError(f"{path}: the card's name is '{table.get('name')}', not the file's")
    return Card.from_table(table, path.stem)


def _from_plugin(point: EntryPoint) -> Card:
    """A plug-in names a `Card`, or a class or function that makes the tokenizer and carries its `card`."""
    try:
        thing = point.load()
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(
            f"the plug-in {point.name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}",
            "Reinstall or uninstall its package",
        ) from error
    found = thing if isinstance(thing, Card) else getattr(thing, "card", None)
    if not isinstance(found, Card):
        raise UsageError(
            f"the plug-in {point.name} names {point.value}, which is neither a vtbench.zoo.card.Card nor carries one as `card`"
        )
    adapter = found.adapter or (thing if callable(thing) else "")
    package = point.dist.name if point.dist is not None else point.value
    return replace(found, name=point.name, adapter=adapter, origin=package)
