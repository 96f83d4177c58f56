"""Streams as a short string, so that stored token rows say what they hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

from vtbench.api import Stream

_FLAGS = ("ordered", "residual", "shared_index")


def spell(streams: Sequence[Stream]) -> str:
    """The streams as JSON: ``[name, kind, layout, sizes, shape, flags]`` each. `read` gives them back."""
    rows = [
        [s.name, s.kind, s.layout, list(s.sizes), list(s.shape), [f for f in _FLAGS if getattr(s, f)]] for s in streams
    ]
    return json.dumps(rows, separators=(",", ":"))


def read(text: str) -> tuple[Stream, ...]:
    """The streams that `spell` wrote."""
    return tuple(
        Stream(name, kind, layout, tuple(sizes), tuple(shape), **dict.fromkeys(flags, True))
        for name, kind, layout, sizes, shape, flags in json.loads(text)
    )
