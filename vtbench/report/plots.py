"""Charts as inline SVG: no script, no font, no picture from elsewhere; colours come from the page, so they follow light and dark."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 12, 44
MARKERS = ("circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Point:
    """One point with the interval of its y and what a pointer over it says."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclass
class Series:
    """Points of one thing. line: join them; dashed: a baseline; markers: draw them."""

    name: str
    points: list[Point] = field(default_factory=list)
    line: bool = True
    dashed: bool = False
    markers: bool = True


def chart(
    title: str, x_label: str, y_label: str, series: Sequence[Series], *, log_x: bool = False, log_y: bool = False
) -> str:
    """A figure with its legend as HTML text. Points that cannot be drawn (not finite; not positive on a log axis) are counted below."""
    drawn, lost = _drawable(series, log_x, log_y)
    if not any(s.points for s in drawn):
        return ""
    xs = [p.x for s in drawn for p in s.points]
    ys = [v for s in drawn for p in s.points for v in (p.y, p.low, p.high) if v is not None]
    across, up = _Axis(xs, log_x, _LEFT, WIDTH - _RIGHT), _Axis(ys, log_y, HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(f"{title}: {y_label} against {x_label}")}">',
        *_grid(across, up, x_label, y_label),
        *(part for i, s in enumerate(drawn) for part in _series(s, i, across, up)),
        "</svg>",
    ]
    legend = "".join(f'<li class="s{i % 8}"><i></i>{_text(s.name)}</li>' for i, s in enumerate(drawn) if s.points)
    note = f"<p class=note>{lost} points are not finite or not positive and are left out.</p>" if lost else ""
    return f"<figure class=plot><figcaption>{_text(title)}</figcaption>{''.join(parts)}<ul class=legend>{legend}</ul>{note}</figure>"


def _text(text: str) -> str:
    return html.escape("".join(c if c.isprintable() else " " for c in text))


def _drawable(series: Sequence[Series], log_x: bool, log_y: bool) -> tuple[list[Series], int]:
    out, lost = [], 0
    for s in series:
        kept = []
        for p in s.points:
            fine = math.isfinite(p.x) and math.isfinite(p.y) and (p.x > 0 or not log_x) and (p.y > 0 or not log_y)
            lost += not fine
            if fine:
                low, high = (
                    b if b is not None and math.isfinite(b) and (b > 0 or not log_y) else None for b in (p.low, p.high)
                )
                kept.append(Point(p.x, p.y, low, high, p.label))
        out.append(Series(s.name, kept, s.line, s.dashed, s.markers))
    return out, lost


class _Axis:
    """From values to pixels, with ticks at round numbers."""

    def __init__(self, values: Sequence[float], log: bool, start: float, stop: float) -> None:
        self.log, self.start, self.stop = log, start, stop
        low, high = min(values), max(values)
        if log:
            low, high = math.log10(low), math.log10(high)
        gap = (high - low) * 0.06 or (abs(high) * 0.05 or 1.0)
        self.low, self.high = low - gap, high + gap

    def at(self, value: float) -> float:
        """Pixels of a value."""
        v = math.log10(value) if self.log else value
        return self.start + (v - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self) -> list[float]:
        """Round values inside the axis: 1, 2 and 5 times powers of ten."""
        if self.log:
            first, last = math.floor(self.low), math.ceil(self.high)
            steps = (1, 2, 5) if last - first <= 3 else (1,)
            every = max(1, (last - first) // 8)
            marks = [m * 10.0**e for e in range(first, last + 1, every) for m in steps]
            return [m for m in marks if self.low <= math.log10(m) <= self.high]
        rough = (self.high - self.low) / 5
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(m * size for m in (1, 2, 5, 10) if m * size >= rough)
        first = math.ceil(self.low / step)
        return [k * step for k in range(first, math.floor(self.high / step) + 1)]


def _grid(across: _Axis, up: _Axis, x_label: str, y_label: str) -> list[str]:
    out = []
    for value in across.ticks():
        x = across.at(value)
        out.append(f'<path class=grid d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        out.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:.6g}</text>')
    for value in up.ticks():
        y = up.at(value)
        out.append(f'<path class=grid d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        out.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.6g}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    out.append(f'<text class=axis x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{_text(x_label)}</text>')
    high = (_TOP + HEIGHT - _BOTTOM) / 2
    out.append(
        f'<text class=axis transform="translate(14 {high}) rotate(-90)" text-anchor="middle">{_text(y_label)}</text>'
    )
    return out


def _series(s: Series, number: int, across: _Axis, up: _Axis) -> list[str]:
    out = [f'<g class="s{number % 8}">']
    places = [(across.at(p.x), up.at(p.y), p) for p in s.points]
    if s.line and len(places) > 1:
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
        out.append(f'<path class="line{" dashed" if s.dashed else ""}" d="M{path}"/>')
    for x, y, p in places:
        if p.low is not None and p.high is not None:
            out.append(f'<path class=bar d="M{x:.1f} {up.at(p.low):.1f}V{up.at(p.high):.1f}"/>')
        if s.markers:
            label = _text(p.label or f"{s.name}: {p.x:.4g}, {p.y:.5g}")
            out.append(f"<g><title>{label}</title>{_marker(MARKERS[number % len(MARKERS)], x, y)}</g>")
    return [*out, "</g>"]


def _marker(kind: str, x: float, y: float) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    shape = {
        "square": "M-3.5-3.5h7v7h-7z",
        "triangle": "M0-4.6l4.4 8h-8.8z",
        "diamond": "M0-5l5 5-5 5-5-5z",
    }[kind]
    return f'<path transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'
