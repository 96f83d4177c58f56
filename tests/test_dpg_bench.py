"""DPG-Bench: its file of questions, the graph, and the aggregation of its script, on answers made up for the purpose."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from vtbench.api import Batch
from vtbench.data.dpg import COLUMNS, conditions
from vtbench.dpg import Question, questions_of, score
from vtbench.errors import BadData
from vtbench.evaluation import Evaluator
from vtbench.extractors.answers import Answers, cut, judge
from vtbench.suite import load_suite

HEADER = ",".join(COLUMNS)


def says(question: str, shade: int) -> bool:
    """The toy judge's answer: by hash of the question and the picture's shade."""
    return hashlib.sha256(f"{question}/{shade}".encode()).digest()[0] % 3 > 0


@judge("toy-hash")
class ToyJudge:
    def identity(self):
        return {"version": "1"}

    def open(self, device):
        pass

    def answer(self, image, questions):
        return ["yes" if says(q, int(image[0, 0, 0])) else "no" for q in questions]


ITEMS = {
    "partiprompts1": [("0", "entity - whole (bear)"), ("1", "attribute - color (bear, red)"), ("2", "relation - spatial (bear, on, car)")],
    "COCOval5": [("0", "entity - whole (dog)"), ("0", "entity - part (tail)"), ("1,2", "attribute - size (dog, big)"), ("3", "other - count (dog, 2)")],
    "diffusiondb7": [("0", "global - (photo)"), ("3", "relation - non-spatial (a, b)"), ("0", "entity - state (cat, asleep)")],
}  # fmt: skip


@pytest.fixture
def table(tmp_path):
    lines = [HEADER, 'passed over,x,1,0,"entity - whole (x)",Is it passed over?']
    for item, rows in ITEMS.items():
        for number, (parents, about) in enumerate(rows, start=1):
            lines.append(f'{item},a picture of {item},{number},"{parents}","{about}",{item} question {number}?')
    path = tmp_path / "dpg_bench.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def original(shades):
    """The script's arithmetic, step by step: per item the pictures' mean, and the last picture's answers by category."""
    means, fine, coarse = {}, {}, {}
    for item, rows in ITEMS.items():
        scores = []
        for shade in shades[item]:
            worth = {n: float(says(f"{item} question {n}?", shade)) for n in range(1, len(rows) + 1)}
            given = dict(worth)
            for n, (parents, _) in enumerate(rows, start=1):
                for parent in (int(v) for v in parents.split(",")):
                    if parent != 0 and worth[parent] == 0:
                        worth[n] = 0
                        break
            scores.append(sum(worth.values()) / len(worth))
        means[item] = sum(scores) / len(scores)
        for n, (_, about) in enumerate(rows, start=1):
            name = about.split("(")[0].strip()
            fine.setdefault(name, []).append(given[n])
            coarse.setdefault(name.split("-")[0].strip(), []).append(given[n])
    return 100 * np.mean(list(means.values())), {k: 100 * np.mean(v) for k, v in {**fine, **coarse}.items()}


@pytest.mark.parametrize("pictures", [1, 4])
def test_rows_are_those_of_the_original_script(table, tmp_path, pictures):
    from PIL import Image

    shades = {item: [17 * (i + 1) + 50 * k for k in range(pictures)] for i, item in enumerate(ITEMS)}
    folder = tmp_path / "images"
    folder.mkdir()
    for item, values in shades.items():
        grid = np.zeros((16, 16, 3), np.uint8)
        for k, value in enumerate(values):
            size = 16 if pictures == 1 else 8
            grid[(k // 2) * 8 : (k // 2) * 8 + size, (k % 2) * 8 : (k % 2) * 8 + size] = value
        Image.fromarray(grid).save(folder / f"{item}.png")
    protocol = f"dpg-bench+judge=toy-hash+pictures={pictures}" if pictures > 1 else "dpg-bench+judge=toy-hash"
    suite = load_suite("dpg-bench", extra_protocols=[protocol])
    result = Evaluator([suite], data=str(table), out=str(tmp_path / "out"), device="cpu", alarms=False)(
        f"images:{folder}"
    )
    rows = {r.slice: r for r in result.rows() if r.protocol == next(p for p in suite.protocols if "toy" in p)}
    mean, categories = original(shades)
    assert rows["all"].value == pytest.approx(mean)
    assert rows["all"].n == 3
    found = {name.removeprefix("category="): r.value for name, r in rows.items() if name != "all"}
    assert found.keys() == categories.keys()
    for name, value in categories.items():
        assert found[name] == pytest.approx(value), name
    skipped = [r for r in result.rows() if r.protocol == "dpg-bench"]
    assert [r.status for r in skipped] == ["skipped"]
    assert "judge" in skipped[0].why


def test_a_no_is_handed_down_the_graph():
    chain = [Question(n, (n - 1,), "entity - whole (x)", "?") for n in range(1, 5)]
    assert score(chain, {1: True, 2: True, 3: True, 4: True}) == 1
    assert score(chain, {1: False, 2: True, 3: True, 4: True}) == 0
    assert score(chain, {1: True, 2: True, 3: False, 4: True}) == 0.5
    assert (
        score(chain[::-1], {1: False, 2: True, 3: True, 4: True}) == 0.5
    )  # in the order of the questions, as the script has it


def test_the_file_is_read_as_the_script_reads_it(table):
    found = conditions(str(table))
    assert [s.id for s in found.samples] == sorted(ITEMS)
    assert [q.parents for q in questions_of(found.samples[0].meta["dpg"])] == [(0,), (0,), (1, 2), (3,)]
    assert found.samples[0].caption == "a picture of COCOval5"
    other = conditions(str(_with(table, "COCOval5 question 2?", "Another question?")))
    assert other.revision != found.revision


def _with(table: Path, old: str, new: str) -> Path:
    path = table.with_name("changed.csv")
    path.write_text(table.read_text().replace(old, new))
    return path


def test_bad_files_are_named(table, tmp_path):
    with pytest.raises(BadData, match="no column 'dependency'"):
        conditions(str(_with(table, "dependency", "needs")))
    with pytest.raises(BadData, match=r"line 3: .* whole numbers"):
        conditions(str(_with(table, "partiprompts1,1", "one")))
    lost = conditions(str(_with(table, ',3,"2"', ',3,"9"')))
    assert lost.problems == (("partiprompts1", "a question depends on question 9, which is not there"),)


def test_pictures_of_a_grid():
    image = np.arange(4 * 6 * 3).reshape(4, 6, 3)
    assert [tuple(p[0, 0]) for p in cut(image, 4)] == [tuple(image[y, x]) for y in (0, 2) for x in (0, 3)]
    assert cut(image, 1)[0] is image
    assert Answers({"judge": "toy-hash"})(Batch([]), ["answer"])["answer"].values.shape == (0,)
