"""What stands beside the marks of a figure: its legend, colour bar, shapes and annotations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.figures.base import LIGHT
from app.figures.svg.axes import Axis, at, ticks_of
from app.figures.svg.paint import number
from app.figures.svg.symbols import marker
from app.figures.svg.traces import SHADES, Plot, colours, limits
from app.figures.svg.words import Anchor, extent, words, wrapped

Frame = tuple[float, float, float, float]
"""Left, top, right and bottom of the plot, in pixels."""
SIZE, ROW, KEY = 14.0, 22.0, 30.0
"""Pixels of the legend: of its letters, of a row, and of a mark in it."""
_SHARES = {"left": ("start", 0.0), "center": ("middle", 0.5), "right": ("end", 1.0)}
_HEIGHTS = {"top": 0.0, "middle": 0.5, "bottom": 1.0}


class Legend(NamedTuple):
    """What the traces are called, in as many rows as the width takes."""

    rows: tuple[tuple[dict[str, Any], ...], ...] = ()

    @classmethod
    def of(cls, traces: Sequence[dict[str, Any]], layout: dict[str, Any], room: float) -> Legend:
        """Make the legend of a figure; an empty one where it has none."""
        if layout.get("showlegend") is False:
            return cls()
        named = [each for each in traces if each.get("name") and each["type"] != "heatmap"]
        named = [each for each in named if each.get("showlegend") is not False]
        if len(named) < 2 and not any(each.get("showlegend") for each in named):
            return cls()
        rows: list[list[dict[str, Any]]] = []
        left = 0.0
        for each in sorted(named, key=lambda trace: trace.get("legendrank") or 1000):
            wide = KEY + extent(each["name"], SIZE)[0] + 18.0
            if not rows or left + wide > room:
                rows.append([])
                left = 0.0
            rows[-1].append(each)
            left += wide
        return cls(tuple(map(tuple, rows)))

    @property
    def height(self) -> float:
        """Pixels that it takes above the plot."""
        return ROW * len(self.rows) + 8.0 if self.rows else 0.0

    def draw(self, left: float, top: float, plot: Plot) -> str:
        """Draw it from its upper left corner on."""
        drawn = []
        for place, row in enumerate(self.rows):
            x, y = left, top + ROW * (place + 0.5)
            for each in row:
                drawn.append(_key(each, x, y, plot))
                drawn.append(words(each["name"], Anchor(x + KEY, y, "start"), SIZE, LIGHT.ink, plot.paint))
                x += KEY + extent(each["name"], SIZE)[0] + 18.0
        return "".join(drawn)


def _key(trace: dict[str, Any], x: float, y: float, plot: Plot) -> str:
    """The mark of a trace in the legend."""
    look, line = trace.get("marker") or {}, trace.get("line") or {}
    colour = str(at(look.get("color"), 0, line.get("color", "#7F7F7F")))
    if trace["type"] == "bar":
        edge = look.get("line") or {}
        shape_of = (look.get("pattern") or {}).get("shape")
        hatched = shape_of if isinstance(shape_of, str) else ""
        fill = plot.hatched(colour) if hatched else plot.paint.fill(colour)
        if float(at(edge.get("width"), 0, 0)):
            fill += f" {plot.paint.stroke(str(at(edge.get('color'), 0, colour)), 1.0)}"
        return f'<rect x="{number(x + 4)}" y="{number(y - 6)}" width="18" height="12" {fill}/>'
    mode, drawn = trace.get("mode") or "lines", ""
    if "lines" in mode:
        width = float(line.get("width", 2))
        stroke = plot.paint.stroke(line.get("color", colour), width, line.get("dash", "solid"))
        drawn = f'<path d="M{number(x)} {number(y)}h24" fill="none" {stroke}/>'
    if "markers" in mode:
        edge = look.get("line") or {}
        edges = (str(at(edge.get("color"), 0, colour)), min(float(at(edge.get("width"), 0, 0)), 2.0))
        size = min(float(at(look.get("size"), 0, 6)), 12.0)
        drawn += marker(str(at(look.get("symbol"), 0, "circle")), x + 12, y, size, colour, edges, plot.paint)
    return drawn


def shape(said: dict[str, Any], plot: Plot, frame: Frame) -> str:
    """Draw a line or a rectangle across the plot."""
    left, top, right, bottom = frame
    xs = [_spot(said[name], said.get("xref", "x"), plot.x, left, right) for name in ("x0", "x1")]
    ys = [_spot(said[name], said.get("yref", "y"), plot.y, bottom, top) for name in ("y0", "y1")]
    line, opacity = said.get("line") or {}, float(said.get("opacity") or 1.0)
    width = float(line.get("width", 2))
    colour = line.get("color", "#444444")
    stroke = plot.paint.stroke(colour, width, line.get("dash", "solid"), opacity) if width else ""
    if said["type"] == "line":
        path = f"M{number(xs[0])} {number(ys[0])}L{number(xs[1])} {number(ys[1])}"
        return f'<path d="{path}" fill="none" {stroke}/>'
    fill = plot.paint.fill(said["fillcolor"], opacity) if said.get("fillcolor") else 'fill="none"'
    corner = f'x="{number(min(xs))}" y="{number(min(ys))}"'
    wide, tall = number(abs(xs[1] - xs[0])), number(abs(ys[1] - ys[0]))
    return f'<rect {corner} width="{wide}" height="{tall}" {fill} {stroke}/>'


def _spot(value: Any, ref: str, axis: Axis, start: float, end: float) -> float:
    """Where an end of a shape lies: of the plot for paper and domains, else along an axis."""
    if ref == "paper" or "domain" in ref:
        return start + float(value) * (end - start)
    return axis.place(value) if not axis.categories else axis.pixel(axis.unit(value))


def annotation(said: dict[str, Any], plot: Plot, frame: Frame) -> str:
    """Write words where the figure says, in the units of its axes, which on a log axis are logarithms."""
    left, top, right, bottom = frame
    spots, anchors = [], []
    for letter, axis, start, end in (("x", plot.x, left, right), ("y", plot.y, bottom, top)):
        ref, value = said.get(f"{letter}ref") or letter, said.get(letter)
        on_paper = ref == "paper" or "domain" in ref
        unit = axis.unit(value) if isinstance(value, str) else float(value or 0.0)
        place = start + unit * (end - start) if on_paper else axis.pixel(unit)
        spots.append(place)
        anchors.append(said.get(f"{letter}anchor") or "auto")
    font = said.get("font") or {}
    size, colour = float(font.get("size") or 13), font.get("color") or LIGHT.ink
    text = str(said.get("text") or "")
    across, _ = _SHARES.get(anchors[0], ("middle", 0.5))
    x = spots[0] + float(said.get("xshift") or 0.0)
    # Plotly's y grows upwards, also for shifts.
    y = spots[1] - float(said.get("yshift") or 0.0)
    if said.get("showarrow"):
        return _arrow(said, x, y, text, size, colour, plot)
    wide = extent(text, size)[0]
    whole = plot.x.end + 200.0
    if across == "start" and said.get("xref") != "paper" and x + wide > min(whole, right + 12.0):
        x = max(right - wide, 4.0)
    elif across == "end" and x - wide < 0.0:
        x = wide + 4.0
    elif across == "middle":
        x = min(max(x, wide / 2 + 2.0), max(right - wide / 2 + 10.0, wide / 2 + 2.0))
    return words(text, Anchor(x, y, across, _HEIGHTS.get(anchors[1], 0.5)), size, colour, plot.paint)


def _arrow(said: dict[str, Any], x: float, y: float, text: str, size: float, colour: str, plot: Plot) -> str:
    """An arrow to a point, from its words where it has any."""
    tail = x + float(said.get("ax") or 0.0), y + float(said.get("ay") or -30.0)
    line = said.get("arrowcolor") or colour
    stroke = plot.paint.stroke(line, float(said.get("arrowwidth") or 1.5))
    drawn = f'<path d="M{number(tail[0])} {number(tail[1])}L{number(x)} {number(y)}" fill="none" {stroke}/>'
    drawn += f'<circle cx="{number(x)}" cy="{number(y)}" r="3" {plot.paint.fill(line)}/>'
    return drawn + (words(text, Anchor(*tail, down=1.0), size, colour, plot.paint) if text else "")


def colour_bar(trace: dict[str, Any], plot: Plot, room: tuple[float, float, float]) -> str:
    """The colours of a heat map with their values, right of the plot; ``room``: left, top, bottom."""
    left, top, bottom = room
    said, (low, high) = trace["colorbar"], limits(trace)
    title = str((said.get("title") or {}).get("text") or "")
    title = wrapped(title, 12.0, 76.0)
    top += 4.0 + extent(title, 12.0)[1] if title else 0.0
    axis = Axis(low, high, start=bottom, end=top)
    name = f"{plot.name}-scale"
    stops = "".join(
        f'<stop offset="{number(place / (SHADES - 1), 3)}" stop-color="{colour}"/>'
        for place, colour in enumerate(colours(trace))
        if place % 7 == 0
    )
    plot.definitions[name] = (
        f'<linearGradient id="{name}" x1="0" y1="1" x2="0" y2="0">{stops}</linearGradient>'
    )
    drawn = [
        f'<rect x="{number(left)}" y="{number(top)}" width="12" height="{number(bottom - top)}" '
        f'fill="url(#{name})"/>'
    ]
    if title:
        spot = Anchor(left + 62.0, top - 5.0, "end", 1.0)
        drawn.append(words(title, spot, 12.0, LIGHT.label, plot.paint))
    for tick in ticks_of(said, axis, bottom - top):
        spot = Anchor(left + 16.0, axis.pixel(tick.at), "start")
        drawn.append(words(tick.label, spot, 12.0, LIGHT.label, plot.paint))
    return "".join(drawn)
