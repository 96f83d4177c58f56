"""Meaning in the tokens: kNN and linear probes on cached features, and what tokens tell about labelled parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.tokens import dependence, probing
from vtbench.tokens.study import Study, needs, studies, why_not

FIELDS = ("sample_tokens", "null_seed", "taps", "probe_cells")


ENCODER = ("hidden", "pre_quant")
"""Taps inside the encoder; the others are made from ids."""


def needs_codebook(p: Fields) -> Mapping[str, Need]:
    """Token ids, the codebook and the encoder's features at the taps; labels come with the samples."""
    inside = {tap: Need("encoder_features", tap) for tap in p["taps"] if tap in ENCODER}
    return {**needs(p), "codebook": Need("codebook", "vectors"), **inside}


def _features(study: Study, tap: str, book: np.ndarray, cells: int) -> tuple[str, np.ndarray]:
    """(why not, features of the sampled images)."""
    ids = study.sample
    if tap == "token_id":
        if len(ids) * study.size > cells:
            why = f"{len(ids)} x {study.size} histogram cells are more than {cells}: use the tap post_quant"
            return why, np.zeros(0)
        return "", probing.histograms(ids, study.size)
    if tap == "post_quant":
        if len(book) != study.size or book.shape[1] == 0:
            return f"there is no codebook of {study.size} vectors", np.zeros(0)
        return "", probing.pooled(ids, book)
    return f"no measurement has the tap {tap}: token_id and post_quant are known", np.zeros(0)


def _halves(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(class numbers, which images train, which test): every second image of a class trains and the others test, so both halves have every class."""
    used, compact = np.unique(labels, return_inverse=True)
    order = np.argsort(compact, kind="stable")
    rank = np.empty(len(labels), np.int64)
    starts = np.searchsorted(compact[order], np.arange(len(used)))
    rank[order] = np.arange(len(labels)) - starts[compact[order]]
    held = rank % 2 == 1
    twice = np.bincount(compact)[compact] > 1
    return compact, ~held & twice, held & twice


def _tapped(m: Measurements, p: Fields) -> Iterator[tuple[str, str, str, np.ndarray, np.ndarray]]:
    """(slice, tap, why not, features, their images), per tap and, for taps made from ids, per unit of the tokens."""
    nothing = np.zeros((0, 0)), np.zeros(0, np.int64)
    for tap in (t for t in p["taps"] if t in ENCODER):
        found = m[tap].array() if tap in m.columns else np.zeros((0, 0))
        if found.size:
            yield f"tap={tap}", tap, "", found, m[tap].image
        else:
            yield f"tap={tap}", tap, f"the model hands out no features at the tap {tap}", *nothing
    taps = [t for t in p["taps"] if t not in ENCODER]
    why = why_not(m) if taps else ""
    if why:
        yield from ((f"tap={tap}", tap, why, *nothing) for tap in taps)
        return
    book = np.asarray(m["codebook"].array() if "codebook" in m.columns else np.zeros((0, 0)))
    for study in studies(m, p) if taps else ():
        for tap in taps:
            why, features = _features(study, tap, book, int(p["probe_cells"]))
            yield study.slice(f"tap={tap}"), tap, why, features, study.sample_images


def _probe(m: Measurements, p: Fields, how: str) -> Iterator[Value]:
    labels = np.asarray(m.samples.get("label", np.zeros(0)))
    if not (labels.size and (labels >= 0).any()):
        yield Value(status="skipped", why="the samples have no labels")
        return
    for name, tap, why, features, images in _tapped(m, p):
        if not why:
            compact, learn, test = _halves(labels[images].astype(np.int64))
            if not test.any():
                why = "every class has a single image: there is nothing to learn from"
        if why:
            yield Value(status="skipped", why=why, slice=name)
            continue
        given = features[learn], compact[learn], features[test], compact[test]
        if how == "knn":
            right = probing.knn_correct(*given, k=int(p["knn_k"]))
        else:
            recipe = probing.LinearRecipe(p["linear_batch"], p["linear_rate"], p["linear_epochs"])
            right = probing.linear_correct(*given, recipe)
        classes = int(compact.max()) + 1
        notes = {"tap": tap, "classes": classes, "train": int(learn.sum()), "chance": 100.0 / classes}
        if how == "linear":
            notes["batch"] = min(int(p["linear_batch"]), max(1, int(learn.sum()) // probing.STEPS))
        yield Value(samples=100.0 * right, image=images[test], slice=name, notes=notes, keep=False)


@metric(
    "knn_accuracy",
    needs=needs_codebook,
    unit="%",
    better="higher",
    fields=(*FIELDS, "knn_k"),
    title="Top-1 accuracy of a weighted nearest-neighbour vote on token features; the tap is in the slice",
    source="Wu et al. 2018; taps hidden, pre_quant (the encoder's features, mean over positions), post_quant (mean codebook vector), token_id (histograms of ids). Half of each class trains",
    tolerance=1e-2,
    groups=50,
)
def knn_accuracy(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent, on the images that did not train."""
    yield from _probe(m, p, "knn")


@metric(
    "linear_accuracy",
    needs=needs_codebook,
    unit="%",
    better="higher",
    fields=(*FIELDS, "linear_batch", "linear_rate", "linear_epochs"),
    title="Top-1 accuracy of a linear probe on cached token features; the tap is in the slice",
    source="MAE's linear protocol (He et al. 2022): LARS, batch 16384, base rate 0.1, no decay, 90 epochs (smaller batches for small sets). Half of each class trains",
    tolerance=1e-2,
    groups=50,
    fitted=True,
)
def linear_accuracy(m: Measurements, p: Fields) -> Iterator[Value]:
    """Percent, on the images that did not train."""
    yield from _probe(m, p, "linear")


@metric(
    "part_information",
    needs=needs,
    unit="bits",
    better="higher",
    fields=("sample_tokens", "null_seed"),
    title="Mutual information between a token and the part of the picture that its position shows",
    source="Miller-Madow minus the mean of shuffles; for token files with `parts` (a part's number a position, -1 for none)",
    tolerance=1e-2,
    groups=50,
)
def part_information(m: Measurements, p: Fields) -> Iterator[Value]:
    """Bits, at most the entropy of the parts (in the notes). Refused where the table of tokens and parts cannot be filled."""
    why = why_not(m)
    if not why and "parts" not in m.columns:
        why = "no part labels are given: a token file may hold an array `parts` of the tokens' shape"
    if why:
        yield Value(status="skipped", why=why)
        return
    parts = m["parts"].array()
    for study in studies(m, p):
        mine = parts[study.sample_images][:, study.unit.start : study.unit.stop]
        there = (study.sample >= 0) & (mine >= 0)
        x, y = study.sample[there], mine[there].astype(np.int64)
        seen, x = np.unique(x, return_inverse=True)
        number = int(y.max(initial=0)) + 1
        if not y.size or y.size < 10 * len(seen) * number:
            why = f"{y.size} labelled tokens cannot fill a table of {len(seen)} symbols x {number} parts"
            yield Value(status="skipped", why=why, slice=study.slice(), n=int(y.size))
            continue
        rng = np.random.default_rng(study.seed)
        value = dependence.of_table(x, y, len(seen), number)
        null = float(np.mean([dependence.of_table(x, rng.permutation(y), len(seen), number) for _ in range(3)]))
        notes = {"parts": number, "symbols": len(seen), "part_entropy": dependence.entropy_of(y)}
        yield Value(value=value - null, n=int(y.size), slice=study.slice(), notes=notes)
        yield Value(value=null, n=int(y.size), slice=study.slice("null=shuffled"), notes=notes)
