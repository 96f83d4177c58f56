"""Making an environment for an upstream system: say what it takes, do it when told, try it, and note it down."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench.errors import UsageError, VtbenchError
from vtbench.zoo.upstream import place
from vtbench.zoo.upstream.place import Place, Recipe
from vtbench.zoo.upstream.process import Fault, Process

if TYPE_CHECKING:
    from vtbench.zoo.card import Card

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a setup would do. source: the checkout, the user's own when `clone` is false. python: the interpreter in use, or the one that a `venv` is made with."""

    card: Card
    recipe: Recipe
    folder: Path
    source: Path
    clone: bool
    python: str
    venv: bool

    @property
    def interpreter(self) -> str:
        """The interpreter that the worker will run in."""
        return str(self.folder / "venv" / "bin" / "python") if self.venv else self.python


def plan(card: Card, upstream: Path | None = None, python: str | None = None) -> Plan:
    """The plan for a card. upstream: a checkout of the user's instead of a clone. python: an interpreter whose environment has the packages already. Raises `UsageError`
    for a system that needs no setup, and for a folder or interpreter that is not there."""
    recipe = card.recipe()
    if recipe is None:
        raise UsageError(
            f"{card.name} needs no setup: it does not run through its authors' code", f"vtbench models show {card.name}"
        )
    if upstream is not None and not upstream.expanduser().is_dir():
        raise UsageError(f"no folder {upstream}", "Look at what stands after --upstream")
    if python is not None and shutil.which(python) is None:
        raise UsageError(f"no interpreter {python}", "Look at what stands after --python")
    folder = place.folder(recipe.driver)
    source = upstream.expanduser().absolute() if upstream is not None else folder / "source"
    found = str(Path(str(shutil.which(python))).absolute()) if python else sys.executable
    return Plan(card, recipe, folder, source, upstream is None, found, python is None)


def told(plan: Plan, versions: Sequence[str] = ()) -> list[str]:
    """The plan for people. versions: the exact ones, where they were asked for (`resolved`)."""
    card, recipe = plan.card, plan.recipe
    lines = [f"{card.title or card.name}: its authors' code runs in a process of its own, with your rights"]
    on_card = f"code: {card.code_licence or 'not stated'}; weights: {card.weights_licence or 'not stated'}"
    lines.append(f"licence: {recipe.licence or on_card}")
    if plan.clone:
        lines.append(
            f"clone: {recipe.repository} at {recipe.commit}{' with its submodules' if recipe.submodules else ''} -> {plan.source}"
        )
    else:
        lines.append(
            f"code: {plan.source} ({place.commit_of(plan.source)}; the driver was written for {recipe.commit})"
        )
    if plan.venv:
        lines.append(
            f"environment: {plan.folder / 'venv'}, made with {plan.python} (the code asks for Python {recipe.python})"
        )
        lines.append(f"packages from PyPI: {', '.join(versions or recipe.packages)}")
        if recipe.size:
            lines.append(f"size: {recipe.size}")
    else:
        lines.append(f"environment: {plan.python} as it is; it must have {', '.join(recipe.packages)}")
    if recipe.note:
        lines.append(f"note: {recipe.note}")
    for file in card.files_for():
        where = (
            f"huggingface.co/{file.repository}: {file.path or 'the whole repository'}" if file.repository else file.url
        )
        lines.append(f"not part of this, {file.role}: {where or ' or '.join(file.names)}")
    return lines


