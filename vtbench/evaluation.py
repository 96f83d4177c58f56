"""From options to records: the one path that the command line and Python share."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vtbench import zoo
from vtbench.against import Reference
from vtbench.alarms import raised
from vtbench.api import GENERATED, OUTPUT, Condition, Extractor, Generator, Model, Tokenizer
from vtbench.atomic import held
from vtbench.batches import remember, remembered
from vtbench.compiling import compiled
from vtbench.data import Dataset, choose, open_dataset
from vtbench.distribute import apart, fill_apart, named
from vtbench.engine.chunks import Chunk, cut
from vtbench.engine.run import fill, fill_model
from vtbench.engine.store import Store
from vtbench.errors import BadSample, UsageError, VtbenchError
from vtbench.geneval import results as geneval
from vtbench.instances import collect
from vtbench.instances import write as write_instances
from vtbench.isolation import untouched
from vtbench.lockstep import InStep, sharded
from vtbench.options import Options
from vtbench.places import is_url, place
from vtbench.plan import Plan, Prepared, make_plan
from vtbench.progress import Silent
from vtbench.provenance import environment
from vtbench.ranks import ranks
from vtbench.record import Alarm, DatasetInfo, Failure, ModelInfo, Record, SuiteInfo, plain, run_id, worst, write
from vtbench.reduce import Reducer
from vtbench.result import Result
from vtbench.samples import write as write_samples
from vtbench.sets import only
from vtbench.suite import Suite, load_suite
from vtbench.table import write_table

if TYPE_CHECKING:
    from vtbench.keep import Keep
    from vtbench.passes import Bench

KEPT = 16  # images that `--keep-images sample` keeps


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class Opened:
    """A suite with its data, opened once; where: as given, or `bundled:NAME`.

    Of a suite of generation, conditions are what images are made from, reference what they are held against (None: the suite needs none), and dataset what
    the record calls the data: the reference, else the conditions."""

    suite: Suite
    dataset: Dataset
    where: str
    conditions: Dataset | None = None
    reference: Reference | None = None


def two_sides(plan: Plan, images: list[Chunk], opened: Opened, title: str) -> list[tuple[str, list[Chunk], Plan]]:
    """Images and the reference that they are held against, with the stations of each."""
    sides = [(title, images, only(plan, lambda s: s.at.model()))]
    if opened.reference is not None:
        truth, name = opened.reference.chunks(opened.suite.chunk), f"reference · {opened.suite.name}"
        sides.append((name, truth, only(plan, lambda s: not s.at.model())))
    return sides


def open_suite(name: str | Suite, options: Options, talk: Silent | None = None) -> Opened:
    """Load a suite and the data that it runs on. `UsageError` when it has none of its own and none was given."""
    talk = talk or Silent()
    suite = name if isinstance(name, Suite) else load_suite(name, extra_protocols=options.protocol)
    if suite.task == "generate":
        from vtbench.generation import open_generation

        return open_generation(suite, options, talk)
    bundled = suite.data.get("bundled")
    where = options.data or (str(Path(__file__).parent / bundled) if bundled else "")
    if not where:
        raise UsageError(
            f"the suite {suite.name} needs --data", f"Give {suite.data.get('hint', 'a folder, a tar or a dataset')}"
        )
    reader_options = {"metadata": options.metadata} if options.metadata else {}
    known = {revision: key for key, revision in suite.data.get("datasets", {}).items()}
    shown = 0

    def hashed(done: int, total: int) -> None:
        nonlocal shown
        if done - shown >= 10_000:
            shown = done
            talk.say(f"{where}: {done} of {total} files hashed")

    dataset = open_dataset(
        where,
        reader=suite.data.get("reader", "images"),
        options=reader_options,
        known=known,
        cache=options.cache(),
        progress=hashed,
        limit=options.read_limit(),
    )
    if options.subset or options.limit:
        dataset = choose(dataset, subset=options.subset, limit=options.limit)
    for what, count in dataset.notes.items():
        talk.say(f"{where}: {count} {what}")
    return Opened(suite, dataset, options.data or f"bundled:{bundled}")


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
        from vtbench.generation import fit_plan

        return fit_plan(plan, opened, model, self._extractors)

    # ------------------------------------------------------------------------------------ one run

    def _run(self, model: Model, opened: Opened, step: int | None, command: str | None) -> Record | None:
        o, suite, dataset = self.options, opened.suite, opened.dataset
        _right_kind(model, opened, whole=not (o.subset or o.limit))
        if o.strict and dataset.problems:
            raise BadSample(f"{dataset.problems[0][0]}: {dataset.problems[0][1]}")
        if o.tokens and not model.capabilities.prefix:
            self.talk.warn(f"{model.name} does not decode prefixes: --tokens does not apply to it")
        # asked once: a model that cannot tell its weights gives another each time, and on each rank
        revision = ranks().same(model.revision)
        if ranks().world > 1 and isinstance(model, Tokenizer) and sharded(model):
            model = InStep(model, revision)
        plan = self.plan(model, opened, revision)
        revision += f";step={step}" if step is not None else ""
        identity = run_id(
            model.name,
            revision,
            model.params,
            suite.digest(),
            dataset.revision,
            {**self._moving(), **_moving_of(opened), "budget": model.budget},
        )
        if ranks().first:
            _guard_out(place(o.out))
        lock = o.store() / "locks" / f"{identity}.lock"
        with held(lock, self._waiting) if ranks().first else nullcontext():
            return self._held_run(model, opened, plan, identity, revision, step, command)

    def _held_run(
        self,
        model: Model,
        opened: Opened,
        plan: Plan,
        identity: str,
        revision: str,
        step: int | None,
        command: str | None,
    ) -> Record | None:
        """One run, while no other process measures it."""
        from vtbench.passes import Bench

        o, suite, dataset = self.options, opened.suite, opened.dataset
        started = now()
        device = o.resolved_device()
        keep = self._keep(plan, opened.conditions or dataset, identity)
        auto = o.batch_size == "auto"
        batch = _batch_facts(model, plan, suite, device, o)
        bench = Bench(
            model if self._apart else model.to(device, o.dtype),
            plan,
            seed=o.seed,
            batch_size=o.resolved_batch(device, suite.chunk, remembered(o.store(), batch) if auto else None),
            by_area=o.batch_by_area,
            device=device,
            workers=o.resolved_loaders(),
            keep=keep,
            strict=o.strict,
            read_timeout=o.read_limit(),
        )
        bench._open = self._opened_networks
        store = Store(o.store(), self.talk.warn)
        reducer, worked = self._measure(model, plan, opened, bench, store)
        if self.read is not None:
            self.read[suite.name] = plan, reducer
        if auto and worked and ranks().first:
            remember(o.store(), batch, bench.fitting)
        if not ranks().first or o.chunks is not None:
            return None
        with bench.stage("metrics"):
            reduced = reducer.reduce()
        alarms = self._alarms(model, plan, opened, reducer) if o.alarms else []
        failures = [Failure(id=i, stage="load", reason=r) for i, r in dataset.problems] + reduced.failures
        if dataset.problems:
            _mark_partial(reduced.rows, len(failures))
        self._tell(model, reduced.failures, dataset)
        record = Record(
            run_id=identity,
            status=_status(reduced.rows, failures, o),
            started=started,
            finished=now(),
            command=command
            or shlex.join(["vtbench", *sys.argv[1:]] if sys.argv[0].endswith("vtbench") else ["python"]),
            model=ModelInfo(
                name=model.name,
                revision=revision,
                params=plain(dict(model.params)),
                title=getattr(model, "label", ""),
                card=_card(model),
            ),
            suite=SuiteInfo(name=suite.name, version=suite.version, digest=suite.digest()),
            dataset=DatasetInfo(
                name=dataset.name,
                revision=dataset.revision,
                n=len(dataset.samples),
                where=opened.where,
                made=len(opened.conditions.samples) if opened.conditions and opened.reference else 0,
            ),
            options={**self._moving(), **_moving_of(opened), **({"step": step} if step is not None else {})},
            protocols={name: _protocol(suite, name) for name in dict.fromkeys(c.protocol.name for c in plan.cells)},
            rows=reduced.rows,
            failures=failures,
            alarms=alarms,
            stages=dict(sorted(bench.stages.items())),
            environment=environment(
                device,
                o.dtype,
                bench.fitting if auto else bench.batch_size,
                o.seed,
                backed_off=bench.backed_off,
                chunks_measured=worked,
                loading_seconds={what: round(seconds, 3) for what, seconds in sorted(bench.loading.items())},
                **({"batch_size_found": "auto"} if auto else {}),
                **({"compiled": True} if o.compile else {}),
                **({"chunks_by_worker": dict(bench.by)} if bench.by else {}),
                **({"worker": dict(told)} if (told := model.provenance()) else {}),
            ),
            weights=plan.weights,
        )
        out = place(o.out)
        write(record, out)
        blocks = (
            {
                **{k: getattr(s.row, k) for k in ("resolution", "tokens", "protocol", "metric", "slice")},
                "id": s.ids,
                "instance": s.instance,
                "value": s.values,
            }
            for s in reduced.samples
        )
        write_samples(out, identity, blocks)
        write_instances(out, identity, collect(reducer, () if keep is None else keep.ids))
        geneval.write(out, identity, reducer)
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
        return two_sides(plan, cut(opened.conditions.samples, size, conditions=True), opened, title)

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
        how: dict[str, Any] = {"facts": _facts(model), "limited": self.options.limit is not None, "lost": lost}
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

    def _keep(self, plan: Plan, dataset: Dataset, identity: str) -> Keep | None:
        from vtbench.keep import Keep

        o = self.options
        how = "sample" if o.keep_images == "none" and o.grid else o.keep_images
        points: dict[tuple[Prepared, int | None], str] = {}
        # Where every row is skipped the images may still be wanted, to be judged elsewhere.
        asked = [(s.prepared, s.at, s.budget) for cell in plan.cells for s, _ in cell.needs.values()]
        for prepared, at, budget in [point[:3] for point in plan.operating_points()] or asked:
            if at in (OUTPUT, GENERATED):
                point = f"{prepared.resolution or 'native'}" + (f"-{budget}tokens" if budget is not None else "")
                if point not in points.values():
                    points[prepared, budget] = point
        if how == "none" or not points:
            return None
        ids = None
        if how == "sample":
            ranked = sorted((s.id for s in dataset.samples), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
            ids = frozenset(ranked[:KEPT])
        return Keep(place(o.out) / "images" / identity, points, ids)

    def _tell(self, model: Model, failures: Iterable[Failure], dataset: Dataset) -> None:
        bad = [*(Failure(id=i, stage="load", reason=r) for i, r in dataset.problems), *failures]
        for failure in bad[:5]:
            self.talk.warn(f"{failure.id}: {failure.reason}")
        if len(bad) > 5:
            self.talk.warn(f"and {len(bad) - 5} more samples failed; the record names them all")


def evaluate(
    model: Model | str,
    suites: str | Sequence[str] = ("reconstruction-256",),
    *,
    talk: Silent | None = None,
    **options: Any,
) -> Result:
    """Measure a model once: ``vtbench.evaluate("tiny", "demo")``. Options as for `Evaluator`."""
    return Evaluator(suites, talk=talk, **options)(model)


# ------------------------------------------------------------------------------------------------ small facts


def _protocol(suite: Suite, name: str) -> dict[str, Any]:
    protocol = suite.protocols[name]
    return {
        "input": plain(dict(protocol.input)),
        "view": plain(dict(protocol.view)),
        "reduce": plain(dict(protocol.reduce)),
    }


def _right_kind(model: Model, opened: Opened, *, whole: bool) -> None:
    """Refuse a generator in a suite of reconstruction, and a tokenizer in one of generation; tell a generator its conditions."""
    if isinstance(model, Generator) and opened.conditions is not None:
        conditions = [Condition(s.id, s.label, s.caption) for s in opened.conditions.samples]
        model.expect(conditions, whole=whole)
    elif isinstance(model, Generator) or opened.conditions is not None:
        is_, command = ("a generator", "generate") if isinstance(model, Generator) else ("a tokenizer", "reconstruct")
        raise UsageError(
            f"{model.name} is {is_}, and the suite {opened.suite.name} is one of task '{opened.suite.task}'",
            f"vtbench {command} --model {model.name} takes it",
        )


def _moving_of(opened: Opened) -> dict[str, Any]:
    """What the data of a suite of generation add to a run's id: the conditions, and statistics that stand for the reference."""
    if opened.conditions is None:
        return {}
    named = {"conditions": opened.conditions.name, "conditions_revision": opened.conditions.revision}
    return {**named, **(opened.reference.moving() if opened.reference else {})}


