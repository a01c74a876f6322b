"""Words in SVG: how wide they are, the little markup that figures use, and what tooltips say."""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

from app.figures.svg.paint import PAPER, Paint, number

FONT = "'Source Sans 3', 'Source Sans Pro', system-ui, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
"""The family of the app where it is installed, else what the machine has."""
LINE = 1.22
"""Height of a line, of the font's size."""
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[] /·"), frozenset("mwMW@%×→▲▼≈—")
_BREAK, _TAG = re.compile(r"<br\s*/?>"), re.compile(r"(</?b>)")
_FIELD = re.compile(r"%\{([^}:]+)(?::([^}]+))?\}")
_EXTRA = re.compile(r"<extra>.*?</extra>")


class Anchor(NamedTuple):
    """Where a text stands at its point."""

    x: float
    y: float
    across: str = "middle"
    """``start``, ``middle`` or ``end``."""
    down: float = 0.5
    """The share of the text that lies above the point."""
    turned: bool = False
    """Whether it reads from below."""


def width_of(text: str, size: float, bold: bool = False) -> float:
    """Estimate the width of a line in pixels.

    By the widths of DejaVu Sans, which is wider than other fonts that a reader may have: what has too much
    room is not cut off.
    """
    units = 0.0
    for letter in text:
        if letter in _NARROW:
            units += 0.37
        elif letter in _WIDE:
            units += 0.9
        else:
            units += 0.68 if letter.isupper() else 0.61
    return units * size * (1.06 if bold else 1.0)


def lines_of(markup: str) -> list[str]:
    """The lines of a text of plotly."""
    return _BREAK.split(markup)


def bare(markup: str) -> str:
    """A line of a text of plotly without its markup."""
    return html.unescape(_TAG.sub("", markup))


def extent(markup: str, size: float) -> tuple[float, float]:
    """The width and height of a text of plotly in pixels."""
    lines = lines_of(markup)
    widest = max(width_of(bare(line), size, "<b>" in line) for line in lines)
    return widest, LINE * size * len(lines)


def wrapped(text: str, size: float, room: float) -> str:
    """Break a text of plotly without markup into lines that are no wider than ``room`` where words allow."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(bare(longer), size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return "<br>".join(lines)


def words(markup: str, at: Anchor, size: float, colour: str, paint: Paint, haloed: bool = False) -> str:
    """Write a text of plotly: lines, and bold words in them. ``haloed`` parts it from marks behind it."""
    lines = lines_of(markup)
    first = at.y - at.down * LINE * size * len(lines) + 0.93 * size
    turned = f' transform="rotate(-90 {number(at.x)} {number(at.y)})"' if at.turned else ""
    halo = f' {paint.stroke(PAPER, 4.0)} paint-order="stroke"' if haloed else ""
    spans, bold = [], False  # bold words may go on over a line
    for place, line in enumerate(lines):
        parts = []
        for part in _TAG.split(line):
            if part in ("<b>", "</b>"):
                bold = part == "<b>"
            elif part:
                said = html.escape(html.unescape(part), quote=False)
                parts.append(f'<tspan font-weight="600">{said}</tspan>' if bold else said)
        down = number(first + place * LINE * size)
        spans.append(f'<tspan x="{number(at.x)}" y="{down}">{"".join(parts)}</tspan>')
    return (
        f'<text font-size="{number(size)}" text-anchor="{at.across}"{turned} '
        f"{paint.words(colour)}{halo}>{''.join(spans)}</text>"
    )


def tooltip(template: str, known: dict[str, Any]) -> str:
    """Fill in a hover template of plotly; a title may have several lines.

    ``known`` has the fields by their names: ``x``, ``customdata``, ``error_y.array`` and so on.
    """

    def said(match: re.Match[str]) -> str:
        name, shape = match[1], match[2]
        index = re.fullmatch(r"(.+)\[(\d+)\]", name)
        value = known.get(index[1] if index else name)
        if index and value is not None:
            value = value[int(index[2])]
        if value is None:
            return ""
        if shape and not isinstance(value, str):
            whole = shape[-1] not in "fgeE%" and float(value).is_integer()
            value = format(int(value) if whole else float(value), shape).replace("-", "−")
        return str(value)

    text = _FIELD.sub(said, _EXTRA.sub("", template))
    return html.escape("\n".join(bare(line) for line in lines_of(text)), quote=False)
