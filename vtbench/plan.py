"""From a suite, protocols and a model to the stations that must be measured: what is shared is shared here.

A **station** is an extractor at a pass through a view on inputs prepared one way: the unit that the store keys. Protocols with
equal `[input]` share one preparation, equal passes one encode and decode, equal views one forward; ground truth has no model
in its key, so it is measured once for all models, and once for all resolutions where it is the source image itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from vtbench import registry
from vtbench.api import GENERATED, INPUT, OUTPUT, Extractor, Generator, Metric, Model, Need, Pass, View
from vtbench.engine.store import station_key
from vtbench.errors import MissingPackage, MissingWeights, UsageError
from vtbench.extractors.alarms import PAIR_HEADS, SET_HEADS
from vtbench.suite import Protocol, Suite, SuiteMetric

BITS = Need("tokens", "bits", at=OUTPUT)
PIXELS = Need("tokens", "pixels", at=OUTPUT)
USED = Need("tokens", "used", at=OUTPUT)


FROM_CONDITIONS = (("from", "conditions"),)
OF_CONDITIONS = ("labels",)
"""The `[input]` fields that say which images are made, and nothing of how a reference is prepared."""


@dataclass(frozen=True)
class Prepared:
    """How inputs are made from samples: the `[input]` fields but `encode`, and the resolution."""

    fields: tuple[tuple[str, Any], ...]
    resolution: int | None

    def mapping(self) -> dict[str, Any]:
        """The fields as a dict."""
        return dict(self.fields)

    @property
    def generated(self) -> bool:
        """Whether nothing is prepared, since a generator makes the images from conditions."""
        return self.fields == FROM_CONDITIONS


@dataclass(frozen=True)
class Station:
    """An extractor at a pass through a view; `budget` and `sample` belong to the model's pass."""

    extractor: str
    args: tuple[tuple[str, Any], ...]
    at: Pass
    view: View
    prepared: Prepared
    budget: int | None = None
    sample: bool = False

    def describe(self, extractor: Extractor, identity: Mapping[str, str], model: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that moves the station's values: its content key is the digest of this."""
        return {
            "extractor": self.extractor,
            "version": extractor.version,
            "identity": dict(identity),
            "args": dict(self.args),
            "pass": self.at.spelled(),
            "view": asdict(self.view),
            "prepared": self.prepared.mapping(),
            "resolution": self.prepared.resolution,
            "model": {**model, "budget": self.budget, "sample": self.sample} if self.at.model() else None,
        }


@dataclass(frozen=True)
class Cell:
    """One metric under one protocol at one operating point: becomes rows."""

    metric: Metric
    entry: SuiteMetric
    protocol: Protocol
    resolution: int | None
    budget: int | None
    needs: Mapping[str, tuple[Station, str]]
    costs: Mapping[str, tuple[Station, str]]
    skip: str = ""


@dataclass
class Plan:
    """What a run does. stations: the heads wanted of each; extractors: one a (name, args)."""

    cells: list[Cell] = field(default_factory=list)
    stations: dict[Station, set[str]] = field(default_factory=dict)
    extractors: dict[tuple[str, tuple[tuple[str, Any], ...]], Extractor] = field(default_factory=dict)
    keys: dict[Station, str] = field(default_factory=dict)
    descriptions: dict[Station, dict[str, Any]] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)

    def extractor(self, station: Station) -> Extractor:
        """The extractor of a station."""
        return self.extractors[station.extractor, station.args]

    def operating_points(self) -> list[tuple[Prepared, Pass, int | None, bool]]:
        """The distinct decodes: (prepared, pass, budget, sampled)."""
        points = [(s.prepared, s.at, s.budget, s.sample) for s in self.stations if s.at.model()]
        return list(dict.fromkeys(points))

    def count(self, samples: int, truth: int | None = None) -> list[tuple[str, int, str]]:
        """What a full run costs: (what, times, remark) lines for `--dry-run`. truth: images of a reference that is a set of its own."""
        generated = list(dict.fromkeys((s.prepared, s.budget) for s in self.stations if s.prepared.generated))
        if generated:
            lines = [("images generated", len(generated) * samples, f"{len(generated)} x {samples}")]
        else:
            inputs = dict.fromkeys(s.prepared for s in self.stations if s.at.op != "load" or s.view.frame == "model")
            encodes = dict.fromkeys((s.prepared, s.sample) for s in self.stations if s.at.model())
            decodes = [p for p in self.operating_points() if self._decoded(p)]
            lines = [
                ("prepared inputs", len(inputs) * samples, f"{len(inputs)} x {samples} images"),
                ("encoder forwards", len(encodes) * samples, f"{len(encodes)} x {samples}"),
                ("decoder forwards", len(decodes) * samples, f"{len(decodes)} x {samples}"),
            ]
        for station, heads in self.stations.items():
            extractor = self.extractor(station)
            if extractor.takes == "model":
                continue
            where = f"{station.at.spelled()}, {station.view.frame} frame, resolution {station.prepared.resolution or 'native'}"
            if station.budget is not None:
                where += f", {station.budget} tokens"
            times = samples if station.at.model() or truth is None else truth
            lines.append((f"{station.extractor}: {', '.join(sorted(heads))}", times, where))
        return lines

    def _decoded(self, point: tuple[Prepared, Pass, int | None, bool]) -> bool:
        return any(
            (s.prepared, s.at, s.budget, s.sample) == point and self.extractor(s).takes in ("images", "pair")
            for s in self.stations
        )

    def bytes(self, samples: int, truth: int | None = None) -> int:
        """Bytes that the store will hold for a full run, as far as the extractors say (`bytes_per_sample`). truth: as for `count`."""
        total = 0
        for station, heads in self.stations.items():
            per: Callable[[Iterable[str]], int] | None = getattr(self.extractor(station), "bytes_per_sample", None)
            times = samples if station.at.model() or truth is None else truth
            total += times * (per(heads) if per else 64 * len(heads))
        return total


