"""The zoo: what stands after ``--model`` becomes a `Tokenizer` or a `Generator`.

An adapter is any callable that returns a `vtbench.api.Tokenizer` or `Generator`: a class, or a function. Its keyword parameters with defaults are what the user may set after
the colon (``jpeg:quality=30``); their types come from the defaults and annotations, so a wrong name or value is told before anything is loaded. These names
are the frame's own and are passed when the signature has them:

- ``card``: the system's `Card`; ``card.locate(weights)`` gives its files by role, or raises `MissingWeights` with the way to get them;
- ``weights``: what stood after ``--weights`` (a `Path`), else None;
- ``state_key``: for `vtbench.weights.read_state`;
- ``allow_code``: whether ``--allow-code`` was given;
- ``budget``: from ``tokens=K``;
- ``at``: the bare word after the colon (``precomputed:DIR``);
- ``upstream``: what stood after ``--upstream``, a checkout of the authors' code.

An adapter with an attribute ``bound_to`` is asked for the callable that belongs to a card (`vtbench.zoo.upstream.adapter`).

The adapter sets ``revision`` (a digest of its weights, or of whatever else decides its output); the frame sets ``name``, ``params`` (defaults filled in), ``budget`` and ``card``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench.errors import UnknownName, UsageError, VtbenchError
from vtbench.zoo.spec import Spec, parse, user_params

if TYPE_CHECKING:
    from vtbench.api import Generator, Model, Tokenizer
    from vtbench.zoo.card import Card

__all__ = ["Spec", "check", "load", "parse"]


def load(spec: str, **how: Any) -> Tokenizer:
    """A tokenizer by its spec; `how` as for `load_model`. Raises `UsageError` when it is a generator."""
    from vtbench.api import Tokenizer

    model = load_model(spec, **how)
    if not isinstance(model, Tokenizer):
        raise UsageError(
            f"{model.name} is a generator: it does not encode images", f"vtbench generate --model {spec} takes it"
        )
    return model


def load_generator(spec: str, **how: Any) -> Generator:
    """A generator by its spec; `how` as for `load_model`. Raises `UsageError` when it is a tokenizer."""
    from vtbench.api import Generator

    model = load_model(spec, task="generate", **how)
    if not isinstance(model, Generator):
        raise UsageError(
            f"{model.name} is a tokenizer: it makes no images from conditions",
            f"vtbench reconstruct --model {spec} takes it",
        )
    return model


def load_model(
    spec: str,
    *,
    weights: str | Path | None = None,
    state_key: str = "auto",
    device: str = "cpu",
    dtype: str = "float32",
    allow_code: bool = False,
    upstream: str | Path | None = None,
    task: str = "",
) -> Model:
    """The model that a spec names: ``tiny:tokens=64``, ``jpeg:quality=30``, ``diffusers:FOLDER``, ``precomputed:DIR``, ``FILE.py:build,k=v``, ``pkg.mod:attr``.

    weights: a checkpoint instead of the card's. state_key: which state of it (``name:state_key=ema`` stands before). upstream: a checkout of the authors' code. task: `generate` where a name stands for a tokenizer and a generator (``diffusers:``). Raises `UnknownName` (nearest names), `UsageError` (a wrong parameter), `MissingWeights`, `BadWeights`,
    `MissingPackage`; a system that has no adapter yet raises `VtbenchError` with what is missing and how to get it."""
    from vtbench.zoo.catalogue import card as card_of

    asked = parse(spec)
    state_key = asked.state_key or state_key
    if asked.is_code():
        from vtbench.zoo.python import load_callable

        make = load_callable(asked)
        model = _make(make, asked, None, weights, state_key, allow_code, upstream)
        model.name = model.name or asked.short()
    else:
        try:
            card = card_of(asked.name)
        except UnknownName as error:
            if "/" in asked.name or Path(asked.name).exists():
                raise UsageError(
                    f"'{asked.name}' is a path, not a model",
                    "A folder of weights: diffusers:PATH; reconstructions: precomputed:DIR",
                ) from error
            raise
        model = _make(_adapter(card, task), asked, card, weights, state_key, allow_code, upstream)
        model.name = asked.name
    if not model.revision:
        raise VtbenchError(f"the model {spec} has no revision", "Its adapter must set one: a digest of its weights")
    model = model.to(device, dtype)
    if asked.budget is not None:
        if not model.capabilities.prefix:
            raise UsageError(f"{asked.name} does not decode prefixes", "Leave tokens= away")
        model.budget = asked.budget
    return model


def notes(model: Model) -> tuple[str, ...]:
    """How a model's weights were taken, for people and for the record: which entry of the file, prefixes stripped, keys dropped."""
    loaded = getattr(model, "loaded", None)
    dropped = tuple(getattr(loaded, "dropped", ()))
    told = tuple(dict.fromkeys((*getattr(model, "notes", ()), *getattr(loaded, "notes", ()))))
    return (
        (*told, f"left {len(dropped)} tensors aside ({', '.join(dropped[:3])}{', ...' if len(dropped) > 3 else ''})")
        if dropped
        else told
    )


