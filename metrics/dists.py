"""Deep image structure and texture similarity."""

from __future__ import annotations

from collections.abc import Iterator

from vtbench.api import Fields, Measurements, Need, Value, metric

from ._pixels import view_of


@metric(
    "dists",
    needs=lambda p: {"distance": Need("dists", "distance", view=view_of(p, "dists"))},
    better="lower",
    fields=("quantise",),
    title="Deep image structure and texture similarity",
    source="Ding et al. 2020, arXiv 2004.07728",
    tolerance=1e-4,
)
def dists(m: Measurements, p: Fields) -> Iterator[Value]:
    """DISTS per image, 0 for equal images."""
    yield Value(samples=m["distance"].array(), image=m["distance"].image)
