"""Published checkpoints fit our networks by name and shape: checked on the meta device, without a weights file."""

from __future__ import annotations

import math

import pytest
import torch

from vtbench.registry import resolve
from vtbench.weights import key_problems
from vtbench.zoo.layout import Layout, compact, elements, expand, layout, names, shapes_of

REFERENCE = {
    # tensors and millions of parameters, from the reference page of checkpoints
    "vqgan-imagenet-f16-1024": (343, 72.14),
    "llamagen-vq-ds16": (344, 71.95),
    "llamagen-vq-ds8": (300, 70.18),
    "kl-16": (312, 66.46),
    "va-vae-f16d32": (342, 69.84),
    "maskgit-vqgan": (168, 54.52),
    "titok-l32": (692, 641.05),
    "titok-b64": (404, 204.81),
    "titok-s128": (308, 83.67),
    "titok-bl64-vq8k": (459, 390.02),
    "titok-bl128-vq8k": (459, 390.18),
    "titok-sl256-vq8k": (411, 330.26),
    "titok-ll32-vae-c16": (602, 606.88),
    "titok-bl64-vae-c16": (458, 389.42),
    "titok-bl128-vae-c16": (458, 389.58),
    "one-d-piece-s-256": (308, 83.87),
    "one-d-piece-b-256": (404, 205.26),
    "one-d-piece-l-256": (692, 641.74),
    "var-vae": (324, 108.99),
    "open-magvit2-256": (339, 115.13),
    "vitvqgan-base": (274, 171.93),
}


def meta(found: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in found.shapes.items()}


@pytest.mark.parametrize("name", names())
def test_our_network_has_the_published_layout(name: str) -> None:
    found = layout(name)
    assert len(found.shapes) == found.tensors and elements(found.shapes) == found.parameters
    adapter = resolve(found.adapter)
    renamed = {k: tuple(v.shape) for k, v in adapter.rename(meta(found)).items()}
    dropped = {k for k in renamed if any(_matches(k, p) for p in adapter.drop)}
    kept = {k: v for k, v in renamed.items() if k not in dropped}
    with torch.device("meta"):
        network = adapter.build(adapter.infer(renamed, **found.params))
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items()}
    assert key_problems(expected, kept) == []
    assert elements(expected) == found.parameters - sum(math.prod(renamed[k]) for k in dropped)


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_counts_are_those_of_the_reference(name: str) -> None:
    shapes = layout(name).shapes
    if name == "vitvqgan-base":  # counted there without the codebook and the projections beside it
        shapes = {k: v for k, v in shapes.items() if k.startswith(("encoder.", "decoder."))}
    tensors, millions = REFERENCE[name]
    assert len(shapes) == tensors
    assert elements(shapes) / 1e6 == pytest.approx(millions, abs=0.006)


def test_patterns() -> None:
    assert expand("a.{0-2}.{bias,weight}") == [f"a.{i}.{w}" for i in range(3) for w in ("bias", "weight")]
    shapes = {"a.0.weight": (2, 3), "a.1.weight": (2, 3), "a.3.weight": (2, 3), "a.0.bias": (2,), "b": ()}
    assert shapes_of(compact(shapes)) == shapes
    assert shapes_of(compact(layout(names()[0]).shapes)) == dict(layout(names()[0]).shapes)
