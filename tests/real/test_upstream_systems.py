"""The authors' own packages, really run: each environment that stands in VTBENCH_TEST_ENVIRONMENTS (a folder as VTBENCH_ENVIRONMENTS, filled by ``vtbench models setup``)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from vtbench.zoo import catalogue as cards
from vtbench.zoo.upstream import place
from vtbench.zoo.upstream.adapter import Upstream
from vtbench.zoo.upstream.process import Process

SYSTEMS = sorted({c.recipe().driver: c for c in cards.cards() if c.upstream}.values(), key=lambda c: c.name)

ENCODER_ONLY = ("seed-2",)


@pytest.fixture(params=SYSTEMS, ids=lambda c: c.name, scope="module")
def model(request, tmp_path_factory):
    """A small model with random weights of one system, in its worker."""
    folder, card = os.environ.get("VTBENCH_TEST_ENVIRONMENTS"), request.param
    if not folder:
        pytest.skip("environments of upstream systems: name their folder in VTBENCH_TEST_ENVIRONMENTS")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(place.FOLDER, folder)
        there = place.standing(card)
        if there is None:
            pytest.skip(f"no environment of {card.name} in {folder}")
        if not hasattr(place.driver(card.recipe().driver_file()), "small") or card.name in ENCODER_ONLY:
            pytest.skip(f"{card.name} has no small model that decodes")
        small = made_small(there, card, tmp_path_factory.mktemp(card.name))
        files = {role: Path(path) for role, path in small["weights"].items()}
        made = Upstream(card, None, None, small["params"], files=files)
    yield made
    made.close()


def made_small(there, card, folder):
    """What the driver's `small` writes into a folder, in a worker of its own."""
    recipe = card.recipe()
    process = Process(there.python, card.name)
    for message in (
        {
            "op": "open",
            "driver": str(recipe.driver_file()),
            "path": [str(Path(there.source, f)) for f in recipe.subfolders] or [there.source],
        },
        {"op": "small", "source": there.source, "folder": str(folder), "seed": 0},
    ):
        reply, _ = process.ask(message)
        assert "error" not in reply, reply["error"]["traceback"]
    process.close()
    return reply


def test_a_small_model_runs_in_its_worker(model):
    side = model.capabilities.resolution or 256
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    tokens = model.encode(images, seeds=[1, 2])
    assert tokens.bits() is None or (tokens.bits() > 0).all()
    out = model.decode(tokens, seeds=[1, 2])
    assert out.shape == images.shape and bool(torch.isfinite(out).all())
    assert torch.equal(out, model.decode(tokens, seeds=[1, 2]))
    alone = model.encode(images[1:], seeds=[2])
    first, ids = tokens.arrays(), alone.arrays()
    for name in ids:
        count = int(tokens.positions()[1]) if tokens.lengths is not None else ids[name].shape[1]
        assert np.mean(ids[name][0, :count] == first[name][1, :count]) > 0.99
    torch.testing.assert_close(model.decode(alone, seeds=[2])[0], out[1], atol=2e-4, rtol=0)
    assert not tokens.arrays() or model.parameter_counts()["decoder"] > 0


def test_prefixes_and_seeds(model):
    if not model.capabilities.prefix:
        pytest.skip(f"{model.name} does not decode prefixes")
    side = model.capabilities.resolution or 256
    tokens = model.encode(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)), seeds=[1])
    whole = model.decode(tokens, seeds=[1])
    cut = model.decode(model.prefix(tokens, 3), seeds=[1])
    assert whole.shape == cut.shape and not torch.equal(whole, cut)
    if model.capabilities.stochastic:
        assert not torch.equal(whole, model.decode(tokens, seeds=[2]))
