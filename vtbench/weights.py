"""Weights files: where they lie, what they are (digests), and how they are read without running anybody's code.

The search path is VTBENCH_WEIGHTS (folders, separated as in PATH), then the platform cache, then the hub's cache. A relative name such as
``owner/name/model.safetensors`` is looked for in every folder as ``owner/name/model.safetensors`` and ``name/model.safetensors``, and in the
hub's cache as that file of the repository ``owner/name``. Nothing here fetches.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.checkpoint import State, read, unwrap
from vtbench.errors import BadWeights, MissingWeights

if TYPE_CHECKING:
    import torch

__all__ = ["KeyReport", "State", "digest", "find", "load_state", "load_strict", "read_state", "state_digest", "unwrap"]

ENVIRONMENT = "VTBENCH_WEIGHTS"
_SETTLED = 2.0  # seconds after which a file's time stamp tells two versions apart on any file system
_digests: dict[tuple[str, int, int, int], str] = {}

# -------------------------------------------------------------------------------------------------- where


def folders() -> list[Path]:
    """The folders that weights are looked for in, the hub's cache not among them."""
    named = [Path(f).expanduser() for f in os.environ.get(ENVIRONMENT, "").split(os.pathsep) if f]
    return [*named, cache_folder()]


def cache_folder() -> Path:
    """Where vtbench itself keeps the weights that it is told to fetch."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("vtbench", appauthor=False)) / "weights"


def hub_cache() -> Path:
    """The Hugging Face hub's cache folder, as its own library finds it."""
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def hub_snapshot(repository: str) -> Path | None:
    """The cached snapshot of a hub repository ``owner/name`` (its `main` where that is known, else the newest), or None."""
    root = hub_cache() / f"models--{repository.replace('/', '--')}"
    main = root / "refs" / "main"
    if main.is_file():
        found = root / "snapshots" / main.read_text("utf-8").strip()
        if found.is_dir():
            return found
    snapshots = [p for p in (root / "snapshots").glob("*") if p.is_dir()]
    return max(snapshots, key=lambda p: p.stat().st_mtime) if snapshots else None


def _candidates(name: str) -> Iterator[Path]:
    parts = Path(name).parts
    shorter = [Path(*parts[i:]) for i in (0, 1) if len(parts) > i + 1 or i == 0]
    for folder in folders():
        for relative in shorter:
            yield folder / relative
    if len(parts) >= 3:
        snapshot = hub_snapshot("/".join(parts[:2]))
        if snapshot is not None:
            yield snapshot.joinpath(*parts[2:])


def find(names: str | Iterable[str], *, digest: str | None = None, what: str = "", way_out: str = "") -> Path:
    """The first file (or folder) on the search path that bears one of the names.

    names: one or several relative paths, tried in order; an existing absolute path stands for itself. digest: hex digits of the sha256 (with or
    without ``sha256:``) that the file must have; others are passed over. what: whose weights they are, and way_out: for the message. Raises `MissingWeights`."""
    wanted = [names] if isinstance(names, str) else list(names)
    pin = (digest or "").removeprefix("sha256:")
    passed: list[Path] = []
    for name in wanted:
        for path in [Path(name)] if Path(name).is_absolute() else _candidates(name):
            if not path.exists():
                continue
            if pin and not _digest_of(path).startswith(f"sha256:{pin}"):
                passed.append(path)
                continue
            return path
    listed = " or ".join(wanted)
    told = f"of {what} ({listed})" if what else listed
    if passed:
        raise MissingWeights(
            f"the file {told} with sha256 {pin[:12]}... is not there: {passed[0]} has another digest",
            way_out or f"Put the right file in a folder of {ENVIRONMENT}",
        )
    raise MissingWeights(
        f"no weights {told} on the search path", way_out or f"Put the file in a folder and name it in {ENVIRONMENT}"
    )


def here(name: str) -> bool:
    """Whether a name is on the search path, or a hub repository ``owner/name`` in the hub's cache."""
    if any(path.exists() for path in _candidates(name)):
        return True
    return name.count("/") == 1 and hub_snapshot(name) is not None


# -------------------------------------------------------------------------------------------------- digests


def digest(path: Path | str) -> str:
    """``sha256:<64 hex>`` of a file's bytes, remembered by (path, size, time stamp, inode).

    A folder's digest is that of its files' relative paths and digests. A file that was written moments ago is read again each time, since its
    time stamp cannot yet tell a second version apart."""
    path = Path(path)
    if not path.exists():
        raise MissingWeights(f"no weights file {path}")
    return _digest_of(path)


