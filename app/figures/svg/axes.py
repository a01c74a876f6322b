"""Axes of a figure: from its values to pixels, and the ticks that fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

SIZE = 13.0
"""Pixels of the letters of ticks, unless the figure says otherwise."""
BAND = 36.0
"""Pixels for the marks of a row whose label stands above them."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Tick(NamedTuple):
    """A place along an axis, in its own units, and what is written there."""

    at: float
    label: str


class Axis(NamedTuple):
    """One axis: its ends in its own units (logarithms, or numbers of categories), and in pixels."""

    low: float
    high: float
    start: float = 0.0
    end: float = 1.0
    log: bool = False
    categories: tuple[str, ...] = ()
    rows: tuple[float, ...] = ()
    """Pixels of the rows 0, 1 and so on, where each has a height of its own; their marks have ``BAND``."""

    def unit(self, value: Any) -> float:
        """A value of a trace in the units of the axis; not a number where it has no place."""
        if value is None:
            return math.nan
        if isinstance(value, str):
            return float(self.categories.index(value)) if value in self.categories else math.nan
        if self.log:
            return math.log10(value) if value > 0 else math.nan
        return float(value)

    def pixel(self, unit: float) -> float:
        """Where a value in the units of the axis lies."""
        if self.rows and math.isfinite(unit):
            row = min(max(round(unit), 0), len(self.rows) - 1)
            return self.rows[row] + (unit - row) * BAND * (1 if self.low > self.high else -1)
        return self.start + (unit - self.low) / (self.high - self.low) * (self.end - self.start)

    def place(self, value: Any) -> float:
        """Where a value of a trace lies."""
        return self.pixel(self.unit(value))

    def holds(self, unit: float) -> bool:
        """Whether a value lies within the ends."""
        ends, room = sorted((self.low, self.high)), 1e-6 * abs(self.high - self.low)
        return ends[0] - room <= unit <= ends[1] + room


def axis_of(said: dict[str, Any], values: Sequence[Any], padded: bool, zero: bool = False) -> Axis:
    """Make the axis of a layout for the values that traces have there.

    ``padded`` leaves room for marks at the ends; ``zero``, for bars, includes 0.
    """
    categories = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    log = said.get("type") == "log"
    if (given := said.get("range")) is not None:
        return Axis(float(given[0]), float(given[1]), log=log, categories=categories)
    if categories:
        low, high = -0.5, len(categories) - 0.5
    else:
        probe = Axis(0.0, 1.0, log=log)
        units = [unit for value in values if math.isfinite(unit := probe.unit(value))]
        low, high = _ends(units, padded, (zero or said.get("rangemode") == "tozero") and not log)
    if said.get("autorange") == "reversed":
        low, high = high, low
    return Axis(low, high, log=log, categories=categories)


def _ends(units: Sequence[float], padded: bool, zero: bool) -> tuple[float, float]:
    low, high = (min(units), max(units)) if units else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = low - 0.5 * (not zero), high + 0.5
    room = 0.06 * (high - low) if padded or zero else 0.0
    return (low if zero and low == 0.0 else low - room), (high if zero and high == 0.0 else high + room)


def ticks_of(said: dict[str, Any], axis: Axis, pixels: float) -> list[Tick]:
    """Choose the ticks of an axis that is ``pixels`` long: those that the layout names, or round numbers."""
    suffix = said.get("ticksuffix") or ""
    if said.get("tickvals") is not None:
        values = list(said["tickvals"])
        texts = said.get("ticktext")
        labels = [_plain(float(value)) + suffix for value in values] if texts is None else list(texts)
        found = [Tick(axis.unit(value), label) for value, label in zip(values, labels, strict=True)]
    elif axis.categories:
        found = [Tick(float(place), name) for place, name in enumerate(axis.categories)]
    elif axis.log:
        found = _of_log(axis, pixels, suffix, said.get("exponentformat") == "power")
    else:
        found = _of_numbers(said, axis, pixels, suffix)
    return [tick for tick in found if axis.holds(tick.at)]


def _of_numbers(said: dict[str, Any], axis: Axis, pixels: float, suffix: str) -> list[Tick]:
    low, high = sorted((axis.low, axis.high))
    step = said.get("dtick")
    step = float(step) if isinstance(step, (int, float)) else round_step(high - low, pixels)
    first = float(said.get("tick0") or 0.0)
    count = range(math.ceil((low - first) / step - 1e-9), math.floor((high - first) / step + 1e-9) + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [
        Tick(first + place * step, _signed(f"{first + place * step:,.{digits}f}") + suffix) for place in count
    ]


def round_step(span: float, pixels: float) -> float:
    """A round distance between ticks of an axis of ``span``: about 60 pixels or more."""
    raw = span / max(2.0, pixels / 62.0)
    power = 10.0 ** math.floor(math.log10(raw))
    return power * next(each for each in (1.0, 2.0, 5.0, 10.0) if raw <= each * power * 1.0001)


def _of_log(axis: Axis, pixels: float, suffix: str, powers: bool) -> list[Tick]:
    low, high = sorted((axis.low, axis.high))
    decades = range(math.floor(low), math.ceil(high) + 1)
    for parts in ((1, 2, 5), (1,)):
        found = [decade + math.log10(part) for decade in decades for part in parts]
        within = [each for each in found if low <= each <= high]
        if 1 < len(within) <= max(3.0, pixels / 26.0):
            break
    else:
        if len(within) > 1:  # many decades: every so many of them
            every = math.ceil(len(within) * 26.0 / pixels)
            within = within[::every]
        else:  # less than a decade
            step = round_step(10.0**high - 10.0**low, pixels)
            start = math.ceil(10.0**low / step - 1e-9)
            within = [math.log10(place * step) for place in range(max(start, 1), int(10.0**high / step) + 1)]
    return [Tick(each, _of_power(each, powers) + suffix) for each in within]


def _of_power(logarithm: float, powers: bool) -> str:
    whole = round(logarithm)
    if abs(logarithm - whole) < 1e-9 and (powers or not -4 < whole < 5):
        return f"10{str(whole).translate(_RAISED)}"
    return _plain(10.0**logarithm)


def _plain(value: float) -> str:
    return _signed(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.6g}")


def _signed(said: str) -> str:
    """A number with a minus sign, which zero has none of."""
    return said.replace("-", "−" if said.strip("-0.,") else "")


def listed(value: Any) -> list[Any]:
    """An attribute of a trace that is one value for each point, as a list; empty where it is not given."""
    if value is None:
        return []
    return value.tolist() if isinstance(value, np.ndarray) else list(value)


def at(value: Any, place: int, default: Any = None) -> Any:
    """The value of a point, of an attribute that may be one for all."""
    if value is None:
        return default
    if isinstance(value, (list, tuple, np.ndarray)):
        return value[place] if place < len(value) else default
    return value
