"""Peak signal-to-noise ratio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.errors import UsageError

from ._pixels import view_of


def needs(p: Fields) -> Mapping[str, Need]:
    """The squared error; the ground truth's own range where the protocol divides by that."""
    view = view_of(p, "psnr")
    out = {"mse": Need("pixels", "mse", view=view)}
    if p.get("psnr_range", 1.0) == "observed":
        out["span"] = Need("pixels", "span", view=view)
    return out


@metric(
    "psnr",
    needs=needs,
    unit="dB",
    better="higher",
    fields=("quantise",),
    title="Peak signal-to-noise ratio over the RGB channels",
    source="-10 log10(mean squared error), pixels in [0, 1]",
    tolerance=1e-5,
)
def psnr(m: Measurements, p: Fields) -> Iterator[Value]:
    """PSNR in dB; inf for equal images.

    psnr_over: `image` (the mean of the images' PSNRs, the field's custom) or `set` (of the mean squared error of all images, which is
    lower: torchmetrics' default). psnr_range: the peak in units of [0, 1] (1.0 = 255), or `observed` (the image's max - min).
    """
    column = m["mse"]
    mse = column.array().astype(np.float64)
    peak = m["span"].array() if "span" in m.columns else float(p.get("psnr_range", 1.0))
    over = p.get("psnr_over", "image")
    with np.errstate(divide="ignore"):
        if over == "image":
            yield Value(samples=10 * np.log10(peak**2 / mse), image=column.image, n=len(mse))
        elif over == "set":
            group = m.group_of(column)
            ratio = mse / peak**2
            count = np.bincount(group)
            left = (ratio.sum() - np.bincount(group, ratio)) / (len(mse) - count)
            groups = np.where(count > 0, -10 * np.log10(left), np.nan)
            yield Value(value=float(-10 * np.log10(ratio.mean())), n=len(mse), groups=groups)
        else:
            raise UsageError(f"psnr_over is image or set, not '{over}'")
