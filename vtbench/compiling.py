"""`--compile`: a model's networks through torch.compile, for as long as they are measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vtbench.api import Model


@contextmanager
def compiled(model: Model, warn: Callable[[str], None]) -> Iterator[None]:
    """Compile the networks that a model names, and leave them as they were afterwards. Warns when that came to nothing: a model that names no network, or
    calls parts of its networks by other ways than as modules."""
    import torch

    networks = list({id(m): m for m in model.modules().values()}.values())
    if not networks:
        warn(f"--compile: {model.name} names no network, so nothing is compiled")
        yield
        return
    before = _graphs()
    for network in networks:
        network.compile()
    try:
        yield
        if _graphs() == before:
            warn(f"--compile: {model.name} does not call its networks as modules, so nothing was compiled")
    finally:
        for network in networks:
            network._compiled_call_impl = None
        torch.compiler.reset()


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])
