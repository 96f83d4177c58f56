"""Checks for people who have a model's weights: are they the published ones, were they taken as they should be, does the model reconstruct.

A wrong value range, a wrong key mapping or another checkpoint rarely fail to load; they show in the pictures. So the demo photographs are reconstructed and looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from vtbench import weights as files
from vtbench.errors import BadData, MissingWeights

if TYPE_CHECKING:
    import torch

    from vtbench.api import Tokenizer
    from vtbench.zoo.card import Card

PHOTOGRAPHS = Path(__file__).parent.parent / "demo" / "images" / "photos"
ABOVE_FLAT = 1.0
"""Decibels by which a reconstruction must beat the image's own mean colour."""
SLOPE = (0.7, 1.3)
"""Least-squares slope of output on input brightness: a network fed or read in the wrong range halves or doubles it."""
OFFSET = 0.15


@dataclass(frozen=True)
class Check:
    """One thing looked at. `skipped` says why it could not be."""

    name: str
    result: Literal["ok", "failed", "skipped"]
    told: str


def check_files(card: Card, given: Path | None, params: Mapping[str, str] | None = None) -> list[Check]:
    """The files' digests against the card's. params: as asked for, where the files depend on them."""
    out = []
    try:
        found = card.locate(given, params) if card.files or given is not None else {}
    except MissingWeights as error:
        return [Check("digest", "failed", str(error))]
    known = {file.role: file.digest for file in card.files_for(params)}
    for role, path in found.items():
        digest = files.digest(path)
        if not known.get(role):
            out.append(Check("digest", "skipped", f"{role}: {digest}; the card knows no published digest"))
        elif digest == known[role]:
            out.append(Check("digest", "ok", f"{role}: the published file"))
        else:
            out.append(Check("digest", "failed", f"{role}: {digest}, the published file has {known[role]}"))
    return out


def check_parameters(card: Card, model: Tokenizer) -> Check:
    """The number of parameters against the card's (in millions, to 1%): that of the whole file, less the tensors that the adapter has no use for."""
    from vtbench.zoo import layout

    unique = {id(p): p.numel() for module in model.modules().values() for p in module.parameters()}
    counted = sum(unique.values() or model.parameter_counts().values()) / 1e6
    if not card.parameters or not counted:
        return Check("parameters", "skipped", f"{counted:.2f} M; the card states none")
    shapes = layout.layout(card.name).shapes if card.name in layout.names() else {}
    dropped = getattr(getattr(model, "loaded", None), "dropped", ())
    stated = card.parameters - layout.elements({name: shapes[name] for name in dropped if name in shapes}) / 1e6
    good = abs(counted - stated) <= max(0.01 * stated, 0.01)
    return Check(
        "parameters", "ok" if good else "failed", f"{counted:.2f} M in both halves, {stated:.2f} M on the card"
    )


def photographs(resolution: int, count: int) -> torch.Tensor:
    """The first of the carried photographs, short side resized and centre cropped: float32 ``[count, 3, R, R]`` in [0, 1]."""
    import torch
    from PIL import Image

    from vtbench.data import prepare

    crops = []
    for path in sorted(p for p in PHOTOGRAPHS.rglob("*") if p.suffix in (".jpg", ".jpeg", ".png", ".webp"))[:count]:
        with Image.open(path) as image:
            crops.append(prepare(image.convert("RGB"), {"fit": "short-side-crop", "filter": "bicubic"}, resolution)[0])
    return torch.from_numpy(np.stack(crops))


