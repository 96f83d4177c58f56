"""Whether two sets of images are pairs: a question of their ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from vtbench.errors import UsageError

Pairing = Literal["auto", "ids", "none"]


def paired(fake: Sequence[str], reference: Sequence[str], how: Pairing = "auto") -> bool:
    """Whether two sets of ids are pairs. auto: they are when the ids are the same or most of the smaller side's are on the other side; they
    are not when none is. Raises `UsageError` for anything between, and for `ids` when none is shared."""
    if how == "none":
        return False
    shared = len(set(fake) & set(reference))
    least = min(len(set(fake)), len(set(reference)))
    if how == "ids" and not shared:
        raise UsageError(
            f"no id is on both sides (such as '{fake[0]}' and '{reference[0]}')",
            "Ids are paths without the extension; --pairing none compares the sets",
        )
    if how == "ids" or not shared:
        return bool(shared)
    numbers = all(i.isdigit() for i in (*fake[:50], *reference[:50]))
    if numbers and len(fake) != len(reference):
        return False  # positions in arrays of different lengths, not names
    if shared * 2 >= least:
        return True
    alone = [i for i in fake if i not in set(reference)]
    raise UsageError(
        f"{shared} of {len(fake)} ids are in the reference and {len(alone)} are not (such as '{alone[0]}'): neither pairs nor two sets",
        "--pairing ids measures the pairs there are, --pairing none compares the sets",
    )
