"""The markers of charts as paths around their middle."""

from __future__ import annotations

import math
from collections.abc import Sequence

from app.figures.svg.paint import Paint, number

Corners = Sequence[tuple[float, float]]


def _round(count: int, turn: float = -90.0, reach: float = 1.0) -> Corners:
    angles = (math.radians(turn + 360.0 * place / count) for place in range(count))
    return [(reach * math.cos(angle), reach * math.sin(angle)) for angle in angles]


def _star(points: int, inner: float, turn: float = -90.0, reach: float = 1.3) -> Corners:
    outside, inside = _round(points, turn, reach), _round(points, turn + 180.0 / points, inner * reach)
    return [corner for pair in zip(outside, inside, strict=True) for corner in pair]


_SHAPES: dict[str, Corners] = {
    "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
    "diamond": _round(4, reach=1.25),
    "triangle-up": _round(3, reach=1.2),
    "triangle-right": _round(3, 0.0, reach=1.2),
    "pentagon": _round(5, reach=1.1),
    "hexagon": _round(6, 0.0, reach=1.1),
    "star": _star(5, 0.42),
    "hexagram": _star(6, 0.58),
    "star-triangle-up": _star(3, 0.42, reach=1.4),
    "star-diamond": _star(4, 0.55, reach=1.3),
    "arrow-up": [(0.0, -1.0), (0.9, 1.0), (-0.9, 1.0)],
    "x": [
        (-1.0, -0.6), (-0.6, -1.0), (0.0, -0.4), (0.6, -1.0), (1.0, -0.6), (0.4, 0.0),
        (1.0, 0.6), (0.6, 1.0), (0.0, 0.4), (-0.6, 1.0), (-1.0, 0.6), (-0.4, 0.0),
    ],
}  # fmt: skip
_LINES = {"line-ns": ((0.0, -1.4), (0.0, 1.4)), "line-ew": ((-1.4, 0.0), (1.4, 0.0))}


def known(symbol: str) -> bool:
    """Whether a marker of this name can be drawn."""
    name = symbol.removesuffix("-open")
    return name in _SHAPES or name in _LINES or name == "circle"


def marker(
    symbol: str,
    x: float,
    y: float,
    size: float,
    colour: str,
    edge: tuple[str, float],
    paint: Paint,
    opacity: float = 1.0,
    title: str = "",
) -> str:
    """Draw a marker, ``size`` pixels across; ``edge`` is the colour and width of its outline."""
    name, half = symbol.removesuffix("-open"), size / 2
    if name in _LINES or symbol.endswith("-open"):
        edge = (colour, edge[1] or 1.5)
    filled = name not in _LINES and not symbol.endswith("-open")
    look = paint.fill(colour, opacity) if filled else 'fill="none"'
    if edge[1]:
        look += f" {paint.stroke(edge[0] or colour, edge[1], opacity=opacity)}"
    if not filled and title:
        look += ' pointer-events="all"'
    if name == "circle":
        return _element("circle", f'cx="{number(x)}" cy="{number(y)}" r="{number(half)}" {look}', title)
    corners = _LINES.get(name) or _SHAPES[name]
    path = "L".join(f"{number(x + half * across)} {number(y + half * down)}" for across, down in corners)
    return _element("path", f'd="M{path}{"" if name in _LINES else "Z"}" {look}', title)


def _element(tag: str, attributes: str, title: str) -> str:
    return f"<{tag} {attributes}><title>{title}</title></{tag}>" if title else f"<{tag} {attributes}/>"
