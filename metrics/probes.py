"""Meaning in the tokens: kNN and linear probes on cached features, and what tokens tell about labelled parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.tokens import dependence, probing
from vtbench.tokens.study import Study, needs, studies, why_not

FIELDS = ("sample_tokens", "null_seed", "taps", "probe_cells")


def needs_codebook(p: Fields) -> Mapping[str, Need]:
    """Token ids and the codebook; labels come with the samples."""
    return {**needs(p), "codebook": Need("codebook", "vectors")}


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


def _probe(m: Measurements, p: Fields, how: str) -> Iterator[Value]:
    why = why_not(m)
    labels = np.asarray(m.samples.get("label", np.zeros(0)))
    if not why and not (labels.size and (labels >= 0).any()):
        why = "the samples have no labels"
    if why:
        yield Value(status="skipped", why=why)
        return
    book = m["codebook"].array() if "codebook" in m.columns else np.zeros((0, 0))
    for study in studies(m, p):
        own = labels[study.sample_images].astype(np.int64)
        used, compact = np.unique(own, return_inverse=True)
        # Every second image of a class trains and the others test, so both halves have every class.
        order = np.argsort(compact, kind="stable")
        rank = np.empty(len(own), np.int64)
        starts = np.searchsorted(compact[order], np.arange(len(used)))
        rank[order] = np.arange(len(own)) - starts[compact[order]]
        held = rank % 2 == 1
        twice = np.bincount(compact)[compact] > 1
        if not held.any():
            why = "every class has a single image: there is nothing to learn from"
            yield Value(status="skipped", why=why, slice=study.slice())
            continue
        for tap in p["taps"]:
            name = study.slice(f"tap={tap}")
            why, features = _features(study, tap, np.asarray(book), int(p["probe_cells"]))
            if why:
                yield Value(status="skipped", why=why, slice=name)
                continue
            learn, test = ~held & twice, held & twice
            given = features[learn], compact[learn], features[test], compact[test]
            if how == "knn":
                right = probing.knn_correct(*given, k=int(p["knn_k"]))
            else:
                recipe = probing.LinearRecipe(p["linear_batch"], p["linear_rate"], p["linear_epochs"])
                right = probing.linear_correct(*given, recipe)
            notes = {"tap": tap, "classes": len(used), "train": int(learn.sum()), "chance": 100.0 / len(used)}
            if how == "linear":
                notes["batch"] = min(int(p["linear_batch"]), max(1, int(learn.sum()) // probing.STEPS))
            image = study.sample_images[test]
            yield Value(samples=100.0 * right, image=image, slice=name, notes=notes, keep=False)


@metric(
    "knn_accuracy",
    needs=needs_codebook,
    unit="%",
    better="higher",
    fields=(*FIELDS, "knn_k"),
    title="Top-1 accuracy of a weighted nearest-neighbour vote on token features; the tap is in the slice",
    source="Wu et al. 2018; tap=token_id: histograms of ids; tap=post_quant: mean codebook vector. Half of each class trains",
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
