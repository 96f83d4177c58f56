"""Structural similarity, batched and per image, in every variant that the named protocols use.

Windows: `gaussian11` (11 x 11, sigma 1.5: Wang et al. 2004, torchmetrics, pytorch_msssim) and `uniform7` (7 x 7 with the sample
covariance: scikit-image's default). Borders: `reflect` (the image is padded by reflection and every pixel counts: torchmetrics) and
`valid` (only whole windows: Wang et al., scikit-image, pytorch_msssim). Filters are separable; local moments are taken about
mid-grey, which keeps float32 exact enough (the statistics of flat regions are differences of nearly equal numbers otherwise). Both
factors are computed from what parts the images, (2 cov + c) / (var_x + var_y + c) = 1 - var(x - y) / (var_x + var_y + c): equal
images give exactly 1, and one filter fewer is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from vtbench.errors import BadSample, UsageError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli, Bovik 2003, table 1
K1, K2 = 0.01, 0.03
CACHED = 1 << 18
"""Pixels that are filtered together on a CPU."""


class Window(NamedTuple):
    """A separable window: its 1-d weights, and the factor from population to sample covariance."""

    weights: torch.Tensor
    covariance: float


def window(name: str) -> Window:
    """`gaussian11` or `uniform7`."""
    if name == "gaussian11":
        at = torch.arange(-5, 6, dtype=torch.float64)
        weights = torch.exp(-(at**2) / (2 * 1.5**2))
        return Window((weights / weights.sum()).float(), 1.0)
    if name == "uniform7":
        return Window(torch.full((7,), 1 / 7), 49 / 48)
    raise UsageError(f"unknown SSIM window '{name}'", "Known: gaussian11, uniform7")


def _filter(planes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Separable valid filter of ``[N, H, W]``: a sum of shifted planes each way. On a CPU a few planes at a time, which stay in the cache: several
    times faster there than a convolution, or products with a banded matrix."""
    taps, (count, height, width) = weights.tolist(), planes.shape
    together = max(1, CACHED // (height * width)) if planes.device.type == "cpu" else count
    parts = []
    for part in planes.split(together):
        for dim in (1, 2):
            size = part.shape[dim] - len(taps) + 1
            total = part.narrow(dim, 0, size) * taps[0]
            for first, weight in enumerate(taps[1:], 1):
                total.add_(part.narrow(dim, first, size), alpha=weight)
            part = total
        parts.append(part)
    return torch.cat(parts)


def _maps(
    a: torch.Tensor, b: torch.Tensor, win: Window, span: torch.Tensor, offset: float, border: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """The SSIM map and its contrast-structure factor, ``[B, C, h, w]`` each; `span` is the data range ``[B, 1, 1, 1]``."""
    batch, channels, height, width = a.shape
    radius = win.weights.numel() // 2
    if min(height, width) <= 2 * radius:
        raise BadSample(f"SSIM needs sides above {2 * radius} pixels, not {width} x {height}")
    planes = torch.cat([a, b]).reshape(-1, height, width) - 0.5
    if border == "reflect":
        planes = F.pad(planes, (radius, radius, radius, radius), mode="reflect")
    elif border != "valid":
        raise UsageError(f"unknown SSIM border '{border}'", "Known: reflect, valid")
    count = batch * channels
    x, y = planes[:count], planes[count:]
    difference = x - y
    mean_x, mean_y, squares, apart = _filter(
        torch.cat([x, y, x * x + y * y, difference * difference]), win.weights
    ).split(count)
    mean_apart = mean_x - mean_y
    variances = (squares - mean_x * mean_x - mean_y * mean_y).clamp_min(0) * win.covariance
    variance_apart = (apart - mean_apart * mean_apart).clamp_min(0) * win.covariance
    back = (batch, channels, *mean_x.shape[-2:])
    mean_x, mean_y, mean_apart, variances, variance_apart = (
        t.reshape(back) for t in (mean_x, mean_y, mean_apart, variances, variance_apart)
    )
    mean_x, mean_y = mean_x + (0.5 + offset), mean_y + (0.5 + offset)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    contrast = 1 - variance_apart / (variances + c2)
    luminance = 1 - mean_apart * mean_apart / (mean_x * mean_x + mean_y * mean_y + c1)
    return luminance * contrast, contrast


def data_range(a: torch.Tensor, b: torch.Tensor, span: float | str) -> torch.Tensor:
    """``[B, 1, 1, 1]``: a number, or `observed`: the larger of both images' max - min (what torchmetrics takes when told nothing)."""
    if span == "observed":
        flat = torch.stack([a.flatten(1), b.flatten(1)])
        return (flat.amax(2) - flat.amin(2)).amax(0).clamp_min(1e-12).view(-1, 1, 1, 1)
    return torch.full((a.shape[0], 1, 1, 1), float(span), dtype=a.dtype, device=a.device)


def ssim(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    win: str = "gaussian11",
    border: str = "reflect",
    span: float | str = 1.0,
    offset: float = 0.0,
) -> torch.Tensor:
    """Mean SSIM per image, float64 ``[B]``, of float32 ``[B, 3, H, W]`` in [0, 1].

    span: the data range in units of [0, 1] (Wang et al. 2004: 1.0). offset: what the images' zero stands for, in the same units: -0.5
    for metrics fed [-1, 1] (whose range is then 2 = 1.0 here), which changes the luminance term.
    """
    each, _ = _maps(images, reference, window(win), data_range(images, reference, span), offset, border)
    return each.flatten(1).double().mean(1)


def ms_ssim(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    win: str = "gaussian11",
    border: str = "reflect",
    span: float | str = 1.0,
    offset: float = 0.0,
) -> torch.Tensor:
    """Multi-scale SSIM per image (Wang, Simoncelli, Bovik 2003), five scales, float64 ``[B]``.

    Negative contrast factors count as zero. The contrast factor is averaged over whole windows in every variant; the last scale's SSIM
    over all pixels under `reflect` (torchmetrics). With `valid`, scale and channel means multiply per channel (pytorch_msssim).
    """
    return both(images, reference, win=win, border=border, span=span, offset=offset)[1]


def both(
    images: torch.Tensor,
    reference: torch.Tensor,
    *,
    win: str = "gaussian11",
    border: str = "reflect",
    span: float | str = 1.0,
    offset: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`ssim` and `ms_ssim` of the same pairs, whose finest scale is computed once."""
    kernel = window(win)
    radius = kernel.weights.numel() // 2
    sides = min(images.shape[-2:])
    if sides <= 2 * radius * 2 ** (len(WEIGHTS) - 1):
        raise BadSample(f"MS-SSIM with 5 scales needs sides above {2 * radius * 16} pixels, not {sides}")
    limits = data_range(images, reference, span)
    total = torch.ones((), dtype=torch.float64, device=images.device)
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            odd = [s % 2 for s in images.shape[-2:]] if border == "valid" else [0, 0]
            images, reference = (F.avg_pool2d(t, 2, padding=odd) for t in (images, reference))
        whole, contrast = _maps(images, reference, kernel, limits, offset, border)
        if not scale:
            finest = whole.flatten(1).double().mean(1)
        if scale == len(WEIGHTS) - 1:
            contrast = whole
        elif border == "reflect":
            contrast = contrast[..., radius:-radius, radius:-radius]
        dims = (2, 3) if border == "valid" else (1, 2, 3)
        total = total * contrast.double().mean(dims).clamp_min(0) ** weight
    return finest, total.mean(1) if border == "valid" else total
