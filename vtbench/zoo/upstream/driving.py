"""What drivers share: reading checkpoints, moving pixels and tokens, noise. `worker.load_driver` offers it to every driver as ``vtbench_driving``.

It runs in the upstream's own interpreter: the standard library, NumPy, and torch inside the functions; nothing of vtbench. Checkpoints are read without running anything in
them (``weights_only``), matched key by key, and refused when a key does not fit.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

WRAPPERS = ("module.", "_orig_mod.")


# ---------------------------------------------------------------------------------------------- the upstream's code


@contextlib.contextmanager
def within(folder: str | Path) -> Iterator[None]:
    """Work in a folder for a while: some upstream packages open their configuration relative to it."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def bare(name: str, folder: str | Path) -> None:
    """Offer a package of the authors' without running its ``__init__``, where that imports what the tokenizer does not need."""
    if name not in sys.modules:
        module = ModuleType(name)
        module.__path__ = [str(folder)]  # type: ignore[attr-defined]
        sys.modules[name] = module


def device_of_tensors() -> None:
    """Let ``tensor.get_device()`` give the device itself: upstream code moves tensors with its number, which is -1 on a CPU."""
    import torch

    torch.Tensor.get_device = lambda self: self.device  # type: ignore[method-assign,assignment,return-value]


def cuda_is(device: str) -> None:
    """Let ``.cuda()`` of tensors and modules mean the device that was asked for: upstream code calls it wherever it runs."""
    import torch

    torch.Tensor.cuda = lambda self, *given, **options: self.to(device)  # type: ignore[method-assign,assignment]
    torch.nn.Module.cuda = lambda self, *given, **options: self.to(device)  # type: ignore[method-assign,assignment]


def stand_in(name: str, **attributes: Any) -> None:
    """Offer a module of this name with these attributes, unless the real one (or an earlier stand-in) can be imported. For imports of training code that play no part in the computation, and for
    kernels that compute what torch's own functions do."""
    import importlib.util

    if name in sys.modules:
        for key, value in attributes.items():
            if not hasattr(sys.modules[name], key):
                setattr(sys.modules[name], key, value)
        return
    try:
        if importlib.util.find_spec(name) is not None:
            return
    except (ModuleNotFoundError, ValueError):
        pass
    module = ModuleType(name)
    module.__path__ = []  # type: ignore[attr-defined]
    module.__spec__ = importlib.util.spec_from_loader(name, loader=None)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], last, module)


# ---------------------------------------------------------------------------------------------- weights


def state_of(path: str | Path, keys: Sequence[str] = ("ema", "model", "state_dict")) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint: under the first of `keys` that it has, else all of it. Prefixes of wrappers are removed.

    Raises `FileNotFoundError`, and `ValueError` for a file that is no state dict or carries code."""
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        found: Any = load_file(str(path))
    else:
        found = _unpickled(path, torch)
    for key in keys:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}, not a state dict")
    state = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
    for prefix in WRAPPERS:
        if state and all(key.startswith(prefix) for key in state):
            state = {key[len(prefix) :]: value for key, value in state.items()}
    return state


def _unpickled(path: Path, torch: Any) -> Any:
    """A checkpoint read by torch's restricted unpickler, which also takes the classes that training scripts save their options in."""
    import argparse
    import pathlib
    import pickle

    harmless = [argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath]
    allow = getattr(torch.serialization, "safe_globals", None)
    try:
        with allow(harmless) if allow else contextlib.nullcontext():
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as weights: {str(error).splitlines()[0][:300]}") from error


def fill(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    drop: Sequence[str] = (),
    absent: Sequence[str] = (),
) -> None:
    """Fill a module strictly. drop: patterns of keys of the file that have no part in the model; absent: patterns of the model's keys that the file need not have. Raises
    `ValueError` naming the first keys that do not fit."""
    wanted = module.state_dict()
    given = {k: v for k, v in state.items() if k in wanted or not _matches(k, drop)}
    missing = [k for k in wanted if k not in given and not _matches(k, absent)]
    extra = [k for k in given if k not in wanted]
    shapes = [
        f"{k} {tuple(given[k].shape)} for {tuple(wanted[k].shape)}"
        for k in given
        if k in wanted and given[k].shape != wanted[k].shape
    ]
    for what, names in (("lacks", missing), ("has besides", extra), ("has other shapes:", shapes)):
        if names:
            rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"the checkpoint {what} {', '.join(names[:3])}{rest}")
    module.load_state_dict(given, strict=False)


