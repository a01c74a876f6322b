"""Bars of a figure: where each begins and ends, as its traces say together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from app.figures.svg.axes import at, listed


class Box(NamedTuple):
    """One bar."""

    trace: dict[str, Any]
    point: int
    """Which point of its trace it is."""
    position: Any
    """Where it stands, as the trace says: a number or a category."""
    aside: float
    """How far its middle stands off that."""
    width: float
    begin: float
    end: float

    @property
    def lies(self) -> bool:
        """Whether it goes across, and not up."""
        return self.trace.get("orientation") == "h"


def boxes_of(traces: Sequence[dict[str, Any]], layout: dict[str, Any]) -> list[Box]:
    """Place the bars of all traces beside, over or onto each other."""
    mode, bars = layout.get("barmode", "group"), [each for each in traces if each["type"] == "bar"]
    places = [positions(each) for each in bars]
    known = [place for places_of_one in places for place in places_of_one]
    unit = _unit(known) * (1.0 - float(layout.get("bargap", 0.2)))
    # Bars that share no position have nothing to stand beside.
    shared = mode == "group" and len(set(known)) < len(known)
    tops: dict[tuple[Any, bool], float] = {}
    found: list[Box] = []
    for number, (trace, positions_of_one) in enumerate(zip(bars, places, strict=True)):
        lengths = listed(trace.get("x" if trace.get("orientation") == "h" else "y"))
        for index, (position, length) in enumerate(zip(positions_of_one, lengths, strict=True)):
            if position is None or length is None or not math.isfinite(length):
                continue
            width = unit / (len(bars) if shared else 1)
            aside = (number - (len(bars) - 1) / 2) * width if shared else 0.0
            base = at(trace.get("base"), index, 0.0)
            if mode in ("stack", "relative"):
                key = (position, length < 0)
                base, tops[key] = tops.get(key, 0.0), tops.get(key, 0.0) + length
            width = float(at(trace.get("width"), index, width))
            found.append(Box(trace, index, position, aside, width, base, base + length))
    return found


def positions(trace: dict[str, Any]) -> list[Any]:
    """Where the bars of a trace stand."""
    return listed(trace.get("y" if trace.get("orientation") == "h" else "x"))


def _unit(known: Sequence[Any]) -> float:
    """The least distance between two positions."""
    numbers = sorted({float(each) for each in known if isinstance(each, (int, float))})
    gaps = [after - before for before, after in pairwise(numbers)]
    return min(gaps, default=1.0) or 1.0
