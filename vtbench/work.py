"""A chunk in work: what is wanted of it, and what came so far."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vtbench.api import Rows
from vtbench.engine.chunks import Chunk
from vtbench.engine.rows import stack
from vtbench.engine.store import Measured
from vtbench.errors import BadSample, VtbenchError
from vtbench.keep import Keep
from vtbench.plan import Prepared, Station
from vtbench.view import Item


def by_prepared(wanted: Mapping[Station, set[str]], keeping: Keep | None) -> dict[Prepared, list[Station]]:
    """Stations by how their inputs are prepared; what images are kept of is there too, if without stations."""
    out: dict[Prepared, list[Station]] = defaultdict(list)
    for station in wanted:
        out[station.prepared].append(station)
    for prepared, _ in keeping.points if keeping else ():
        out[prepared] += []
    return out


class Work:
    """A chunk in work: what is wanted of it, and what came so far. stations: by how their inputs are prepared. strict: the first failure is raised."""

    def __init__(
        self,
        chunk: Chunk,
        wanted: Mapping[Station, set[str]],
        keeping: Keep | None,
        strict: bool,
    ) -> None:
        self.chunk, self.wanted, self.keeping, self._strict = chunk, wanted, keeping, strict
        self.stations = by_prepared(wanted, keeping)
        self._out = {station: Measured() for station in wanted}
        self._rows: dict[Station, dict[str, list[tuple[np.ndarray, np.ndarray]]]] = {
            station: {head: [] for head in heads} for station, heads in wanted.items()
        }

    def fail(self, position: int, why: Exception, stations: Sequence[Station], *, lost: bool = False) -> None:
        """A sample has no measurements of these stations. lost: the next run tries it again."""
        if self._strict:
            raise BadSample(f"{self.chunk.samples[position].id}: {why}")
        for station in stations:
            self._out[station].failed[position] = str(why)
            self._out[station].lost |= lost

    def add(self, items: Sequence[Item], found: Mapping[Station, Mapping[str, Rows]]) -> None:
        """What extractors took of a batch."""
        positions = np.array([i.position for i in items], dtype=np.int64)
        for station, heads in found.items():
            for head, got in heads.items():
                image = positions if got.image is None else positions[np.asarray(got.image, dtype=np.int64)]
                if len(got.values) != len(image):
                    raise VtbenchError(
                        f"the extractor {station.extractor} gave {len(got.values)} rows for {len(image)} samples ({head})"
                    )
                self._rows[station][head].append((np.asarray(got.values), image))

    def measured(self, environment: dict[str, Any]) -> dict[Station, Measured]:
        """Everything, in sample order."""
        for station, heads in self._rows.items():
            self._out[station].environment = environment
            for head, parts in heads.items():
                self._out[station].heads[head] = _merge(parts)
        return self._out


def _merge(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several batches in sample order."""
    image = np.concatenate([p[1] for p in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(image, kind="stable")
    return stack([p[0] for p in parts])[order], image[order]
