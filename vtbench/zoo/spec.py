"""What stands after ``--model``, taken apart: a name, the bare word after the colon, parameters, the token budget."""

from __future__ import annotations

import importlib.util
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any

from vtbench.errors import UnknownName, UsageError

FRAME = ("card", "weights", "state_key", "allow_code", "budget", "at", "upstream")
_PAIR = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A parsed spec. at: the word after the colon that is no ``key=value`` (a path, a hub id, a function). params: still text. state_key: which state
    of a checkpoint, where the spec itself says so."""

    text: str
    name: str
    at: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    budget: int | None = None
    state_key: str = ""

    def is_code(self) -> bool:
        """Whether the name is a Python file or module rather than a system of the zoo."""
        if self.name.endswith(".py"):
            return True
        if not self.at or "/" in self.name:
            return False
        from vtbench.zoo.catalogue import known

        return not known(self.name) and ("." in self.name or _module_there(self.name))

    def label(self) -> str:
        """The spec without what was not asked for and without the budget: ``jpeg:quality=30``."""
        name = self.short() if self.is_code() else self.name
        words = [self.at] if self.at and not self.is_code() else []
        words += [f"{key}={self.params[key]}" for key in sorted(self.params)]
        words += [f"state_key={self.state_key}"] if self.state_key else []
        return f"{name}:{','.join(words)}" if words else name

    def short(self) -> str:
        """A name for a user's own function: ``mine.py:build`` is `mine:build`."""
        return f"{Path(self.name).stem if self.name.endswith('.py') else self.name}:{self.at}"


def _module_there(name: str) -> bool:
    """Whether a Python module of this name is installed or lies in the present folder."""
    return (
        Path(f"{name}.py").is_file()
        or Path(name, "__init__.py").is_file()
        or importlib.util.find_spec(name) is not None
    )


def parse(text: str) -> Spec:
    """Take a spec apart: ``name``, ``name:k=v,k=v``, ``name:PATH,k=v``, ``FILE.py:build,k=v``, ``pkg.mod:attr``. ``tokens=K`` is the budget
    and ``state_key=ema`` the state of a checkpoint.

    Raises `UsageError` for two bare words, a key given twice, or a budget that is not a positive number."""
    text = text.strip()
    name, _, rest = text.partition(":")
    if not name:
        raise UsageError("--model names nothing", "`vtbench models list` shows what there is")
    at, params, budget = "", {}, None
    for piece in filter(None, (p.strip() for p in rest.split(","))):
        pair = _PAIR.fullmatch(piece)
        if pair is None:
            if at:
                raise UsageError(
                    f"'{text}': both '{at}' and '{piece}' stand after the colon without a name",
                    "Parameters are key=value",
                )
            at = piece
            continue
        key, value = pair.groups()
        if key in params or (key == "tokens" and budget is not None):
            raise UsageError(f"'{text}' gives {key} twice")
        if key == "tokens":
            if not value.isdigit() or int(value) < 1:
                raise UsageError(f"'{text}': tokens is a number of tokens, at least 1, not '{value}'")
            budget = int(value)
        else:
            params[key] = value
    return Spec(
        text, name, at, {k: v for k, v in params.items() if k != "state_key"}, budget, params.get("state_key", "")
    )


def with_states(specs: Sequence[str], state_key: str) -> list[str]:
    """The specs to measure under ``--state-key``: `both` makes two of each, the plain weights and their moving average."""
    if state_key != "both":
        return list(specs)
    return [f"{spec}{',' if ':' in spec else ':'}state_key={key}" for spec in specs for key in ("model", "ema")]


def user_params(
    make: Callable[..., Any], asked: Spec, offered: Mapping[str, Any], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to call an adapter with: the frame's own arguments that it takes, and the user's parameters with defaults filled in.

    defaults: the card's, which stand before the signature's. Raises `UnknownName` for a parameter that the adapter does not have, `UsageError` for a value of the wrong
    type, a missing parameter, or a bare word that it does not take."""
    signature = inspect.signature(make)
    try:
        hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)  # type: ignore[misc]
    except (NameError, TypeError):
        hints = {}
    own = {n: p for n, p in signature.parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    anything = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    passed = {n: v for n, v in offered.items() if n in own and (v not in (None, "") or own[n].default is own[n].empty)}
    if asked.at and "at" not in own and not asked.is_code():
        known = ", ".join(n for n in own if n not in FRAME) or "none"
        raise UsageError(
            f"'{asked.text}': {asked.name} takes parameters as key=value, not '{asked.at}'", f"It has: {known}"
        )
    settable = {n: p for n, p in own.items() if n not in FRAME}
    params: dict[str, Any] = {}
    for name, text in asked.params.items():
        if name not in settable:
            if not anything:
                raise _unknown(asked.name, name, list(settable))
            params[name] = _literal(text)
        else:
            start = defaults.get(name, settable[name].default)
            params[name] = _typed(text, start, hints.get(name), f"{asked.name}:{name}")
    for name, parameter in settable.items():
        if name in params:
            continue
        if name in defaults:
            params[name] = defaults[name]
        elif parameter.default is not parameter.empty:
            params[name] = parameter.default
        else:
            raise UsageError(
                f"{asked.name} needs the parameter {name}",
                f"--model {asked.text}{',' if ':' in asked.text else ':'}{name}=...",
            )
    missing = [n for n in ("at",) if n in own and not asked.at and own[n].default is own[n].empty]
    if missing:
        raise UsageError(f"{asked.name} needs a path or name after the colon", f"--model {asked.name}:PATH")
    return passed, dict(sorted(params.items()))


def _unknown(model: str, name: str, known: Sequence[str]) -> UnknownName:
    error = UnknownName(f"parameter of {model}", name, known)
    if not error.near:
        error.way_out = f"It has: {', '.join(known)}" if known else "It has none"
    return error


def _literal(text: str) -> Any:
    """A value without a declared type: true/false, a number, or the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _typed(text: str, default: Any, hint: Any, where: str) -> Any:
    """Text as the type that the parameter has."""
    kinds: tuple[Any, ...]
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        chosen = next((a for a in allowed if str(a) == text), None)
        if chosen is None:
            raise UsageError(f"{where} is one of {', '.join(map(str, allowed))}, not '{text}'")
        return chosen
    if typing.get_origin(hint) in (typing.Union, UnionType):
        kinds = typing.get_args(hint)
    elif hint is not None:
        kinds = (hint,)
    else:
        kinds = (type(default),) if default is not inspect.Parameter.empty and default is not None else ()
    if type(None) in kinds and text.lower() in ("none", ""):
        return None
    for kind in kinds:
        if kind is bool:
            if text.lower() in ("true", "false", "1", "0", "yes", "no"):
                return text.lower() in ("true", "1", "yes")
        elif kind in (int, float):
            try:
                return kind(text)
            except ValueError:
                continue
        elif kind in (str, Path):
            return kind(text)
    if not kinds or kinds == (Any,):
        return _literal(text)
    wanted = " or ".join(getattr(k, "__name__", str(k)) for k in kinds if k is not type(None))
    raise UsageError(f"{where} is {wanted}, not '{text}'")