def check(spec: str, task: str = "") -> None:
    """Raise what `load` would raise before it looks for weights: an unknown name, a system without an adapter, a missing package."""
    from vtbench.zoo.catalogue import card as card_of

    asked = parse(spec)
    if not asked.is_code() and "/" not in asked.name:
        _adapter(card_of(asked.name), task)


def _adapter(card: Card, task: str = "") -> Any:
    """The callable of a card, or the one line that says why there is none."""
    from vtbench.errors import MissingPackage

    where = card.generator if task == "generate" and card.generator else card.adapter
    why = card.why_not()
    if not where or (isinstance(where, str) and why and why == card.missing):
        raise VtbenchError(f"{card.title or card.name} does not run here: {why}", card.get or _elsewhere(card))
    if callable(where):
        return where
    for package in card.packages:
        import importlib.util

        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, card.extra, card.title or card.name)
    from vtbench.registry import resolve

    try:
        found = resolve(where)
        return found.bound_to(card) if hasattr(found, "bound_to") else found
    except ModuleNotFoundError as error:
        if error.name and not error.name.startswith("vtbench"):
            raise MissingPackage(error.name, card.extra, card.title or card.name) from error
        raise VtbenchError(
            f"{card.title or card.name} does not run here: its adapter is not part of this version", card.get
        ) from error


def _make(
    make: Any,
    asked: Spec,
    card: Card | None,
    weights: str | Path | None,
    state_key: str,
    allow_code: bool,
    upstream: str | Path | None,
) -> Model:
    from vtbench.api import Model

    offered = {
        "card": card,
        "weights": Path(weights).expanduser() if weights is not None else None,
        "state_key": state_key,
        "allow_code": allow_code,
        "budget": asked.budget,
        "at": asked.at,
        "upstream": upstream,
    }
    passed, params = user_params(make, asked, offered, card.defaults if card else {})
    try:
        made = make(**passed, **params)
    except Exception as error:
        if not asked.is_code() or isinstance(error, VtbenchError):
            raise
        from vtbench.zoo.python import blamed

        raise blamed(error, asked.text) from error
    if not isinstance(made, Model):
        raise UsageError(
            f"{asked.text} returned {type(made).__name__}, not a tokenizer or generator",
            "Return a vtbench.api.Tokenizer or Generator, or what vtbench.tokenizer(encode=..., decode=...) or vtbench.generator(sample) makes",
        )
    if not made.params:
        made.params = {k: v for k, v in params.items() if v is not None}
    if state_key != "auto" and "state_key" in passed:
        made.params = {**made.params, "state_key": state_key}
    made.card = card  # type: ignore[attr-defined]
    made.label = asked.label()  # type: ignore[attr-defined]
    return made


def _elsewhere(card: Card) -> str:
    """What a user can do with a system that has no adapter."""
    if not card.code:
        return ""
    return f"Reconstruct with {card.code} and measure the images: --model precomputed:DIR"
