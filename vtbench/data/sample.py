"""A sample and a dataset: what every reader gives, whatever the container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from vtbench.errors import Unread

if TYPE_CHECKING:
    from PIL import Image

    from vtbench.data.sources import Source, Stamp

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the source image."""


@dataclass(frozen=True)
class Word:
    """An annotated word. ratio: its size relative to the image, as the annotation states it."""

    text: str
    box: Box
    ratio: float


@dataclass(frozen=True, eq=False)
class Face:
    """An annotated face. landmarks: float64 ``[5, 2]``, (x, y) in pixels: eyes, nose, corners of the mouth."""

    landmarks: np.ndarray
    box: Box
    ratio: float

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Face)
            and self.box == other.box
            and self.ratio == other.ratio
            and np.array_equal(self.landmarks, other.landmarks)
        )

    def __hash__(self) -> int:
        return hash((self.box, self.ratio))


@dataclass(frozen=True)
class Sample:
    """One image and what is known of it.

    id: path relative to the data root without the image's extension. digest: sha256 (hex) of its content: the picture and its
    annotations, not its label or caption. source: how its reader gets the content. set: the folder of sets it belongs to.
    stored_as: the format of the stored file (`jpeg`, `png`, ..., `array`). meta: columns of a metadata table. content: the digest of the
    picture alone ("": unknown). stamp: of the file when it was hashed; while it has it, nothing need be hashed again.
    """

    id: str
    digest: str
    source: Source
    label: int | None = None
    caption: str | None = None
    set: str = ""
    words: tuple[Word, ...] = ()
    faces: tuple[Face, ...] = ()
    stored_as: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    content: str = ""
    stamp: Stamp | None = None

    def image(self, exif: str = "apply") -> Image.Image:
        """The picture, decoded to mode RGB. exif: `apply` turns it as its EXIF orientation says, `ignore` does not.

        Raises `BadSample`, naming the file, and `Unread` when it is no longer the file that was hashed."""
        from vtbench.data.decode import decode, decode_array

        content = self.source.read()
        if self.content and (self.stamp is None or self.source.fresh() != self.stamp):
            from vtbench.data.identity import identify

            if identify(content, self.source.name)[0] != self.content:
                raise Unread(
                    f"{self.source.name} has changed since it was hashed", "Its digest would be another's: run again"
                )
        if isinstance(content, np.ndarray):
            return decode_array(content, self.source.name)
        return decode(content, self.source.name, exif)


@dataclass(frozen=True)
class Dataset:
    """Samples in order of their ids (by code point).

    revision: ``sha256:...`` over the (id, digest) pairs. problems: (sample id, reason) of entries that cannot be read, known
    when the dataset was listed. notes: counts of what the reader left out or changed, in words ("files that are not images").
    """

    name: str
    revision: str
    samples: tuple[Sample, ...]
    problems: tuple[tuple[str, str], ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True)
class Entry:
    """What a reader says of one image before its content has been looked at.

    stored_as: set where the reader knows better than the content (TokBench saves under the original file name)."""

    id: str
    source: Source
    label: int | None = None
    caption: str | None = None
    set: str = ""
    words: tuple[Word, ...] = ()
    faces: tuple[Face, ...] = ()
    stored_as: str = ""


@dataclass
class Listing:
    """What a reader gives. kind: `folder`, `tar`, ...; name: the last part of where it lies; searched: what it looked for."""

    kind: str
    name: str
    entries: list[Entry]
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    searched: str = ""

    def note(self, what: str, count: int = 1) -> None:
        """Count something that was left out or changed."""
        if count:
            self.notes[what] = self.notes.get(what, 0) + count


Reader = Callable[[str, Mapping[str, Any]], Listing]
"""(where, options) -> Listing. One reader is one file; `vtbench.data.open.READERS` has their names."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
