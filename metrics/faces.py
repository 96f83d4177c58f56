"""F-Sim: is it still the same person? (TokBench, Wu et al. 2025, arXiv:2505.18142.)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtbench.api import INPUT, OUTPUT, Fields, Measurements, Need, Value, View, metric
from vtbench.errors import UsageError, VtbenchError

from .size_bins import NAMES, bin_of, by_size, edges_for
from .source_frame import source_view

FIELDS = ("quantise", "container", "restore", "face_pack", "face_weights", "faces", "face_bins")
SOURCE = "TokBench, https://github.com/wjf5203/TokBench; ArcFace, Deng et al. 2019, arXiv:1801.07698"
UNUSABLE = 1


def edges(p: Fields) -> list[float]:
    """The bins of the protocol's version of them (`faces`) at its resolution."""
    versions: Mapping[str, Mapping[str, Sequence[float]]] = p["face_bins"]
    if p["faces"] not in versions:
        raise UsageError(f"the protocol has no face sizes '{p['faces']}'", f"It has {', '.join(versions)}")
    return edges_for(versions[p["faces"]], p["resolution"], "faces")


def needs(p: Fields) -> Mapping[str, Need]:
    """Embeddings of the faces in the original and in the reconstruction put back on the source image, at the same landmarks."""
    edges(p)
    view = source_view(p)
    args = (("pack", p["face_pack"]), ("weights", p["face_weights"]))
    out = {head: Need("arcface", head, at=OUTPUT, view=view, args=args) for head in ("embedding", "ratio", "status")}
    out["original"] = Need("arcface", "embedding", at=INPUT, view=View(frame="source"), args=args)
    return out


def sorted_out(m: Measurements, p: Fields) -> tuple[np.ndarray, dict[str, int]]:
    """The bin of each face (-1: not scored), and how many are dropped, by reason."""
    which = bin_of(m["ratio"].array().astype(np.float64), edges(p))
    unusable = m["status"].array() == UNUSABLE
    outside = (which < 0) & ~unusable
    dropped = {"unusable-landmarks": int(unusable.sum()), "size-outside-bins": int(outside.sum())}
    return np.where(unusable, -1, which), dropped


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of the angle between rows, float64 ``[R]`` in [-1, 1]; 0 where a row is zero."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products: np.ndarray = (a * b).sum(1)
    return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)


@metric(
    "f_sim",
    needs=needs,
    better="higher",
    fields=FIELDS,
    title="Similarity of faces: cosine of ArcFace embeddings, not clipped",
    source=SOURCE,
    tolerance=1e-3,
    bounds=(-1.0, 1.0),
)
def f_sim(m: Measurements, p: Fields) -> Iterator[Value]:
    """Cosine per face: small, medium, large and their mean."""
    which, dropped = sorted_out(m, p)
    image = m["embedding"].image
    if not np.array_equal(m["original"].image, image):
        raise VtbenchError("the faces of the originals and of the reconstructions are not the same", "Run with --fresh")
    notes: dict[str, Any] = {"annotated": len(which), "scored": int((which >= 0).sum())}
    notes |= {f"dropped_{reason}": count for reason, count in dropped.items()}
    samples = cosines(m["original"].array(), m["embedding"].array()) if len(which) else np.zeros(0)
    yield from by_size(samples, image, which, m.groups, what="faces", notes=notes)


@metric("faces_scored", needs=needs, unit="faces", fields=FIELDS, title="Faces that F-Sim counts", source=SOURCE)
def faces_scored(m: Measurements, p: Fields) -> Iterator[Value]:
    """How many faces are scored, in all and by size."""
    which, _ = sorted_out(m, p)
    yield Value(value=float((which >= 0).sum()), n=len(which))
    for number, name in enumerate(NAMES):
        yield Value(value=float((which == number).sum()), n=len(which), slice=name)


@metric(
    "faces_dropped",
    needs=needs,
    unit="faces",
    fields=FIELDS,
    title="Annotated faces that are not scored",
    source=SOURCE,
)
def faces_dropped(m: Measurements, p: Fields) -> Iterator[Value]:
    """How many faces are not scored, in all and by reason."""
    which, dropped = sorted_out(m, p)
    yield Value(value=float((which < 0).sum()), n=len(which))
    for reason, count in dropped.items():
        yield Value(value=float(count), n=len(which), slice=f"reason={reason}")
