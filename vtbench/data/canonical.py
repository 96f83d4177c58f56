"""Canonical ids of known sets, so that class folders and a flat folder of the same images are one dataset."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

KNOWN = Path(__file__).with_name("known.toml")


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        import tomli as tomllib  # type: ignore[no-redef]

    with open(KNOWN, "rb") as file:
        return tuple(re.compile(rule["id"]) for rule in tomllib.load(file)["sets"])


def canonical_ids(ids: Sequence[str]) -> list[str]:
    """The ids, cut to the canonical stem where every one of them is of the same known set; otherwise as they are."""
    for pattern in _patterns():
        stems = []
        for id_ in ids:
            match = pattern.fullmatch(id_)
            if match is None:
                break
            stems.append(match.group("stem"))
        else:
            return stems
    return list(ids)
