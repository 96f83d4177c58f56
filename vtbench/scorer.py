"""Images against a reference, through the same plan, store and reduction as a model's run.

Paired (the same ids on both sides): the images take the place of a model's output. Not paired: the run's samples are both sets, one after the
other; stations of the output are measured on the images, stations of the ground truth on the reference, and only metrics that
compare sets apply. A reference of statistics has no samples at all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from vtbench import alarms
from vtbench.against import Reference, of_images_alone
from vtbench.api import INPUT, Model, Tokenizer
from vtbench.data import Dataset, choose, open_dataset
from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.store import Store
from vtbench.errors import BadSample, UsageError
from vtbench.evaluation import Evaluator
from vtbench.given import GivenPairs, GivenSet
from vtbench.opened import Opened
from vtbench.pairing import Pairing, paired
from vtbench.plan import Cell, Plan, make_plan
from vtbench.progress import Silent
from vtbench.record import Alarm
from vtbench.reduce import Reducer
from vtbench.reference import write_statistics
from vtbench.result import Result
from vtbench.sets import only, pixels, restrict, share
from vtbench.suite import Suite, load_suite

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
        super().__init__((), talk=talk, **{"baselines": False, **options})
        if pairing not in ("auto", "ids", "none"):
            raise UsageError(f"--pairing {pairing}: auto, ids or none")
        names = (suites,) if isinstance(suites, (str, Suite)) else tuple(suites)
        loaded = [n if isinstance(n, Suite) else load_suite(n, extra_protocols=self.options.protocol) for n in names]
        if pairing == "auto" and all(s.task == "generate" for s in loaded):
            pairing = (
                "none"  # images that were made from an image's caption bear its name, and are no reconstructions of it
            )
        self.reference = Reference.open(
            reference, reference_protocol, self.options, self.talk, metadata=self.options.metadata
        )
        self.images = self._open(fake)
        self.name = name or Path(fake.rstrip("/")).name.partition(".")[0] or "images"
        ids = [s.id for s in self.images.dataset.samples]
        truth = self.reference.dataset
        self.paired = (
            truth is not None and not self.reference.statistics and paired(ids, [s.id for s in truth.samples], pairing)
        )
        self._choose()
        if not self.paired:
            self.talk.say("the images are compared as sets: they are not paired with the reference")
        side = self._side_length()
        dataset = self.reference.shown()
        self.opened = [
            Opened(
                replace(s, resolutions=(side,)) if s.resolutions == (0,) else s,
                dataset,
                reference,
                reference=None if self.paired else self.reference,
                given=0 if self.paired else len(self.images.dataset.samples),
            )
            for s in loaded
        ]
        self._whole: tuple[int, int] | None = None
        self.last: tuple[Plan, Reducer] | None = None

    def _open(self, where: str) -> _Side:
        o = self.options
        reader = {"metadata": o.metadata} if o.metadata else {}
        dataset = open_dataset(where, options=reader, cache=o.cache(), limit=o.read_limit())
        for what, count in dataset.notes.items():
            self.talk.say(f"{where}: {count} {what}")
        return _Side(dataset, where)

    def _choose(self) -> None:
        """Apply `--subset` and `--limit`: to the ground truth of pairs, and to both sets otherwise."""
        o = self.options
        if not (o.subset or o.limit):
            return
        self.reference.choose(o.subset, o.limit)
        images = self.images.dataset
        if self.paired and self.reference.dataset:
            wanted = {s.id for s in self.reference.dataset.samples}
            images = replace(images, samples=tuple(s for s in images.samples if s.id in wanted))
        else:
            images = choose(images, subset=o.subset, limit=o.limit)
        self.images = replace(self.images, dataset=images)

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
        self, model: Model | str | None = None, *, step: int | None = None, command: str | None = None
    ) -> Result:
        """Measure; the record's model is the images."""
        dataset = self.images.dataset
        given: Tokenizer = (
            GivenPairs(dataset, self.name, self.images.where) if self.paired else GivenSet(self.name, dataset.revision)
        )
        return super().__call__(given, step=step, command=command)

    # ------------------------------------------------------------------------------------ what applies

    def plan(self, model: Model, opened: Opened, revision: str | None = None) -> Plan:
        """The suite's plan, without what images alone cannot tell."""
        o = self.options
        watched: Literal["none", "pairs", "sets"] = "none" if not o.alarms else "pairs" if self.paired else "sets"
        facts: Model = model if self.paired else GivenSet("images", "images")
        plan = make_plan(
            opened.suite,
            facts,
            resolutions=tuple(o.resolution) or tuple(r or None for r in opened.suite.resolutions),
            device=o.resolved_device(),
            made=self._extractors,
            slice_by=o.slice_by,
            alarms=watched,
        )
        plan = self.reference.without_looks(restrict(plan, self._decide))
        self.reference.useful(plan, self._extractors)
        whole = self._whole_side()
        return share(plan, lambda s: pixels(s, bytes_out=True, whole=whole))

    def _whole_side(self) -> int | None:
        """The side of all images of both sets where all are squares of one size; None otherwise, or where looking would take long."""
        samples = [s for d in (self.images.dataset, self.reference.dataset) if d for s in d.samples]
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

    def _decide(self, cell: Cell) -> tuple[str, Iterable[str]]:
        known = self._extractors
        why = of_images_alone(cell, known) or self._needs_prompts(cell)
        if why or self.paired:
            return why, ()
        if any(
            known[s.extractor, s.args][0].takes == "tokens"
            for s, _ in cell.needs.values()
            if (s.extractor, s.args) in known
        ):
            return "needs the model's tokens, and only its images are here", ()
        return self.reference.decide(cell, known)

    def _needs_prompts(self, cell: Cell) -> str:
        judged = {s.extractor for s, _ in cell.needs.values()} & {"clip_score", "detections", "answers"}
        if not judged or (judged == {"clip_score"} and any(s.caption for s in self.images.dataset.samples)):
            return ""
        return f"needs the prompts: vtbench generate --model images:{self.images.where} --data PROMPTS"

    def _moving(self) -> dict[str, Any]:
        return super()._moving() | ({} if self.paired else {"pairing": "none"}) | self.reference.moving()

    # ------------------------------------------------------------------------------------ measuring

    def _sides(self, model: Model, plan: Plan, opened: Opened) -> list[tuple[str, list[Chunk], Plan]]:
        if self.paired:
            return super()._sides(model, plan, opened)
        images = cut(self.images.dataset.samples, opened.suite.chunk)
        return opened.two_sides(plan, images, f"{self.name} · {opened.suite.name}")

    def _reducer(
        self,
        model: Model,
        plan: Plan,
        opened: Opened,
        store: Store,
        sides: Sequence[Sequence[Chunk]],
        lost: Mapping[str, str],
    ) -> Reducer:
        if self.paired:
            reducer = super()._reducer(model, plan, opened, store, sides, lost)
        else:
            how: dict[str, Any] = {
                "facts": {"model": self.name},
                "limited": self.options.limit is not None,
                "lost": lost,
            }
            reducer = self.reference.reducer(plan, store, *sides, side="images", **how)
        self.last = plan, reducer
        return reducer

    def _alarms(self, model: Model, plan: Plan, opened: Opened, reducer: Reducer) -> list[Alarm]:
        if self.paired:
            return super()._alarms(model, plan, opened, reducer)
        rec = opened.suite.task == "reconstruct"
        return self.reference.alarms(plan, reducer, self.images.dataset, reconstructions=rec)

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
            by_area=o.batch_by_area,
            device=device,
            workers=o.resolved_loaders(),
            strict=o.strict,
            read_timeout=o.read_limit(),
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
        truth = self.reference.dataset
        assert truth is not None
        lost = {f.id.removeprefix("reference/") for f in reducer.failures}
        ids = [s.id for s in truth.samples if s.id not in lost]
        written = []
        for name, features in found.items():
            cell = cells[name]
            station, _ = cell.needs["reference"]
            facts = {
                "network": dict(self._extractors[station.extractor, station.args][1]),
                "resolution": cell.resolution,
                "dataset": truth.name,
                "dataset_revision": truth.revision,
                "ids": alarms.ids_digest(ids),
            }
            target = path.with_name(path.name.replace("{protocol}", name))
            write_statistics(target, features, cell.protocol, facts, ids if with_features else None)
            written.append(target)
        return written
