"""From options to records: the one path that the command line and Python share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Any

from vtbench import batches, zoo
from vtbench.alarms import raised
from vtbench.api import Extractor, Model, Tokenizer
from vtbench.atomic import held
from vtbench.compiling import compiled
from vtbench.distribute import apart, fill_apart, named
from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.run import fill, fill_model
from vtbench.engine.store import Store
from vtbench.errors import BadSample
from vtbench.generation import fit_plan, open_generation
from vtbench.isolation import untouched
from vtbench.lockstep import InStep, sharded
from vtbench.opened import Opened, open_images
from vtbench.options import Options
from vtbench.places import check_writable, place
from vtbench.plan import Plan, make_plan
from vtbench.progress import Silent
from vtbench.provenance import now
from vtbench.ranks import ranks
from vtbench.record import Alarm, Failure, Record
from vtbench.recording import Run, record_of, write_run
from vtbench.reduce import Reducer
from vtbench.result import Result
from vtbench.suite import Suite, load_suite
from vtbench.table import write_table

if TYPE_CHECKING:
    from vtbench.passes import Bench


def open_suite(name: str | Suite, options: Options, talk: Silent | None = None) -> Opened:
    """Load a suite and the data that it runs on. `UsageError` when it has none of its own and none was given."""
    suite = name if isinstance(name, Suite) else load_suite(name, extra_protocols=options.protocol)
    opens = open_generation if suite.task == "generate" else open_images
    return opens(suite, options, talk or Silent())


class Evaluator:
    """Measures models under suites: extractors are loaded once, ground truth is measured once, complete chunks are never redone.

    ``ev = Evaluator(["reconstruction-256"], data="val.tar", subset="5k"); result = ev(tokenizer, step=25_000)``

    options: the fields of `vtbench.options.Options` as keywords. talk: who reports progress (silent by default).
    """

    def __init__(
        self,
        suites: str | Suite | Sequence[str | Suite] = ("reconstruction-256",),
        *,
        talk: Silent | None = None,
        **options: Any,
    ) -> None:
        self.options = Options.of(**options)
        self.talk = talk or Silent()
        names = (suites,) if isinstance(suites, (str, Suite)) else tuple(suites)
        self.opened = [open_suite(name, self.options, self.talk) for name in names]
        self._extractors: dict[Any, tuple[Extractor, Mapping[str, str]]] = {}
        self._opened_networks: set[int] = set()
        self._controls: dict[str, Model] = {}
        self._apart = apart(self.options)
        self.read: dict[str, tuple[Plan, Reducer]] | None = (
            None  # what the last runs were read with, when a caller wants it
        )

    def __call__(self, model: Model | str, *, step: int | None = None, command: str | None = None) -> Result:
        """Measure one model under every suite, its controls beside it.

        step: the training step; it becomes part of the revision shown. Records, samples and the table are written to `out`. In a
        process group every rank calls, with the same model and `out` on a shared file system; rank 0 gets the result, the others
        an empty one."""
        subject = self.load(model) if isinstance(model, str) else model
        records, controls = [], []
        with untouched(subject.modules().values()):
            for opened in self.opened:
                records.append(self._run(subject, opened, step, command))
                for spec in opened.suite.controls if self.options.baselines else ():
                    if spec not in self._controls:
                        self._controls[spec] = self.load(spec)
                    control = self._controls[spec]
                    if (control.name, dict(control.params)) != (subject.name, dict(subject.params)):
                        controls.append(self._run(control, opened, None, command))
        if ranks().first:
            for problem in write_table(place(self.options.out))[1]:
                self.talk.warn(str(problem))
        measured, beside = [r for r in records if r is not None], [r for r in controls if r is not None]
        return Result(measured, beside, place(self.options.out))

    def load(self, spec: str) -> Model:
        """A model of the zoo, by what stands after `--model`."""
        o = self.options
        task = "generate" if all(opened.conditions is not None for opened in self.opened) else ""
        weights = o.weights if spec not in {c for opened in self.opened for c in opened.suite.controls} else None
        model = zoo.load_model(
            spec,
            weights=weights,
            state_key=o.state_key,
            device="cpu" if self._apart else o.resolved_device(),
            dtype=o.dtype,
            allow_code=o.allow_code,
            upstream=o.upstream,
            task=task,
        )
        model.named = named(spec, weights, o, task)  # type: ignore[attr-defined]
        for note in zoo.notes(model):
            self.talk.say(f"{spec}: {note}")
        return model

    def plan(self, model: Model, opened: Opened, revision: str | None = None) -> Plan:
        """What a run would do. revision: the model's, when it has been asked for already."""
        o = self.options
        budgets: tuple[int | None, ...] = o.tokens or (model.budget,)
        if o.tokens and not model.capabilities.prefix:
            budgets = (None,)
        plan = make_plan(
            opened.suite,
            model,
            resolutions=tuple(o.resolution) or tuple(r or None for r in opened.suite.resolutions),
            budgets=budgets,
            seed=o.seed,
            dtype=o.dtype,
            device=o.resolved_device(),
            made=self._extractors,
            slice_by=o.slice_by,
            revision=revision,
            alarms="none" if not o.alarms or opened.conditions is not None else "pairs",
        )
        if opened.conditions is None:
            return plan
        return fit_plan(plan, opened, model, self._extractors)

    # ------------------------------------------------------------------------------------ one run

    def _run(self, model: Model, opened: Opened, step: int | None, command: str | None) -> Record | None:
        o, dataset = self.options, opened.dataset
        opened.meet(model, whole=not (o.subset or o.limit))
        if o.strict and dataset.problems:
            raise BadSample(f"{dataset.problems[0][0]}: {dataset.problems[0][1]}")
        asked = model not in self._controls.values()  # of the controls nobody asked for prefixes
        if o.tokens and asked and not model.capabilities.prefix:
            self.talk.warn(f"{model.name} does not decode prefixes: --tokens does not apply to it")
        # asked once: a model that cannot tell its weights gives another each time, and on each rank
        revision = ranks().same(model.revision)
        if ranks().world > 1 and isinstance(model, Tokenizer) and sharded(model):
            model = InStep(model, revision)
        plan = self.plan(model, opened, revision)
        moving = {**self._moving(), **opened.moving()}
        run = Run(model, opened, plan, o, revision, moving, step, command)
        if ranks().first:
            check_writable(place(o.out))
        lock = o.store() / "locks" / f"{run.id}.lock"
        with held(lock, self._waiting) if ranks().first else nullcontext():
            return self._held_run(run)

    def _held_run(self, run: Run) -> Record | None:
        """One run, while no other process measures it."""
        from vtbench.keep import Keep
        from vtbench.passes import Bench

        model, opened, plan, o = run.model, run.opened, run.plan, self.options
        started, device = now(), o.resolved_device()
        auto = o.batch_size == "auto"
        batch = batches.facts_of(model, plan, opened.suite, device, o)
        found = batches.remembered(o.store(), batch) if auto else None
        bench = Bench(
            model if self._apart else model.to(device, o.dtype),
            plan,
            seed=o.seed,
            batch_size=o.resolved_batch(device, opened.suite.chunk, found),
            by_area=o.batch_by_area,
            device=device,
            workers=o.resolved_loaders(),
            keep=Keep.asked(o, plan, opened.conditions or opened.dataset, place(o.out) / "images" / run.id),
            strict=o.strict,
            read_timeout=o.read_limit(),
            opened=self._opened_networks,
        )
        reducer, worked = self._measure(model, plan, opened, bench, Store(o.store(), self.talk.warn))
        if self.read is not None:
            self.read[opened.suite.name] = plan, reducer
        if auto and worked and ranks().first:
            batches.remember(o.store(), batch, bench.fitting)
        if not ranks().first or o.chunks is not None:
            return None
        with bench.spent.stage("metrics"):
            reduced = reducer.reduce()
        alarms = self._alarms(model, plan, opened, reducer) if o.alarms else []
        record = record_of(run, reduced, alarms, bench, started=started, worked=worked)
        self._tell(record.failures)
        write_run(run, record, reduced, reducer, bench)
        return record

    def _measure(self, model: Model, plan: Plan, opened: Opened, bench: Bench, store: Store) -> tuple[Reducer, int]:
        """Fill the store; what reads it, and how many chunks needed work."""
        o = self.options
        sides = self._sides(model, plan, opened)
        group = ranks()
        worked = 0

        def measure() -> None:
            nonlocal worked
            for i, (title, chunks, part) in enumerate(sides if o.chunks is None else sides[:1]):
                mine = group.share(chunks[o.chunk_range() or slice(None)])
                costs = chunks[0] if i == 0 and group.first and chunks and o.chunks is None else None
                if not part.stations or not (mine or costs):
                    continue
                with self.talk.task(title, sum(len(c.samples) for c in mine)) as task:
                    worked += self._fill(model, part, mine, store, bench, task, costs)

        def in_step() -> None:
            try:
                measure()
            except Exception as error:
                model.finish(error)  # type: ignore[attr-defined]
                raise
            model.finish()  # type: ignore[attr-defined]

        group.together(in_step if isinstance(model, InStep) else measure)
        return self._reducer(model, plan, opened, store, [chunks for _, chunks, _ in sides], bench.lost), worked

    def _fill(
        self,
        model: Model,
        plan: Plan,
        chunks: Sequence[Chunk],
        store: Store,
        bench: Bench,
        task: Silent,
        costs: Chunk | None = None,
    ) -> int:
        """Measure what the store lacks, here or by workers; how many chunks needed work. costs: on whose inputs the model itself is measured."""
        o = self.options
        if self._apart:
            done = fill_apart(model, plan, chunks, store, bench, o, self.talk, advance=task.advance, costs=costs)
            bench.lost |= done.lost
            bench.by.update(done.by)
            return done.worked
        with compiled(model, self.talk.warn) if o.compile else nullcontext(), closing(bench):
            worked = fill(plan, chunks, store, bench, fresh=o.fresh, advance=lambda n, _: task.advance(n))
            if costs is not None:
                fill_model(plan, costs, store, bench, fresh=o.fresh)
        return worked

    def _sides(self, model: Model, plan: Plan, opened: Opened) -> list[tuple[str, list[Chunk], Plan]]:
        """What is measured on which chunks: (title, chunks, part of the plan); a reference that is not paired comes second."""
        size, title = opened.suite.chunk, f"{model.name} · {opened.suite.name}"
        if opened.conditions is None:
            samples, seen = opened.dataset.samples, model.capabilities.needs_caption
            return [(title, cut(samples, size, conditions=seen), plan)]
        return opened.two_sides(plan, cut(opened.conditions.samples, size, conditions=True), title)

    def _reducer(
        self,
        model: Model,
        plan: Plan,
        opened: Opened,
        store: Store,
        sides: Sequence[Sequence[Chunk]],
        lost: Mapping[str, str],
    ) -> Reducer:
        """What reads the store. lost: chunks that no worker could measure."""
        facts = {"model": model.name, "max_tokens": model.capabilities.max_tokens}
        how: dict[str, Any] = {"facts": facts, "limited": self.options.limit is not None, "lost": lost}
        if opened.reference is None:
            return Reducer(plan, store, sides[0], **how)
        return opened.reference.reducer(plan, store, *sides, side="", **how)

    def _moving(self) -> dict[str, Any]:
        """The options that are part of a run's id."""
        return self.options.moving()

    def _waiting(self) -> None:
        self.talk.say("another process measures this very run: waiting for it")

    def _alarms(self, model: Model, plan: Plan, opened: Opened, reducer: Reducer) -> list[Alarm]:
        """Common mistakes seen in the measurements."""
        if opened.conditions is not None:
            if opened.reference is None:
                return []
            return opened.reference.alarms(plan, reducer, opened.conditions, reconstructions=False, conditions=True)
        return raised(plan, reducer, getattr(model, "ids", None), [s.id for s in opened.dataset.samples])

    def _tell(self, failures: Sequence[Failure]) -> None:
        for failure in failures[:5]:
            self.talk.warn(f"{failure.id}: {failure.reason}")
        if len(failures) > 5:
            self.talk.warn(f"and {len(failures) - 5} more samples failed; the record names them all")


def evaluate(
    model: Model | str,
    suites: str | Sequence[str] = ("reconstruction-256",),
    *,
    talk: Silent | None = None,
    **options: Any,
) -> Result:
    """Measure a model once: ``vtbench.evaluate("tiny", "demo")``. Options as for `Evaluator`."""
    return Evaluator(suites, talk=talk, **options)(model)
