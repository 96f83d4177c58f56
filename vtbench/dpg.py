"""DPG-Bench's rules: the graph of questions, and what an image's answers are worth.

Source: https://github.com/TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py. Two of its habits are kept, since its published numbers have them: categories
are of the answers as given, without the graph, and of an image file with several pictures they are of the last picture alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Question(NamedTuple):
    """number: in its item. parents: numbers of questions whose "no" makes this one worth nothing (0: none). about: ``entity - whole (bear)``."""

    number: int
    parents: tuple[int, ...]
    about: str
    text: str

    @property
    def category(self) -> str:
        """``entity - whole``."""
        return self.about.split("(")[0].strip()


def questions_of(told: str) -> list[Question]:
    """The questions of a condition's facts."""
    return [Question(n, tuple(parents), about, text) for n, parents, about, text in json.loads(told)]


def score(questions: Sequence[Question], answers: Mapping[int, bool]) -> float:
    """The share of questions answered yes, in [0, 1]; in the order of the questions, one with a parent that is worth nothing is worth nothing."""
    worth = {q.number: float(answers[q.number]) for q in questions}
    for question in questions:
        if any(parent and not worth[parent] for parent in question.parents):
            worth[question.number] = 0.0
    return sum(worth.values()) / len(worth)
