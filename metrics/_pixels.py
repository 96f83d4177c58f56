"""What the metrics of pairs share: the quantisers that a protocol gives each of them."""

from __future__ import annotations

from vtbench.api import Fields, View


def view_of(p: Fields, metric: str = "") -> View:
    """The quantisers of both sides for a metric: `METRIC_quantise` for both where the protocol has it, else `quantise` and `reference`."""
    own = p.get(f"{metric}_quantise", "")
    return View(quantise=own, reference=own) if own else View(quantise=p["quantise"], reference=p.get("reference", ""))
