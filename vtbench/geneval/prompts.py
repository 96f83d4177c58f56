"""GenEval's 553 prompts, drawn again as their authors drew them, and the identity of any other list.

Facts from https://github.com/djghosh13/geneval at af4902f: the classes, colours and positions, 100 draws a task from NumPy's generator
with seed 43, equal prompts once. A list's version is the sha256 of its lines as `evaluation_metadata.jsonl` holds them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vtbench.errors import BadData, UnknownName, VtbenchError

CLASSES = tuple(
    """person|bicycle|car|motorcycle|airplane|bus|train|truck|boat|traffic light|fire hydrant|stop sign|parking meter|bench|bird|cat|dog
horse|sheep|cow|elephant|bear|zebra|giraffe|backpack|umbrella|handbag|tie|suitcase|frisbee|skis|snowboard|sports ball|kite|baseball bat
baseball glove|skateboard|surfboard|tennis racket|bottle|wine glass|cup|fork|knife|spoon|bowl|banana|apple|sandwich|orange|broccoli|carrot
hot dog|pizza|donut|cake|chair|couch|potted plant|bed|dining table|toilet|tv|laptop|computer mouse|tv remote|computer keyboard|cell phone
microwave|oven|toaster|sink|refrigerator|book|clock|vase|scissors|teddy bear|hair drier|toothbrush""".replace(
        "\n", "|"
    ).split("|")
)
"""COCO's 80 classes in the detector's order, three of them renamed (computer mouse, tv remote, computer keyboard)."""

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
POSITIONS = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
COUNTS = {2: "two", 3: "three", 4: "four"}
VERSION = "sha256:5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the list that GenEval's authors published; the one that its scores are about."""
SEED, DRAWS, IMAGES = 43, 100, 4


@dataclass(frozen=True)
class Clause:
    """A class that must (or must not) be there `count` times; colour and position of the required ones.

    position: (relation, which required clause it is relative to)."""

    name: str
    count: int
    colour: str = ""
    position: tuple[str, int] | None = None


@dataclass(frozen=True)
class Prompt:
    """A prompt with what its picture must hold; `metadata` is the object as it stands in the list."""

    tag: str
    text: str
    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...]
    metadata: str


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _draw() -> Iterator[dict[str, Any]]:
    """Every draw in its order; the generator's state runs through all of them."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    last = len(CLASSES) - 1  # people get no colour: class 0 is left out where there is one

    def things(tag: str, prompt: str, *include: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"tag": tag, "include": list(include), **more, "prompt": f"a photo of {prompt}"}

    for i in rng.choice(len(CLASSES), size=len(CLASSES), replace=False):
        yield things("single_object", _a(CLASSES[i]), {"class": CLASSES[i], "count": 1})
    for _ in range(DRAWS):
        a, b = (CLASSES[i] for i in rng.choice(len(CLASSES), size=2, replace=False))
        yield things("two_object", f"{_a(a)} and {_a(b)}", {"class": a, "count": 1}, {"class": b, "count": 1})
    for _ in range(DRAWS):
        name = CLASSES[rng.choice(len(CLASSES))]
        count = int(rng.integers(min(COUNTS), max(COUNTS), endpoint=True))
        several = name + ("es" if name.endswith("s") else "s")
        yield things(
            "counting",
            f"{COUNTS[count]} {several}",
            {"class": name, "count": count},
            exclude=[{"class": name, "count": count + 1}],
        )
    for _ in range(DRAWS):
        name = CLASSES[rng.choice(last) + 1]
        colour = COLOURS[rng.choice(len(COLOURS))]
        yield things("colors", f"{_a(colour)} {name}", {"class": name, "count": 1, "color": colour})
    for _ in range(DRAWS):
        a, b = (CLASSES[i] for i in rng.choice(len(CLASSES), size=2, replace=False))
        where = POSITIONS[rng.choice(len(POSITIONS))]
        yield things(
            "position",
            f"{_a(a)} {where} {_a(b)}",
            {"class": b, "count": 1},
            {"class": a, "count": 1, "position": [where, 0]},
        )
    for _ in range(DRAWS):
        a, b = (CLASSES[i + 1] for i in rng.choice(last, size=2, replace=False))
        one, other = (COLOURS[i] for i in rng.choice(len(COLOURS), size=2, replace=False))
        yield things(
            "color_attr",
            f"{_a(one)} {a} and {_a(other)} {b}",
            {"class": a, "count": 1, "color": one},
            {"class": b, "count": 1, "color": other},
        )


@cache
def lines() -> tuple[str, ...]:
    """The list as JSON lines, byte for byte as published. Raises `VtbenchError` if this NumPy draws otherwise."""
    found = tuple(dict.fromkeys(json.dumps(draw) for draw in _draw()))
    if version(found) != VERSION:
        import numpy as np

        raise VtbenchError(
            f"NumPy {np.__version__} draws another list than GenEval's ({version(found)[:19]}..., not {VERSION[:19]}...)",
            "Use a NumPy between 1.26 and 2.4, or score a folder in GenEval's layout, which brings its prompts along",
        )
    return found


def version(lines: Sequence[str]) -> str:
    """``sha256:...`` of a list of metadata lines."""
    return f"sha256:{hashlib.sha256(''.join(line + chr(10) for line in lines).encode()).hexdigest()}"


def prompts() -> tuple[Prompt, ...]:
    """GenEval's prompts in order."""
    return tuple(parse(line, f"prompt {number}") for number, line in enumerate(lines()))


