"""Rank-frequency laws of the symbols: Zipf-Mandelbrot, the usual least-squares fit, and powerlaw's fit beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from vtbench.api import Fields, Value, metric
from vtbench.errors import MissingPackage
from vtbench.tokens import zipf
from vtbench.tokens.laws import NEW
from vtbench.tokens.study import Study, needs, per_unit

FIELDS = ("sample_tokens", "null_seed")
ENOUGH = 60
"""Tokens per symbol below which the split fit is visibly drawn towards 0 (0.22 for a true 0.3 at N/K = 6)."""


def doubts(n: float, size: float, seen: int) -> tuple[str, str]:
    """(why a law cannot be fitted at all, why its exponent is doubtful); empty where there is nothing to say."""
    if seen > NEW * n:
        return f"V/N = {seen / n:.2f}: nearly every token is new", ""
    if n / size < ENOUGH:
        return "", f"N/K = {n / size:.3g}, below {ENOUGH}: the exponent is biased towards 0"
    return "", ""


def _split(study: Study, null: str) -> Iterator[Value]:
    counts = study.counts_of(null)
    name = study.slice(f"null={null}" if null else "")
    notes: dict[str, Any] = study.law_note()
    total = counts.total
    refused, doubt = doubts(counts.n, study.size, int((total > 0).sum()))
    if not refused and (counts.tokens.sum(axis=1) > 0).sum() < 2:
        refused = "one image: ranks and counts cannot come from different images"
    if not refused and study.size < 3:
        refused = f"a codebook of {study.size} symbols has no rank-frequency law"
    if refused:
        yield Value(status="skipped", why=refused, slice=name, n=counts.n, notes=notes)
        return
    found = zipf.fit_counts(counts.tokens, study.size)
    notes |= {"s": found.s, "q": found.q}
    if not null:
        notes["curve"] = rank_curve(total, found)
    bent = bends(found, study.size)
    if bent:
        yield Value(status="skipped", why=bent, slice=name, n=counts.n, notes=notes)
    else:
        yield Value(value=found.s, n=counts.n, groups=found.groups, slice=name, why=doubt, notes=notes)
    if not null:
        plain = zipf.fit_counts(counts.tokens, study.size, free_q=False)
        yield Value(
            value=plain.s, n=counts.n, groups=plain.groups, slice=study.slice("q=0"), why=doubt, notes=study.law_note()
        )


def bends(found: zipf.Split, size: float) -> str:
    """Why a fit is not a power law: past q ~ K / 10 the curve bends over all of its ranks, and s and q trade off freely."""
    if found.q <= size / 10:
        return ""
    return f"not Zipfian: q = {found.q:.3g} for K = {size:.3g}, so the curve bends over all of its ranks"


def rank_curve(total: np.ndarray, found: zipf.Split, points: int = 200) -> Mapping[str, list[float]]:
    """Frequencies at log-spaced ranks, and what the fit says there: for the plot."""
    ordered = np.sort(total)[::-1] / total.sum()
    rank = np.unique(np.geomspace(1, max(1, (total > 0).sum()), points).round().astype(int))
    log_z = zipf.log_partition(found.s, found.q, total.size)
    fitted = np.exp(-found.s * np.log(rank + found.q) - log_z)
    return {"rank": rank.tolist(), "frequency": ordered[rank - 1].tolist(), "fit": fitted.tolist()}


@metric(
    "zipf_exponent",
    needs=needs,
    fields=FIELDS,
    title="Zipf-Mandelbrot exponent s of the symbols, p(r) ~ (r + q)^-s",
    source="truncated maximum likelihood with K known; ranks from one half of the images, counts from the other, and back",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def zipf_exponent(study: Study, p: Fields) -> Iterator[Value]:
    """s, with q in the notes (0 unless it earns its place by BIC); skipped as not Zipfian where q is beyond K / 10. q=0 is the exponent
    of a plain power law over the same ranks, which always exists. The nulls: uniform is 0 by right; shuffled keeps the frequencies
    and takes the clustering in images away."""
    for null in ("", "uniform", "shuffled"):
        yield from _split(study, null)


@metric(
    "zipf_exponent_ols",
    needs=needs,
    fields=FIELDS,
    title="Least-squares slope of log frequency on log rank: the usual fit, biased upwards by its own ranking",
    source="for comparison with papers; read it beside its null: a uniform codebook gives 0.37 at N/K = 6",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def zipf_exponent_ols(study: Study, p: Fields) -> Iterator[Value]:
    """Minus the slope over the symbols that occur."""
    for null in ("", "uniform", "shuffled"):
        counts = study.counts_of(null)
        left = [math.nan if kept is None else zipf.ols_exponent(kept) for kept in counts.without()]
        value = zipf.ols_exponent(counts.total)
        name = study.slice(f"null={null}" if null else "")
        if math.isnan(value):
            yield Value(status="skipped", why="fewer than three symbols occur", slice=name, n=counts.n)
            continue
        yield Value(value=value, n=counts.n, groups=np.array(left), slice=name, notes=study.law_note())


def _powerlaw(counts: np.ndarray) -> dict[str, float]:
    """powerlaw's discrete fit of the counts. Its default range silently stops alpha at 3; `parameter_ranges` lifts that."""
    try:
        import powerlaw
    except ImportError as error:
        raise MissingPackage("powerlaw", "tokens", "the metric powerlaw_alpha") from error
    import contextlib
    import io
    import warnings

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = powerlaw.Fit(counts[counts > 0], discrete=True, parameter_ranges={"alpha": (1.01, 8)}, verbose=False)
        ratio, chance = found.distribution_compare("power_law", "lognormal")
        fit = found.power_law
        return {
            "alpha": float(fit.alpha),
            "ks": float(fit.D),
            "xmin": float(fit.xmin),
            "ratio": float(ratio),
            "p": float(chance),
        }


