"""Canonical ids of known sets, so that class folders and a flat folder of the same images are one dataset."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from vtbench import parse
from vtbench.errors import BadData

KNOWN = Path(__file__).with_name("known.toml")


@functools.cache
def _patterns() -> tuple[re.Pattern[str], ...]:
    return tuple(re.compile(rule["id"]) for rule in parse.toml(KNOWN, BadData)["sets"])


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
