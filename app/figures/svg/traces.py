"""Traces of a figure as SVG: lines, markers, words, error bars, bars and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plotly.colors import get_colorscale

from app.figures.svg.axes import Axis, at, listed
from app.figures.svg.bars import Box
from app.figures.svg.paint import Paint, number
from app.figures.svg.symbols import marker
from app.figures.svg.words import Anchor, extent, tooltip, words

TOLD = 1500
"""A trace of more points has no tooltips: they would be most of the file, and its table says the same."""
SHADES = 64
"""Different colours of a heat map."""


@dataclass
class Plot:
    """What every mark needs to know: the axes, the colours, and names that no other chart of a page has."""

    x: Axis
    y: Axis
    paint: Paint
    name: str
    cell: float = math.inf
    """Pixels across a cell of a heat map, which words must fit."""
    told: bool = True
    """Whether marks have tooltips, which phones do not show."""
    definitions: dict[str, str] = field(default_factory=dict)
    """Patterns and gradients by their ids."""

    def hatched(self, colour: str) -> str:
        """The attributes of a hatched fill."""
        name = f"{self.name}-hatch-{colour.lstrip('#')}"
        self.definitions[name] = (
            f'<pattern id="{name}" width="7" height="7" patternUnits="userSpaceOnUse" '
            f'patternTransform="rotate(45)"><rect width="7" height="7" {self.paint.fill(colour)}/>'
            '<path d="M1 0V7" stroke="#FFFFFF" stroke-width="1.5"/></pattern>'
        )
        return f'fill="url(#{name})"'


def scatter(trace: dict[str, Any], plot: Plot) -> str:
    """Draw lines, their filling, error bars, markers and words of a trace."""
    xs, ys = listed(trace.get("x")), listed(trace.get("y"))
    points = [(plot.x.place(x), plot.y.place(y)) for x, y in zip(xs, ys, strict=True)]
    mode = trace.get("mode") or ("lines+markers" if len(points) < 20 else "lines")
    drawn = []
    if "lines" in mode or trace.get("fill"):
        drawn.append(_line(trace, points, plot, "lines" in mode))
    for direction in ("error_x", "error_y"):
        drawn += _errors(trace, direction, xs, ys, plot)
    if "markers" in mode:
        drawn += _markers(trace, points, xs, ys, plot)
    if "text" in mode:
        drawn += _texts(trace, points, xs, ys, plot)
    opacity = trace.get("opacity")
    whole = "".join(drawn)
    return f'<g opacity="{number(opacity, 2)}">{whole}</g>' if opacity not in (None, 1.0) else whole


def _line(trace: dict[str, Any], points: Sequence[tuple[float, float]], plot: Plot, lines: bool) -> str:
    path, pen = [], False
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            path.append(f"{'L' if pen else 'M'}{number(x)} {number(y)}")
            pen = True
        else:
            pen = False
    if not path:
        return ""
    line = trace.get("line") or {}
    filled = trace.get("fill") == "toself"
    fill = plot.paint.fill(trace.get("fillcolor", "#7F7F7F")) if filled else 'fill="none"'
    colour, width = line.get("color", "#7F7F7F"), float(line.get("width", 2))
    stroke = plot.paint.stroke(colour, width, line.get("dash", "solid")) if lines and width else ""
    clip = "" if trace.get("cliponaxis") is False else f' clip-path="url(#{plot.name}-clip)"'
    return f'<path d="{"".join(path)}{"Z" if filled else ""}" {fill} {stroke} stroke-linejoin="round"{clip}/>'


def _errors(trace: dict[str, Any], direction: str, xs: list[Any], ys: list[Any], plot: Plot) -> list[str]:
    said = trace.get(direction) or {}
    if said.get("visible") is False or said.get("array") is None:
        return []
    above = listed(said["array"])
    below = above if said.get("arrayminus") is None else listed(said["arrayminus"])
    across, cap = direction == "error_x", float(said.get("width", 4))
    path = []
    for x, y, more, less in zip(xs, ys, above, below, strict=True):
        axis, value = (plot.x, x) if across else (plot.y, y)
        ends = [axis.place(value - less), axis.place(value + more)]
        middle = plot.y.place(y) if across else plot.x.place(x)
        if not all(map(math.isfinite, (*ends, middle))) or ends[0] == ends[1]:
            continue
        low, high = sorted((axis.start, axis.end))
        ends = [min(max(end, low), high) for end in ends]
        first, last, here = (number(each) for each in (*ends, middle))
        path.append(f"M{first} {here}H{last}" if across else f"M{here} {first}V{last}")
        for end in (first, last) if cap else ():
            start = number(middle - cap)
            path.append(
                f"M{end} {start}v{number(2 * cap)}" if across else f"M{start} {end}h{number(2 * cap)}"
            )
    stroke = plot.paint.stroke(said.get("color", "#444444"), float(said.get("thickness", 2)))
    return [f'<path d="{"".join(path)}" fill="none" {stroke}/>'] if path else []


def _markers(
    trace: dict[str, Any], points: Sequence[tuple[float, float]], xs: list[Any], ys: list[Any], plot: Plot
) -> list[str]:
    look = trace.get("marker") or {}
    edge, clipped = look.get("line") or {}, trace.get("cliponaxis") is not False
    drawn = []
    for place, (x, y) in enumerate(points):
        size, opacity = float(at(look.get("size"), place, 6)), float(at(look.get("opacity"), place, 1.0))
        if not (math.isfinite(x) and math.isfinite(y)) or size <= 0:
            continue
        if clipped and not (plot.x.holds(plot.x.unit(xs[place])) and plot.y.holds(plot.y.unit(ys[place]))):
            continue
        title = told(trace, place, plot)
        colour = str(at(look.get("color"), place, (trace.get("line") or {}).get("color", "#7F7F7F")))
        symbol = str(at(look.get("symbol"), place, "circle"))
        if opacity == 0.0 or colour == "rgba(0,0,0,0)":
            if title:
                drawn.append(_unseen(x, y, size, title))
            continue
        edges = (str(at(edge.get("color"), place, colour)), float(at(edge.get("width"), place, 0)))
        drawn.append(marker(symbol, x, y, size, colour, edges, plot.paint, opacity, title))
    return drawn


def _unseen(x: float, y: float, size: float, title: str) -> str:
    """A mark that nobody sees, which has a tooltip."""
    corner = f'x="{number(x - size / 2)}" y="{number(y - size / 2)}"'
    return (
        f'<rect {corner} width="{number(size)}" height="{number(size)}" fill="none" pointer-events="all">'
        f"<title>{title}</title></rect>"
    )


def _texts(
    trace: dict[str, Any], points: Sequence[tuple[float, float]], xs: list[Any], ys: list[Any], plot: Plot
) -> list[str]:
    font, drawn = trace.get("textfont") or {}, []
    for place, (x, y) in enumerate(points):
        text = str(at(trace.get("text"), place, "") or "")
        within = plot.x.holds(plot.x.unit(xs[place])) and plot.y.holds(plot.y.unit(ys[place]))
        if not text or not within:
            continue
        size, colour = float(at(font.get("size"), place, 13)), str(at(font.get("color"), place, "#444444"))
        text, size = _fitted(text, size, plot.cell)
        reach = float(at((trace.get("marker") or {}).get("size"), place, 0)) / 2 + 3
        down, across = str(at(trace.get("textposition"), place, "middle center")).split()
        share, lift = {"top": (1.0, -reach), "bottom": (0.0, reach)}.get(down, (0.5, 0.0))
        anchor, aside = {"right": ("start", reach), "left": ("end", -reach)}.get(across, ("middle", 0.0))
        at_point = Anchor(x + aside, y + lift, anchor, share)
        drawn.append(words(text, at_point, size, colour, plot.paint))
    return drawn


def _fitted(text: str, size: float, room: float) -> tuple[str, float]:
    """Fit a text into the width ``room``: on more lines where it must, and then smaller."""
    if extent(text, size)[0] > room:
        text = text.replace(" ", "<br>")
    return text, max(9.0, min(size, size * room / extent(text, size)[0]))


def told(trace: dict[str, Any], place: int, plot: Plot) -> str:
    """What the tooltip of a point says; nothing where there is none."""
    template = trace.get("hovertemplate")
    if not template or not plot.told or len(listed(trace.get("x"))) > TOLD:
        return ""
    known: dict[str, Any] = {
        name: at(trace.get(name), place) for name in ("x", "y", "text", "hovertext", "customdata")
    }
    known["fullData.name"] = trace.get("name")
    for direction in ("error_x", "error_y"):
        for part in ("array", "arrayminus"):
            known[f"{direction}.{part}"] = at((trace.get(direction) or {}).get(part), place)
    return tooltip(template, known)


def bar(box: Box, plot: Plot) -> str:
    """Draw one bar with its error bar."""
    trace, index, lies = box.trace, box.point, box.lies
    along, across = (plot.x, plot.y) if lies else (plot.y, plot.x)
    middle = across.unit(box.position) + box.aside
    sides = sorted(across.pixel(middle + sign * box.width / 2) for sign in (-1, 1))
    floor = along.low if along.log else box.begin
    ends = sorted((along.pixel(floor) if along.log else along.place(box.begin), along.place(box.end)))
    if not all(map(math.isfinite, (*sides, *ends))):
        return ""
    (left, right), (top, bottom) = (ends, sides) if lies else (sides, ends)
    look = trace.get("marker") or {}
    edge, colour = look.get("line") or {}, str(at(look.get("color"), index, "#7F7F7F"))
    pattern = at((look.get("pattern") or {}).get("shape"), index, "")
    opacity = float(at(look.get("opacity"), index, 1.0))
    fill = plot.hatched(colour) if pattern else plot.paint.fill(colour, opacity)
    if width := float(at(edge.get("width"), index, 0)):
        fill += f" {plot.paint.stroke(str(at(edge.get('color'), index, colour)), width)}"
    title = told(trace, index, plot)
    said = (
        f'<rect x="{number(left)}" y="{number(top)}" width="{number(max(right - left, 0.0))}" '
        f'height="{number(max(bottom - top, 0.0))}" {fill} clip-path="url(#{plot.name}-clip)"'
    )
    said += f"><title>{title}</title></rect>" if title else "/>"
    return said + "".join(_bar_errors(box, plot))


def _bar_errors(box: Box, plot: Plot) -> list[str]:
    drawn = []
    for direction in ("error_x", "error_y"):
        error = box.trace.get(direction)
        if error and error.get("array") is not None:
            own = {**error, "array": [at(error["array"], box.point)]}
            if error.get("arrayminus") is not None:
                own["arrayminus"] = [at(error["arrayminus"], box.point)]
            x, y = (box.end, box.position) if box.lies else (box.position, box.end)
            drawn += _errors({direction: own}, direction, [x], [y], plot)
    return drawn


def heat_map(trace: dict[str, Any], plot: Plot) -> str:
    """Draw the cells of a heat map, those of one colour as one shape."""
    values = np.asarray(trace["z"], dtype=float)
    low, high = limits(trace)
    scale = colours(trace)
    across = [plot.x.place(x) for x in listed(trace.get("x")) or range(values.shape[1])]
    down = [plot.y.place(y) for y in listed(trace.get("y")) or range(values.shape[0])]
    wide = abs(plot.x.pixel(1.0) - plot.x.pixel(0.0)) - float(trace.get("xgap") or 0.0)
    tall = abs(plot.y.pixel(1.0) - plot.y.pixel(0.0)) - float(trace.get("ygap") or 0.0)
    # Cells that touch overlap a little, or a line of the background would show between them.
    lap = 0.0 if trace.get("xgap") else 0.4
    paths: dict[str, list[str]] = {}
    for row, column in zip(*np.nonzero(np.isfinite(values)), strict=True):
        share = min(max((float(values[row, column]) - low) / (high - low), 0.0), 1.0)
        # A cell is a short thick line, which is half as long to write as a rectangle.
        cell = f"M{number(across[column] - wide / 2)} {number(down[row])}h{number(wide + lap)}"
        paths.setdefault(scale[round(share * (SHADES - 1))], []).append(cell)
    thick = number(tall + lap)
    return "".join(
        f'<path d="{"".join(cells)}" fill="none" stroke="{colour}" stroke-width="{thick}"/>'
        for colour, cells in paths.items()
    )


def limits(trace: dict[str, Any]) -> tuple[float, float]:
    """The values of a heat map at the ends of its colours."""
    values = np.asarray(trace["z"], dtype=float)
    low = float(np.nanmin(values)) if trace.get("zmin") is None else float(trace["zmin"])
    high = float(np.nanmax(values)) if trace.get("zmax") is None else float(trace["zmax"])
    return low, high if high > low else low + 1.0


def colours(trace: dict[str, Any]) -> list[str]:
    """The colours of a heat map, from the least to the most."""
    scale = trace.get("colorscale") or "Viridis"
    stops = get_colorscale(scale) if isinstance(scale, str) else scale
    places = [float(place) for place, _ in stops]
    channels = np.asarray([_channels(colour) for _, colour in stops])
    at_places = np.linspace(0.0, 1.0, SHADES)
    mixed = np.stack([np.interp(at_places, places, channels[:, each]) for each in range(3)], axis=1)
    return ["#{:02X}{:02X}{:02X}".format(*row) for row in mixed.round().astype(int).tolist()]


def _channels(colour: str) -> list[int]:
    if colour.startswith("#"):
        return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return [int(float(each)) for each in colour[colour.index("(") + 1 : -1].split(",")[:3]]
