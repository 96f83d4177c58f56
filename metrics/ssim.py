"""Structural similarity: SSIM and MS-SSIM."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from vtbench.api import Fields, Measurements, Need, Value, metric

from ._pixels import view_of


def needs(head: str) -> Callable[[Fields], Mapping[str, Need]]:
    """One head of the pixel extractor under the protocol's window, border, range and input offset."""

    def build(p: Fields) -> Mapping[str, Need]:
        args = (
            ("border", p["ssim_border"]),
            ("offset", float(p.get("ssim_offset", 0.0))),
            ("range", p["ssim_range"]),
            ("window", p["ssim_window"]),
        )
        return {"value": Need("pixels", head, view=view_of(p, "ssim"), args=args)}

    return build


FIELDS = ("quantise", "ssim_window", "ssim_border", "ssim_range")


@metric(
    "ssim",
    needs=needs("ssim"),
    better="higher",
    fields=FIELDS,
    title="Structural similarity, mean over pixels and RGB channels",
    source="Wang et al. 2004, doi:10.1109/TIP.2003.819861",
    tolerance=1e-5,
)
def ssim(m: Measurements, p: Fields) -> Iterator[Value]:
    """SSIM per image, at most 1."""
    yield Value(samples=m["value"].array(), image=m["value"].image)


@metric(
    "ms_ssim",
    needs=needs("ms_ssim"),
    better="higher",
    fields=FIELDS,
    title="Multi-scale structural similarity, five scales",
    source="Wang, Simoncelli and Bovik 2003, doi:10.1109/ACSSC.2003.1292216",
    tolerance=1e-5,
)
def ms_ssim(m: Measurements, p: Fields) -> Iterator[Value]:
    """MS-SSIM per image, in [0, 1]; sides above 160 pixels."""
    yield Value(samples=m["value"].array(), image=m["value"].image)