def check_pictures(model: Tokenizer, resolution: int, count: int = 3) -> list[Check]:
    """Reconstruct a few photographs: PSNR above that of a flat picture, brightness kept, the same tokens alone as in a batch."""
    import torch

    from vtbench.api import Condition

    images = photographs(resolution, count)
    condition = [
        Condition(str(i), caption="a photograph" if model.capabilities.needs_caption else None)
        for i in range(len(images))
    ]
    seeds = list(range(len(images)))
    with torch.inference_mode():
        tokens = model.encode(images, condition=condition, seeds=seeds)
        out = model.decode(tokens, seeds=seeds).float().clamp(0, 1).cpu()
        alone = model.encode(images[:1], condition=condition[:1], seeds=seeds[:1])
    flat = images.mean((2, 3), keepdim=True).expand_as(images)
    psnr, floor = _psnr(out, images), _psnr(flat, images) + ABOVE_FLAT
    x, y = images.flatten().double(), out.flatten().double()
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0))
    offset = float(y.mean() - x.mean())
    ranged = SLOPE[0] <= slope <= SLOPE[1] and abs(offset) <= OFFSET
    checks = [
        Check(
            "reconstruction",
            "ok" if psnr > floor else "failed",
            f"PSNR {psnr:.2f} dB on {len(images)} photographs at {resolution} px, floor {floor:.2f} dB",
        ),
        Check(
            "value range", "ok" if ranged else "failed", f"output = {slope:.2f} x input, mean brightness {offset:+.3f}"
        ),
    ]
    ids, first = tokens.arrays(), alone.arrays()
    if not ids:
        return [*checks, Check("batch", "skipped", "no discrete tokens")]
    share = float(
        np.mean(
            [np.mean(ids[name][:1] == first[name]) for name in ids if ids[name][:1].shape == first[name].shape] or [0.0]
        )
    )
    return [
        *checks,
        Check("batch", "ok" if share > 0.99 else "failed", f"{100 * share:.1f}% of tokens alike alone and in a batch"),
    ]


def check_golden(card: Card, model: Tokenizer, image: Path | None) -> Check:
    """Known tokens of a known picture, where the card has them. image: the picture, else looked for on the weights path."""
    import torch
    from PIL import Image, UnidentifiedImageError

    if not card.golden:
        return Check("golden", "skipped", "the card knows no tokens of a picture")
    name, wanted = str(card.golden["image"]), np.asarray(card.golden["tokens"])
    if image is None:
        try:
            image = files.find(name)
        except MissingWeights:
            return Check("golden", "skipped", f"give {name} with --image ({card.golden.get('source', card.code)})")
    try:
        with Image.open(image) as opened:
            array = np.asarray(opened.convert("RGB"), dtype=np.float32) / 255
    except (OSError, UnidentifiedImageError) as error:
        raise BadData(f"{image} cannot be read: {error}") from error
    with torch.inference_mode():
        tokens = model.encode(torch.from_numpy(array).permute(2, 0, 1)[None]).arrays()
    found = next(iter(tokens.values())).reshape(-1)
    if found.shape != wanted.shape:
        return Check("golden", "failed", f"{len(found)} tokens of {name}, {len(wanted)} are known")
    same = int((found == wanted).sum())
    return Check(
        "golden",
        "ok" if same == len(wanted) else "failed",
        f"{same} of {len(wanted)} tokens of {name} as its authors print them",
    )


def _psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    import torch

    rounded = (images * 255).round() / 255
    return float((-10 * torch.log10((rounded - truth).square().flatten(1).mean(1).clamp_min(1e-10))).mean())


def verify(
    name: str,
    *,
    weights: Path | None = None,
    state_key: str = "auto",
    allow_code: bool = False,
    image: Path | None = None,
    device: str = "cpu",
    resolution: int | None = None,
    upstream: str | Path | None = None,
) -> Sequence[Check]:
    """Every check of a model. Loading failures raise, as everywhere (`BadWeights`, `MissingWeights`, `MissingPackage`)."""
    from vtbench.zoo import load, notes
    from vtbench.zoo.catalogue import card as card_of
    from vtbench.zoo.spec import parse

    card = card_of(parse(name).name)
    checks = check_files(card, weights, parse(name).params)
    model = load(name, weights=weights, state_key=state_key, allow_code=allow_code, device=device, upstream=upstream)
    told = "; ".join(("every key fits", *notes(model)))
    side = resolution or model.capabilities.resolution or card.resolution or 256
    return [
        *checks,
        Check("keys", "ok", told),
        check_parameters(card, model),
        *check_pictures(model, side),
        check_golden(card, model, image),
    ]