def _batch_facts(model: Model, plan: Plan, suite: Suite, device: str, options: Options) -> dict[str, Any]:
    """What a batch size that memory holds depends on."""
    import torch

    kind = torch.cuda.get_device_name(device) if device.startswith("cuda") and torch.cuda.is_available() else device
    sizes = sorted({str(s.prepared.resolution) for s in plan.stations})
    revision = next((d["model"]["revision"] for d in plan.descriptions.values() if d["model"]), "")
    return {
        "model": [model.name, revision, dict(model.params)], "suite": [suite.name, suite.version, suite.chunk], "resolutions": sizes,
        "device": kind, "dtype": options.dtype, "compile": options.compile,
    }  # fmt: skip


def _facts(model: Model) -> dict[str, Any]:
    return {"model": model.name, "max_tokens": model.capabilities.max_tokens}


def _card(model: Model) -> dict[str, Any]:
    card = getattr(model, "card", None)
    if card is None:
        return {}
    shown = card.to_dict() if hasattr(card, "to_dict") else dict(card)
    return dict(plain(shown))


def _mark_partial(rows: list[Any], count: int) -> None:
    for i, row in enumerate(rows):
        if row.status in ("ok", "limited"):
            why = f"{count} samples failed" + (f"; {row.why}" if row.why and "samples failed" not in row.why else "")
            rows[i] = row.model_copy(update={"status": "partial", "why": why})


def _status(rows: Sequence[Any], failures: Sequence[Failure], options: Options) -> Any:
    """The run's status: skipped rows do not spoil a run that measured others."""
    measured = [r.status for r in rows if r.status != "skipped"]
    if not measured:
        return "failed" if failures else "skipped"
    return worst(measured)


def _guard_out(out: Path) -> None:
    """Know it before anything is measured."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not is_url(out) and not os.access(out, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise VtbenchError(f"cannot write to {out}: {error.strerror}", "Name another folder with --out") from error
