"""Errors that a user can act on: one line with what was found, and one with the way out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LISTED = ("model", "suite", "metric", "result")  # kinds of names that a command lists


class VtbenchError(Exception):
    """A failure whose cause is known. The command line prints it as one line and exits with `code`."""

    code = 1

    def __init__(self, message: str, way_out: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.way_out = way_out

    def __str__(self) -> str:
        return f"{self.message}. {self.way_out}" if self.way_out else self.message


class UsageError(VtbenchError):
    """The command or its arguments are wrong (exit code 2)."""

    code = 2


class OwnCode(UsageError):
    """A function of the user's own raised something: told with its line, and no reason for `watch` to give up."""


class UnknownName(UsageError):
    """A name that no registry knows; carries the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        plain: dict[str, str] = {}
        for known_name in names:
            plain.setdefault(known_name.lower(), known_name)
        near = [plain[n] for n in difflib.get_close_matches(name.lower(), plain, n=3, cutoff=0.55)]
        if near:
            way_out = f"Did you mean {' or '.join(near)}?"
        elif kind in LISTED:
            way_out = f"`vtbench {kind}s list` shows them all"
        else:
            way_out = (
                f"Known: {', '.join(names[:20])}{', ...' if len(names) > 20 else ''}" if names else "None is known"
            )
        super().__init__(f"unknown {kind} '{name}'", way_out)
        self.near = near


class MissingPackage(VtbenchError):
    """An optional package is absent; the way out is the exact install command."""

    def __init__(self, package: str, extra: str, wanted_by: str) -> None:
        super().__init__(f"{wanted_by} needs the package '{package}'", f"pip install 'vtbench[{extra}]'")
        self.package, self.extra = package, extra


class MissingWeights(VtbenchError):
    """A weights file is nowhere on the search path."""


class BadWeights(VtbenchError):
    """A weights file that is cut short, of another model, or of an unknown digest where digests are pinned."""


class BadData(VtbenchError):
    """A dataset or an annotation that cannot be used as a whole."""


class BadSample(VtbenchError):
    """One sample cannot be used: counted and named, the rest goes on (`--strict` stops instead)."""


class LostBatch(BadSample):
    """The model was lost on a batch through nobody's fault that is known (a worker process died or hung): its samples are counted and named, and measured anew by the next run."""


class Unread(BadSample):
    """A sample could not be read now, through nobody's fault that is known (an I/O error, a hang, no memory): counted and named, and
    tried again by the next run."""


class BadRecord(VtbenchError):
    """A record that cannot be read: damaged, or of another schema."""
