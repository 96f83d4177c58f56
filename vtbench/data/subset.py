"""`--subset` and `--limit`: fewer samples, chosen by rules that do not depend on the machine."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

from vtbench.data.sample import Dataset
from vtbench.errors import UsageError


def choose(dataset: Dataset, *, subset: str | None = None, limit: int | None = None) -> Dataset:
    """The dataset with fewer samples, still in order of ids; name and revision stay those of the whole.

    subset: a number such as `500` or `5k`: that many images, spread evenly over the labels when every sample has one, by hash of
    the id (so `1k` lies within `5k`). limit: then the first N by id. Unreadable entries take part like the others, except that
    a choice over labels leaves them out, since theirs is not known.
    Raises `UsageError` when `subset` is no number or larger than the dataset."""
    labels = {sample.id: sample.label for sample in dataset.samples}
    balanced = bool(labels) and all(label is not None for label in labels.values())
    ids = set(labels) if subset is not None and balanced else set(labels) | {id_ for id_, _ in dataset.problems}
    if subset is not None:
        ids = _spread({id_: labels.get(id_) if balanced else None for id_ in ids}, count(subset))
    if limit is not None:
        if limit < 1:
            raise UsageError(f"--limit {limit} leaves nothing", "Give at least 1")
        ids = set(sorted(ids)[:limit])
    if subset is None and limit is None:
        return dataset
    return replace(
        dataset,
        samples=tuple(sample for sample in dataset.samples if sample.id in ids),
        problems=tuple(problem for problem in dataset.problems if problem[0] in ids),
    )


def count(subset: str) -> int:
    """`5k` -> 5000. Raises `UsageError`."""
    match = re.fullmatch(r"(\d+)(k?)", subset.strip().lower())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"--subset {subset} is no number of images", "Write it as 500 or 5k")
    return int(match[1]) * (1000 if match[2] else 1)


def _spread(labels: dict[str, Hashable], wanted: int) -> set[str]:
    """`wanted` ids: the first of every label by hash, then the second of every label, and so on."""
    if wanted > len(labels):
        raise UsageError(
            f"--subset {wanted} is more than the {len(labels)} images there are",
            "Ask for fewer, or leave --subset away",
        )
    hashes = {id_: hashlib.sha256(id_.encode()).hexdigest() for id_ in labels}
    seen: Counter[Hashable] = Counter()
    ranked: list[tuple[int, str, str]] = []
    for id_ in sorted(labels, key=lambda i: hashes[i]):
        ranked.append((seen[labels[id_]], hashes[id_], id_))
        seen[labels[id_]] += 1
    return {id_ for _, _, id_ in sorted(ranked)[:wanted]}
