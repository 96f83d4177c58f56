"""An explanation for people: the values under every protocol, the claim, the spread, what moves it; and the figure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vtbench.errors import UsageError, VtbenchError
from vtbench.explanation import UNCROPPED, Explained, Tried, base_of, orders

if TYPE_CHECKING:
    from rich.console import Console

NAMES = {"fid": "rFID", "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS"}
DIGITS = {"fid": 3, "psnr": 2, "ssim": 4, "lpips": 4}


def _number(value: float, metric: str) -> str:
    return f"{value:.{DIGITS.get(metric, 3)}f}"


def called(protocol: str) -> str:
    """A protocol in words where its name alone does not say what is wrong with it."""
    if protocol.endswith(UNCROPPED):
        return f"{protocol.removesuffix(UNCROPPED)}, ground truth neither resized nor cropped"
    return protocol


def spread_sentence(explained: Explained) -> str:
    """ "your rFID is 0.53 to 1.90 depending on these choices"."""
    spread = explained.spread()
    name = NAMES.get(explained.metric, explained.metric)
    if spread is None:
        return f"{explained.subject}: {name} could not be measured"
    low, high = (_number(v, explained.metric) for v in spread)
    if low == high:
        return f"{explained.subject}: your {name} is {low} whatever the choice (n = {explained.n})"
    return f"{explained.subject}: your {name} is {low} to {high} depending on these choices (n = {explained.n})"


def claim_sentence(explained: Explained) -> str:
    """Which protocol gives the claim, or that none does; empty without a claim."""
    if not explained.claim:
        return ""
    name = NAMES.get(explained.metric, explained.metric)
    if explained.gives:
        return f"the claim {explained.claim} is the {name} under {', '.join(map(called, explained.gives))}"
    values = [t for t in explained.tried if t.value is not None]
    if not values:
        return f"none gives the claim {explained.claim}: nothing could be measured"
    near = min(values, key=lambda t: abs(float(t.value or 0) - float(explained.claim)))
    text = f"none of the {len(values)} protocols gives the claim {explained.claim}; the nearest is {_number(float(near.value or 0), explained.metric)} under {called(near.protocol)}"
    if explained.holds:
        text += f"; the interval holds it under {', '.join(map(called, explained.holds[:4]))}"
    return text


def merged(tried: Sequence[Tried]) -> list[tuple[str, Tried]]:
    """Protocols of one value as one line: (their names, the first of them). Bundled names come first; single changes are named where no
    bundled protocol has their value."""
    groups: dict[tuple[str, str, str], list[Tried]] = {}
    for t in tried:
        if t.value is not None:
            key = tuple(f"{v:.10g}" if v is not None else "" for v in (t.value, t.low, t.high))
            groups.setdefault((key[0], key[1], key[2]), []).append(t)
    out = []
    for group in groups.values():
        plain = [t for t in group if "+" not in t.protocol.replace("+dtype=float32", "")] or group
        first = min(plain, key=lambda t: len(t.differs))
        out.append((", ".join(called(t.protocol).removesuffix("+dtype=float32") for t in plain), first))
    return out


def show(subjects: Sequence[Explained], console: Console) -> None:
    """Print one table a subject and metric, and the sentences below it."""
    from rich.text import Text

    from vtbench.report.terminal import ruled

    for explained in subjects:
        name = NAMES.get(explained.metric, explained.metric)
        console.print(Text(f"{explained.subject}: {name} under every protocol", style="italic"), soft_wrap=True)
        table = ruled()
        for heading in (name, "95%", "protocol", "differs from " + base_of(explained.metric)):
            table.add_column(heading, justify="right" if heading == name else "left", overflow="fold")
        for names, t in merged(explained.tried):
            value, metric = float(t.value or 0), explained.metric
            interval = (
                "" if t.low is None or t.high is None else f"{_number(t.low, metric)} to {_number(t.high, metric)}"
            )
            differs = ", ".join(f"{k} = {b}" for k, _, b in t.differs)
            style = "bold" if t.protocol in explained.gives else ""
            table.add_row(_number(value, metric), interval, Text(names), Text(differs), style=style)
        console.print(table)
        for sentence in filter(None, (spread_sentence(explained), claim_sentence(explained))):
            console.print(Text(sentence, style="bold"), soft_wrap=True)
        moved = explained.attribution()
        least = 0.5 * 10.0 ** -DIGITS.get(explained.metric, 3)
        for key, base, other, change in moved:
            if abs(change) >= least:
                line = f"  {key}: {base} -> {other} moves it by {change:+.{DIGITS.get(explained.metric, 3)}f}"
                console.print(Text(line), soft_wrap=True)
        still = [f"{key} = {other}" for key, _, other, change in moved if abs(change) < least]
        if still:
            console.print(Text(f"  nothing moves here with {', '.join(still)}", style="dim"), soft_wrap=True)
        for why in dict.fromkeys(t.why for t in explained.tried if t.why):
            console.print(Text(f"  not measured: {why}", style="dim"), soft_wrap=True)
    for metric in dict.fromkeys(e.metric for e in subjects):
        of_metric = [e for e in subjects if e.metric == metric]
        found = orders(of_metric, higher_is_better=metric in ("psnr", "ssim"))
        if len(found) == 1:
            console.print(
                Text(f"{NAMES.get(metric, metric)}: {' before '.join(found[0].names)} under every protocol", "bold"),
                soft_wrap=True,
            )
        for order in found if len(found) > 1 else ():
            console.print(
                Text(
                    f"{NAMES.get(metric, metric)}: {' before '.join(order.names)} under {', '.join(map(called, order.protocols))}",
                    "bold",
                ),
                soft_wrap=True,
            )


def _lines(subjects: Sequence[Explained]) -> dict[str, str]:
    """The lines of a figure, protocol -> label: protocols that give every subject the same value share a line."""
    values = [{t.protocol: t.value for t in e.tried if t.value is not None} for e in subjects]
    groups: dict[tuple[str, ...], list[Tried]] = {}
    for t in dict.fromkeys(t.protocol for e in subjects for t in e.tried):
        held = tuple(f"{v[t]:.10g}" if t in v else "" for v in values)
        first = next(x for e in subjects for x in e.tried if x.protocol == t)
        if any(held):
            groups.setdefault(held, []).append(first)
    out = {}
    for group in groups.values():
        (names, first), *_ = merged([replace(t, value=0.0, low=None, high=None) for t in group])
        out[first.protocol] = "\n".join(textwrap.wrap(names, 52))
    return out


def plot(subjects: Sequence[Explained], path: Path) -> Path:
    """A figure: a line a protocol, a dot with its interval a subject, the claim as a vertical line. Raises `UsageError` for an unknown ending."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    metrics = list(dict.fromkeys(e.metric for e in subjects))
    rows = [_lines([e for e in subjects if e.metric == m]) for m in metrics]
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--plot {path}: the name ends in .png, .pdf or .svg")
    height = sum(0.45 * len(r) + 1.2 for r in rows)
    figure, axes = pyplot.subplots(
        len(metrics), 1, figsize=(8, max(2.5, height)), squeeze=False, height_ratios=[len(r) + 3 for r in rows]
    )
    for axis, metric, protocols in zip(axes[:, 0], metrics, rows):
        for e in (e for e in subjects if e.metric == metric):
            points = [t for t in e.tried if t.value is not None and t.protocol in protocols]
            order = list(protocols)
            values = [float(t.value or 0) for t in points]
            bars = [
                [v - (v if t.low is None else t.low) for v, t in zip(values, points)],
                [(v if t.high is None else t.high) - v for v, t in zip(values, points)],
            ]
            bars = [[max(0.0, b) for b in side] for side in bars]
            axis.errorbar(
                values,
                [order.index(t.protocol) for t in points],
                xerr=bars,
                fmt="o",
                markersize=4,
                linewidth=0.8,
                label=e.subject,
            )
            if e.claim:
                axis.axvline(float(e.claim), color="0.4", linestyle="--", linewidth=1, label=f"claim {e.claim}")
        axis.set_yticks(range(len(protocols)), list(protocols.values()), fontsize=7)
        axis.set_xlabel(f"{NAMES.get(metric, metric)} (95% intervals)")
        axis.grid(axis="x", linewidth=0.3)
        handles, labels = axis.get_legend_handles_labels()
        unique = dict(zip(labels, handles))
        axis.legend(unique.values(), unique.keys(), fontsize=7)
    figure.tight_layout()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise VtbenchError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        pyplot.close(figure)
    return path
