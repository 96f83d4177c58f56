"""What every metric of a feature network shares: its needs, and the checks before it computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vtbench.api import INPUT, OUTPUT, Column, Fields, Measurements, Need, Value, View

FIELDS = ("features_quantise", "features_resize", "features_scale", "dtype")


def inception_needs(p: Fields, head: str) -> Mapping[str, Need]:
    """The Inception's features of the output (`fake`) and of the ground truth (`reference`), through the protocol's quantisers."""
    args = (("dtype", p["dtype"]), ("resize", p["features_resize"]), ("scale", p["features_scale"]))
    quantise = p["features_quantise"]
    truth = p.get("features_reference") or quantise
    return {
        "fake": Need("inception", head, at=OUTPUT, view=View(quantise=quantise), args=args),
        "reference": Need("inception", head, at=INPUT, view=View(quantise=truth), args=args),
    }


def unusable(m: Measurements, *names: str, least: int = 2) -> Value | None:
    """A skipped value when a column has too few rows or values that are not finite; None when all is well."""
    for name in names:
        column = m[name]
        rows = column.array()
        if len(rows) < least:
            return Value(status="skipped", n=len(rows), why=f"needs at least {least} images, and there are {len(rows)}")
        # one sum a row finds nan and inf without a second array of the features' size
        bad = ~np.isfinite(rows.reshape(len(rows), -1).sum(1, dtype=np.float64))
        if bad.any():
            first = m.samples["id"][column.image[np.argmax(bad)]]
            why = f"the features of {int(bad.sum())} images are not finite (the first: {first}, {name})"
            return Value(status="skipped", n=len(rows), why=why)
    return None


def rows(column: Column) -> np.ndarray:
    """A column's features, ``[n, d]``."""
    found = column.array()
    return found.reshape(len(found), -1)


def small_sample(n: int, d: int) -> dict[str, Any]:
    """A note when n is too small for d dimensions; empty when it is not."""
    if n <= d:
        return {
            "warning": f"{n} images for {d} dimensions: the covariance is singular and the value far above that of a large sample"
        }
    if n < 10 * d:
        return {"warning": f"{n} images for {d} dimensions: the value is biased upwards against 50,000 images"}
    return {}
