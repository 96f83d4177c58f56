"""Which protocol gives a published number: every plausible one in a single pass, what each choice moves, and whether models change their order.

The candidates are the bundled protocols, changes of one field at a time to the base protocol, and the base protocol against ground truth that is not
cropped. They share decodes and forwards where they can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any

from vtbench.errors import UnknownName, UsageError
from vtbench.record import Row
from vtbench.suite import PARTS, Protocol, Suite, SuiteMetric, load_protocol, protocol_names

BASE = {"fid": "torch-fidelity", "sfid": "torch-fidelity", "kid": "torch-fidelity"}
METRICS = ("fid", "psnr", "ssim", "lpips")
READS = {
    "fid": ("features_quantise", "features_reference", "features_resize", "features_scale", "dtype"),
    "psnr": ("quantise", "reference", "psnr_range", "psnr_over"),
    "ssim": ("quantise", "reference", "ssim_quantise", "ssim_window", "ssim_border", "ssim_range", "ssim_offset"),
    "lpips": ("quantise", "reference", "lpips_quantise", "lpips_net", "lpips_range"),
}
INPUTS = ("fit", "library", "filter", "antialias", "encode", "reference_fit")
"""Fields of [input] that move any metric."""
UNCROPPED = "+reference_fit=none"


def base_of(metric: str) -> str:
    """The protocol that the others are held against."""
    return BASE.get(metric, "vtbench")


def uncropped(protocol: Protocol) -> Protocol:
    """The protocol against ground truth as its files are: neither resized nor cropped before the network's own resize."""
    return replace(protocol, name=protocol.name + UNCROPPED, input={**protocol.input, "reference_fit": "none"})


def _affordable(name: str) -> Protocol:
    """A bundled protocol; a float64 network, which moves nothing that shows and takes twice the time, in float32."""
    protocol = load_protocol(name)
    return load_protocol(f"{name}+dtype=float32") if protocol.view.get("dtype") == "float64" else protocol


def _native(name: str) -> bool:
    """Whether a protocol takes images at their own sizes, which a pair of two sizes does not have in common."""
    return load_protocol(name).input.get("fit") == "none"


def _changed(base: Protocol, key: str, value: Any) -> Protocol:
    """The base with one field changed, named as an override is; unlike an override the value may be of another type (a range of `observed`)."""
    home = next(part for part in PARTS if key in getattr(base, part))
    parts: dict[str, Any] = {home: {**getattr(base, home), key: value}}
    return replace(base, name=f"{base.name}+{key}={value}", **parts)


def candidates(metric: str, names: Sequence[str] = (), *, given: bool = True) -> list[Protocol]:
    """The protocols to try, the base first. names: only these (and the base). given: the outputs are 8-bit files, so that their quantiser and
    the encoder's mode cannot matter."""
    wanted = names or [n for n in protocol_names() if metric in load_protocol(n).metrics and not _native(n)]
    base = load_protocol(base_of(metric))
    found = {base.name: base}
    for name in wanted:
        protocol = _affordable(name) if metric == "fid" and not names else load_protocol(name)
        if metric not in protocol.metrics:
            raise UsageError(f"the protocol {name} does not measure {metric}")
        found.setdefault(protocol.name, protocol)
    if names:
        return list(found.values())
    moved = set(READS[metric]) | set(INPUTS)
    skipped = {
        "library",
        "antialias",
        *(("encode", *(f for f in moved if f.endswith(("quantise", "reference")))) if given else ()),
    }
    for key in sorted(moved - skipped - {"reference_fit"}):
        for other in list(found.values()):
            value = other.fields().get(key)
            if value is None or value == base.fields().get(key) or value == "float64" or key not in base.fields():
                continue
            changed = _changed(base, key, value)
            found.setdefault(changed.name, changed)
    if metric == "fid":
        free = uncropped(base)
        found[free.name] = free
    return list(found.values())


def suite_of(metrics: Sequence[str], names: Sequence[str] = (), *, given: bool = True, resolution: int = 0) -> Suite:
    """The suite that measures every candidate in one pass."""
    entries: list[SuiteMetric] = []
    protocols: dict[str, Protocol] = {}
    for metric in metrics:
        if metric not in READS:
            raise UnknownName("metric", metric, READS)
        measuring = [n for n in names if metric in load_protocol(n).metrics]
        found = (
            candidates(metric, measuring, given=given) if measuring or not names else [load_protocol(base_of(metric))]
        )
        protocols |= {p.name: p for p in found}
        entries.append(SuiteMetric(metric, tuple(p.name for p in found), base_of(metric)))
    return Suite(
        name="explain",
        version=1,
        task="score",
        title="Every plausible protocol in one pass",
        resolutions=(resolution,),
        metrics=tuple(entries),
        protocols=protocols,
    )


# ---------------------------------------------------------------------------------------------- what the rows say


