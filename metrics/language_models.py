"""Language models over tokens: how well the next token can be told, in bits, on images that the model has not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from vtbench.api import Fields, Measurements, Need, Value, metric
from vtbench.errors import BadData
from vtbench.tokens.kneser_ney import HeldOut
from vtbench.tokens.study import Study, needs, per_unit, studies, why_not

FIELDS = ("sample_tokens", "null_seed", "kn_tokens")
ORDERS = (1, 2, 3, 4)


@metric(
    "kn_bits_per_token",
    needs=needs,
    unit="bits/token",
    fields=(*FIELDS, "scans"),
    title="Held-out bits a token of modified Kneser-Ney n-gram models, orders 1 to 4",
    source="Chen and Goodman 1999, interpolated, mixed with 1/K; four of five images train, the fifth is measured",
    tolerance=1e-3,
    groups=50,
)
@per_unit
def kn_bits_per_token(study: Study, p: Fields) -> Iterator[Value]:
    """Every order in the first scan, order 2 in every scan, and both nulls' worth: log2 K is what no model at all pays."""
    scans = study.scans(tuple(p["scans"]))
    cells = [(scans[0], order, "") for order in ORDERS]
    cells += [(scan, 2, "") for scan in scans[1:]] + [(scans[0], order, "shuffled") for order in (2, 3)]
    for scan, order, null in cells:
        name = study.slice(f"order={order}", f"scan={scan}", f"null={null}" if null else "")
        try:
            found = study.held_out(scan, order, int(p["kn_tokens"]), null)
        except BadData as error:
            yield Value(status="skipped", why=str(error), slice=name)
            continue
        yield Value(
            samples=found.per_token,
            image=study.sample_images[found.rows],
            slice=name,
            notes={**_notes(study, found), **({} if null else _profile(study, found))},
            keep=False,
        )


def _notes(study: Study, found: HeldOut) -> dict[str, Any]:
    return {
        "trained_on": found.tokens[0],
        "tested_on": found.tokens[1],
        "held_out_images": len(found.rows),
        "bits_per_image": float(found.per_image.mean()),
        "log2_K": float(np.log2(study.size)),
    }


def _profile(study: Study, found: HeldOut) -> dict[str, Any]:
    return {"profile": [round(float(v), 3) for v in found.per_position], "shape": list(study.unit.shape)}


def needs_pixels(p: Fields) -> Mapping[str, Need]:
    """Token ids and the pixels of the input."""
    return {**needs(p), "pixels": Need("tokens", "pixels")}


AR_FIELDS = (
    "sample_tokens", "null_seed", "ar_tokens", "ar_width", "ar_layers", "ar_heads", "ar_batch", "ar_rate", "ar_seed",
)  # fmt: skip
_TRAINED: dict[tuple[Any, ...], HeldOut] = {}


def _trained(study: Study, p: Fields, device: str | None) -> HeldOut:
    """The transformer's result on a study, trained once for the three metrics that read it."""
    from vtbench.tokens import transformer

    budget = transformer.Budget(
        p["ar_tokens"], p["ar_width"], p["ar_layers"], p["ar_heads"], p["ar_batch"], p["ar_rate"], p["ar_seed"]
    )
    import hashlib

    content = hashlib.sha256(np.ascontiguousarray(study.sample).tobytes()).hexdigest()
    key = (content, study.sample.shape, study.size, device, *asdict(budget).values())
    if key not in _TRAINED:
        if len(_TRAINED) > 16:
            _TRAINED.clear()
        _TRAINED[key] = transformer.held_out(study.sample, study.size, budget, device=device)
    return _TRAINED[key]


def _ar(m: Measurements, p: Fields, per: str) -> Iterator[Value]:
    why = why_not(m)
    if why:
        yield Value(status="skipped", why=why)
        return
    if per == "pixel" and "pixels" not in m.columns:
        yield Value(status="skipped", why="the size of the images is unknown: state it with --pixels")
        return
    for study in studies(m, p):
        try:
            found = _trained(study, p, m.context.get("device"))
        except BadData as error:
            yield Value(status="skipped", why=str(error), slice=study.slice())
            continue
        images = study.sample_images[found.rows]
        samples = found.per_token if per == "token" else found.per_image
        if per == "pixel":
            pixels = np.asarray(m["pixels"].array(), np.float64)
            samples = found.per_image / (pixels[0] if len(pixels) == 1 else pixels[images])
        notes = _notes(study, found) | {
            "budget": {k: p[k] for k in AR_FIELDS if k.startswith("ar_")},
            "gap": float(found.per_token.mean()) - found.train_bits,
        }
        if per == "token":
            notes |= _profile(study, found)
        yield Value(samples=samples, image=images, slice=study.slice(), notes=notes, keep=False)


def _ar_metric(per: str) -> None:
    @metric(
        f"ar_bits_per_{per}",
        needs=needs_pixels if per == "pixel" else needs,
        unit=f"bits/{per}",
        fields=AR_FIELDS,
        title=f"Held-out bits per {per} of a small causal transformer",
        source="GPT-2's block, a fixed number of training tokens and seed, image-disjoint; an upper bound that a larger budget lowers",
        tolerance=1e-2,
        groups=50,
        fitted=True,
    )
    def compute(m: Measurements, p: Fields) -> Iterator[Value]:
        yield from _ar(m, p, per)


for _per in ("token", "image", "pixel"):
    _ar_metric(_per)
