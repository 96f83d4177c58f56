"""pFID: FID of decodes whose tokens were partly replaced by their neighbours in the codebook."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from vtbench.api import OUTPUT, Fields, Measurements, Need, Pass, Value, metric

from ._features import FIELDS, inception_needs
from .fid import frechet_values


def needs(p: Fields) -> Mapping[str, Need]:
    """As FID's, with perturbed decodes in the place of the reconstructions, per fraction."""
    plain = inception_needs(p, "pool3")
    out = {"reference": plain["reference"]}
    for alpha in p["pfid_alphas"]:
        args = (("alpha", float(alpha)), ("delta", int(p["pfid_delta"])))
        out[f"fake{alpha:g}"] = replace(plain["fake"], at=Pass("decode", OUTPUT, args))
    return out


@metric(
    "pfid",
    needs=needs,
    better="lower",
    fields=(*FIELDS, "pfid_alphas", "pfid_delta"),
    title="FID when a fraction of the tokens is replaced by one of their nearest codebook entries",
    source="Qiu et al. 2025 (robust latents): the neighbours include the token itself, so the fraction 0 gives rFID",
    tolerance=1e-2,
    groups=20,
    bounds=(0.0, math.inf),
)
def pfid(m: Measurements, p: Fields) -> Iterator[Value]:
    """One value a fraction, against the ground truth prepared as FID's."""
    for alpha in p["pfid_alphas"]:
        columns = {"fake": m[f"fake{alpha:g}"], "reference": m["reference"]}
        for value in frechet_values(replace(m, columns=columns)):
            yield replace(value, slice=f"alpha={alpha:g}")
