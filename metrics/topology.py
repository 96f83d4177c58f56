"""Topology of the codebook: its own shape, and whether codes that keep company lie close."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.errors import MissingPackage
from vtbench.tokens import geometry
from vtbench.tokens.study import Study, needs, studies, why_not

FIELDS = ("sample_tokens", "null_seed", "topology_codes")


def needs_codebook(p: Fields) -> Mapping[str, Need]:
    """Token ids and the codebook."""
    return {**needs(p), "codebook": Need("codebook", "vectors")}


def _book(m: Measurements, study: Study) -> tuple[str, np.ndarray]:
    book = m["codebook"].array() if "codebook" in m.columns else np.zeros((0, 0))
    if len(book) != study.size or book.shape[1] == 0:
        return f"there is no codebook of {study.size} vectors", book
    return "", np.asarray(book, np.float64)


def _frequent(study: Study, most: int) -> np.ndarray:
    """The most frequent symbols that occur at least ten times, most frequent first; ties by id."""
    total = study.counts.total
    order = np.argsort(-total, kind="stable")
    return order[: min(most, int((total >= 10).sum()))]


def _compared(
    m: Measurements, p: Fields, measure: Callable[[np.ndarray, np.ndarray], float], paired: bool
) -> Iterator[Value]:
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    for study in studies(m, p):
        why, book = _book(m, study)
        symbols = _frequent(study, int(p["topology_codes"])) if not why else np.zeros(0, int)
        if not why and len(symbols) < 10:
            why = f"only {len(symbols)} symbols occur ten times or more"
        if why:
            yield Value(status="skipped", why=why, slice=study.slice())
            continue
        vectors = book[symbols]
        # As many dimensions as the codebook has, so that neither side has room that the other lacks.
        beside = geometry.company(study.sample, study.unit.shape, symbols, min(book.shape[1], len(symbols) - 1))
        rng = np.random.default_rng(study.seed)
        notes = {"codes": len(symbols), "dims": int(book.shape[1])} | study.sample_note
        try:
            yield Value(value=measure(vectors, beside), n=len(symbols), slice=study.slice(), notes=notes)
            other = beside[rng.permutation(len(beside))] if paired else rng.normal(size=beside.shape)
            null = "shuffled" if paired else "gaussian"
            yield Value(value=measure(vectors, other), n=len(symbols), slice=study.slice(f"null={null}"), notes=notes)
        except MissingPackage as error:
            yield Value(status="skipped", why=str(error), slice=study.slice())


def _metric(
    name: str, measure: Callable[[np.ndarray, np.ndarray], float], paired: bool, title: str, source: str
) -> None:
    @metric(
        name, needs=needs_codebook, fields=FIELDS, better="lower", title=title, source=source, tolerance=1e-2, groups=50
    )
    def compute(m: Measurements, p: Fields) -> Iterator[Value]:
        yield from _compared(m, p, measure, paired)


_metric(
    "procrustes_residual",
    geometry.procrustes_residual,
    True,
    "What no rotation explains between the codebook and the company that its codes keep",
    "orthogonal Procrustes between code vectors and the factors of the neighbours' positive PMI, most frequent codes; null: pairing shuffled",
)
_metric(
    "codebook_hausdorff",
    geometry.hausdorff,
    True,
    "Hausdorff distance between the codebook and the company that its codes keep, after alignment",
    "in units of the codebook's root mean square radius; null: pairing shuffled",
)
_metric(
    "gromov_wasserstein",
    geometry.gromov_wasserstein,
    False,
    "Gromov-Wasserstein discrepancy between the codebook and the company that its codes keep",
    "POT, distance matrices over their means, on the most frequent codes (how many is in the notes); null: a Gaussian cloud",
)


@metric(
    "codebook_homology",
    needs=needs_codebook,
    fields=FIELDS,
    title="Persistent homology of the codebook: total length of H0 and H1 bars over the diameter",
    source="Vietoris-Rips by ripser on the most frequent codes; null: a Gaussian cloud of the same covariance",
    tolerance=1e-2,
    groups=50,
)
def codebook_homology(m: Measurements, p: Fields) -> Iterator[Value]:
    """dim=0: how clustered the codes are; dim=1: loops. `longest` in the notes: a circle has one long H1 bar."""
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    for study in studies(m, p):
        why, book = _book(m, study)
        if why:
            yield Value(status="skipped", why=why, slice=study.slice())
            continue
        symbols = _frequent(study, int(p["topology_codes"]))
        if len(symbols) < 10:
            why = f"only {len(symbols)} symbols occur ten times or more"
            yield Value(status="skipped", why=why, slice=study.slice())
            continue
        points = book[symbols]
        rng = np.random.default_rng(study.seed)
        covariance = np.atleast_2d(np.cov(points.T))
        cloud = rng.multivariate_normal(points.mean(axis=0), covariance, len(points), check_valid="ignore")
        for null, shape in (("", points), ("gaussian", cloud)):
            try:
                bars = geometry.persistence(shape)
            except MissingPackage as error:
                yield Value(status="skipped", why=str(error), slice=study.slice())
                break
            for dim, lengths in enumerate(bars):
                notes = {"codes": len(points), "bars": len(lengths), "longest": [float(v) for v in lengths[:5]]}
                name = study.slice(f"dim={dim}", f"null={null}" if null else "")
                yield Value(value=float(lengths.sum()), n=len(points), slice=name, notes=notes)