def made(at: Pass) -> Pass:
    """A pass of a model's output where the model is a generator: what it makes from conditions takes the place of `OUTPUT`."""
    if at == OUTPUT:
        return GENERATED
    return at if at.of is None else replace(at, of=made(at.of))


def _station(
    need: Need, protocol: Protocol, resolution: int | None, budget: int | None, *, exact: bool | None = None
) -> Station:
    """exact: for a generator, whether its images must have the resolution (else they are brought to it); None for a tokenizer."""
    fields = {k: v for k, v in protocol.input.items() if k not in OF_CONDITIONS}
    sample = fields.pop("encode", "mode") == "sample"
    model = need.at.model()
    if model and exact is not None:
        view = need.view
        if not exact and resolution is not None and view.frame == "model" and fields.get("fit") != "none":
            how = ("fit", "library", "filter", "antialias")
            view = replace(view, resize=":".join(str(fields.get(k, "")) for k in how), size=resolution)
        asked = Prepared(FROM_CONDITIONS, resolution if exact else None)
        return Station(need.extractor, need.args, made(need.at), view, asked, budget)
    at_source = not model and need.view.frame == "source" and need.at.op == "load"
    view = need.view
    if at_source:
        # The ground truth itself: nothing of the preparation, the canvas or the model's output moves it.
        fields = {k: v for k, v in fields.items() if k == "exif"}
        resolution, view = None, View(frame="source")
    otherwise = fields.pop("reference_fit", None)
    if otherwise and not model:
        # A protocol may hold the outputs against ground truth that is prepared in another way, as careless scripts do.
        fields["fit"] = otherwise
        resolution = None if otherwise in ("none", "pad") else resolution
    prepared = Prepared(tuple(sorted(fields.items())), resolution)
    return Station(
        need.extractor, need.args, need.at, view, prepared, budget if model else None, sample if model else False
    )


def unfit(model: Model, resolution: int | None, *, exact: bool = True) -> str:
    """Why a model cannot take, or make, this resolution; empty when it can."""
    can = model.capabilities
    if can.any_resolution or resolution == can.resolution:
        return ""
    if isinstance(model, Generator):
        wrong = exact and resolution is not None
        return f"{model.name} makes {can.resolution} x {can.resolution}, the suite wants {resolution}" if wrong else ""
    return f"{model.name} takes {can.resolution} x {can.resolution} only"


def _alarm_stations(plan: Plan, alarms: str) -> list[Station]:
    """One look a resolution, at the first preparation that is decoded anyway, with the most tokens."""
    decoded = [p for p in plan.operating_points() if p[1] == OUTPUT and plan._decoded(p)]
    chosen: dict[int | None, tuple[Prepared, Pass, int | None, bool]] = {}
    for point in decoded if alarms != "none" else ():
        best = chosen.setdefault(point[0].resolution, point)
        if point[0] == best[0] and (point[2] or 0) > (best[2] or 0):
            chosen[point[0].resolution] = point
    name = "alarms" if alarms == "pairs" else "alarms-set"
    looks = [
        Station(name, (), at, View(), prepared, budget, sample) for prepared, at, budget, sample in chosen.values()
    ]
    truth = [Station(name, (), INPUT, View(), point[0]) for point in chosen.values()] if alarms == "sets" else []
    return [*looks, *truth]


