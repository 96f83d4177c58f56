"""What lies behind a user's functions: the networks that they reach, their code, and the revision that follows from both."""

from __future__ import annotations

import hashlib
import inspect
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

import torch

from vtbench import weights
from vtbench.errors import UsageError


def networks_of(given: Any, functions: Iterable[Callable[..., Any]]) -> dict[str, torch.nn.Module]:
    """The networks behind functions, by name. given: what the user names (a network, several, a mapping); where that is nothing they are looked for."""
    if isinstance(given, torch.nn.Module):
        return {"model": given}
    if isinstance(given, Mapping):
        return dict(given)
    listed = list(given)
    if listed:
        return {f"model{i or ''}": m for i, m in enumerate(listed)}
    found: list[torch.nn.Module] = []
    for function in functions:
        for thing in _behind(function):
            if isinstance(thing, torch.nn.Module) and not any(thing is f for f in found):
                found.append(thing)
    inside = [f for f in found if not any(f is not g and any(f is m for m in g.modules()) for g in found)]
    return {f"model{i or ''}": m for i, m in enumerate(inside)}


def _behind(thing: Any, depth: int = 0) -> Iterable[Any]:
    """The objects that a function reaches: its object, what a partial holds, its closure, the globals that it names, an object's own modules."""
    yield thing
    if depth > 3 or isinstance(thing, torch.nn.Module):
        return
    inner: list[Any] = []
    if owner := getattr(thing, "__self__", None):
        inner += [owner]
    if inspect.isfunction(thing) or inspect.ismethod(thing):
        inner += list(inspect.getclosurevars(thing).nonlocals.values())
        inner += [
            v for v in inspect.getclosurevars(thing).globals.values() if isinstance(v, torch.nn.Module) or callable(v)
        ]
    if hasattr(thing, "func") and hasattr(thing, "args"):
        inner += [thing.func, *thing.args, *thing.keywords.values()]
    if hasattr(thing, "__wrapped__"):
        inner.append(thing.__wrapped__)
    if (
        not inspect.isroutine(thing)
        and not inspect.isclass(thing)
        and not inspect.ismodule(thing)
        and hasattr(thing, "__dict__")
    ):
        inner += [v for v in vars(thing).values() if isinstance(v, torch.nn.Module)]
    for value in inner:
        yield from _behind(value, depth + 1)


def spelled(function: Any) -> str:
    """What a function does, as far as its own code says: equal for equal code in every process of one Python version. Code that it calls is not seen."""
    if hasattr(function, "func") and hasattr(function, "args"):
        return f"partial({spelled(function.func)}, {len(function.args)}, {sorted(function.keywords)})"
    if isinstance(function, torch.nn.Module):
        function = type(function).forward
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return _code(code) if isinstance(code, CodeType) else getattr(function, "__qualname__", type(function).__qualname__)


def _code(code: CodeType) -> str:
    plain = (str, bytes, int, float, complex, bool, type(None), tuple)
    constants = [
        _code(c) if isinstance(c, CodeType) else repr(c) if isinstance(c, plain) else type(c).__name__
        for c in code.co_consts
    ]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


_WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|module)\.")
"""What torch.compile and data-parallel wrappers put before the names of weights."""


def revision_of(networks: Mapping[str, torch.nn.Module], around: Sequence[Any]) -> str:
    """The digest of the networks' present weights and of what is around them (the functions as `spelled`, their range); without a network, another
    one each time that it is asked for."""
    if not networks:
        return f"unknown:{secrets.token_hex(16)}"
    state = {
        f"{name}/{_WRAPPERS.sub('', k)}": v
        for name, net in networks.items()
        for k, v in net.state_dict().items()
        if torch.is_tensor(v)
    }
    joined = f"{weights.state_digest(state)}\n{around}"
    return f"sha256:{hashlib.sha256(joined.encode()).hexdigest()}"


def device_of(networks: Mapping[str, torch.nn.Module]) -> torch.device:
    """Where the networks are; the CPU without any."""
    first = next((p for net in networks.values() for p in net.parameters()), None)
    return first.device if first is not None else torch.device("cpu")


def checked_range(value_range: Sequence[float]) -> tuple[float, float]:
    """(low, high) of a user's pixels. Raises `UsageError`."""
    low, high = float(value_range[0]), float(value_range[1])
    if not high > low:
        raise UsageError(f"value_range is (low, high), not {value_range}", "(0, 1), (-1, 1) or (0, 255)")
    return low, high
