"""A figure as SVG: without a browser, a script or a network, and of any width.

Only what our figures use is known: lines, markers, bars, error bars, heat maps, shapes, annotations, legends.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from analysis.errors import UnsupportedError, visible
from app.figures.base import LIGHT, Drawing
from app.figures.svg.axes import BAND, SIZE, Axis, Tick, axis_of, listed, ticks_of
from app.figures.svg.bars import boxes_of, positions
from app.figures.svg.beside import Legend, annotation, colour_bar, shape
from app.figures.svg.paint import Paint, number
from app.figures.svg.traces import Plot, bar, heat_map, scatter
from app.figures.svg.words import FONT, Anchor, extent, words, wrapped

GRID = "#E4E8EC"
"""The colour of grids, which is no colour of the theme's."""
WIDE, NARROW = 880, 380
"""Pixels of a chart in a window, and on a phone."""
CROWDED = 0.42
"""Labels of rows that take more of the width than this stand above their rows."""
_KNOWN = ("scatter", "bar", "heatmap")


def as_svg(
    drawing: Drawing, width: int = WIDE, name: str = "chart", paint: Paint | None = None, told: bool = True
) -> str:
    """Draw a figure as one ``<svg>`` element, ``width`` pixels wide and as high as the figure asks for.

    ``name`` begins the ids in it, of which a page must have each once; ``told`` gives marks tooltips. Raises
    ``UnsupportedError`` for kinds of traces that none of our figures has.
    """
    data: Any = drawing.figure.data
    traces = [each.to_plotly_json() for each in data if each.visible is not False]
    if unknown := sorted({each["type"] for each in traces} - set(_KNOWN)):
        raise UnsupportedError(
            f"A trace of type '{unknown[0]}' cannot be drawn as SVG, only {', '.join(_KNOWN)}."
        )
    layout = drawing.figure.layout.to_plotly_json()
    return _Chart(traces, layout, width, name, paint or Paint(), told).draw(drawing.takeaway)