def make_plan(
    suite: Suite,
    model: Model,
    *,
    resolutions: Sequence[int | None],
    budgets: Sequence[int | None] = (None,),
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    made: dict[Any, tuple[Extractor, Mapping[str, str]]] | None = None,
    slice_by: Sequence[str] = (),
    revision: str | None = None,
    alarms: Literal["none", "pairs", "sets"] = "none",
) -> Plan:
    """Plan every cell of a suite for a model.

    budgets: token budgets (None: the model's full length). made: extractors of earlier plans, with their identities, to be used
    again. slice_by: facts of the samples that every metric is sliced by, besides the suite's own. revision: the model's, when the
    caller has asked for it already (a model that cannot tell its weights gives another each time). alarms: also look for common mistakes
    in pairs, or in two sets, where the model decodes at all. Raises `UsageError` for a budget that the model cannot decode and for a
    protocol that lacks a field its metric reads. Missing packages and weights turn cells into skipped ones, with the way out.
    """
    if any(b is not None for b in budgets) and not model.capabilities.prefix:
        raise UsageError(f"{model.name} does not decode prefixes", "Leave --tokens away")
    plan = Plan()
    trouble: dict[tuple[str, tuple[tuple[str, Any], ...]], str] = {}
    made = {} if made is None else made
    facts: dict[str, Any] = {
        "revision": model.revision if revision is None else revision,
        "params": dict(model.params),
        "dtype": dtype,
    }
    if model.capabilities.stochastic:
        facts["seed"] = seed
    exact = bool(suite.data.get("exact")) if isinstance(model, Generator) else None

    def extractor_of(station: Station) -> str:
        key = (station.extractor, station.args)
        if key not in plan.extractors and key not in trouble:
            try:
                if key not in made:
                    extractor = registry.extractor(station.extractor, dict(station.args))
                    made[key] = (extractor, extractor.identity())
                plan.extractors[key] = made[key][0]
            except (MissingPackage, MissingWeights) as error:
                trouble[key] = str(error)
        return trouble.get(key, "")

    for resolution in resolutions:
        for budget in budgets:
            for declared in suite.metrics:
                entry = replace(declared, slices=tuple(dict.fromkeys((*declared.slices, *slice_by))))
                metric = registry.metric(entry.name)
                for name in entry.protocols:
                    protocol = suite.protocols[name]
                    fields = protocol.fields(resolution)
                    absent = [f for f in metric.fields if f not in fields]
                    if absent:
                        raise UsageError(
                            f"the protocol {name} lacks '{absent[0]}', which the metric {entry.name} reads"
                        )
                    needs = {
                        key: (_station(need, protocol, resolution, budget, exact=exact), need.head)
                        for key, need in metric.needs(fields).items()
                    }
                    costs = {
                        key: (_station(need, protocol, resolution, budget, exact=exact), need.head)
                        for key, need in (("bits", BITS), ("pixels", PIXELS), ("used", USED))
                        if exact is None or model.capabilities.gives_tokens
                    }
                    skip = unfit(model, resolution, exact=exact is not False)
                    skip = skip or next(filter(None, (extractor_of(s) for s, _ in needs.values())), "")
                    cell = Cell(metric, entry, protocol, resolution, budget, needs, costs, skip)
                    plan.cells.append(cell)
                    if skip:
                        continue
                    for station, head in (*needs.values(), *costs.values()):
                        problem = extractor_of(station)
                        if not problem:
                            plan.stations.setdefault(station, set()).add(head)
    for station in _alarm_stations(plan, alarms):
        extractor_of(station)
        plan.stations[station] = set(PAIR_HEADS if alarms == "pairs" else SET_HEADS)
    for station in plan.stations:
        key = (station.extractor, station.args)
        at_device = {"device": device} if plan.extractors[key].takes == "model" else {}
        described = station.describe(plan.extractors[key], made[key][1], {**facts, **at_device})
        plan.descriptions[station] = described
        plan.keys[station] = station_key(described)
        for part, value in made[key][1].items():
            if value.startswith("sha256:"):
                plan.weights[f"{station.extractor}/{part}"] = value
    return plan
