"""Opens checkpoint files without running code: safetensors, and torch files through the weights-only unpickler and a short allow-list.

Training checkpoints often carry their arguments beside the weights. Of those, `argparse.Namespace`, pathlib's paths, OmegaConf's containers
and NumPy's plain scalars are let in; Lightning's class references become inert stand-ins. Everything else is refused by its class name.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import pathlib
import pickle
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench import parse
from vtbench.damage import BROKEN, reason
from vtbench.errors import BadWeights, MissingWeights

if TYPE_CHECKING:
    import torch

FLAG = "--allow-code"


class Inert:
    """Stands for a class that a checkpoint mentions and that weights do not need: holds nothing, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


_INERT = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
)
_OMEGACONF = {
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.base": ("ContainerMetadata", "Metadata"),
    "omegaconf.nodes": ("AnyNode", "BooleanNode", "FloatNode", "IntegerNode", "StringNode", "PathNode", "BytesNode"),
}


def _allowed() -> list[Any]:
    """Classes and (stand-in, name) pairs beyond what torch itself takes for plain data."""
    allowed: list[Any] = [argparse.Namespace, pathlib.PurePosixPath, collections.defaultdict, typing.Any]
    allowed += [(pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")]
    allowed += [(pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")]
    allowed += [(Inert, name) for name in _INERT]
    allowed += [(kind, f"builtins.{kind.__name__}") for kind in (dict, list, tuple, set, str, int, float, bool, bytes)]
    import importlib.util

    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    allowed += [np.dtype, *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"}]
    if importlib.util.find_spec("omegaconf") is not None:
        for module, names in _OMEGACONF.items():
            found = importlib.import_module(module)
            allowed += [getattr(found, name) for name in names if hasattr(found, name)]
    return allowed


@contextlib.contextmanager
def _safe_globals() -> Iterator[None]:
    """torch's own mechanism, where this version has it (2.5 on); older ones take plain data alone."""
    import torch

    manager = getattr(torch.serialization, "safe_globals", None)
    with manager(_allowed()) if manager is not None else contextlib.nullcontext():
        yield


def read(path: Path, *, allow_code: bool = False, prefixes: Sequence[str] = ()) -> Any:
    """What a checkpoint file holds, tensors on the CPU.

    prefixes: of safetensors files, and of the shards that an ``*.index.json`` names, read only the tensors under the first prefix that is there.

    allow_code: unpickle a torch file in full, which runs whatever code it carries; only for files that the user trusts. Raises `MissingWeights`
    when there is no such file and `BadWeights` when it is cut short, no checkpoint, or holds something that would have to be executed."""
    if path.is_dir() and (index := next(iter(sorted(path.glob("*.safetensors.index.json"))), None)):
        path = index
    if path.name.endswith(".index.json"):
        return _shards(path, prefixes)
    if path.is_dir():
        raise BadWeights(f"{path} is a folder, not a weights file", "Name the file in it")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except FileNotFoundError as error:
        raise MissingWeights(f"no weights file {path}") from error
    except OSError as error:
        raise BadWeights(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise BadWeights(f"{path} is empty", "Fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise BadWeights(f"{path} is a Git LFS pointer, not the weights themselves", "Fetch the file: git lfs pull")
    if head.lstrip()[:1] == b"<":
        raise BadWeights(f"{path} is a web page, not a weights file", "The download went wrong: fetch it again")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _safetensors(path, prefixes)
    return _torch(path, head, allow_code)


def _safetensors(path: Path, prefixes: Sequence[str] = ()) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    damage: tuple[type[Exception], ...] = (*BROKEN, SafetensorError)
    try:
        with safe_open(path, "pt") as opened:
            return {name: opened.get_tensor(name) for name in _under(opened.keys(), prefixes)}
    except damage as error:
        raise BadWeights(
            f"{path} is cut short or no safetensors file ({path.stat().st_size} bytes: {reason(error)})",
            "Fetch it again",
        ) from error


def _under(names: Iterable[str], prefixes: Sequence[str]) -> list[str]:
    """The names under the first prefix that any has; all of them when none has."""
    known = list(names)
    prefix = next((p for p in prefixes if any(n.startswith(p) for n in known)), "")
    return [n for n in known if n.startswith(prefix)]


def _shards(index: Path, prefixes: Sequence[str]) -> dict[str, Any]:
    """The tensors of a sharded checkpoint; shards that hold none of those wanted are not opened, and need not be there."""
    what = f"the index {index} of a sharded checkpoint"
    found = parse.loads_json(index, BadWeights, what)
    parse.expect(found, {"weight_map": dict}, what, BadWeights)
    table = found.get("weight_map")
    if not table:
        raise BadWeights(f"{index} is no index of a sharded checkpoint: it has no weight_map", "Fetch it again")
    parse.expect(table, dict.fromkeys(table, str), what, BadWeights)
    wanted = set(_under(table, prefixes))
    out: dict[str, Any] = {}
    for name in sorted({table[n] for n in wanted}):
        shard = index.parent / Path(name).name
        if len(name) > 255 or not shard.is_file():
            raise MissingWeights(f"the shard {str(shard)[:255]} is not there", f"{index.name} names it: fetch it too")
        found = _safetensors(shard, prefixes)
        out.update({n: t for n, t in found.items() if n in wanted})
    absent = sorted(wanted - out.keys())
    if absent:
        raise BadWeights(
            f"{index.parent} lacks tensors that {index.name} names: {_listed(absent, 4)}", "Fetch the shards again"
        )
    return out


def _torch(path: Path, head: bytes, allow_code: bool) -> Any:
    import torch

    if not (head.startswith(b"PK") or head[:1] == b"\x80" or head[:1].isalpha() or head[:1] in b"(]}"):
        raise BadWeights(f"{path} is neither a safetensors file nor a torch checkpoint")
    try:
        if allow_code:
            return torch.load(path, map_location="cpu", weights_only=False)
        with _safe_globals():
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from error
    except (AttributeError, ImportError, TypeError) as error:
        raise BadWeights(f"{path} cannot be unpickled: {reason(error)}") from error
    except BROKEN as error:
        if "TorchScript" in str(error):
            raise BadWeights(f"{path} is a TorchScript program, not a state dict") from error
        raise BadWeights(
            f"{path} is cut short or damaged ({path.stat().st_size} bytes: {reason(error).split('. ')[0]})",
            "Fetch it again and compare its sha256",
        ) from error


def _refused(path: Path, message: str) -> BadWeights:
    found = re.search(r"GLOBAL\s+([\w.]+)", message) or re.search(
        r"(?:class|function|global)[\s`'<]+([\w.]+\.\w+)", message
    )
    if found:
        return BadWeights(
            f"{path} holds a {found.group(1)}, which may run code when it is opened: refused",
            f"If you trust the file, {FLAG} opens it; better, save its state dict as safetensors",
        )
    said = " ".join(message.split("Please file")[0].split())[:200]
    return BadWeights(f"{path} is damaged or no torch checkpoint ({said})", "Fetch it again")


# -------------------------------------------------------------------------------------------------- state dicts

EMA_KEYS = ("ema", "model_ema", "ema_model", "ema_state_dict", "params_ema", "state_dict_ema")
PLAIN_KEYS = (
    "model",
    "state_dict",
    "model_state_dict",
    "params",
    "module",
    "net",
    "weights",
    "vqvae",
    "vae",
    "generator",
)
WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.")


@dataclass
class State:
    """A flat state dict and how it was come by. key: the entry of the file that it is ("" when the file itself is flat)."""

    tensors: dict[str, torch.Tensor]
    key: str = ""
    notes: list[str] = field(default_factory=list)


def _tensors(value: Any) -> dict[str, Any] | None:
    """The tensors of a state dict (other entries such as `epoch` left out), or None when it has none."""
    import torch

    if hasattr(value, "items") and isinstance(value, Mapping):
        found = {str(k): v for k, v in value.items() if isinstance(v, torch.Tensor)}
        return found or None
    return None


def unwrap(content: Any, key: str = "auto", *, where: str = "the file") -> State:
    """The state dict inside whatever a checkpoint file holds.

    key: `auto` takes an EMA where there is one, else the first of the usual entries, else the file itself; `ema`, `model`, `state_dict` or any
    other name (`a.b` for nested) takes that entry. Wrapper prefixes (``module.``, ``_orig_mod.``) are stripped. `State.notes` says what was chosen
    and stripped. Raises `BadWeights` when there is no such entry or no tensor."""
    entries = list(content) if isinstance(content, Mapping) else []
    if not entries:
        raise BadWeights(f"{where} holds a {type(content).__name__}, not a state dict")
    chosen = ""
    tensors: dict[str, Any] | None
    if key == "auto":
        nested = {k: t for k in (*EMA_KEYS, *PLAIN_KEYS) if k in content and (t := _inner(content[k]))}
        flat = _tensors(content)
        chosen = next(iter(nested), "")
        tensors = nested[chosen] if chosen and not (flat and len(flat) > len(nested[chosen])) else flat
        chosen = chosen if tensors is nested.get(chosen) else ""
        others = [k for k in nested if k != chosen]
    else:
        value: Any = content
        for part in key.split(".") if key not in content else [key]:
            if not isinstance(value, Mapping) or part not in value:
                alias = next((k for k in EMA_KEYS if k in content), None) if key == "ema" else None
                if alias is None:
                    raise BadWeights(f"{where} has no entry '{key}'", f"It has {_listed([str(e) for e in entries])}")
                value = content[alias]
                break
            value = value[part]
        tensors, chosen, others = _inner(value), key, []
    if not tensors:
        raise BadWeights(
            f"{where} holds no state dict{f' under {key!r}' if key != 'auto' else ''}",
            f"Its entries are {_listed([str(e) for e in entries])}; name one with --state-key",
        )
    state = State(dict(tensors), chosen)
    if chosen in EMA_KEYS and others:
        state.notes.append(f"took the EMA weights ('{chosen}'), not '{others[0]}'")
    elif chosen and key == "auto":
        state.notes.append(f"took the entry '{chosen}'")
    _strip(state)
    return state


def _inner(value: Any) -> dict[str, Any] | None:
    """A state dict, or the one that lies one entry deeper (`ckpt["model"]["state_dict"]`)."""
    found = _tensors(value)
    if found is None and isinstance(value, Mapping):
        found = next((t for k in (*EMA_KEYS, *PLAIN_KEYS) if k in value and (t := _tensors(value[k]))), None)
    return found


def _strip(state: State) -> None:
    for prefix in ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."):
        if any(prefix in name for name in state.tensors):
            state.tensors = {name.replace(prefix, ""): t for name, t in state.tensors.items()}
            state.notes.append(f"stripped '{prefix}'")
    while prefix := next((p for p in WRAPPERS if all(n.startswith(p) for n in state.tensors)), ""):
        state.tensors = {name[len(prefix) :]: t for name, t in state.tensors.items()}
        state.notes.append(f"stripped '{prefix}'")


def _listed(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
