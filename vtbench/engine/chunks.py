"""Chunks: fixed runs of consecutive samples, the unit of work, resume and distribution."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Chunk:
    """Samples ``start .. start + len(samples)`` of the run. `key` is their content: the (id, digest) pairs in order."""

    index: int
    start: int
    samples: tuple[Any, ...]
    key: str


def cut(samples: Sequence[Any], size: int, *, conditions: bool = False) -> list[Chunk]:
    """Cut samples into chunks of `size`; the last one may be shorter, and nothing is padded or dropped.

    conditions: the model sees labels and captions, which a sample's digest leaves out: they join the key."""
    chunks = []
    for index, start in enumerate(range(0, len(samples), size)):
        part = tuple(samples[start : start + size])
        text = "\n".join(f"{s.id}\t{s.digest}" + (f"\t{s.label}\t{s.caption}" if conditions else "") for s in part)
        chunks.append(Chunk(index, start, part, hashlib.sha256(text.encode()).hexdigest()[:16]))
    return chunks
