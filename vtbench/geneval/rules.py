"""GenEval's rules: is what a prompt asks for among what a detector found? Equal, verdict for verdict, to the original's functions.

Source: https://github.com/djghosh13/geneval at af4902f, evaluation/evaluate_images.py. Arithmetic in float32, as there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtbench.errors import UsageError
from vtbench.geneval.prompts import CLASSES, COLOURS, Clause, Prompt

KEPT = 0.3
"""Detections at or below this score are not kept in the store, so no rule may ask for them."""


@dataclass(frozen=True)
class Rules:
    """Which detections count, and when one thing is beside another.

    threshold: detections score above it; counting: likewise for prompts with the tag `counting`. most: at most so many of a class.
    overlap: of two boxes of one class that overlap by this share or more, the lower one goes (1 = both stay). apart: share of the sizes that
    a distance must exceed."""

    threshold: float = 0.3
    counting: float = 0.9
    most: int = 16
    overlap: float = 1.0
    apart: float = 0.1

    def __post_init__(self) -> None:
        if min(self.threshold, self.counting) < KEPT:
            raise UsageError(
                f"a detection threshold of {min(self.threshold, self.counting):g} asks for detections that are not kept",
                f"Detections are kept above {KEPT}: name a threshold from there on",
            )


@dataclass(frozen=True)
class Found:
    """Detections of one image, in the detector's order.

    classes int ``[R]`` (index in `CLASSES`), scores float32 ``[R]``, boxes float32 ``[R, 4]`` (x0, y0, x1, y1 in pixels), colours float32
    ``[R, 10]`` (one figure for each of `COLOURS`; the greatest is the colour)."""

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    colours: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """Whether an image is correct, why not (one line a fault), and the detections that counted: class -> rows, best first."""

    correct: bool
    reason: str
    kept: Mapping[str, Sequence[int]]


def kept(found: Found, tag: str, rules: Rules) -> dict[str, list[int]]:
    """Rows of every class that count for a prompt of this tag, by falling score; of equal scores the later detection first."""
    least = np.float32(rules.counting if tag == "counting" else rules.threshold)
    out: dict[str, list[int]] = {}
    for index in np.unique(found.classes).tolist():
        name = CLASSES[index]
        rows = np.flatnonzero(found.classes == index)
        rows = rows[np.argsort(found.scores[rows], kind="stable")[::-1]]
        left = rows[found.scores[rows] > least][: rules.most].tolist()
        if not left:
            continue
        out[name] = []
        while left:
            best, *rest = left
            out[name].append(best)
            left = [r for r in rest if rules.overlap == 1 or _shared(found.boxes[best], found.boxes[r]) < rules.overlap]
    return out


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes, a pixel added to every side, as the original counts."""

    def area(box: Any) -> Any:
        return max(box[2] - box[0] + 1, np.float32(0)) * max(box[3] - box[1] + 1, np.float32(0))

    inside = area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    union = area(a) + area(b) - inside
    return float(inside / union) if union else 0.0


def relations(a: np.ndarray, b: np.ndarray, apart: float = 0.1) -> set[str]:
    """How box `a` lies to box `b` (both float32 ``[4]``): none, one or two of `POSITIONS`.

    The distance of the centres, shortened by a share of the sizes, over the whole distance: more than half of it along an axis names it."""
    boxes = np.stack([a, b]).reshape(2, 2, 2)
    centres = boxes.mean(axis=1)
    sizes = np.abs(boxes[:, 1] - boxes[:, 0])
    distance = centres[0] - centres[1]
    left = np.maximum(np.abs(distance) - apart * (sizes[0] + sizes[1]), 0) * np.sign(distance)
    if (np.abs(left) < 1e-3).all():
        return set()
    dx, dy = left / np.linalg.norm(distance)
    named = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in named.items() if holds}


def judge(found: Found, prompt: Prompt, rules: Rules | None = None) -> Verdict:
    """Hold an image's detections against its prompt: every required clause must hold, no excluded one may.

    Only the best `count` detections of a class are looked at for colour and position."""
    rules = rules or Rules()
    things = kept(found, prompt.tag, rules)
    faults: list[str] = []
    matched: list[list[int] | None] = []
    for clause in prompt.include:
        rows = things.get(clause.name, [])[: clause.count]
        if len(rows) < clause.count:
            fault = f"expected {clause.name}>={clause.count}, found {len(rows)}"
        else:
            fault = _colour_fault(found, clause, rows) or _position_fault(found, clause, rows, matched, rules)
        matched.append(None if fault else rows)
        if fault:
            faults.append(fault)
    for clause in prompt.exclude:
        count = len(things.get(clause.name, []))
        if count >= clause.count:
            faults.append(f"expected {clause.name}<{clause.count}, found {count}")
    return Verdict(not faults, "\n".join(faults), things)


def _colour_fault(found: Found, clause: Clause, rows: Sequence[int]) -> str:
    if not clause.colour:
        return ""
    seen = [COLOURS[i] for i in found.colours[list(rows)].argmax(axis=1)]
    right = seen.count(clause.colour)
    if right >= clause.count:
        return ""
    listed = ", ".join(f"{seen.count(c)} {c}" for c in COLOURS if c in seen)
    return f"expected {clause.colour} {clause.name}>={clause.count}, found {right} {clause.colour}; and {listed}"


def _position_fault(
    found: Found, clause: Clause, rows: Sequence[int], matched: Sequence[list[int] | None], rules: Rules
) -> str:
    if clause.position is None:
        return ""
    wanted, target = clause.position
    targets = matched[target]
    if targets is None:
        return f"no target for {clause.name} to be {wanted}"
    for row in rows:
        for other in targets:
            seen = relations(found.boxes[row], found.boxes[other], rules.apart)
            if wanted not in seen:
                return f"expected {clause.name} {wanted} target, found {' and '.join(sorted(seen))} target"
    return ""
