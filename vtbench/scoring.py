"""`score`: the metrics of images that exist already, as arrays or as folders."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from vtbench.errors import UsageError
from vtbench.result import Result

BATCH = 16


def score(
    fake: Any,
    reference: Any,
    metrics: Sequence[str] | None = None,
    *,
    suites: str | Sequence[str] = ("images",),
    device: str = "cpu",
    **options: Any,
) -> Result:
    """Score reconstructions against their originals.

    fake, reference: both arrays or tensors ``[N, 3, H, W]`` in [0, 1] (paired by position), or both places on disk: folders, tars, ``.npz``,
    ...; paired by sample id, or else compared as sets; the reference may be statistics. metrics: names, as `Meter` takes them (arrays only).
    suites and options: as for `vtbench.scorer.Scorer` (places only; by default the suite `images`).
    """
    places = isinstance(fake, (str, PathLike)), isinstance(reference, (str, PathLike))
    if all(places):
        from vtbench.scorer import Scorer

        if metrics is not None:
            raise UsageError("metrics= is for arrays", "For places on disk name a suite: suites=[...]")
        return Scorer(str(fake), str(reference), suites, device=device, **options)()
    if any(places):
        raise UsageError("score takes two arrays or two places on disk, not one of each")
    from vtbench.meter import Meter

    meter = Meter(metrics or ("psnr", "ssim", "lpips", "fid"), device=device)
    if len(fake) != len(reference):
        raise UsageError(f"{len(fake)} images against {len(reference)} originals")
    for start in range(0, len(fake), BATCH):
        meter.update(reference[start : start + BATCH], fake[start : start + BATCH])
    return meter.compute()