def _digest_of(path: Path) -> str:
    if path.is_dir():
        listing = hashlib.sha256()
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            listing.update(f"{file.relative_to(path).as_posix()}\0{_digest_of(file)}\n".encode())
        return f"sha256:{listing.hexdigest()}"
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if key in _digests:
        return _digests[key]
    hashed = hashlib.sha256()
    with path.open("rb") as content:
        while block := content.read(1 << 22):
            hashed.update(block)
    found = f"sha256:{hashed.hexdigest()}"
    if time.time() - stat.st_mtime > _SETTLED:
        _digests[key] = found
    return found


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """While a file is read and its digest taken: both are of one state of it. Raises `BadWeights` when it was written to meanwhile."""
    before = _written(path)
    yield
    if _written(path) != before:
        raise BadWeights(f"{path} was written to while it was read", "Run again when it is whole")


def _written(path: Path) -> tuple[int, int, int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def joint_digest(paths: Sequence[Path]) -> str:
    """One digest of several files, by their order and bytes: a model whose weights lie in two files. One file: its own digest."""
    if len(paths) == 1:
        return digest(paths[0])
    joined = hashlib.sha256("\n".join(digest(p) for p in paths).encode())
    return f"sha256:{joined.hexdigest()}"


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
    """``sha256:<64 hex>`` of a state dict: names, dtypes, shapes and bytes, in the order of the names."""
    import torch

    hashed = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()  # sharded: every rank gathers it, in this order
        tensor = tensor.cpu().contiguous()
        hashed.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        if tensor.numel():
            hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{hashed.hexdigest()}"


# -------------------------------------------------------------------------------------------------- states


def read_state(path: Path | str, *, key: str = "auto", allow_code: bool = False, prefixes: Sequence[str] = ()) -> State:
    """The state dict of a checkpoint file, with the notes on how it was come by. See `vtbench.checkpoint.read` and `unwrap`.

    prefixes: where a tokenizer lies inside a whole model, the tensors under the first prefix that is there (`""`: all) are taken, without it; of
    safetensors files and of a sharded checkpoint (its ``*.index.json``, or a folder that holds one) nothing else is read."""
    path = Path(path)
    state = unwrap(read(path, allow_code=allow_code, prefixes=prefixes), key, where=str(path))
    prefix = next((p for p in prefixes if any(n.startswith(p) for n in state.tensors)), "")
    if prefix:
        state.tensors = {n[len(prefix) :]: t for n, t in state.tensors.items() if n.startswith(prefix)}
        state.notes.append(f"took the tensors under '{prefix}'")
    return state


def load_state(path: Path | str, *, key: str = "auto", allow_code: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint file by name, on the CPU, wrapper prefixes stripped. Raises `MissingWeights`, `BadWeights`."""
    return read_state(path, key=key, allow_code=allow_code).tensors


# -------------------------------------------------------------------------------------------------- into modules


@dataclass(frozen=True)
class KeyReport:
    """What became of a state dict's keys. loaded: how many tensors; dropped: those that the drop list names."""

    loaded: int
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _listed(names: Sequence[str], most: int = 4) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def key_problems(wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> list[str]:
    """How two layouts (names to shapes) differ: up to three phrases, each naming a few keys; empty when they agree."""
    missing = [k for k in wanted if k not in found]
    unexpected = [k for k in found if k not in wanted]
    shaped = [
        f"{k} {list(found[k])} (wanted {list(wanted[k])})"
        for k in wanted
        if k in found and list(wanted[k]) != list(found[k])
    ]
    problems = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shaped)):
        if names:
            problems.append(f"{len(names)} {what}: {_listed(names)}")
    return problems


def load_strict(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    drop: Iterable[str] = (),
    where: str = "the weights",
    assign: bool = False,
) -> KeyReport:
    """Load a state dict into a module; every key must fit, by name and shape.

    drop: patterns (``loss.*``) of keys that are known to be of no use here. assign: take the tensors themselves (for modules on the meta
    device) instead of copying into the module's own, which keeps the module's dtype. Raises `BadWeights` naming a few keys of each fault and,
    where the keys tell, the model that the file is of."""
    patterns = list(drop)
    dropped = tuple(k for k in state if any(fnmatchcase(k, p) for p in patterns))
    kept = {k: v for k, v in state.items() if k not in set(dropped)}
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    problems = key_problems(wanted, {k: tuple(v.shape) for k, v in kept.items()})
    if problems:
        from vtbench.zoo.recognise import recognise

        guess = recognise(kept)
        raise BadWeights(
            f"{where} does not fit {type(module).__name__}: {'; '.join(problems)}",
            f"Its keys look like {guess}: try --model {guess}"
            if guess
            else "It is of another model, or another version",
        )
    module.load_state_dict(kept, strict=True, assign=assign)
    return KeyReport(len(kept), dropped)
