"""Metric networks are part of the protocol: found on the weights path, and refused when their digest is not one that is pinned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vtbench import weights
from vtbench.errors import BadWeights


def pinned(what: str, files: Mapping[str, str], way_out: str) -> tuple[Path, str]:
    """Path and digest of the first file of `files` that is there.

    what: the network, for messages ("the alex trunk of LPIPS"). files: name (or relative path) -> ``sha256:...``, whole or its first
    digits. Raises `MissingWeights` when none is there, and `BadWeights` when the one that is there is another file."""
    path = weights.find(tuple(files), what=what, way_out=way_out)
    digest = weights.digest(path)
    wanted = [pin for name, pin in files.items() if path.as_posix().endswith(name)] or list(files.values())
    if not any(digest.startswith(pin) for pin in wanted):
        raise BadWeights(
            f"{path} is not {what} that the protocol pins ({digest[:19]}..., not {wanted[0][:19]}...)", way_out
        )
    return path, digest