@dataclass(frozen=True)
class Tried:
    """One protocol of one subject. differs: (field, base's value, its value). value: None where it could not be measured, with why."""

    protocol: str
    value: float | None
    low: float | None
    high: float | None
    differs: tuple[tuple[str, Any, Any], ...]
    why: str = ""

    def single(self) -> bool:
        """Whether it changes the base in one field (a reference and its quantiser count as one)."""
        return len({key.replace("_reference", "_quantise") for key, _, _ in self.differs}) == 1


@dataclass(frozen=True)
class Explained:
    """One subject under one metric. claim: as it was printed; gives: the protocols that print so; holds: those whose interval holds it."""

    subject: str
    metric: str
    base: float | None
    tried: tuple[Tried, ...]
    n: int = 0
    claim: str = ""
    gives: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()

    def spread(self) -> tuple[float, float] | None:
        """Least and greatest value; None when nothing could be measured."""
        values = [t.value for t in self.tried if t.value is not None]
        return (min(values), max(values)) if values else None

    def attribution(self) -> list[tuple[str, Any, Any, float]]:
        """(field, base's value, other value, change of the metric) of every single change, the largest first."""
        if self.base is None:
            return []
        found = [(*t.differs[0], t.value - self.base) for t in self.tried if t.value is not None and t.single()]
        unique = {(k, str(b)): (k, a, b, d) for k, a, b, d in found}
        return sorted(unique.values(), key=lambda x: -abs(x[3]))


def half_unit(claim: str) -> tuple[float, float]:
    """A printed number and half a unit of its last digit: 1.5 -> (1.5, 0.05). Raises `UsageError`."""
    try:
        number = Decimal(claim)
    except InvalidOperation as error:
        raise UsageError(f"--claim {claim}: not a number") from error
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise UsageError(f"--claim {claim}: not a number")
    return float(number), float(Decimal(5).scaleb(exponent - 1))


def differences(
    protocol: Protocol, base: Protocol, metric: str, *, given: bool = True
) -> tuple[tuple[str, Any, Any], ...]:
    """The fields that move the metric in which a protocol differs from the base: (field, base's, its)."""
    mine, theirs = protocol.fields(), base.fields()
    keys = (*INPUTS, *READS[metric])
    unseen = {"encode"} if given else set()
    if metric == "fid" and mine.get("features_reference") == mine.get("features_quantise"):
        unseen.add("features_reference")
    if {mine.get("library"), theirs.get("library")} <= {"pil", "torchvision"}:
        unseen.add("library")
    if given and mine.get("library") != "tensor":
        unseen |= {k for k in keys if k.endswith("quantise") or k == "reference"}
    alike = {"reference_fit": "as the outputs"}
    return tuple(
        (k, theirs.get(k, alike.get(k)), mine.get(k, alike.get(k)))
        for k in keys
        if k not in unseen and mine.get(k) != theirs.get(k)
    )


def explain(
    subject: str,
    metric: str,
    rows: Sequence[Row],
    protocols: Mapping[str, Protocol],
    *,
    claim: str = "",
    given: bool = True,
) -> Explained:
    """What one subject's rows say of a metric."""
    base = protocols[base_of(metric)]
    chosen = [r for r in rows if r.metric == metric and r.slice in ("all", "mean")]
    tried = [
        Tried(
            r.protocol,
            r.value,
            r.ci_low,
            r.ci_high,
            differences(protocols[r.protocol], base, metric, given=given),
            r.why if r.value is None else "",
        )
        for r in chosen
    ]
    tried.sort(key=lambda t: (t.value is None, t.value or 0.0))
    value = next((t.value for t in tried if t.protocol == base.name), None)
    gives: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    if claim:
        number, half = half_unit(claim)
        gives = tuple(t.protocol for t in tried if t.value is not None and abs(t.value - number) <= half * (1 + 1e-9))
        holds = tuple(
            t.protocol
            for t in tried
            if t.low is not None and t.high is not None and t.low <= number <= t.high and t.protocol not in gives
        )
    return Explained(subject, metric, value, tuple(tried), max((r.n for r in chosen), default=0), claim, gives, holds)


@dataclass(frozen=True)
class Order:
    """Models by one metric, best first. protocols: those under which they stand so."""

    names: tuple[str, ...]
    protocols: tuple[str, ...] = field(default_factory=tuple)


def orders(subjects: Sequence[Explained], *, higher_is_better: bool) -> list[Order]:
    """The orders of several subjects over all protocols that measured all of them; the base's own first."""
    if len(subjects) < 2:
        return []
    values = {s.subject: {t.protocol: t.value for t in s.tried if t.value is not None} for s in subjects}
    shared = [t.protocol for t in subjects[0].tried if all(t.protocol in v for v in values.values())]
    found: dict[tuple[str, ...], list[str]] = {}
    for protocol in sorted(shared, key=lambda p: p != base_of(subjects[0].metric)):
        ranked = sorted(values, key=lambda s: values[s][protocol], reverse=higher_is_better)
        found.setdefault(tuple(ranked), []).append(protocol)
    return [Order(names, tuple(protocols)) for names, protocols in found.items()]
