"""What a set of images is held against: images that are not their pairs, or statistics; shared by `score` and `generate`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vtbench import alarms
from vtbench.api import GENERATED, INPUT, OUTPUT, Extractor
from vtbench.data import Dataset, choose, open_dataset
from vtbench.data.sample import Sample
from vtbench.data.sources import FileSource
from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.store import Reads, Store
from vtbench.errors import UsageError
from vtbench.options import Options
from vtbench.plan import Cell, Plan
from vtbench.progress import Silent, hashing
from vtbench.record import Alarm
from vtbench.reference import Statistics, read_statistics
from vtbench.sets import Saved, SetReducer, named, only

if TYPE_CHECKING:
    from vtbench.reduce import Reducer

Known = Mapping[Any, tuple[Extractor, Mapping[str, str]]]
"""Extractors by (name, args), with their identities."""


@dataclass
class Reference:
    """The second set. dataset: its images, None when only statistics are there. statistics: of a file that holds some."""

    where: str
    dataset: Dataset | None = None
    statistics: Statistics | None = None
    _digest: str | None = None

    @classmethod
    def open(
        cls,
        where: str,
        said: str | None,
        options: Options,
        talk: Silent,
        known: Mapping[str, str] | None = None,
        metadata: str | None = None,
    ) -> Reference:
        """Images in any container, or an ``.npz`` of statistics. said: the protocol of statistics that do not say it. known: revision -> a suite's name."""
        statistics = read_statistics(where, said)
        if statistics and not statistics.images:
            return cls(where, None, statistics)
        reader = {"metadata": metadata} if metadata else {}
        dataset = open_dataset(
            where,
            options=reader,
            known=known or {},
            cache=options.cache(),
            progress=hashing(talk, where),
            limit=options.read_limit(),
        )
        for what, count in dataset.notes.items():
            talk.say(f"{where}: {count} {what}")
        return cls(where, dataset, statistics)

    def shown(self) -> Dataset:
        """What a record calls the data: the images, or the statistics' own name and the ids that they hold."""
        if self.dataset is not None:
            return self.dataset
        assert self.statistics is not None
        digest = hashlib.sha256(self.statistics.path.read_bytes()).hexdigest()
        samples = tuple(Sample(name, "", FileSource("")) for name in self.statistics.names)
        return Dataset(
            self.statistics.dataset or f"statistics:{self.statistics.path.stem}", f"sha256:{digest}", samples
        )

    def choose(self, subset: str | None, limit: int | None) -> None:
        """Keep a subset of the images."""
        if self.dataset is not None and (subset or limit):
            self.dataset = choose(self.dataset, subset=subset, limit=limit)

    def moving(self) -> dict[str, Any]:
        """What of it is part of a run's id besides the data."""
        if self.statistics is None:
            return {}
        return {
            "reference_protocol": self.statistics.protocol,
            "reference_statistics": self._content(),
        }

    def _content(self) -> str:
        assert self.statistics is not None
        if self._digest is None:
            self._digest = self.statistics.content()
        return self._digest

    # ------------------------------------------------------------------------------------ what applies

    def decide(self, cell: Cell, known: Known) -> tuple[str, Iterable[str]]:
        """Why a cell does not apply to two sets ("" when it does), and the names of needs that the statistics stand for."""
        takes = {known[s.extractor, s.args][0].takes for s, _ in cell.needs.values() if (s.extractor, s.args) in known}
        truth = "pair" in takes or any(s.at == INPUT for s, _ in cell.needs.values())
        if truth and cell.metric.compares == "pairs":
            return "compares pairs, and the images are not paired with the reference by id", ()
        if self.statistics is None or not truth:
            return "", ()
        side = self._side()
        if side and cell.resolution and side != cell.resolution:
            return f"{self.statistics.path.name} holds images of {side} px, and the suite is at {cell.resolution}", ()
        refused = self.refusal(cell, known)
        if not refused and cell.needs["reference"][1] in self.statistics.features:
            return "", ()
        if cell.metric.compares == "moments":
            if not refused:
                return "", ("reference",)
            if not self.statistics.images:
                return refused, ()
        if not self.statistics.images:
            return f"needs the reference's images, and {self.statistics.path.name} holds its statistics alone", ()
        return "", ()

    def _side(self) -> int:
        """The side of the images of a file that holds statistics too, which are of the same size; 0 where it is not known."""
        if self.dataset is None or not self.dataset.samples:
            return 0
        shape = getattr(self.dataset.samples[0].source, "shape", (0, 1))
        return int(shape[0]) if shape[0] == shape[1] else 0

    def refusal(self, cell: Cell, known: Known) -> str:
        """Why the statistics cannot stand for a cell's reference; empty when they can, or when there are none."""
        if self.statistics is None or "reference" not in cell.needs:
            return ""
        station, head = cell.needs["reference"]
        network = known[station.extractor, station.args][1] if (station.extractor, station.args) in known else {}
        return self.statistics.refusal(cell.protocol, cell.resolution, head, network)

    def useful(self, plan: Plan, known: Known) -> None:
        """Raise `UsageError` when a plan has no use for the statistics, with the reason."""
        if self.statistics is None or any(self._stands(c) for c in plan.cells):
            return
        asked = [c for c in plan.cells if c.metric.compares == "moments"]
        refused = [self.refusal(c, known) for c in asked]
        if asked and not any(refused):
            return  # it is the model that the suite has no use for, and its rows say so
        why = next(filter(None, refused), f"no metric of the suite uses the statistics in {self.statistics.path.name}")
        raise UsageError(why, f"--protocol {self.statistics.protocol} adds it to the suite's metrics")

    def _stands(self, cell: Cell) -> bool:
        assert self.statistics is not None
        if cell.skip or cell.metric.compares == "pairs":
            return False
        return "reference" not in cell.needs or bool(self.statistics.features)

    def without_looks(self, plan: Plan) -> Plan:
        """The plan without alarms' looks at a reference that is not here as images."""
        if self.statistics is None or not self.statistics.features:
            return plan
        return only(plan, lambda s: s.at != INPUT or not s.extractor.startswith("alarms"))

    # ------------------------------------------------------------------------------------ measuring

    def chunks(self, size: int) -> list[Chunk]:
        """Its images in chunks; none when only statistics are there."""
        return cut(self.dataset.samples, size) if self.dataset is not None else []

    def reducer(
        self,
        plan: Plan,
        store: Store,
        images: Sequence[Chunk],
        truth: Sequence[Chunk],
        *,
        side: str,
        facts: Mapping[str, Any],
        **how: Any,
    ) -> Reducer:
        """What reads both sets. side: what stands before the images' ids in the union (``images``, or nothing). how: as `Reducer` takes it."""
        shown = dict(facts)
        reads: Reads = store
        if self.statistics is not None:
            shown["reference_statistics"] = self.statistics.moments
            if self.statistics.features:
                reads = Saved(store, plan, self.statistics.features)
                truth = [Chunk(0, 0, self.shown().samples, Saved.CHUNK)]
        count = sum(len(c.samples) for c in images)
        both = named(images, side, 0), named(truth, "reference", count)
        return SetReducer(plan, reads, *both, facts=shown, **how)

    def alarms(
        self, plan: Plan, reducer: Reducer, images: Dataset, *, reconstructions: bool, conditions: bool = False
    ) -> list[Alarm]:
        """Common mistakes seen in two sets. reconstructions: whether the images should be as many as the reference's, from the same originals. conditions: whether
        `images` are what images were made from, whose digests say nothing of the images: many share a label."""
        found: list[Alarm] = []
        looks: dict[bool, Mapping[str, Any]] = {}
        for station, heads in plan.stations.items():
            if station.extractor == "alarms-set":
                looks[station.at.model()] = {h: reducer.column(station, h).array() for h in heads}
        if len(looks) == 2:
            found += alarms.of_sets(looks[True], looks[False])
        found += alarms.of_plan(plan, reducer)
        shown = self.shown()
        if not conditions:
            found += alarms.of_digests(*({s.id: s.digest for s in d.samples} for d in (images, shown)))
        wanted = len(shown.samples) if self.statistics is None else self.statistics.n
        found += alarms.of_counts(len(images.samples), wanted)
        given, truth = [s.id for s in images.samples], [s.id for s in shown.samples]
        found += alarms.of_reference(given, truth, self.statistics, reconstructions=reconstructions)
        return found


def of_images_alone(cell: Cell, known: Known) -> str:
    """Why a metric cannot be had from images that exist already; empty when it can."""
    takes = {known[s.extractor, s.args][0].takes for s, _ in cell.needs.values() if (s.extractor, s.args) in known}
    if "model" in takes:
        return "needs the model itself, and only its images are here"
    if any(s.at not in (INPUT, OUTPUT, GENERATED) for s, _ in cell.needs.values()):
        return "needs other passes of the model, and only its images are here"
    return ""
