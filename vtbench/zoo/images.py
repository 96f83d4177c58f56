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

    from vtbench.data.sample import Sample

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
        self._by_last = _last_names(self._named)
        self._ranked = _numbered(dataset.samples) or list(dataset.samples)
        self.revision = dataset.revision
        self.params = {"at": at}

    def expect(self, conditions: Sequence[Condition], *, whole: bool) -> None:
        """Match the images with all the conditions of a run. Raises `UsageError` for surplus or too few images, and for names of other conditions."""
        wanted = {condition_key(c.id) for c in conditions}
        have = {*self._named, *self._broken}
        if not wanted & have and wanted & set(self._by_last):  # folders of categories, as MJHQ-30K's own
            self._named = {last: self._named[key] for last, key in self._by_last.items()}
            self._broken = {key.rsplit("/", 1)[-1]: why for key, why in self._broken.items()}
            self._by_last = {}
            have = {*self._named, *self._broken}
        if all(c.caption is None for c in conditions):
            if whole and len(have) != len(conditions):
                fewer = f"--limit {len(have)} measures so many (limited rows)"
                raise UsageError(
                    f"{self.where} holds {len(have)} images, and the suite makes {len(conditions)}",
                    fewer if len(have) < len(conditions) else "Leave away what is too many",
                )
            if not wanted & have:
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
            sample = self._named.get(condition_key(condition.id))
            if sample is None and condition.caption is None and condition.id.isdigit():
                place = int(condition.id)
                sample = self._ranked[place] if place < len(self._ranked) else None
            if sample is None:
                why = self._broken.get(condition_key(condition.id))
                raise BadSample(why or f"no image of '{condition.id}' in {self.where}")
            arrays.append(np.asarray(sample.image(exif="ignore")))
        if len({a.shape for a in arrays}) > 1:
            raise BadSample("images of several sizes are taken one by one")
        return from_bytes(arrays)


def _last_names(keys: Iterable[str]) -> dict[str, str]:
    """Keys by their last part; empty when two share it, or when there are no folders."""
    keys = list(keys)
    found = {key.rsplit("/", 1)[-1]: key for key in keys}
    return found if len(found) == len(keys) and any("/" in key for key in keys) else {}


def _numbered(samples: Sequence[Sample]) -> list[Sample]:
    """Images that are called by numbers, in the order of the numbers; empty when one is not."""
    names = [s.id for s in samples]
    if not all(name.isdigit() for name in names):
        return []
    return sorted(samples, key=lambda s: int(s.id))
