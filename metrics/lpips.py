"""Learned perceptual image patch similarity."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vtbench.api import Fields, Measurements, Need, Value, metric

from ._pixels import view_of


def needs(p: Fields) -> Mapping[str, Need]:
    """The distance under the protocol's network, input range and quantisers (`lpips_quantise` where they differ from PSNR's)."""
    args = (("net", p["lpips_net"]), ("range", p["lpips_range"]))
    return {"distance": Need("lpips", "distance", view=view_of(p, "lpips"), args=args)}


@metric(
    "lpips",
    needs=needs,
    better="lower",
    fields=("quantise", "lpips_net", "lpips_range"),
    title="Learned perceptual image patch similarity, version 0.1",
    source="Zhang et al. 2018, arXiv 1801.03924",
    tolerance=1e-4,
)
def lpips(m: Measurements, p: Fields) -> Iterator[Value]:
    """LPIPS per image, at least 0."""
    yield Value(samples=m["distance"].array(), image=m["distance"].image)
