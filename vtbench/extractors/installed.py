"""Whether an optional package is there, without importing it."""

from __future__ import annotations

import importlib.util

from vtbench.errors import MissingPackage


def require(module: str, package: str, extra: str, wanted_by: str) -> None:
    """Raise `MissingPackage` with the install command when `module` cannot be imported."""
    if importlib.util.find_spec(module) is None:
        raise MissingPackage(package, extra, wanted_by)
