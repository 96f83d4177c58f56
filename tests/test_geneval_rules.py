"""GenEval's prompts and rules: byte for byte, and verdict for verdict, those of the original."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vtbench.errors import BadData, UsageError
from vtbench.geneval import prompts as p
from vtbench.geneval.rules import Found, Rules, judge, kept, relations

GOLDEN = json.loads((Path(__file__).parent / "golden" / "geneval_rules.json").read_text())
PROMPTS = p.prompts()


def found(rows) -> Found:
    """Detections from [class, score, x0, y0, x1, y1, colour] rows."""
    a = np.array(rows, np.float64).reshape(-1, 7)
    colours = np.eye(10, dtype=np.float32)[a[:, 6].astype(int)]
    return Found(a[:, 0].astype(int), a[:, 1].astype(np.float32), a[:, 2:6].astype(np.float32), colours)


def test_the_list_is_the_published_one_to_the_byte():
    text = "".join(line + "\n" for line in p.lines())
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    )
    counts = Counter(prompt.tag for prompt in PROMPTS)
    assert counts == dict(zip(p.TAGS, (80, 99, 80, 94, 100, 100)))
    wanted = Counter(c.count for prompt in PROMPTS if prompt.tag == "counting" for c in prompt.include)
    assert wanted == {2: 26, 3: 28, 4: 26}
    assert len(p.CLASSES) == len(set(p.CLASSES)) == 80


def test_every_line_is_read_back_as_it_stands():
    assert [prompt.metadata for prompt in PROMPTS] == list(p.lines())
    assert p.version([*p.lines()[1:], p.lines()[0]]) != p.VERSION


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not an object"),
        ('{"tag": "colors", "include": []}', "'prompt' must be a text"),
        ('{"tag": "t", "prompt": "x"}', "asks for nothing"),
        ('{"tag": "t", "prompt": "x", "include": 3}', "'include' must be a list"),
        ('{"tag": "t", "prompt": "x", "include": [{"class": "remote", "count": 1}]}', "Did you mean"),
        ('{"tag": "t", "prompt": "x", "include": [{"class": "dog", "count": 0}]}', "'count' must be"),
        ('{"tag": "t", "prompt": "x", "include": [{"class": "dog", "count": 1, "color": "teal"}]}', "unknown color"),
        ('{"tag": "t", "prompt": "x", "include": [{"class": "dog", "count": 1, "position": ["over", 0]}]}', "position"),
        (
            '{"tag": "t", "prompt": "x", "include": [{"class": "dog", "count": 1, "position": ["above", 0]}]}',
            "before it",
        ),
    ],
)
def test_metadata_that_cannot_be_scored_is_named(line, said):
    with pytest.raises(BadData, match=said):
        p.parse(line, "7/metadata.jsonl")


def test_verdicts_and_reasons_are_the_originals():
    for number, rows, correct, reason in GOLDEN["cases"]:
        verdict = judge(found(rows), PROMPTS[number])
        assert (verdict.correct, verdict.reason) == (correct, reason), (number, rows)


def test_the_golden_cases_hold_both_verdicts_of_every_tag():
    seen = Counter((PROMPTS[number].tag, correct) for number, _, correct, _ in GOLDEN["cases"])
    assert all(seen[tag, verdict] == 20 for tag in p.TAGS for verdict in (True, False))


def test_relations_are_the_originals_on_every_pair_of_boxes_of_a_grid():
    sides = [(a, b) for a in range(5) for b in range(a, 5)]
    boxes = np.array([[x0, y0, x1, y1] for x0, x1 in sides for y0, y1 in sides], np.float32) * 32
    bits = dict(zip(p.POSITIONS, (1, 2, 4, 8)))
    seen = bytes(sum(bits[r] for r in relations(a, b)) for a in boxes for b in boxes)
    assert len(seen) == GOLDEN["relations"]["pairs"]
    assert hashlib.sha256(seen).hexdigest() == GOLDEN["relations"]["sha256"]


box = st.tuples(*[st.integers(0, 200)] * 2, *[st.integers(1, 200)] * 2).map(
    lambda v: np.array([v[0], v[1], v[0] + v[2], v[1] + v[3]], np.float32)
)


@settings(max_examples=200, deadline=None)
@given(box, box)
def test_relations_turn_round_with_the_boxes(a, b):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert relations(b, a) == {opposite[r] for r in relations(a, b)}
    assert not {"left of", "right of"} <= relations(a, b)
    turned = [np.array([v[1], v[0], v[3], v[2]]) for v in (a, b)]
    swap = {"left of": "above", "above": "left of", "right of": "below", "below": "right of"}
    assert relations(*turned) == {swap[r] for r in relations(a, b)}


detection = st.tuples(
    st.sampled_from([0, 15, 16, 49]), st.sampled_from([0.31, 0.5, 0.8, 0.95]), st.integers(0, 300), st.integers(0, 300)
).map(lambda v: [v[0], v[1], v[2], v[3], v[2] + 40, v[3] + 40, v[2] % 10])


@settings(max_examples=60, deadline=None)
@given(st.lists(detection, max_size=6), st.integers(0, 552))
def test_what_is_not_asked_for_changes_nothing(rows, number):
    prompt = PROMPTS[number]
    asked = {c.name for c in (*prompt.include, *prompt.exclude)}
    strangers = [r for r in rows if p.CLASSES[r[0]] not in asked]
    alone = [r for r in rows if p.CLASSES[r[0]] in asked]
    assert judge(found(rows), prompt).correct == judge(found(alone), prompt).correct
    assert judge(found(strangers), prompt).correct is False


def test_counting_is_strict_about_one_too_many_and_about_sure_detections():
    prompt = next(q for q in PROMPTS if q.tag == "counting" and q.include[0].count == 3)
    index = p.CLASSES.index(prompt.include[0].name)
    for sure, unsure, right in ((3, 0, True), (3, 5, True), (4, 0, False), (2, 2, False)):
        rows = [[index, 0.95, 0, 0, 9, 9, 0]] * sure + [[index, 0.9, 0, 0, 9, 9, 0]] * unsure
        assert judge(found(rows), prompt).correct is right


def test_of_equal_scores_the_later_comes_first_and_at_most_sixteen_stay():
    rows = [[0, 0.5, i, 0, i + 9, 9, 0] for i in range(20)]
    assert kept(found(rows), "colors", Rules())["person"] == list(range(19, 3, -1))
    assert kept(found(rows), "colors", Rules(overlap=0.5))["person"] == [19, 15, 11, 7]
    assert kept(found([]), "colors", Rules()) == {}


def test_a_threshold_below_what_is_kept_is_refused():
    with pytest.raises(UsageError, match="not kept"):
        Rules(threshold=0.2)