def parse(line: str, where: str) -> Prompt:
    """One object of a metadata list. Raises `BadData`, naming the place, for one that cannot be scored."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where} is not JSON: {error}", "GenEval's layout has one JSON object there") from error
    if not isinstance(found, Mapping):
        raise BadData(f"{where} is not an object, found {found!r:.60}")
    tag, text = (_text(found, key, where) for key in ("tag", "prompt"))
    include, exclude = (_clauses(found, key, where) for key in ("include", "exclude"))
    if not include and not exclude:
        raise BadData(f"{where} asks for nothing: it has neither 'include' nor 'exclude'")
    for number, clause in enumerate(include):
        if clause.position is not None and not 0 <= clause.position[1] < number:
            raise BadData(
                f"{where}: the position of '{clause.name}' is relative to a clause that does not stand before it"
            )
    return Prompt(tag, text, include, exclude, json.dumps(found))


def _text(found: Mapping[str, Any], key: str, where: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not value:
        raise BadData(f"{where}: '{key}' must be a text, found {value!r:.60}")
    return value


def _clauses(found: Mapping[str, Any], key: str, where: str) -> tuple[Clause, ...]:
    listed = found.get(key, [])
    if not isinstance(listed, list) or not all(isinstance(c, Mapping) for c in listed):
        raise BadData(f"{where}: '{key}' must be a list of objects, found {listed!r:.60}")
    return tuple(_clause(c, f"{where}, {key}") for c in listed)


def _clause(found: Mapping[str, Any], where: str) -> Clause:
    name = _text(found, "class", where)
    if name not in CLASSES:
        raise _among("class", name, CLASSES, where)
    count = found.get("count")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise BadData(f"{where}: 'count' must be a whole number from 1 on, found {count!r:.60}")
    colour = found.get("color", "")
    if colour and colour not in COLOURS:
        raise _among("color", colour, COLOURS, where)
    position = found.get("position")
    if position is None:
        return Clause(name, count, colour)
    if not isinstance(position, list) or len(position) != 2 or not isinstance(position[1], int):
        raise BadData(f"{where}: 'position' must be a relation and the number of a clause, found {position!r:.60}")
    if position[0] not in POSITIONS:
        raise _among("position", position[0], POSITIONS, where)
    return Clause(name, count, colour, (position[0], position[1]))


def _among(what: str, name: Any, known: Sequence[str], where: str) -> BadData:
    unknown = UnknownName(what, str(name), known)
    way_out = (
        unknown.way_out if unknown.near else f"GenEval knows {', '.join(known[:10])}" + ", ..." * (len(known) > 10)
    )
    return BadData(f"{where}: {unknown.message}", way_out)