class _Chart:
    """One figure while it is drawn: first how much room everything needs, then everything."""

    def __init__(
        self,
        traces: list[dict[str, Any]],
        layout: dict[str, Any],
        width: int,
        name: str,
        paint: Paint,
        told: bool,
    ) -> None:
        self.traces, self.layout, self.width, self.name, self.paint = traces, layout, width, name, paint
        self.told = told
        self.boxes = boxes_of(traces, layout)
        self.said = {each: layout.get(each) or {} for each in ("xaxis", "yaxis")}
        self.hidden = {each: said.get("visible") is False for each, said in self.said.items()}
        self.x, self.y = (self._axis(each) for each in ("xaxis", "yaxis"))
        self.height = float(layout.get("height") or 420)
        self._make_room()

    def _axis(self, name: str) -> Axis:
        """Give an axis its ends, from the layout or from all that stands along it."""
        letter, values, padded = name[0], [], False
        for trace in self.traces:
            if trace["type"] != "bar":
                values += listed(trace.get(letter))
            error = trace.get(f"error_{letter}") or {}
            if trace["type"] == "scatter" and error.get("array") is not None:
                below = error.get("arrayminus")
                ends = zip(listed(trace[letter]), listed(error["array"]), strict=True)
                values += [value + more for value, more in ends]
                ends = zip(
                    listed(trace[letter]), listed(error["array"] if below is None else below), strict=True
                )
                values += [value - less for value, less in ends]
            padded |= trace["type"] == "scatter" and ("markers" in (trace.get("mode") or "") or letter == "y")
            if trace["type"] == "heatmap" and not values:
                shape_of = len(trace["z"]), len(trace["z"][0])
                values += list(range(shape_of[letter == "x"]))
        along = [box for box in self.boxes if box.lies == (letter == "x")]
        values += [end for box in along for end in (box.begin, box.end, *self._error_ends(box))]
        for trace in self.traces:
            across = trace["type"] == "bar" and (trace.get("orientation") == "h") == (letter == "y")
            values += positions(trace) if across else []
        if self.boxes and not along:  # half a bar at both ends
            numbers = [value for value in values if isinstance(value, (int, float))]
            values += [min(numbers) - 0.5, max(numbers) + 0.5] if numbers else []
        values = [value for value in values if value is not None]
        return axis_of(self.said[name], values, padded or bool(along), bool(along))

    @staticmethod
    def _error_ends(box: Any) -> list[float]:
        error = box.trace.get("error_x" if box.lies else "error_y") or {}
        if error.get("visible") is False or error.get("array") is None:
            return []
        more = listed(error["array"])[box.point]
        less = more if error.get("arrayminus") is None else listed(error["arrayminus"])[box.point]
        return [box.end + more, box.end - less]

    def _make_room(self) -> None:
        """Share the width and the height out to the plot and what stands around it."""
        margin = self.layout.get("margin") or {}
        self.legend = Legend.of(self.traces, self.layout, self.width - 16)
        noted = any(
            each.get("yref") == "paper" and each.get("yanchor") == "bottom" for each in self._annotations()
        )
        top = self.legend.height + max(10.0, 20.0 * noted) + (12.0 if self._hatched_top() else 0.0)
        if self.legend.height == 0.0 and float(margin.get("t") or 0.0) > 40.0:
            top = max(top, 24.0)
        self.titles = {
            each: str(((said.get("title") or {}).get("text")) or "") for each, said in self.said.items()
        }
        bar_of = next(
            (each for each in self.traces if each["type"] == "heatmap" and each.get("colorbar")), None
        )
        self.bar_room = 0.0 if bar_of is None else 74.0
        right = self.bar_room or max(14.0, float(margin.get("r") or 0.0))
        bottom_title = "" if self.hidden["xaxis"] else wrapped(self.titles["xaxis"], 14.0, self.width - 40.0)
        self.titles["xaxis"] = bottom_title
        below = (
            0.0
            if self.hidden["xaxis"]
            else 24.0 + (extent(bottom_title, 14.0)[1] + 6.0 if bottom_title else 4.0)
        )
        pixels = self.height - top - below
        self.y_ticks = [] if self.hidden["yaxis"] else ticks_of(self.said["yaxis"], self.y, pixels)
        if self.said["yaxis"].get("showticklabels") is False:
            self.y_ticks = [tick._replace(label="") for tick in self.y_ticks]
        widest = max((extent(tick.label, self._size("yaxis"))[0] for tick in self.y_ticks), default=0.0)
        titled = 24.0 if self.titles["yaxis"] and not self.hidden["yaxis"] else 4.0
        whole = [tick.at for tick in self.y_ticks] == list(range(len(self.y_ticks)))
        self.above = whole and widest > CROWDED * self.width
        left = titled + (6.0 if self.above else widest + 10.0)
        if self.above:
            pixels = self._stack_labels(top)
        if len(extent_of := self.titles["yaxis"]) and extent(extent_of, 14.0)[0] > pixels:
            self.titles["yaxis"] = wrapped(extent_of, 13.0, pixels)
            left += 14.0
        end = max(self.width - right, left + 60.0)
        if self.said["yaxis"].get("scaleanchor"):  # both directions are alike long: no more height than that
            pixels = min(pixels, (end - left) * abs((self.y.high - self.y.low) / (self.x.high - self.x.low)))
        self.plot = (left, top, end, top + pixels)
        self.height = top + pixels + below
        self._place()

    def _stack_labels(self, top: float) -> float:
        """Give every row room above its marks for its label; returns the height of the plot."""
        here, rows = top, []
        for tick in self.y_ticks if self.y.low > self.y.high else self.y_ticks[::-1]:
            here += extent(tick.label, self._size("yaxis"))[1] + 6.0
            rows.append(here + BAND / 2)
            here += BAND
        beyond = max(abs(self.y.high), abs(self.y.low)) - len(rows) + 0.5  # words below the rows
        self.y = self.y._replace(rows=tuple(rows if self.y.low > self.y.high else rows[::-1]))
        return here - top + max(beyond, 0.0) * BAND

    def _place(self) -> None:
        left, top, right, bottom = self.plot
        if self.said["yaxis"].get("scaleanchor"):  # alike long in both directions
            across, down = (
                (right - left) / abs(self.x.high - self.x.low),
                (bottom - top) / abs(self.y.high - self.y.low),
            )
            if across > down:
                self.x = _widened(self.x, across / down)
            else:
                self.y = _widened(self.y, down / across)
        self.x = self.x._replace(start=left, end=right)
        self.y = self.y._replace(start=bottom, end=top)

    def _size(self, axis: str) -> float:
        return float((self.said[axis].get("tickfont") or {}).get("size") or SIZE)

    def _hatched_top(self) -> bool:
        return any("text" in str(each.get("mode")) for each in self.traces)

    def _annotations(self) -> list[dict[str, Any]]:
        return list(self.layout.get("annotations") or ())

    def draw(self, takeaway: str) -> str:
        """Draw everything, what lies below first."""
        mapped = any(each["type"] == "heatmap" for each in self.traces)
        cell = abs(self.x.pixel(1.0) - self.x.pixel(0.0)) - 6.0 if mapped else math.inf
        plot = Plot(self.x, self.y, self.paint, self.name, cell, self.told)
        shapes = list(self.layout.get("shapes") or ())
        below = [shape(each, plot, self.plot) for each in shapes if each.get("layer") == "below"]
        beyond = [shape(each, plot, self.plot) for each in shapes if each.get("layer") != "below"]
        marks = [heat_map(each, plot) for each in self.traces if each["type"] == "heatmap"]
        marks += [bar(each, plot) for each in self.boxes]
        marks += [scatter(each, plot) for each in self.traces if each["type"] == "scatter"]
        notes = [annotation(each, plot, self.plot) for each in self._annotations()]
        bars = [
            colour_bar(each, plot, (self.width - self.bar_room + 12.0, self.plot[1], self.plot[3]))
            for each in self.traces
            if each["type"] == "heatmap" and each.get("colorbar")
        ]
        drawn = [*self._grid(), *below, *marks, *beyond, *self._labels(), *notes, *bars]
        drawn.append(self.legend.draw(8.0, 6.0, plot))
        left, top, right, bottom = self.plot
        clip = (
            f'<clipPath id="{self.name}-clip"><rect x="{number(left)}" y="{number(top)}" '
            f'width="{number(right - left)}" height="{number(bottom - top)}"/></clipPath>'
        )
        said = html.escape(visible(takeaway))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {number(self.height)}" '
            f'width="{self.width}" height="{number(self.height)}" role="img" aria-label="{said}" '
            f'font-family="{FONT}"><defs>{clip}{"".join(plot.definitions.values())}</defs>{"".join(drawn)}</svg>'
        )

    def _grid(self) -> list[str]:
        left, top, right, bottom = self.plot
        path = []
        if self.said["xaxis"].get("showgrid") is not False and not self.hidden["xaxis"]:
            for tick in ticks_of(self.said["xaxis"], self.x, right - left):
                path.append(f"M{number(self.x.pixel(tick.at))} {number(top)}V{number(bottom)}")
        if self.said["yaxis"].get("showgrid") is not False and not self.hidden["yaxis"]:
            for tick in self.y_ticks:
                path.append(f"M{number(left)} {number(self.y.pixel(tick.at))}H{number(right)}")
        return [f'<path d="{"".join(path)}" fill="none" {self.paint.stroke(GRID, 1)}/>'] if path else []

    def _labels(self) -> list[str]:
        """Ticks and titles of both axes."""
        left, top, right, bottom = self.plot
        drawn, colour = [], LIGHT.label
        if not self.hidden["xaxis"]:
            ticks = _apart(ticks_of(self.said["xaxis"], self.x, right - left), self.x, self._size("xaxis"))
            for tick in ticks:
                spot = Anchor(self.x.pixel(tick.at), bottom + 6.0, down=0.0)
                drawn.append(words(tick.label, spot, self._size("xaxis"), colour, self.paint))
            half = extent(self.titles["xaxis"], 14.0)[0] / 2
            middle = min(max((left + right) / 2, half + 4.0), self.width - half - 4.0)
            if self.titles["xaxis"]:
                drawn.append(
                    words(
                        self.titles["xaxis"],
                        Anchor(middle, bottom + 27.0, down=0.0),
                        14.0,
                        colour,
                        self.paint,
                    )
                )
        for tick in self.y_ticks:
            if tick.label and self.above:
                spot = Anchor(left, self.y.pixel(tick.at) - BAND / 2, "start", 1.0)
                drawn.append(words(tick.label, spot, self._size("yaxis"), colour, self.paint, haloed=True))
            elif tick.label:
                spot = Anchor(left - 8.0, self.y.pixel(tick.at), "end")
                drawn.append(words(tick.label, spot, self._size("yaxis"), colour, self.paint))
        if self.titles["yaxis"] and not self.hidden["yaxis"]:
            lines = self.titles["yaxis"].count("<br>") + 1
            spot = Anchor(12.0 + (lines - 1) * 7.0, (top + bottom) / 2, turned=True)
            drawn.append(words(self.titles["yaxis"], spot, 14.0 if lines == 1 else 13.0, colour, self.paint))
        return drawn


def _widened(axis: Axis, factor: float) -> Axis:
    middle, half = (axis.low + axis.high) / 2, (axis.high - axis.low) / 2 * factor
    return axis._replace(low=middle - half, high=middle + half)


def _apart(ticks: Sequence[Tick], axis: Axis, size: float) -> list[Tick]:
    """Every tick, or every second, third and so on, so that no label touches the next."""
    for every in range(1, max(len(ticks), 2)):
        kept = list(ticks[::every])
        places = [(axis.pixel(tick.at), extent(tick.label, size)[0] / 2) for tick in kept]
        pairs = pairwise(places)
        if all(abs(after - before) >= half + other + 6.0 for (before, half), (after, other) in pairs):
            return kept
    return list(ticks[:1])
