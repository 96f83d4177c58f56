"""GenEval: is what a prompt asks for in the image? (Ghosh, Hajishirzi and Schmidt 2023, arXiv:2310.11513.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtbench.api import OUTPUT, Fields, Measurements, Need, Value, View, metric
from vtbench.geneval.prompts import TAGS, Prompt
from vtbench.geneval.results import found_in, prompt_of, rules_of
from vtbench.geneval.rules import judge
from vtbench.hashing import groups_of
from vtbench.intervals import bootstrap_strata

FIELDS = (
    "detector",
    "colour_namer",
    "background",
    "threshold",
    "counting_threshold",
    "max_objects",
    "max_overlap",
    "apart",
)
SOURCE = "GenEval, https://github.com/djghosh13/geneval at af4902f; arXiv:2310.11513"
GROUPS = 20


def needs(p: Fields) -> Mapping[str, Need]:
    """Every detection's class, score, box and colour, in the images as they were made."""
    rules_of(p)
    view = View(frame="source", quantise=p.get("quantise", "round"))
    args = (("background", p["background"]), ("colours", p["colour_namer"]), ("detector", p["detector"]))
    return {
        head: Need("detections", head, at=OUTPUT, view=view, args=args) for head in ("class", "score", "box", "colour")
    }


class _Judged:
    """Every image's verdict, its prompt (a number) and its prompt's tag (a number; the tags in order of appearance)."""

    def __init__(self, m: Measurements, p: Fields) -> None:
        rules = rules_of(p)
        known: dict[str, Prompt] = {}
        numbers: dict[str, int] = {}
        self.tags: list[str] = []
        correct, prompt, tag, self.empty = [], [], [], 0
        lines, names = m.samples["geneval"], m.samples["prompt_id"]
        for row, found in enumerate(found_in(m.columns, len(lines))):
            wanted = prompt_of(known, str(lines[row]), str(names[row]))
            if wanted.tag not in self.tags:
                self.tags.append(wanted.tag)
            correct.append(judge(found, wanted, rules).correct)
            prompt.append(numbers.setdefault(str(names[row]), len(numbers)))
            tag.append(self.tags.index(wanted.tag))
            self.empty += not len(found.scores)
        self.correct, self.prompt, self.tag = np.array(correct, float), np.array(prompt), np.array(tag)
        self.group = np.array(groups_of(list(numbers), min(GROUPS, len(numbers))))[self.prompt]

    @property
    def notes(self) -> dict[str, Any]:
        """Counts beside the row."""
        return {
            "images": len(self.correct),
            "prompts": int(self.prompt.max()) + 1,
            "images_without_detections": self.empty,
        }

    def mean(self, rows: np.ndarray) -> float:
        """The unweighted mean of the tags' accuracies, over some images; nan when a tag has none left."""
        sums = np.bincount(self.tag[rows], self.correct[rows], len(self.tags))
        counts = np.bincount(self.tag[rows], minlength=len(self.tags))
        used = np.unique(self.tag)
        return float((sums[used] / counts[used]).mean()) if counts[used].all() else float("nan")

    def value(self, rows: np.ndarray, name: str, why: str = "") -> Value:
        """The mean over the tags of some images, with its interval by prompt."""
        part = object.__new__(_Judged)
        part.tags = self.tags
        for field in ("correct", "prompt", "tag", "group"):
            setattr(part, field, getattr(self, field)[rows])
        every = np.arange(len(part.correct))
        without = [part.mean(every[part.group != g]) for g in range(int(self.group.max()) + 1)]
        interval = bootstrap_strata(part.correct, part.prompt, part.tag)
        return Value(
            value=part.mean(every),
            n=len(every),
            groups=np.array(without),
            interval=(interval.low, interval.high),
            slice=name,
            why=why,
            notes=self.notes,
        )


def _blind(judged: _Judged) -> str:
    if judged.empty == len(judged.correct):
        return "the detector found nothing in any image: wrong weights, a wrong configuration, or no pictures of things"
    return ""


@metric(
    "geneval",
    needs=needs,
    better="higher",
    fields=FIELDS,
    title="Share of images that hold what their prompt asks for: each tag's, and their unweighted mean",
    source=SOURCE,
    tolerance=1e-3,
    bounds=(0.0, 1.0),
    compares="sets",
)
def geneval(m: Measurements, p: Fields) -> Iterator[Value]:
    """Overall (the unweighted mean of the tags), then every tag. Intervals: bootstrap of prompts within tags."""
    judged = _Judged(m, p)
    lacking = [tag for tag in TAGS if tag not in judged.tags]
    why = _blind(judged) or (f"no image of {', '.join(lacking)}: the mean is over the other tags" if lacking else "")
    yield judged.value(np.arange(len(judged.correct)), "all", why)
    for number, tag in enumerate(judged.tags):
        yield judged.value(np.flatnonzero(judged.tag == number), f"tag={tag}")


@metric(
    "geneval_images",
    needs=needs,
    unit="%",
    better="higher",
    fields=FIELDS,
    title="Images that hold what their prompt asks for",
    source=SOURCE,
    tolerance=1e-3,
    compares="sets",
)
def geneval_images(m: Measurements, p: Fields) -> Iterator[Value]:
    """Each image, 100 or 0; the interval by prompt."""
    judged = _Judged(m, p)
    interval = bootstrap_strata(judged.correct, judged.prompt, np.zeros(len(judged.prompt), int))
    yield Value(samples=100 * judged.correct, interval=(100 * interval.low, 100 * interval.high))


@metric(
    "geneval_prompts",
    needs=needs,
    unit="%",
    better="higher",
    fields=FIELDS,
    title="Prompts with at least one image that holds what they ask for",
    source=SOURCE,
    tolerance=1e-3,
    compares="sets",
)
def geneval_prompts(m: Measurements, p: Fields) -> Iterator[Value]:
    """Each prompt, 100 or 0, at its first image."""
    judged = _Judged(m, p)
    _, first, number = np.unique(judged.prompt, return_index=True, return_inverse=True)
    yield Value(samples=100.0 * (np.bincount(number, judged.correct) > 0), image=first)
