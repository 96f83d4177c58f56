"""Numbers as people read them: digits cut at the interval, directions as arrows."""

from __future__ import annotations

import math
from typing import Protocol

MOST = 6
"""Decimals of a number with an interval, at most; what is zero at so many is printed as 0."""


class Bounded(Protocol):
    """Anything with a value and an interval: a record's row or an `Interval` of one."""

    @property
    def value(self) -> float | None: ...
    @property
    def ci_low(self) -> float | None: ...
    @property
    def ci_high(self) -> float | None: ...


def real(low: float | None, high: float | None) -> bool:
    """Whether two bounds make an interval with a width."""
    return low is not None and high is not None and math.isfinite(high - low) and high > low


def digits_of(low: float | None, high: float | None) -> int:
    """Decimals worth printing: to the first digit of the interval's half-width (two where it is a 1)."""
    if low is None or high is None or not real(low, high):
        return 4
    half = (high - low) / 2
    place = -math.floor(math.log10(half))
    if half * 10**place < 2:
        place += 1
    return min(max(place, 0), MOST)


def fixed(value: float, places: int, sign: str = "") -> str:
    """A number at so many decimals; what rounds to zero has no sign."""
    text = f"{value:{sign}.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def number(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A value with its digits cut at its interval; four significant ones when there is none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if real(low, high):
        text = fixed(value, digits_of(low, high))
        return text if text.strip("-0.") or digits_of(low, high) < MOST else "0"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value)}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(abs(value))))}f}" if 1e-4 <= abs(value) < 1e4 else f"{value:.4g}"


def with_interval(row: Bounded) -> str:
    """``21.83 [21.61, 22.04]``, or the value alone when it has no interval."""
    text = number(row.value, row.ci_low, row.ci_high)
    if row.ci_low is None or row.ci_high is None or not real(row.ci_low, row.ci_high):
        return text
    places = digits_of(row.ci_low, row.ci_high)
    ends = fixed(row.ci_low, places), fixed(row.ci_high, places)
    if text == "0" and not any(float(end) for end in ends):
        return text
    if text == ends[0] == ends[1]:  # narrower than what is printed
        return number(row.value)
    return f"{text} [{ends[0]}, {ends[1]}]"


def signed(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference, with its sign and its interval."""
    text = number(value, low, high)
    text = f"+{text}" if value > 0 and text.strip("0.") else text
    if low is None or high is None or not real(low, high):
        return text
    places = digits_of(low, high)
    return f"{text} [{fixed(low, places, '+')}, {fixed(high, places, '+')}]"


def arrow(higher_is_better: bool | None) -> str:
    """The direction of a metric, for a heading."""
    return "" if higher_is_better is None else ("↑" if higher_is_better else "↓")
