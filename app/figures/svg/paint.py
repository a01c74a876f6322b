"""Colours, dashes and numbers as SVG has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

PAPER = "white"
"""The colour behind a chart; figures, which are transparent, have no name for it."""
_RGBA = re.compile(r"rgba\(\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*,\s*([\d.]+)\s*\)")
_DASHES = {"dash": (3.0, 2.0), "dot": (1.0, 1.6), "dashdot": (3.0, 1.6, 1.0, 1.6), "longdash": (5.0, 2.5)}
"""Lengths of dashes and gaps, of 3 pixels each, or of the width where lines are thicker."""


@dataclass
class Paint:
    """How colours are written.

    ``names`` gives colours that depend on the background another name, such as ``var(--ink)`` in a page that
    can be dark; ``of_words`` does so for text, which needs more contrast than marks. Other colours are
    written as they are.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    of_words: Mapping[str, str] = field(default_factory=dict)

    def fill(self, colour: str, opacity: float = 1.0) -> str:
        """The attributes that fill a shape."""
        return self._said("fill", *self._parted(colour, opacity))

    def stroke(self, colour: str, width: float, dash: str = "solid", opacity: float = 1.0) -> str:
        """The attributes of a line."""
        lengths = _DASHES.get(dash, ())
        dashes = " ".join(number(max(width, 2.0) * length * 1.4) for length in lengths)
        dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
        said = self._said("stroke", *self._parted(colour, opacity))
        return f'{said} stroke-width="{number(width)}"{dashed}'

    def words(self, colour: str) -> str:
        """The attributes of a text."""
        return f'fill="{self.of_words.get(colour) or self.names.get(colour) or colour}"'

    def _parted(self, colour: str, opacity: float) -> tuple[str, float]:
        if match := _RGBA.fullmatch(colour):
            red, green, blue = (int(match[place]) for place in (1, 2, 3))
            return f"#{red:02X}{green:02X}{blue:02X}", opacity * float(match[4])
        return colour, opacity

    def _said(self, kind: str, colour: str, opacity: float) -> str:
        through = f' {kind}-opacity="{number(opacity, 2)}"' if opacity < 1.0 else ""
        return f'{kind}="{self.names.get(colour, colour)}"{through}'


def number(value: float, digits: int = 1) -> str:
    """A number with as few characters as tell it."""
    said = f"{value:.{digits}f}"
    return (said.rstrip("0").rstrip(".") if "." in said else said) or "0"
