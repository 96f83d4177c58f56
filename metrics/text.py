"""T-ACC and T-NED: can words still be read in the reconstruction? (TokBench, Wu et al. 2025, arXiv:2505.18142.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from vtbench.api import INPUT, OUTPUT, Fields, Measurements, Need, Value, View, metric
from vtbench.errors import VtbenchError

from .size_bins import NAMES, bin_of, by_size, edges_for
from .source_frame import source_view

FIELDS = ("quantise", "container", "restore", "recogniser", "recogniser_weights", "refine", "text_bins")
SOURCE = "TokBench, https://github.com/wjf5203/TokBench"
TOO_SMALL = 1


def needs(p: Fields) -> Mapping[str, Need]:
    """What the recogniser read in the reconstruction, put back on the source image; in the original too where `refine` is on."""
    edges_for(p["text_bins"], p["resolution"], "words")
    view = source_view(p)
    args = (("weights", p["recogniser_weights"]),)
    heads = ("text", "truth", "ratio", "status", "foreign", "confidence")  # confidence: for the reader of a report
    out = {head: Need(p["recogniser"], head, at=OUTPUT, view=view, args=args) for head in heads}
    if p["refine"]:
        out["original"] = Need(p["recogniser"], "text", at=INPUT, view=View(frame="source"), args=args)
    return out


@dataclass(frozen=True)
class Words:
    """The annotated words of a set. bin: of each word, -1 for those that are not scored; dropped: how many, by reason."""

    text: np.ndarray
    truth: np.ndarray
    image: np.ndarray
    bin: np.ndarray
    dropped: Mapping[str, int]
    foreign: int


def words(m: Measurements, p: Fields) -> Words:
    """Sort out which words are scored. A word is dropped for the first reason that applies: its crop has a side of 1 px or less,
    its size lies outside all bins, the recogniser misreads it on the original (`refine`). A word with a character that the
    recogniser cannot write is scored, and is misread."""
    truth, status = m["truth"].array(), m["status"].array()
    ratio, image = m["ratio"].array().astype(np.float64), m["truth"].image
    which = bin_of(ratio, edges_for(p["text_bins"], p["resolution"], "words"))
    tiny = status == TOO_SMALL
    outside = (which < 0) & ~tiny
    reasons = {"crop-too-small": tiny, "size-outside-bins": outside}
    if p["refine"]:
        original = m["original"].array()
        if not np.array_equal(m["original"].image, image):
            raise VtbenchError(
                "the words of the originals and of the reconstructions are not the same", "Run with --fresh"
            )
        reasons["misread-on-original"] = (original != truth) & ~tiny & ~outside
    scored = ~np.logical_or.reduce(list(reasons.values()))
    foreign = m["foreign"].array().astype(bool)
    return Words(
        m["text"].array(),
        truth,
        image,
        np.where(scored, which, -1),
        {reason: int(mask.sum()) for reason, mask in reasons.items()},
        int((foreign & scored).sum()),
    )


def notes(w: Words) -> dict[str, int]:
    """Counts for the record: annotated, scored, dropped by reason, scored with characters that the recogniser cannot write."""
    out = {"annotated": len(w.bin), "scored": int((w.bin >= 0).sum()), "with_foreign_characters": w.foreign}
    return out | {f"dropped_{reason}": count for reason, count in w.dropped.items()}


def levenshtein(a: str, b: str) -> int:
    """The fewest insertions, deletions and substitutions of code points that turn `a` into `b`."""
    if a == b:
        return 0
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def similarity(truth: str, text: str) -> float:
    """1 - Levenshtein / length of the longer one, in [0, 1]; 1 for two empty strings."""
    longest = max(len(truth), len(text))
    return 1.0 - levenshtein(truth, text) / longest if longest else 1.0


@metric(
    "t_acc",
    needs=needs,
    unit="%",
    better="higher",
    fields=FIELDS,
    title="Words read exactly as annotated, case and punctuation included",
    source=SOURCE,
    tolerance=5e-3,
)
def t_acc(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent of words whose string is exactly the annotated one: small, medium, large and their mean."""
    w = words(m, p)
    right = 100.0 * (w.text == w.truth)
    yield from by_size(right, w.image, w.bin, m.groups, what="words", notes=notes(w))


@metric(
    "t_ned",
    needs=needs,
    unit="%",
    better="higher",
    fields=FIELDS,
    title="Similarity of the words read to those annotated: 1 - normalised edit distance",
    source=SOURCE,
    tolerance=5e-3,
)
def t_ned(m: Measurements, p: Fields) -> Iterator[Value]:
    """100 (1 - Levenshtein / max length) per word: small, medium, large and their mean."""
    w = words(m, p)
    close = [100.0 * similarity(a, b) if bin_ >= 0 else 0.0 for a, b, bin_ in zip(w.truth, w.text, w.bin)]
    yield from by_size(np.array(close, np.float64), w.image, w.bin, m.groups, what="words", notes=notes(w))


@metric(
    "words_scored", needs=needs, unit="words", fields=FIELDS, title="Words that T-ACC and T-NED count", source=SOURCE
)
def words_scored(m: Measurements, p: Fields) -> Iterator[Value]:
    """How many words are scored, in all and by size."""
    w = words(m, p)
    yield Value(value=float((w.bin >= 0).sum()), n=len(w.bin), notes=notes(w))
    for number, name in enumerate(NAMES):
        yield Value(value=float((w.bin == number).sum()), n=len(w.bin), slice=name)


@metric(
    "words_dropped",
    needs=needs,
    unit="words",
    fields=FIELDS,
    title="Annotated words that are not scored",
    source=SOURCE,
)
def words_dropped(m: Measurements, p: Fields) -> Iterator[Value]:
    """How many words are not scored, in all and by reason."""
    w = words(m, p)
    yield Value(value=float((w.bin < 0).sum()), n=len(w.bin))
    for reason, count in w.dropped.items():
        yield Value(value=float(count), n=len(w.bin), slice=f"reason={reason}")
