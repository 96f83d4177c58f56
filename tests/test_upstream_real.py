"""Drivers against their authors' own code: equal tokens and images for equal random weights, through a real worker process.

Needs the checkouts: ``VTBENCH_CHECKOUTS`` names a folder that holds them under their repositories' names, each with an interpreter in ``.venv`` (or, without one, run from an interpreter that has their packages).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vtbench.zoo.card import File, card
from vtbench.zoo.spec import parse, user_params
from vtbench.zoo.upstream import place
from vtbench.zoo.upstream.adapter import Upstream
from vtbench.zoo.upstream.process import Process

CHECKOUTS = "VTBENCH_CHECKOUTS"
DIRECT = Path(__file__).with_name("upstream_direct.py")
SYSTEMS = {
    "alit": 5e-4,
    "dualvitok": 1e-4,
    "elm-bae": 1e-4,
    "fqgan-dual": 1e-6,
    "hita": 1e-4,
    "infinity-vae-d32": 1e-5,
    "instella-t2i": 1e-5,
    "karl": 5e-4,
    "meditok": 1e-4,
    "seed-2": 0.0,
    "selftok": 1e-4,
    "tokenflow": 1e-4,
}
"""The largest difference of a pixel that is allowed: decoding tokens rounds otherwise than decoding the encoder's latents, and random weights magnify it."""
ENCODER_ONLY = ("seed-2",)


def checkout(name: str) -> Path:
    """Where a system's checkout lies, or a skip that says why."""
    root = os.environ.get(CHECKOUTS)
    if not root:
        pytest.skip(f"{CHECKOUTS} names no folder of checkouts")
    found = Path(root) / card(name).recipe().repository.rpartition("/")[2]
    if not found.is_dir():
        pytest.skip(f"no checkout {found}")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_driver_gives_what_its_authors_code_gives(name, tmp_path):
    source = checkout(name)
    system, recipe = card(name), card(name).recipe()
    here = place.find(system, source)
    paths = [str(source / f) for f in recipe.subfolders] or [str(source)]
    process = Process(here.python, name)
    try:
        process.ask({"op": "open", "driver": str(recipe.driver_file()), "path": paths})
        small, _ = process.ask({"op": "small", "source": str(source), "folder": str(tmp_path), "seed": 0})
    finally:
        process.close()
    assert "error" not in small, small["error"]["traceback"]

    files = tuple(File(role, (Path(p).name,), folder=Path(p).is_dir()) for role, p in small["weights"].items())
    system = replace(system, files=files)
    asked = parse(f"{name}:{','.join(f'{k}={v}' for k, v in small['params'].items())}")
    bound = Upstream.bound_to(system)
    offered = {"card": system, "weights": tmp_path, "upstream": source}
    passed, params = user_params(bound, asked, offered, system.defaults)
    model = bound(**passed, **params)
    side = model.capabilities.resolution
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=(side, side), mode="bicubic").clamp(0, 1)
    try:
        tokens = model.encode(images, seeds=[11, 12])
        pixels = images if name in ENCODER_ONLY else model.decode(tokens, seeds=[11, 12])
    finally:
        model.close()

    np.savez(tmp_path / "in.npz", images=images.numpy(), seeds=np.array([11, 12]))
    case = {"path": paths, "weights": small["weights"], "params": small["params"]}
    (tmp_path / "case.json").write_text(json.dumps(case))
    words = [
        recipe.driver,
        str(source),
        str(tmp_path / "in.npz"),
        str(tmp_path / "out.npz"),
        str(tmp_path / "case.json"),
    ]
    done = subprocess.run([here.python, str(DIRECT), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(tmp_path / "out.npz") as wanted:
        _same(tokens, wanted)
        worst = float(np.abs(pixels.clamp(0, 1).numpy() - wanted["pixels"]).max())
    print(f"{name}: {int(tokens.positions()[0])} tokens equal, pixels within {worst:.1e}", file=sys.stderr)
    assert worst <= SYSTEMS[name]
    assert pixels.shape == images.shape and float(pixels.std()) > 0.01


def _same(tokens, wanted) -> None:
    for name, array in tokens.arrays().items():
        ours, theirs = array.astype(np.int64), wanted[name].astype(np.int64)
        if tokens.lengths is not None:
            assert np.array_equal(tokens.lengths, wanted["lengths"])
            theirs = np.where(ours < 0, -1, theirs)  # KARL's own code also quantises what it halts
        assert np.array_equal(ours, theirs.reshape(ours.shape)), name
        assert len(np.unique(ours)) > 1
