"""A user's own tokenizer or generator: ``FILE.py:build,k=v`` or ``pkg.mod:attr,k=v``, any function (or class) that returns one."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtbench.api import Model
from vtbench.errors import MissingPackage, OwnCode, UnknownName, UsageError, VtbenchError
from vtbench.zoo.spec import Spec


def load_callable(asked: Spec) -> Callable[..., Any]:
    """The function that a spec names; an attribute that is a model already is wrapped in one. The file runs: naming it is the permission."""
    if not asked.at:
        raise UsageError(f"'{asked.text}' names a file but no function in it", f"--model {asked.name}:build")
    module = _file(Path(asked.name)) if asked.name.endswith(".py") else _module(asked.name)
    if not hasattr(module, asked.at):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise UnknownName(f"function of {asked.name}", asked.at, public)
    thing = getattr(module, asked.at)
    if isinstance(thing, Model):
        return lambda: thing
    if not callable(thing):
        raise UsageError(
            f"{asked.name}:{asked.at} is a {type(thing).__name__}, not a function that returns a tokenizer or generator"
        )
    made: Callable[..., Any] = thing
    return made


def _file(path: Path) -> Any:
    if not path.is_file():
        raise UsageError(f"no Python file {path}")
    name = f"vtbench_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look their module up there
    # Its own folder, as `python FILE.py` would have it, so that it can import what lies beside it.
    if str(path.resolve().parent) not in sys.path:
        sys.path.append(str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{path} imports '{error.name}', which is not installed", f"pip install {error.name}"
        ) from error
    except SyntaxError as error:
        raise UsageError(f"{path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:
        if isinstance(error, VtbenchError):
            raise
        raise blamed(error, str(path)) from error
    return module


def blamed(error: Exception, what: str) -> OwnCode:
    """An exception of a user's own code as one line: what it said, and in which line of which file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return OwnCode(
        f"{what} raised {type(error).__name__}: {error} ({Path(last.filename).name}, line {last.lineno})",
        "VTBENCH_DEBUG=1 shows its traceback",
    )


def _module(name: str) -> Any:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (error.name == name or name.startswith(f"{error.name}.")):
            raise UsageError(
                f"no Python module '{name}'",
                "A file is FILE.py:build; a system of the zoo is a name from `vtbench models list`",
            ) from error
        raise MissingPackage(str(error.name), "zoo", name) from error
