"""DPG-Bench's prompts with their questions: the CSV of its repository (Hu et al. 2024, arXiv:2403.05135), which the user brings.

Columns used: item_id, text, proposition_id, dependency, tuple, question_natural_language. A condition is a prompt; its questions travel in its facts.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from vtbench.data.conditions import _dataset, _digest, _text
from vtbench.data.sample import Dataset, Sample
from vtbench.data.sources import FileSource
from vtbench.dpg import Question
from vtbench.errors import BadData

COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
PROMPTS = 1065


def conditions(where: str) -> Dataset:
    """One condition a prompt. As the original reads the file, its first line of data is passed over, and of an item in two places the last counts.

    An item whose questions depend on one that is not there cannot be scored (in the original it fails too): it becomes a problem. Raises `BadData`."""
    path = Path(where).expanduser()
    try:
        rows = list(csv.DictReader(io.StringIO(_text(path)), strict=True))
    except csv.Error as error:
        raise BadData(f"{where} is no table: {error}") from error
    lacking = [c for c in COLUMNS if not rows or c not in rows[0]]
    if lacking:
        raise BadData(
            f"{where} has no column '{lacking[0]}'", "Give dpg_bench.csv of the repository TencentQQGYLab/ELLA"
        )
    texts: dict[str, str] = {}
    asked: dict[str, dict[int, Question]] = {}
    previous = ""
    for number, row in enumerate(rows[1:], start=3):
        item = str(row["item_id"])
        try:
            parents = tuple(int(part) for part in str(row["dependency"]).split(","))
            question = Question(int(row["proposition_id"]), parents, str(row["tuple"]), str(row[COLUMNS[-1]]))
        except (TypeError, ValueError) as error:
            raise BadData(
                f"{where}, line {number}: proposition_id and dependency are whole numbers ({error})"
            ) from error
        if item != previous:
            asked[item] = {}
            texts[item] = str(row["text"])
        asked[item][question.number] = question
        previous = item
    samples, problems = [], []
    for item, questions in sorted(asked.items()):
        absent = sorted({p for q in questions.values() for p in q.parents if p and p not in questions})
        if absent:
            problems.append((item, f"a question depends on question {absent[0]}, which is not there"))
            continue
        facts = {"dpg": json.dumps([list(q) for q in questions.values()]), "prompt_id": item}
        digest = _digest({"prompt": texts[item], **facts})
        samples.append(Sample(item, digest, FileSource(""), caption=texts[item], meta=facts))
    if not samples:
        raise BadData(f"{where} holds no prompt that can be scored", problems[0][1] if problems else "")
    found = _dataset(f"prompts:{path.stem}", samples)
    notes = {f"prompts; DPG-Bench has {PROMPTS}": len(asked)} if len(asked) != PROMPTS else {}
    return Dataset(found.name, found.revision, found.samples, tuple(problems), notes)