def _matches(key: str, patterns: Sequence[str]) -> bool:
    return any(re.match(pattern, key) for pattern in patterns)


def part(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def shape_of(state: Mapping[str, torch.Tensor], key: str) -> tuple[int, ...]:
    """A tensor's shape. Raises `ValueError` when the checkpoint has no such key."""
    if key not in state:
        raise ValueError(f"the checkpoint lacks {key}: it is of another model")
    return tuple(int(n) for n in state[key].shape)


def count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    """How many numbers a pattern with one group meets among the keys: ``r"blocks\\.(\\d+)\\."`` counts the blocks."""
    return len({m.group(1) for key in state if (m := re.match(pattern, key))})


def ready(module: torch.nn.Module, device: str, dtype: str = "float32") -> Any:
    """In evaluation mode, without gradients, on its device and in its type."""
    import torch

    return module.eval().requires_grad_(False).to(device=device, dtype=getattr(torch, dtype))


def sizes(**halves: Any) -> dict[str, int]:
    """The parameters of each half: modules, or lists of modules and parameters."""
    return {name: sum(_numbers(p) for p in (x if isinstance(x, list) else [x])) for name, x in halves.items()}


def _numbers(thing: Any) -> int:
    return sum(p.numel() for p in thing.parameters()) if hasattr(thing, "parameters") else thing.numel()


# ---------------------------------------------------------------------------------------------- pixels, tokens, noise


def plain(images: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    """Images [0, 1] as a tensor where the module is, in its type."""
    import torch

    first = next(module.parameters())
    return torch.from_numpy(np.ascontiguousarray(images, np.float32)).to(first.device, first.dtype)


def signed(images: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    """Images [0, 1] as a tensor in [-1, 1] where the module is, in its type."""
    return plain(images, module) * 2 - 1


def pixels(x: torch.Tensor, *, signed: bool = True) -> np.ndarray:
    """A tensor of images, in [-1, 1] or (not signed) in [0, 1], as float32 [B, 3, H, W] in [0, 1]."""
    x = x.detach().float()
    return np.asarray(((x + 1) / 2 if signed else x).clamp(0, 1).cpu().numpy())


def ids(tokens: torch.Tensor, shape: Sequence[int]) -> np.ndarray:
    """Indices as int32 of a shape."""
    return np.asarray(tokens.detach().reshape(tuple(shape)).cpu().numpy(), np.int32)


def tensor(array: np.ndarray, module: torch.nn.Module) -> torch.Tensor:
    """Indices as int64 where the module is."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(array)).long().to(next(module.parameters()).device)


def seed(seeds: Sequence[int] | None, i: int) -> torch.Generator:
    """The generator of image i, on the CPU; torch's own generators are set likewise, for upstream code that draws from them."""
    import torch

    number = int(seeds[i]) if seeds is not None else i
    torch.manual_seed(number)
    return torch.Generator("cpu").manual_seed(number)


def stream(
    name: str, kind: str, layout: str, sizes: Sequence[int], shape: Sequence[int], **flags: bool
) -> dict[str, Any]:
    """One stream of `describe`."""
    return {"name": name, "kind": kind, "layout": layout, "sizes": list(sizes), "shape": list(shape), **flags}


def save(module: torch.nn.Module, path: str | Path, *keys: str, drop: Sequence[str] = ()) -> str:
    """Write a module's state under the given keys, one inside the other; for `small`."""
    import torch

    state: Any = {k: v for k, v in module.state_dict().items() if not _matches(k, drop)}
    for key in reversed(keys):
        state = {key: state}
    torch.save(state, path)
    return str(path)
