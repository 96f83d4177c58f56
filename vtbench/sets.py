"""Two sets of images in one run: the plan cut to what applies, and columns that are read from either side."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vtbench.api import INPUT
from vtbench.engine.chunks import Chunk
from vtbench.engine.store import Measured, Reads
from vtbench.plan import Cell, Plan, Station
from vtbench.reduce import Reducer


def restrict(plan: Plan, decide: Callable[[Cell], tuple[str, Iterable[str]]]) -> Plan:
    """A plan with some cells skipped or freed of some needs. decide: cell -> (why it is skipped or "", names of needs to leave out)."""
    cells = []
    stations: dict[Station, set[str]] = {}
    for cell in plan.cells:
        why, without = decide(cell)
        left = {name: need for name, need in cell.needs.items() if name not in set(without)}
        cell = replace(cell, skip=cell.skip or why, needs=left)
        cells.append(cell)
        if cell.skip:
            continue
        for station, head in (*cell.needs.values(), *cell.costs.values()):
            if station in plan.stations:
                stations.setdefault(station, set()).add(head)
    points = {(s.prepared, s.at) for s in stations}
    for station, heads in plan.stations.items():
        looks = station.extractor.startswith("alarms")
        if (
            looks
            and any(p == station.prepared for p, _ in points)
            and (station.at != INPUT or any(at == INPUT for _, at in points))
        ):
            stations[station] = set(heads)
    return replace(plan, cells=cells, stations=stations)


def share(plan: Plan, kind: Callable[[Station], Hashable]) -> Plan:
    """A plan in which stations of one kind, which measure the same pixels in the same way, are measured once: as the first of them."""
    first: dict[Hashable, Station] = {}
    same = {station: first.setdefault(kind(station), station) for station in plan.stations}
    cells = [
        replace(
            cell,
            needs={n: (same.get(s, s), h) for n, (s, h) in cell.needs.items()},
            costs={n: (same.get(s, s), h) for n, (s, h) in cell.costs.items()},
        )
        for cell in plan.cells
    ]
    stations: dict[Station, set[str]] = {}
    for station, heads in plan.stations.items():
        stations.setdefault(same[station], set()).update(heads)
    return replace(plan, cells=cells, stations=stations)


def pixels(station: Station, *, bytes_out: bool, whole: int | None = None) -> Hashable:
    """What decides a station's values. bytes_out: the output is 8-bit images, so no quantiser moves it. whole: the side of all images, where all
    are squares of one size: a crop of that size then leaves them as they are, whatever resizes."""
    fields = station.prepared.mapping()
    if fields.get("library") == "torchvision":
        fields["library"] = "pil"  # its Resize of PIL images is PIL's
    if whole is not None and station.prepared.resolution == whole and fields.get("fit") in CROPS:
        fields = {k: v for k, v in fields.items() if k == "exif"} | {"fit": "short-side-crop"}
    view = station.view
    if view.frame == "model" and (bytes_out or not station.at.model()) and fields.get("library", "pil") == "pil":
        view = replace(view, quantise="round", reference="")
    prepared = tuple(sorted(fields.items()))
    return (
        station.extractor,
        station.args,
        station.at,
        view,
        prepared,
        station.prepared.resolution,
        station.budget,
        station.sample,
    )


CROPS = ("short-side-crop", "adm-crop", "cover-crop", "centre-crop", "squash")


def only(plan: Plan, keep: Callable[[Station], bool]) -> Plan:
    """A plan with some of its stations."""
    return replace(plan, stations={s: h for s, h in plan.stations.items() if keep(s)})


class SetReducer(Reducer):
    """Reads two sets: stations of the output from the first chunks, of the ground truth from the others."""

    def __init__(self, plan: Plan, store: Reads, images: Sequence[Chunk], truth: Sequence[Chunk], **how: Any) -> None:
        self._images, self._truth = list(images), list(truth)
        super().__init__(plan, store, [*self._images, *self._truth], **how)

    def chunks_of(self, station: Station) -> Sequence[Chunk]:
        """The chunks that a station is measured on."""
        return self._images if station.at.model() else self._truth


def named(chunks: Sequence[Chunk], side: str, start: int) -> list[Chunk]:
    """Chunks of one side in the union of both: ids get the side's name in front (where it has one), places move on; the content's key stays."""
    out = []
    for chunk in chunks:
        samples = tuple(replace(s, id=f"{side}/{s.id}") if side else s for s in chunk.samples)
        out.append(Chunk(chunk.index, start + chunk.start, samples, chunk.key))
    return out


class Saved:
    """The store's reading side with a reference's saved features in front: `CHUNK` of a station of the ground truth is the file's rows."""

    CHUNK = "saved"

    def __init__(self, store: Reads, plan: Plan, features: Mapping[str, np.ndarray]) -> None:
        self.store, self.features = store, dict(features)
        self.truth = {plan.keys[s] for s in plan.stations if s.at == INPUT}

    def get(self, station: str, chunk: str) -> Measured | None:
        """A chunk's measurements."""
        if chunk != self.CHUNK:
            return self.store.get(station, chunk)
        if station not in self.truth:
            return None
        return Measured({head: (rows, np.arange(len(rows))) for head, rows in self.features.items()})

    def failed(self, station: str, chunk: str) -> Mapping[int, str] | None:
        """A chunk's failures; saved features have none."""
        return {} if chunk == self.CHUNK else self.store.failed(station, chunk)
