"""Mutual information between neighbouring positions, or a refusal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.tokens import dependence
from vtbench.tokens.condense import condensed
from vtbench.tokens.study import Study, needs, studies, why_not


def needs_codebook(p: Fields) -> Mapping[str, Need]:
    """Token ids, and the codebook where the model hands one out."""
    return {**needs(p), "codebook": Need("codebook", "vectors")}


@metric(
    "mutual_information",
    needs=needs_codebook,
    unit="bits",
    fields=("sample_tokens", "null_seed", "mi_codes", "mi_offsets"),
    title="Mutual information between the tokens of two positions some cells apart (dy,dx), pooled over the image",
    source="Miller-Madow over at most 256 classes (k-means of the codebook above that), minus the mean between images; never plug-in at full K",
    tolerance=1e-3,
    groups=50,
)
def mutual_information(m: Measurements, p: Fields) -> Iterator[Value]:
    """Bits between classes, a lower bound of that between tokens. Refused at full K above `mi_codes`: 50k images of a 16384 codebook
    give 11.9 bits of pure bias for independent positions."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    book = m["codebook"].array() if "codebook" in m.columns else None
    yield from condensed(value for study in studies(m, p) for value in _of(study, p, book))


def _of(study: Study, p: Fields, book: np.ndarray | None) -> Iterator[Value]:
    most = int(p["mi_codes"])
    if study.size > most and (book is None or len(book) != study.size):
        why = (
            f"K = {study.size}: no estimator is right at full K, and there is no codebook to cluster to {most} classes"
        )
        yield Value(status="skipped", why=why, slice=study.slice())
        return
    height, width = study.unit.shape if len(study.unit.shape) == 2 else (1, study.unit.stop - study.unit.start)
    ids = study.sample.reshape(-1, height, width)
    rng = np.random.default_rng(study.seed + 5)
    for spelled in p["mi_offsets"]:
        down, right = (int(part) for part in spelled.split(","))
        name = study.slice(f"offset={down}x{right}")
        if down >= height or right >= width:
            continue
        a, b = ids[:, : height - down, : width - right], ids[:, down:, right:]
        there = (a >= 0) & (b >= 0)
        pairs = int(there.sum())
        if len(ids) < 2:
            why = "one image: there is no other to shuffle with"
            yield Value(status="skipped", why=why, slice=name, n=pairs)
            continue
        classes = study.size
        if study.size > most:
            classes = dependence.classes_that_fit(study.size, pairs, most)
        if classes < 2 or (study.size <= most and pairs < 10 * classes * classes):
            why = f"{pairs} pairs cannot fill a table of {classes} x {classes} classes"
            yield Value(status="skipped", why=why, slice=name, n=pairs)
            continue
        if study.size > classes:
            assert book is not None
            owner = np.append(dependence.clusters(book, classes, study.seed), -1)  # -1 stays absent
            a, b = owner[a], owner[b]
        x, y = a[there], b[there]
        images = np.broadcast_to(study.sample_groups[:, None, None], there.shape)[there]
        null = _between_images(a, b, classes, rng)
        value = dependence.mutual_information(x, y, classes) - null
        groups = np.full(int(study.groups.max()) + 1, math.nan)
        for g in np.unique(study.sample_groups):
            keep = images != g
            if keep.any() and not keep.all():
                groups[g] = dependence.mutual_information(x[keep], y[keep], classes) - null
        notes = study.sample_note | {"classes": classes, "pairs": pairs, "before_null": value + null}
        yield Value(value=value, n=pairs, groups=groups, slice=name, notes=notes)
        yield Value(value=null, n=pairs, slice=f"{name};null=shuffled", notes={"classes": classes})


def _between_images(a: np.ndarray, b: np.ndarray, classes: int, rng: np.random.Generator) -> float:
    """What the estimator sees between the first position of one image and the second of another, mean of three pairings: the bias of as
    many pairs, clustered in images as they are, and what the positions' own frequencies make alike."""
    found = []
    for _ in range(3):
        # A random cycle pairs no image with itself.
        cycle = rng.permutation(len(a))
        other = np.empty(len(a), np.int64)
        other[cycle] = np.roll(cycle, 1)
        moved = b[other]
        there = (a >= 0) & (moved >= 0)
        found.append(dependence.mutual_information(a[there], moved[there], classes))
    return float(np.mean(found))
