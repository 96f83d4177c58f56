"""From measurements to verdicts, and the original's results file: one JSON line an image."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vtbench.api import Column, Fields
from vtbench.atomic import replace_file
from vtbench.geneval.prompts import COLOURS, Prompt, parse
from vtbench.geneval.rules import Found, Rules, judge


def rules_of(p: Fields) -> Rules:
    """The rules of a protocol's fields."""
    return Rules(
        float(p["threshold"]),
        float(p["counting_threshold"]),
        int(p["max_objects"]),
        float(p["max_overlap"]),
        float(p["apart"]),
    )


def found_in(columns: Mapping[str, Column], count: int) -> Iterator[Found]:
    """The detections of each of `count` images, in order; none where an image has no row."""
    image = columns["class"].image
    values = {head: columns[head].array() for head in ("class", "score", "box", "colour")}
    starts = np.searchsorted(image, np.arange(count + 1))
    for first, last in itertools.pairwise(starts):
        rows = {head: v[first:last] for head, v in values.items()}
        boxes, colours = rows["box"].reshape(-1, 4), rows["colour"].reshape(-1, len(COLOURS))
        yield Found(rows["class"], rows["score"], boxes, colours)


def prompt_of(known: dict[str, Prompt], line: str, name: str) -> Prompt:
    """The prompt of a metadata line, read once."""
    if line not in known:
        known[line] = parse(line, f"the metadata of {name}")
    return known[line]


def lines(reducer: Any) -> dict[str, list[dict[str, Any]]]:
    """By protocol, what the original writes of each image: filename, tag, prompt, correct, reason, metadata, details (of each class the boxes that
    counted, each with its score)."""
    out: dict[str, list[dict[str, Any]]] = {}
    for cell in reducer.plan.cells:
        if cell.skip or cell.metric.name != "geneval":
            continue
        rules = rules_of(cell.protocol.fields(cell.resolution))
        columns = {key: reducer.column(station, head) for key, (station, head) in cell.needs.items()}
        known: dict[str, Prompt] = {}
        rows = out.setdefault(cell.protocol.name, [])
        for sample, found in zip(reducer.kept, found_in(columns, len(reducer.kept))):
            prompt = prompt_of(known, str(sample.meta["geneval"]), str(sample.meta["prompt_id"]))
            verdict = judge(found, prompt, rules)
            details = {
                name: [[*found.boxes[r].tolist(), float(found.scores[r])] for r in kept]
                for name, kept in verdict.kept.items()
            }
            rows.append(
                {
                    "filename": file_name(sample.id),
                    "tag": prompt.tag,
                    "prompt": prompt.text,
                    "correct": verdict.correct,
                    "reason": verdict.reason,
                    "metadata": prompt.metadata,
                    "details": json.dumps(details),
                }
            )
    return out


def file_name(sample_id: str) -> str:
    """Where GenEval's layout has an image: ``00000/00002`` is ``00000/samples/00002.png``."""
    prompt, _, number = sample_id.rpartition("/")
    return f"{prompt}/samples/{number}.png"


def write(out: Path, run_id: str, reducer: Any) -> list[Path]:
    """``samples/RUN.PROTOCOL.jsonl`` for every protocol of GenEval that a run measured, atomically."""
    paths = []
    for protocol, rows in lines(reducer).items():
        path = Path(out) / "samples" / f"{run_id}.{protocol}.jsonl"
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        replace_file(path, text.encode())
        paths.append(path)
    return paths
