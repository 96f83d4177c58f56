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
    expected = adapter.expected_layout(adapter.infer(renamed, **found.params))
    assert key_problems(expected, kept) == []
    assert elements(expected) == found.parameters - sum(math.prod(renamed[k]) for k in dropped)


def _matches(name: str, pattern: str) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern)


@pytest.mark.parametrize("name", sorted(REFERENCE))
def test_counts_are_those_of_the_reference(name: str) -> None:
    found = layout(name)
    tensors, millions = REFERENCE[name]
    assert found.tensors == tensors
    assert round(found.parameters / 1e6, 2) == millions


def test_patterns() -> None:
    assert expand("a.{0-2}.{bias,weight}") == [f"a.{i}.{w}" for i in range(3) for w in ("bias", "weight")]
    shapes = {"a.0.weight": (2, 3), "a.1.weight": (2, 3), "a.3.weight": (2, 3), "a.0.bias": (2,), "b": ()}
    assert shapes_of(compact(shapes)) == shapes
    assert shapes_of(compact(layout(names()[0]).shapes)) == dict(layout(names()[0]).shapes)
