"""DPG-Bench: does an image hold what a dense prompt says? (Hu et al. 2024, arXiv:2403.05135.)"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import OUTPUT, Fields, Measurements, Need, Value, View, metric
from vtbench.dpg import questions_of, score


def needs(p: Fields) -> Mapping[str, Need]:
    """The judge's answers about the images as they were made."""
    args = (("judge", p["judge"]), ("pictures", p["pictures"]))
    view = View(frame="source", quantise=p.get("quantise", "round"))
    return {head: Need("answers", head, at=OUTPUT, view=view, args=args) for head in ("answer", "question", "picture")}


@metric(
    "dpg_bench",
    needs=needs,
    unit="%",
    better="higher",
    fields=("judge", "pictures"),
    title="DPG-Bench: questions about the prompt answered yes, mean over prompts; by category of the question",
    source="https://github.com/TencentQQGYLab/ELLA, dpg_bench/compute_dpg_bench.py; arXiv:2403.05135",
    tolerance=1e-3,
    compares="sets",
)
def dpg_bench(m: Measurements, p: Fields) -> Iterator[Value]:
    """Each prompt's mean over its pictures; then every category, coarse (``entity``) and fine (``entity - whole``)."""
    image, yes = m["answer"].image, m["answer"].array() == "yes"
    number, picture = m["question"].array(), m["picture"].array()
    scores: list[float] = []
    categories: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row, told in enumerate(m.samples["dpg"]):
        questions = questions_of(str(told))
        mine = np.flatnonzero(image == row)
        pictures = []
        for which in np.unique(picture[mine]):
            rows = mine[picture[mine] == which]
            answers = dict(zip(number[rows].tolist(), yes[rows].tolist()))
            pictures.append(score(questions, answers))
        scores.append(float(np.mean(pictures)))
        for question in questions:  # of the last picture, as given
            for name in dict.fromkeys((question.category.split("-")[0].strip(), question.category)):
                categories[name].append((float(answers[question.number]), row))
    yield Value(samples=100 * np.array(scores))
    for name, found in sorted(categories.items()):
        values, rows = (np.array(v) for v in zip(*found))
        yield Value(samples=100 * values, image=rows.astype(int), slice=f"category={name}")
