"""Where a sample's content lies: small picklable objects that read it when asked, so that a dataset is cheap to hand on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vtbench.errors import BadSample, Unread

Stamp = tuple[str, int, int]
"""(path and place in the file, size in bytes, mtime in ns): the key of a cached digest."""


class Source(Protocol):
    """The content of one sample. name: how messages call it."""

    @property
    def name(self) -> str: ...

    def stamp(self) -> Stamp | None:
        """The key under which the content's digest may be kept; None: never kept."""
        ...

    def fresh(self) -> Stamp | None:
        """The stamp as the file lies at this moment; None where nobody can tell."""
        ...

    def read(self) -> bytes | np.ndarray:
        """The stored file's bytes, or uint8 RGB ``[H, W, 3]``. Raises `Unread` for a failing file system, `BadSample` for what was cut short."""
        ...


SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of its clock: its stamp vouches for nothing."""


def settled(stamp: Stamp, now: int) -> bool:
    """Whether a stamp taken at `now` (ns) tells the file from any later state of it."""
    return now - stamp[2] > SETTLED_NS


def file_stamp(path: str, place: str = "") -> Stamp | None:
    """Stamp of a file, or of a place in it; None when it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path + place, status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class FileSource:
    """A whole file."""

    path: str

    @property
    def name(self) -> str:
        return self.path

    def stamp(self) -> Stamp | None:
        return file_stamp(self.path)

    def fresh(self) -> Stamp | None:
        return self.stamp()

    def read(self) -> bytes:
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise Unread(f"cannot read {self.path}: {error.strerror or error}") from error
        if not content:
            raise BadSample(f"{self.path} is empty (0 bytes)")
        return content


class Inside:
    """A source that is a place in another file. outside: that file's stamp at listing."""

    path: str
    outside: Stamp | None

    def _place(self) -> str:
        """Where in the file, as its stamp says it."""
        raise NotImplementedError

    def stamp(self) -> Stamp | None:
        return self._at(self.outside)

    def fresh(self) -> Stamp | None:
        """None too where it was unpacked from another file, whose stamp this one cannot renew."""
        there = file_stamp(os.path.abspath(self.path)) if self.outside is not None else None
        return self._at(there) if there and self.outside and there[0] == self.outside[0] else None

    def _at(self, stamp: Stamp | None) -> Stamp | None:
        return (stamp[0] + self._place(), *stamp[1:]) if stamp is not None else None


def span(path: str, offset: int, size: int, name: str) -> bytes:
    """`size` bytes at `offset` of a file. name: how messages call them. Raises `Unread`, and `BadSample` where the file ends before."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise Unread(f"cannot read {name}: {error.strerror or error}") from error
    if len(content) != size:
        raise BadSample(f"{name} is cut short: {len(content)} of {size} bytes")
    return content


@dataclass(frozen=True)
class SpanSource(Inside):
    """`size` bytes at `offset` of a file: a member of an uncompressed tar."""

    path: str
    offset: int
    size: int
    member: str
    outside: Stamp | None = None

    @property
    def name(self) -> str:
        return f"{self.path}:{self.member}"

    def _place(self) -> str:
        return f":{self.offset}+{self.size}"

    def read(self) -> bytes:
        if not self.size:
            raise BadSample(f"{self.name} is empty (0 bytes)")
        return span(self.path, self.offset, self.size, self.name)


@dataclass(frozen=True)
class ArraySource(Inside):
    """Image `index` of a uint8 array ``[N, H, W, 3]`` that lies uncompressed in a file from `offset` on."""

    path: str
    offset: int
    shape: tuple[int, int, int]
    index: int
    outside: Stamp | None = None

    @property
    def name(self) -> str:
        return f"{self.path}[{self.index}]"

    def _place(self) -> str:
        return f"[{self.index}]"

    def read(self) -> np.ndarray:
        size = int(np.prod(self.shape))
        content = span(self.path, self.offset + self.index * size, size, self.name)
        return np.frombuffer(content, dtype=np.uint8).reshape(self.shape)