def resolved(plan: Plan) -> list[str]:
    """The exact versions that pip would install now, ``name==version``. Raises `VtbenchError` when pip cannot tell (no network, nothing that fits)."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [plan.python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        _run([*command, "--report", str(report), *plan.recipe.packages], "ask pip for the versions")
        table = json.loads(report.read_text("utf-8"))
    return sorted(f"{i['metadata']['name']}=={i['metadata']['version']}" for i in table["install"])


def make(plan: Plan, versions: Sequence[str] = (), say: Say = lambda line: None) -> Place:
    """Do it. What an earlier attempt left in the folder is replaced; the record is written last, so that an interrupted attempt counts as none. Raises `VtbenchError`
    with the command that failed and its last words."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / place.RECORD).unlink(missing_ok=True)
    if plan.clone:
        say(f"cloning {plan.recipe.repository}")
        _clone(plan)
    if plan.venv:
        say(f"making {plan.folder / 'venv'}")
        shutil.rmtree(plan.folder / "venv", ignore_errors=True)
        _run([plan.python, "-m", "venv", str(plan.folder / "venv")], "make the environment")
        say("installing the packages (minutes)")
        _run([plan.interpreter, "-m", "pip", "install", *(versions or plan.recipe.packages)], "install the packages")
    say("trying it")
    say(attempt(plan))
    made = Place(plan.interpreter, str(plan.source), place.commit_of(plan.source), tuple(_frozen(plan.interpreter)))
    place.record(plan.recipe.driver, made)
    return made


def _clone(plan: Plan) -> None:
    """The one commit, without history."""
    shutil.rmtree(plan.source, ignore_errors=True)
    plan.source.mkdir(parents=True)
    recipe, at = plan.recipe, ["git", "-C", str(plan.source)]
    _run([*at, "init", "--quiet"], "make the checkout")
    _run([*at, "fetch", "--quiet", "--depth", "1", recipe.repository, recipe.commit], f"fetch {recipe.repository}")
    _run([*at, "checkout", "--quiet", "FETCH_HEAD"], "check the commit out")
    if recipe.submodules:
        _run([*at, "submodule", "update", "--init", "--recursive", "--depth", "1"], "fetch the submodules")


def attempt(plan: Plan) -> str:
    """Encode and decode one image with a tiny model of random weights, in a worker; what came of it in a line. Raises `VtbenchError` when it does not work."""
    import numpy as np

    process = Process(plan.interpreter, plan.card.name)

    def ask(header: dict[str, Any], **arrays: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        reply, out = process.ask(header, arrays)
        if "error" in reply:
            error = reply["error"]
            lacking = (
                f"it lacks the package '{error['module']}'"
                if error["module"]
                else f"{error['type']}: {error['message']}"
            )
            process.leave()
            raise VtbenchError(
                f"the environment does not work: {' '.join(lacking.split())[:400]}", f"log: {process.log}"
            )
        return reply, out

    try:
        with tempfile.TemporaryDirectory() as folder:
            where = {"source": str(plan.source)}
            folders = [str(plan.source / f) for f in plan.recipe.subfolders] or [str(plan.source)]
            ask({"op": "open", "driver": str(plan.recipe.driver_file()), "path": folders})
            if not hasattr(place.driver(plan.recipe.driver_file()), "small"):
                return "it starts; it has no small model to try"
            small, _ = ask({"op": "small", **where, "folder": folder, "seed": 0})
            arguments = {**where, "weights": small["weights"], "device": "cpu", "dtype": "float32", **small["params"]}
            reply, _ = ask({"op": "load", "arguments": arguments})
            side = int(reply["description"].get("resolution") or 256)
            image = np.random.default_rng(0).random((1, 3, side, side), dtype=np.float32)
            options = {"seeds": [0]} | ({"captions": [None]} if reply["description"].get("needs_caption") else {})
            _, tokens = ask({"op": "encode", "options": options}, images=image)
            ask({"op": "decode", "options": options}, **tokens)
    except Fault as fault:
        raise VtbenchError(f"the environment does not work: the worker {fault}") from fault
    process.close()
    return "one image encoded and decoded by a small model with random weights"


def _frozen(python: str) -> list[str]:
    """The packages of an environment, as pip lists them; nothing where it has no pip."""
    done = subprocess.run([python, "-m", "pip", "freeze"], capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []


def _run(command: Sequence[str], what: str) -> None:
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    except OSError as error:
        raise VtbenchError(f"cannot {what}: {command[0]}: {error.strerror}", f"Install {command[0]}") from error
    if done.returncode:
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
        raise VtbenchError(f"cannot {what} ({' '.join(command[:6])} ...): {' '.join(lines[-2:])[-400:]}")