_FITS: dict[tuple[int, bytes], dict[str, float]] = {}


def _fitted(counts: np.ndarray) -> dict[str, float]:
    """`_powerlaw`, remembered for the three metrics that read one fit."""
    import hashlib

    key = (counts.size, hashlib.sha256(np.ascontiguousarray(counts).tobytes()).digest())
    if key not in _FITS:
        if len(_FITS) > 32:
            _FITS.clear()
        _FITS[key] = _powerlaw(counts)
    return _FITS[key]


def _compat(study: Study, part: str) -> Iterator[Value]:
    for null in ("", "uniform"):
        counts = study.counts_of(null)
        name = study.slice(f"null={null}" if null else "")
        total = counts.total
        if np.unique(total[total > 0]).size < 3:
            why = "the symbols have fewer than three distinct counts"
            yield Value(status="skipped", why=why, slice=name, n=counts.n, notes=study.law_note())
            continue
        found = _fitted(total)
        if not (found["ks"] < 1 and math.isfinite(found["ratio"])):
            why = "powerlaw finds no tail that fits at all"
            yield Value(status="skipped", why=why, slice=name, n=counts.n, notes=study.law_note())
            continue
        above = int((total >= found["xmin"]).sum())
        notes = study.law_note() | {"xmin": found["xmin"], "symbols_above_xmin": above, "p": found["p"]}
        yield Value(value=found[part], n=counts.n, slice=name, notes=notes)


def _compat_metric(name: str, part: str, title: str) -> None:
    @metric(
        name,
        needs=needs,
        fields=FIELDS,
        title=title,
        source="powerlaw (Alstott, Bullmore and Plenz, 2014), discrete, alpha in (1.01, 8); no interval, for comparison with papers",
        tolerance=1e-2,
        groups=50,
    )
    @per_unit
    def compute(study: Study, p: Fields) -> Iterator[Value]:
        yield from _compat(study, part)


_compat_metric("powerlaw_alpha", "alpha", "Exponent of the tail of the counts, P(count = x) ~ x^-alpha")
_compat_metric("powerlaw_ks", "ks", "Kolmogorov-Smirnov distance of the counts' tail from the fitted power law")
_compat_metric(
    "powerlaw_vs_lognormal",
    "ratio",
    "Log-likelihood ratio, power law over lognormal, of the counts' tail (p in the notes)",
)
