"""What all charts share: colours by role, themes, axes, and the drawing that a chart is handed on as.

Only ``app/figures`` knows plotly. It knows nothing about streamlit, so a figure looks the same when exported.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from analysis.errors import visible

ROWS_HEIGHT = 320
"""Height of the charts whose rows are models or differences: they stand side by side."""
CONSTANT, DYNAMIC, MANUAL, HIGHLIGHT = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
INSIDE = "#56B4E9"
SHARED = "#8A6D00"
WHISKERS = "whiskers: 95 % interval"
"""What charts with whiskers say beside an axis: a reader takes them for a standard deviation otherwise."""


class Theme(NamedTuple):
    """The colours that depend on the background; roles keep theirs on both."""

    dense: str
    measured: str
    ink: str
    label: str
    middle: str
    """The colour of no difference, between the two of a diverging scale."""
    paper: str
    """Behind words that lie over a chart."""
    template: str


LIGHT = Theme(
    dense="#595959",
    measured="#4F6D94",
    ink="#10151B",
    label="#4A5058",
    middle="#F1F1EE",
    paper="#FFFFFF",
    template="plotly_white",
)
DARK = Theme(
    dense="#9AA0A6",
    measured="#6F93C4",
    ink="#E8EAED",
    label="#B9BFC7",
    middle="#D9DBDD",
    paper="#060709",
    template="plotly_dark",
)


def as_text(text: str) -> str:
    """A string that is not ours, so that plotly, to which tags and entities are markup, shows it as it is."""
    return html.escape(visible(text), quote=False)


class Drawing(NamedTuple):
    """A figure and its takeaway, which is also what a screen reader says and no markup."""

    figure: go.Figure
    takeaway: str


def role_colour(name: str, theme: Theme) -> str:
    """The colour of a model or an allocation, by what it is."""
    if name == "dense":
        return theme.dense
    return CONSTANT if name.startswith("constant") else DYNAMIC


def empty_figure(theme: Theme, height: int) -> go.Figure:
    """A figure without traces, in the theme's colours, transparent."""
    return go.Figure(
        layout={
            "template": theme.template,
            "height": height,
            "margin": {"l": 10, "r": 10, "t": 30, "b": 10},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"size": 14, "color": theme.label},
            "xaxis": {
                "tickfont": {"size": 13, "color": theme.label},
                "title": {"font": {"color": theme.label}},
            },
            "yaxis": {
                "tickfont": {"size": 13, "color": theme.label},
                "title": {"font": {"color": theme.label}},
            },
            "bargap": 0.25,
            "hoverlabel": {"font": {"size": 14}},
            "legend": {
                "orientation": "h",
                "x": 0,
                "y": 1.02,
                "yanchor": "bottom",
                "font": {"size": 14, "color": theme.ink},
            },
            "uirevision": "kept",
        }
    )


def block_axis(figure: go.Figure, blocks: int) -> None:
    """Blocks from 0 along the horizontal axis, every tick a whole number."""
    figure.update_xaxes(
        title={"text": "block (0-based)"},
        tickmode="linear",
        tickangle=0,
        tick0=0,
        dtick=block_step(blocks),
        range=[-0.7, blocks - 0.3],
        showgrid=False,
    )


def block_step(blocks: int) -> int:
    """Blocks from one tick to the next, so that the ticks have room."""
    return next(step for step in (1, 2, 5, 10, 20, 50, blocks) if blocks / step <= 16)


OVERLAY = (("solid", "circle"), ("dash", "square"), ("dot", "diamond"), ("dashdot", "triangle-up"))
"""Dash and marker of the runs in an overlay, which colour alone must not tell apart."""


def overlay_colour(index: int, theme: Theme) -> str:
    """The colour of a run in an overlay: which of them is no role."""
    return (theme.measured, DYNAMIC, MANUAL, HIGHLIGHT)[index % 4]


def rgb(colour: str) -> list[int]:
    """Red, green and blue of ``#RRGGBB``, from 0 to 255."""
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]


def luminance(channels: Sequence[float]) -> float:
    """Relative luminance of red, green and blue from 0 to 255, as WCAG 2 defines it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (c / 255 for c in channels)
    ]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def frame(figure: go.Figure, row: int, column: int) -> None:
    """A frame around a cell of a heat map."""
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": HIGHLIGHT, "width": 4})
