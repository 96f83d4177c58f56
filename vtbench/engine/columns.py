"""Columns: one head of one station over all chunks, as metrics read it. Large ones lie in a file, not in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from vtbench.engine.chunks import Chunk
from vtbench.engine.rows import stack
from vtbench.engine.store import Reads

RESIDENT = 512 << 20
"""Bytes of a column that stay in memory; what is larger goes through a file without a name, which the system may page out."""


class StoredColumn:
    """One head of one station over all chunks, restricted to the samples that every column has.

    alive: for every sample of the run its index among those kept, or -1. spill: the folder of the file of a large column (None: the
    system's temporary folder). Every chunk file is read once, and nothing of its other heads is held."""

    def __init__(
        self,
        store: Reads,
        key: str,
        head: str,
        chunks: Sequence[Chunk],
        alive: np.ndarray,
        *,
        spill: Path | None = None,
        resident: int = RESIDENT,
    ) -> None:
        self._images: list[np.ndarray] = []
        self._parts: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        held = 0
        for chunk in chunks:
            measured = store.get(key, chunk.key)
            if measured is None or head not in measured.heads:
                raise KeyError(f"{head} is not measured for chunk {chunk.index}")
            values, image = measured.heads[head]
            index = alive[chunk.start + image]
            keep = index >= 0
            self._images.append(index[keep])
            part = np.array(values[keep] if not keep.all() else values)  # a copy: the file's other heads are let go
            held += part.nbytes
            if self._file is None and held > resident and self._regular(part):
                self._file = tempfile.TemporaryFile(dir=spill)  # noqa: SIM115 - open as long as the column
                for earlier in self._parts:
                    self._file.write(earlier.tobytes())
                self._shape, self._dtype, self._parts = part.shape[1:], part.dtype, []
            if self._file is not None and self._like(part):
                self._file.write(part.tobytes())
            elif self._file is None:
                self._parts.append(part)
            else:
                self._parts = [*self._from_file(), part]
                self._file = None
        self.image = np.concatenate(self._images) if self._images else np.zeros(0, np.int64)

    def _regular(self, part: np.ndarray) -> bool:
        """Whether every part so far has this one's rows: strings and token rows of several lengths stay in memory."""
        return part.dtype.kind in "biuf" and all(
            p.dtype == part.dtype and p.shape[1:] == part.shape[1:] for p in self._parts
        )

    def _like(self, part: np.ndarray) -> bool:
        return part.dtype == self._dtype and part.shape[1:] == self._shape

    def _mapped(self) -> np.ndarray:
        assert self._file is not None
        self._file.flush()
        count = sum(len(i) for i in self._images)
        if not count:
            return np.zeros((0, *self._shape), self._dtype)
        return np.memmap(self._file, self._dtype, "r", shape=(count, *self._shape))  # type: ignore[call-overload]

    def _from_file(self) -> list[np.ndarray]:
        """The parts again, when one comes that does not fit the file."""
        assert self._file is not None
        self._file.flush()
        count = sum(len(i) for i in self._images[:-1])
        whole = np.memmap(self._file, self._dtype, "r", shape=(count, *self._shape))  # type: ignore[call-overload]
        return [np.array(whole)]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(image indices, values), a chunk or a few at a time."""
        if self._file is None and len(self._parts) == len(self._images):
            yield from zip(self._images, self._parts)
            return
        whole, start = self.array(), 0
        for image in self._images:
            yield image, whole[start : start + len(image)]
            start += len(image)

    def array(self) -> np.ndarray:
        """All values in sample order; a large column is mapped from its file."""
        if self._file is not None:
            return self._mapped()
        whole = stack(self._parts)
        if self._parts and self._regular(whole):
            self._parts = [whole]  # not held twice
        return whole

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return sum(part.nbytes for part in self._parts)
