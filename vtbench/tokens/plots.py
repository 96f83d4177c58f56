"""Plots of token statistics, from records alone: rank-frequency, innovation, per-position entropy, coarse-to-fine, sensitivity.

matplotlib is imported when a plot is drawn.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtbench.errors import MissingPackage
from vtbench.record import Record, Row, replace_file
from vtbench.records import label

# Okabe and Ito's colours: told apart by colour-blind readers, and in grey by their order.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_NULL = "#7f7f7f"


@dataclass(frozen=True)
class Plot:
    """One picture. name: a file's stem. title: what it shows, one line. png: its bytes."""

    name: str
    title: str
    png: bytes


def plots(records: Sequence[Record]) -> list[Plot]:
    """Every plot that the records have the numbers for, their models together. Raises `MissingPackage` without matplotlib."""
    drawn: list[Plot] = []
    for name, title, draw in _KINDS:
        found = [(label(r), rows) for r in records if (rows := _rows(r, name))]
        if found:
            drawn.append(Plot(name.replace("_", "-"), title, _png(title, found, draw)))
    return drawn


def write_plots(records: Sequence[Record], folder: str | Path) -> list[Path]:
    """Write every plot as PNG into a folder; the paths."""
    out = []
    for plot in plots(records):
        path = Path(folder) / f"{plot.name}.png"
        replace_file(path, plot.png)
        out.append(path)
    return out


def _rows(record: Record, metric: str) -> list[Row]:
    """The rows that a kind of plot reads."""
    keys = {
        "zipf_exponent": ("curve", "zipf_exponent"),
        "heaps_slope": ("curve", "heaps_slope"),
        "entropy_per_position": ("profile", "entropy_per_position"),
        "kn_bits_per_token": ("profile", "kn_bits_per_token"),
        "token_sensitivity": ("profile", "token_sensitivity"),
        "prefix_psnr": ("", "prefix_psnr"),
    }
    note, name = keys[metric]
    found = [r for r in record.rows if r.metric == name and (note in r.notes if note else r.value is not None)]
    if metric == "prefix_psnr":
        return [r for r in found if r.slice.startswith("k=")]
    if metric == "token_sensitivity":
        return [r for r in found if r.slice == "change=l1"]
    if metric == "kn_bits_per_token":
        return [r for r in found if "order=2" in r.slice][:1]
    return found


def _numbers(values: Iterable[Any]) -> np.ndarray:
    """A note's list as floats: a record writes nan and inf as text."""
    return np.array([float(v) for v in values])


Drawn = list[tuple[str, list[Row]]]


def _zipf(axis: Any, found: Drawn) -> None:
    for colour, (name, rows) in zip(_cycle(), found):
        for row in rows:
            curve: Mapping[str, Any] = row.notes["curve"]
            own = f"{name} {row.slice}".removesuffix(" all")
            axis.loglog(curve["rank"], curve["frequency"], ".", ms=3, color=colour, label=f"{own}: {_fit(row)}")
            axis.loglog(curve["rank"], curve["fit"], "-", lw=1.2, color=colour, alpha=0.7)
            size = row.notes.get("K")
            if size:
                axis.axhline(1 / size, ls=":", lw=1, color=_NULL)
    axis.plot([], [], ls=":", color=_NULL, label="uniform use")
    axis.set(xlabel="rank", ylabel="frequency")


def _fit(row: Row) -> str:
    s, q = (float(row.notes[k]) for k in ("s", "q"))
    return f"s = {s:.2f}, q = {q:.3g}" + (" (not Zipfian)" if row.value is None else "")


def _heaps(axis: Any, found: Drawn) -> None:
    for colour, (name, rows) in zip(_cycle(), found):
        for row in rows:
            curve = row.notes["curve"]
            own = f"{name} {row.slice}".removesuffix(" all")
            axis.loglog(curve["n"], curve["seen"], "-", color=colour, label=own)
            axis.loglog(curve["n"], curve["uniform"], ":", color=colour, alpha=0.8)
    axis.plot([], [], ls=":", color=_NULL, label="uniform use")
    axis.set(xlabel="tokens", ylabel="distinct symbols")


