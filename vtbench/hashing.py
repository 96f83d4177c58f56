"""What the hash of a sample's id decides, the same for every model and on every machine: the seed of its noise, its group of the jackknife."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def seed_of(seed: int, sample_id: str, pass_name: str) -> int:
    """The noise seed of one image: 63 bits of sha256("{seed}/{sample id}/{pass}")."""
    value = hashlib.sha256(f"{seed}/{sample_id}/{pass_name}".encode()).digest()
    return int.from_bytes(value[:8], "big") >> 1


def groups_of(ids: Sequence[str], count: int) -> list[int]:
    """The fixed jackknife group of each sample: its rank by the hash of its id, modulo `count`; equal for every model."""
    order = sorted(range(len(ids)), key=lambda i: hashlib.sha256(ids[i].encode()).digest())
    group = [0] * len(ids)
    for rank, i in enumerate(order):
        group[i] = rank % count
    return group
