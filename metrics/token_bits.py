"""What the tokens of an image cost per pixel: as the codebook says, and as their entropy says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.tokens.condense import condensed
from vtbench.tokens.study import Study, needs, studies, why_not

from .entropy import pooled


def needs_pixels(p: Fields) -> Mapping[str, Need]:
    """Token ids and the pixels of the input."""
    return {**needs(p), "pixels": Need("tokens", "pixels")}


@metric(
    "bits_per_pixel",
    needs=needs_pixels,
    unit="bits/pixel",
    better="lower",
    fields=("sample_tokens", "null_seed"),
    title="Bits of the tokens per pixel of the input: nominal (log2 K) and empirical (their entropy)",
    source="tokens of an image times log2 K, or times the jackknife entropy, over its pixels",
    tolerance=1e-3,
    groups=50,
    bounds=(0.0, math.inf),
)
def bits_per_pixel(m: Measurements, p: Fields) -> Iterator[Value]:
    """bits=nominal is what a fixed-length code takes; bits=empirical what an ideal order-0 code would. Codebooks and streams apart, and
    their sums."""
    why = why_not(m)
    if not why and "pixels" not in m.columns:
        why = "the size of the images is unknown: state it with --pixels"
    if why:
        yield Value(status="skipped", why=why)
        return
    pixels = np.asarray(m["pixels"].array(), np.float64)
    found = [s for s in studies(m, p) if not s.unit.name.endswith("codebook=joint")]
    values = [value for study in found for value in _of(study, pixels)]
    yield from condensed(values)
    if len(found) > 1:
        for bits in ("nominal", "empirical"):
            parts = [v for v in values if v.slice.endswith(f"bits={bits}")]
            groups = [v.groups for v in parts if v.groups is not None]
            total = float(np.sum([v.value for v in parts if v.value is not None]))
            left = np.sum(groups, axis=0) if len(groups) == len(parts) else None
            yield Value(value=total, n=m.groups.size, groups=left, slice=f"bits={bits}")


def _of(study: Study, pixels: np.ndarray) -> Iterator[Value]:
    total = float(pixels[0]) * study.images if len(pixels) == 1 else float(pixels.sum())
    per_pixel = study.counts.n / total
    notes = study.law_note() | {"tokens_per_pixel": per_pixel}
    full = math.log2(study.size) if study.size > 1 else 0.0
    yield Value(value=full * per_pixel, n=study.images, slice=study.slice("bits=nominal"), notes=notes)
    corrected, plain, left = pooled(study.counts)
    if math.isnan(corrected):
        corrected, left = plain, np.zeros(0)
    groups = (left + corrected - plain) * per_pixel if left.size else None
    name = study.slice("bits=empirical")
    yield Value(
        value=corrected * per_pixel,
        n=study.images,
        groups=groups,
        slice=name,
        notes=notes,
        bounds=(0.0, full * per_pixel),
    )