def _profile(axis: Any, found: Drawn) -> None:
    for colour, (name, rows) in zip(_cycle(), found):
        for row in rows:
            values = _numbers(row.notes["profile"])
            own = f"{name} {row.slice}".removesuffix(" all")
            axis.plot(np.arange(1, len(values) + 1), values, lw=1.2, color=colour, label=own)
            bound = row.notes.get("log2_images")
            if bound:
                axis.axhline(bound, ls=":", lw=1, color=colour)
    if any("log2_images" in row.notes for _, rows in found for row in rows):
        axis.plot([], [], ls=":", color=_NULL, label="log2 of the images: the plug-in's bound")
    axis.set(xlabel="position", ylabel="bits per token")


def _prefix(axis: Any, found: Drawn) -> None:
    for colour, (name, rows) in zip(_cycle(), found):
        curve = sorted((int(row.slice.removeprefix("k=")), row) for row in rows)
        x = [k for k, _ in curve]
        y = np.array([row.value for _, row in curve], dtype=float)
        axis.semilogx(x, y, "o-", ms=3, base=2, color=colour, label=name)
        low = np.array([row.ci_low if row.ci_low is not None else math.nan for _, row in curve])
        high = np.array([row.ci_high if row.ci_high is not None else math.nan for _, row in curve])
        axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axis.set(xlabel="tokens kept", ylabel="PSNR (dB)")


def _sensitivity(axis: Any, found: Drawn) -> None:
    """A map for a single model whose tokens are a grid, else a line a model over the positions."""
    grid = found[0][1][0].notes.get("grid")
    if len(found) == 1 and grid:
        name, (row, *_) = found[0]
        shown = axis.imshow(_numbers(row.notes["profile"]).reshape(grid), cmap="viridis", vmin=0)
        axis.figure.colorbar(shown, ax=axis, label="mean absolute change")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(xlabel=f"column of the replaced token ({name}, {row.notes['images']} images)", ylabel="row")
        return
    for colour, (name, rows) in zip(_cycle(), found):
        values = _numbers(rows[0].notes["profile"])
        axis.plot(np.arange(1, len(values) + 1), values, lw=1.0, color=colour, label=name)
    axis.set(xlabel="position of the replaced token", ylabel="mean absolute change")
    axis.set_ylim(bottom=0)


_KINDS: tuple[tuple[str, str, Callable[[Any, Drawn], None]], ...] = (
    ("zipf_exponent", "Rank and frequency of the symbols, with the split Zipf-Mandelbrot fit", _zipf),
    ("heaps_slope", "Vocabulary growth over the images, and that of uniform use", _heaps),
    ("entropy_per_position", "Entropy over the images at each position", _profile),
    ("kn_bits_per_token", "Held-out bits at each position, Kneser-Ney order 2", _profile),
    ("prefix_psnr", "Quality of decodes from the first k tokens", _prefix),
    ("token_sensitivity", "Change of the decode when one token is replaced", _sensitivity),
)


def _cycle() -> list[str]:
    return list(_COLOURS) * 20


def _png(title: str, found: Drawn, draw: Callable[[Any, Drawn], None]) -> bytes:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError as error:
        raise MissingPackage("matplotlib", "report", "a plot") from error
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    draw(axis, found)
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    if not axis.images:
        axis.grid(True, alpha=0.2, lw=0.5)
    for side in (axis.xaxis, axis.yaxis):
        low, high = side.get_view_interval()
        if side.get_scale() == "log" and high > 10 * low > 0:
            side.set_minor_formatter(NullFormatter())  # labels between powers of ten would overlap
    if axis.get_legend_handles_labels()[0]:
        for text in axis.legend(fontsize=7, frameon=False).get_texts():
            text.set_parse_math(False)  # a dollar sign in a model's name is a dollar sign
    else:
        axis.xaxis.label.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
