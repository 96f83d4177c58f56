"""Images against a reference, through the same plan, store and reduction as a model's run.

Paired (the same ids on both sides): the images take the place of a model's output. Not paired: the run's samples are both sets, one after the
other; stations of the output are measured on the images, stations of the ground truth on the reference, and only metrics that
compare sets apply. A reference of statistics has no samples at all.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vtbench import alarms
from vtbench.api import INPUT, OUTPUT, Tokenizer
from vtbench.data import Dataset, choose, open_dataset
from vtbench.data.sample import Sample
from vtbench.data.sources import FileSource
from vtbench.distribute import apart
from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.store import Reads, Store
from vtbench.errors import BadSample, UsageError
from vtbench.evaluation import Evaluator, Opened
from vtbench.given import GivenPairs, GivenSet
from vtbench.options import Options
from vtbench.pairing import Pairing, paired
from vtbench.plan import Cell, Plan, make_plan
from vtbench.progress import Silent
from vtbench.record import Alarm
from vtbench.reduce import Reducer
from vtbench.reference import read_statistics, write_statistics
from vtbench.result import Result
from vtbench.sets import Saved, SetReducer, named, only, pixels, restrict, share
from vtbench.suite import Suite, load_suite

if TYPE_CHECKING:
    from vtbench.passes import Bench

LOOKED_AT = 16  # images whose size decides the resolution when none is given
LOOKED_AT_ALL = 1000  # images up to which every size is looked at, to share forwards of protocols that crop differently


@dataclass(frozen=True)
class _Side:
    dataset: Dataset
    where: str


class Scorer(Evaluator):
    """Scores images against a reference. ``Scorer("samples.npz", "imagenet.npz", reference_protocol="adm")()``.

    fake: images in any container. reference: images, or an ``.npz`` of statistics. suites: what is measured. pairing: `auto`, `ids`, `none`.
    reference_protocol: the protocol of statistics that do not say it, or `images` to use the images of a file that holds both. name: what
    the table calls the images (their place's own name without it). options: as for `Evaluator`."""

    def __init__(
        self,
        fake: str,
        reference: str,
        suites: str | Suite | Sequence[str | Suite] = ("images",),
        *,
        pairing: Pairing = "auto",
        reference_protocol: str | None = None,
        name: str | None = None,
        talk: Silent | None = None,
        **options: Any,
    ) -> None:
        self.options = Options.of(**{"baselines": False, **options})
        self.talk = talk or Silent()
        if pairing not in ("auto", "ids", "none"):
            raise UsageError(f"--pairing {pairing}: auto, ids or none")
        self._extractors, self._opened_networks, self._controls = {}, set(), {}
        self._apart = apart(self.options)
        names = (suites,) if isinstance(suites, (str, Suite)) else tuple(suites)
        loaded = [n if isinstance(n, Suite) else load_suite(n, extra_protocols=self.options.protocol) for n in names]
        self.statistics = read_statistics(reference, reference_protocol)
        self.images = self._open(fake)
        self.truth = None if self.statistics and not self.statistics.images else self._open(reference)
        self.name = name or Path(fake.rstrip("/")).name.partition(".")[0] or "images"
        ids = [s.id for s in self.images.dataset.samples]
        self.paired = (
            self.truth is not None
            and not self.statistics
            and paired(ids, [s.id for s in self.truth.dataset.samples], pairing)
        )
        self._choose()
        if not self.paired:
            self.talk.say("the images are compared as sets: they are not paired with the reference")
        side = self._side_length()
        dataset = self.truth.dataset if self.truth else self._of_statistics()
        self.opened = [
            Opened(replace(s, resolutions=(side,)) if s.resolutions == (0,) else s, dataset, reference) for s in loaded
        ]
        self._whole: tuple[int, int] | None = None
        self.last: tuple[Plan, Reducer] | None = None

    def _open(self, where: str) -> _Side:
        o = self.options
        reader = {"metadata": o.metadata} if o.metadata else {}
        dataset = open_dataset(where, options=reader, cache=o.store())
        for what, count in dataset.notes.items():
            self.talk.say(f"{where}: {count} {what}")
        return _Side(dataset, where)

    def _choose(self) -> None:
        """Apply `--subset` and `--limit`: to the ground truth of pairs, and to both sets otherwise."""
        o = self.options
        if not (o.subset or o.limit):
            return
        if self.truth:
            self.truth = replace(self.truth, dataset=choose(self.truth.dataset, subset=o.subset, limit=o.limit))
        images = self.images.dataset
        if self.paired and self.truth:
            wanted = {s.id for s in self.truth.dataset.samples}
            images = replace(images, samples=tuple(s for s in images.samples if s.id in wanted))
        else:
            images = choose(images, subset=o.subset, limit=o.limit)
        self.images = replace(self.images, dataset=images)

    def _of_statistics(self) -> Dataset:
        assert self.statistics is not None
        digest = hashlib.sha256(self.statistics.path.read_bytes()).hexdigest()
        samples = tuple(Sample(name, "", FileSource("")) for name in self.statistics.names)
        return Dataset(
            self.statistics.dataset or f"statistics:{self.statistics.path.stem}", f"sha256:{digest}", samples
        )

    def _side_length(self) -> int:
        """The side of the images where most of the first ones are squares of one size; 0 (native) otherwise."""

        sizes: Counter[tuple[int, int]] = Counter()
        for sample in self.images.dataset.samples[:LOOKED_AT]:
            try:
                sizes[sample.image(exif="ignore").size] += 1
            except BadSample:
                continue  # counted and named where it is measured
        (width, height), count = max(sizes.items(), key=lambda item: item[1], default=((0, 0), 0))
        return width if width == height and 2 * count > sum(sizes.values()) else 0

    def __call__(
        self, model: Tokenizer | str | None = None, *, step: int | None = None, command: str | None = None
    ) -> Result:
        """Measure; the record's model is the images."""
        dataset = self.images.dataset
        given: Tokenizer = (
            GivenPairs(dataset, self.name, self.images.where) if self.paired else GivenSet(self.name, dataset.revision)
        )
        return super().__call__(given, step=step, command=command)

    # ------------------------------------------------------------------------------------ what applies

    def plan(self, model: Tokenizer, opened: Opened, revision: str | None = None) -> Plan:
        """The suite's plan, without what images alone cannot tell."""
        o = self.options
        watched: Literal["none", "pairs", "sets"] = "none" if not o.alarms else "pairs" if self.paired else "sets"
        facts: Tokenizer = model if self.paired else GivenSet("images", "images")
        plan = make_plan(
            opened.suite,
            facts,
            resolutions=tuple(o.resolution) or tuple(r or None for r in opened.suite.resolutions),
            device=o.resolved_device(),
            made=self._extractors,
            slice_by=o.slice_by,
            alarms=watched,
        )
        plan = restrict(plan, lambda cell: self._decide(cell, plan))
        if self.statistics and self.statistics.features:
            plan = only(plan, lambda s: s.at != INPUT or not s.extractor.startswith("alarms"))
        if self.statistics and not any(self._stands(c) for c in plan.cells):
            raise UsageError(
                self._no_use(plan), f"--protocol {self.statistics.protocol} adds it to the suite's metrics"
            )
        whole = self._whole_side()
        return share(plan, lambda s: pixels(s, bytes_out=True, whole=whole))

    def _whole_side(self) -> int | None:
        """The side of all images of both sets where all are squares of one size; None otherwise, or where looking would take long."""
        samples = [s for d in (self.images, self.truth) if d for s in d.dataset.samples]
        if len(samples) > LOOKED_AT_ALL:
            return None
        if self._whole is None:
            sizes = set()
            for sample in samples:
                try:
                    sizes.add(sample.image(exif="ignore").size)
                except BadSample:
                    continue
            self._whole = next(iter(sizes)) if len(sizes) == 1 else (0, 0)
        width, height = self._whole
        return width if width == height and width else None

    def _no_use(self, plan: Plan) -> str:
        refused = [self._refusal(c, plan) for c in plan.cells if c.metric.compares == "moments"]
        assert self.statistics is not None
        return next(filter(None, refused), f"no metric of the suite uses the statistics in {self.statistics.path.name}")

    def _stands(self, cell: Cell) -> bool:
        """Whether the statistics, or the features kept with them, stand for a cell's reference."""
        assert self.statistics is not None
        if cell.skip or cell.metric.compares == "pairs":
            return False
        return "reference" not in cell.needs or bool(self.statistics.features)

    def _refusal(self, cell: Cell, plan: Plan) -> str:
        if self.statistics is None or "reference" not in cell.needs:
            return ""
        station, head = cell.needs["reference"]
        network = (
            self._extractors[station.extractor, station.args][1]
            if (station.extractor, station.args) in self._extractors
            else {}
        )
        return self.statistics.refusal(cell.protocol, cell.resolution, head, network)

    def _decide(self, cell: Cell, plan: Plan) -> tuple[str, Iterable[str]]:
        stations = {name: station for name, (station, _) in cell.needs.items()}
        extractors = [plan.extractors.get((s.extractor, s.args)) for s in stations.values()]
        if any(e is not None and e.takes == "model" for e in extractors):
            return "needs the model itself, and only its images are here", ()
        if any(s.at not in (INPUT, OUTPUT) for s in stations.values()):
            return "needs other passes of the model, and only its images are here", ()
        if self.paired:
            return "", ()
        if any(e is not None and e.takes == "tokens" for e in extractors):
            return "needs the model's tokens, and only its images are here", ()
        truth = any(e is not None and e.takes == "pair" for e in extractors) or any(
            s.at == INPUT for s in stations.values()
        )
        if truth and cell.metric.compares == "pairs":
            return "compares pairs, and the images are not paired with the reference by id", ()
        if self.statistics is None or not truth:
            return "", ()
        refused = self._refusal(cell, plan)
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

    def _moving(self) -> dict[str, Any]:
        moved = super()._moving() | ({} if self.paired else {"pairing": "none"})
        if self.statistics:
            moved["reference_protocol"] = self.statistics.protocol
            moved["reference_statistics"] = self.statistics.path.name
        return moved

    # ------------------------------------------------------------------------------------ measuring

    def _measure(self, model: Tokenizer, plan: Plan, opened: Opened, bench: Bench, store: Store) -> tuple[Reducer, int]:
        if self.paired:
            reducer, worked = super()._measure(model, plan, opened, bench, store)
        else:
            reducer, worked = self._measure_sets(model, plan, opened, bench, store)
        self.last = plan, reducer
        return reducer, worked

    def _measure_sets(
        self, model: Tokenizer, plan: Plan, opened: Opened, bench: Bench, store: Store
    ) -> tuple[Reducer, int]:
        o = self.options
        images = cut(self.images.dataset.samples, opened.suite.chunk)
        truth = cut(self.truth.dataset.samples, opened.suite.chunk) if self.truth else []
        count = len(self.images.dataset.samples)
        worked = 0
        for title, chunks, part in (
            (f"{self.name} · {opened.suite.name}", images, only(plan, lambda s: s.at.model())),
            (f"reference · {opened.suite.name}", truth, only(plan, lambda s: not s.at.model())),
        ):
            if not part.stations or not chunks:
                continue
            with self.talk.task(title, sum(len(c.samples) for c in chunks)) as task:
                worked += self._fill(model, part, chunks, store, bench, task)
        facts: dict[str, Any] = {"model": self.name}
        if self.statistics:
            facts["reference_statistics"] = self.statistics.moments
        reads: Reads = store
        if self.statistics and self.statistics.features:
            reads = Saved(store, plan, self.statistics.features)
            truth = [Chunk(0, 0, opened.dataset.samples, Saved.CHUNK)]
        reducer = SetReducer(
            plan,
            reads,
            named(images, "images", 0),
            named(truth, "reference", count),
            facts=facts,
            limited=o.limit is not None,
            lost=bench.lost,
        )
        return reducer, worked

    def _alarms(self, model: Tokenizer, plan: Plan, opened: Opened, reducer: Reducer) -> list[Alarm]:
        found = [] if not self.paired else super()._alarms(model, plan, opened, reducer)
        if not self.paired:
            looks: dict[bool, Mapping[str, Any]] = {}
            for station, heads in plan.stations.items():
                if station.extractor == "alarms-set":
                    looks[station.at.model()] = {h: reducer.column(station, h).array() for h in heads}
            if len(looks) == 2:
                found += alarms.of_sets(looks[True], looks[False])
            found += alarms.of_plan(plan, reducer)
            found += alarms.of_digests(
                *({s.id: s.digest for s in d} for d in (self.images.dataset.samples, opened.dataset.samples))
            )
            wanted = len(opened.dataset.samples) if self.statistics is None else self.statistics.n
            found += alarms.of_counts(len(self.images.dataset.samples), wanted)
            truth = [s.id for s in opened.dataset.samples]
            given = [s.id for s in self.images.dataset.samples]
            found += alarms.of_reference(
                given, truth, self.statistics, reconstructions=opened.suite.task == "reconstruct"
            )
        return found

    # ------------------------------------------------------------------------------------ saving statistics

    def measure_reference(self) -> None:
        """Measure the reference's features alone, for `save_statistics`."""
        from vtbench.passes import Bench

        o, opened = self.options, self.opened[0]
        model = GivenSet(self.name, "images")
        plan = restrict(
            self.plan(model, opened),
            lambda c: ("" if c.metric.compares == "moments" else "only statistics are wanted", ("fake",)),
        )
        plan = only(plan, lambda s: s.at == INPUT and not s.extractor.startswith("alarms"))
        device = o.resolved_device()
        bench = Bench(
            model,
            plan,
            batch_size=o.resolved_batch(device),
            device=device,
            workers=o.resolved_loaders(),
            strict=o.strict,
        )
        self._measure(model, plan, opened, bench, Store(o.store(), self.talk.warn))

    def save_statistics(self, path: Path, *, with_features: bool = False) -> list[Path]:
        """Write the reference's statistics, as they were measured, one file a protocol; ``{protocol}`` in the name stands for it. Call after measuring.

        with_features: every image's features too, from which KID, precision and recall can be had without the images."""
        if self.last is None:
            raise UsageError("nothing was measured yet")
        plan, reducer = self.last
        found: dict[str, dict[str, Any]] = {}
        cells: dict[str, Cell] = {}
        for cell in plan.cells:
            if cell.metric.compares == "moments" and not cell.skip and "reference" in cell.needs:
                station, head = cell.needs["reference"]
                if station.extractor == "inception":
                    found.setdefault(cell.protocol.name, {})[head] = reducer.column(station, head).array()
                    cells[cell.protocol.name] = cell
        if not found:
            raise UsageError("no Fréchet distance was measured against images, so there are no statistics to save")
        if len(found) > 1 and "{protocol}" not in path.name:
            raise UsageError(
                f"--save-statistics {path}: one file for {len(found)} protocols ({', '.join(found)})",
                "Put {protocol} into the name",
            )
        if path.suffix != ".npz":
            raise UsageError(f"--save-statistics {path}: the name ends in .npz")
        assert self.truth is not None
        lost = {f.id.removeprefix("reference/") for f in reducer.failures}
        ids = [s.id for s in self.truth.dataset.samples if s.id not in lost]
        written = []
        for name, features in found.items():
            cell = cells[name]
            station, _ = cell.needs["reference"]
            facts = {
                "network": dict(self._extractors[station.extractor, station.args][1]),
                "resolution": cell.resolution,
                "dataset": self.truth.dataset.name,
                "dataset_revision": self.truth.dataset.revision,
                "ids": alarms.ids_digest(ids),
            }
            target = path.with_name(path.name.replace("{protocol}", name))
            write_statistics(target, features, cell.protocol, facts, ids if with_features else None)
            written.append(target)
        return written
