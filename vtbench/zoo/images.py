"""Images that exist already, in the place of a generator: ``images:PATH``. Closed models are measured this way.

PATH: a folder, a tar, an ``.npz`` (ADM's container) or anything else that ``--data`` takes. An image belongs to a condition by its name: ``ID.png`` (or ``ID/0000.png``
where a prompt has several), GenEval's ``ID/samples/0000.png``, or what ``--keep-images`` writes; images of class labels that are named otherwise belong to the conditions in their order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vtbench.api import Capabilities, Condition, Generator
from vtbench.data import open_dataset
from vtbench.errors import BadData, BadSample, UsageError

if TYPE_CHECKING:
    import torch


_SAMPLES = re.compile(r"(?:^|(?<=/))samples/")
_NUMBERS = re.compile(r"(\d+)/(\d+)")


def condition_key(name: str) -> str:
    """What an image and its condition have in common: without GenEval's folder `samples`, kept images' underscores as folders, and the numbers of a
    prompt and of its image however many digits they are written with."""
    plain = _SAMPLES.sub("", name.replace("__", "/"))
    found = _NUMBERS.fullmatch(plain)
    return f"{int(found[1]):05d}/{int(found[2]):05d}" if found else plain


class Images(Generator):
    """Stored images. Its revision is that of the images, so a folder that changes is measured anew."""

    capabilities = Capabilities(stochastic=False)
    travels = True

    def __init__(self, *, at: str) -> None:
        self.where = at
        dataset = open_dataset(at)
        self._broken = {condition_key(name): why for name, why in dataset.problems}
        self._named = {condition_key(s.id): s for s in dataset.samples}
        if len(self._named) != len(dataset.samples):
            raise BadData(f"two images in {at} belong to the same condition", "Keep one of each")
        self._by_last = _last_names([*self._named, *self._broken])
        self._ranked, self._from_one = _ranked([*self._named, *self._broken])
        self.revision = dataset.revision
        self.params = {"at": at}

    def expect(self, conditions: Sequence[Condition], *, whole: bool) -> None:
        """Match the images with all the conditions of a run. Raises `UsageError` for surplus or too few images, and for names of other conditions."""
        wanted = {condition_key(c.id) for c in conditions}
        have = {*self._named, *self._broken}
        if not wanted & have and wanted & set(self._by_last):
            have = set(self._by_last)
        if all(c.caption is None for c in conditions):
            if whole and len(have) != len(conditions):
                fewer = f"--limit {len(have)} measures so many (limited rows)"
                raise UsageError(
                    f"{self.where} holds {len(have)} images, and the suite makes {len(conditions)}",
                    fewer if len(have) < len(conditions) else "Leave away what is too many",
                )
            if self._from_one or not wanted & have:
                return
        missing, surplus = sorted(wanted - have), sorted(have - wanted)
        if len(missing) == len(wanted):
            raise UsageError(
                f"no image in {self.where} belongs to a condition: they are called '{next(iter(sorted(have)))}', the conditions '{next(iter(sorted(wanted)))}'",
                "Name them by the ids of the prompts",
            )
        if surplus and whole:
            raise UsageError(
                f"{len(surplus)} images in {self.where} belong to no condition of the suite (such as '{surplus[0]}')",
                "They were made from other prompts, or are too many for one",
            )

    def generate(
        self, conditions: Sequence[Condition], *, seeds: Sequence[int], budget: int | None = None
    ) -> torch.Tensor:
        """The images that belong to the conditions. `BadSample` for one that is missing or cannot be read, or when sizes differ in the batch."""
        from vtbench.view import from_bytes

        arrays = []
        for condition in conditions:
            key = self._key(condition)
            sample = self._named.get(key)
            if sample is None:
                raise BadSample(self._broken.get(key) or f"no image of '{condition.id}' in {self.where}")
            arrays.append(np.asarray(sample.image(exif="ignore")))
        if len({a.shape for a in arrays}) > 1:
            raise BadSample("images of several sizes are taken one by one")
        return from_bytes(arrays)

    def _key(self, condition: Condition) -> str:
        """The image of a condition: by its name; by its name without folders (of categories, as MJHQ-30K's own); of a label also by its place."""
        key = condition_key(condition.id)
        labelled = condition.caption is None and condition.id.isdigit()
        if key in self._named or key in self._broken:
            if not (labelled and self._from_one):
                return key
        elif key in self._by_last:
            return self._by_last[key]
        place = int(condition.id) if labelled else len(self._ranked)
        return self._ranked[place] if place < len(self._ranked) else key


def _last_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their last part; empty when two share it, or when there are no folders."""
    keys = list(keys)
    found = {key.rsplit("/", 1)[-1]: key for key in keys}
    return found if len(found) == len(keys) and any("/" in key for key in keys) else {}


def _ranked(keys: list[str]) -> tuple[list[str], bool]:
    """Keys in the order of their numbers, or of their names where one is none; and whether the numbers are 1 to as many as there are."""
    if not all(key.isdigit() for key in keys):
        return sorted(keys), False
    ordered = sorted(keys, key=int)
    return ordered, [int(key) for key in ordered] == list(range(1, len(keys) + 1))
