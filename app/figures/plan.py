"""Charts of a plan: how much of its width every block loses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    LIGHT,
    OVERLAY,
    Drawing,
    Theme,
    as_text,
    block_axis,
    empty_figure,
    overlay_colour,
    role_colour,
)
from slicing.allocation import Fractions
from slicing.schedule import SlicingSchedule


def draw_schedule(
    schedule: SlicingSchedule,
    constant: SlicingSchedule,
    fractions: Fractions,
    name: str,
    block_path: str,
    theme: Theme = LIGHT,
    height: int = 430,
    headroom: float | None = None,
) -> Drawing:
    """Draw how much width every block loses: planned as bars, constant as a line, the mean dashed.

    ``block_path`` may be empty, where nobody knows what the blocks are called. ``headroom``: how many times
    as high as the tallest bar the axis is; by default as high as it has to be.
    """
    cut = 100.0 * np.asarray(schedule.block_fractions, dtype=np.float32)
    blocks = np.arange(cut.size)
    capped = np.asarray(fractions.capped)
    figure = empty_figure(theme, height=height)
    figure.add_trace(_planned_bars(schedule, cut, capped, name, block_path, theme))
    figure.add_trace(
        go.Scatter(
            x=blocks,
            y=np.full(cut.size, 100.0 * constant.mean_slice, dtype=np.float32),
            name="constant",
            mode="lines",
            line={"color": CONSTANT, "width": 3},
            # Its widths are whole steps of rounding around one share, which is what it is.
            customdata=100.0 * np.asarray(constant.block_fractions, dtype=np.float32),
            hovertemplate="constant: block %{x}, slice %{customdata:.1f} %<extra></extra>",
        )
    )
    mean = 100.0 * schedule.mean_slice
    figure.add_trace(
        go.Scatter(
            x=[-0.5, cut.size - 0.5],
            y=[mean, mean],
            name=f"mean of the plan, {mean:.1f} %",
            mode="lines",
            line={"color": theme.ink, "width": 1.5, "dash": "dash"},
            hoverinfo="skip",
        )
    )
    if capped.any():
        figure.add_trace(
            go.Bar(
                x=[None],
                y=[None],
                name="held back by the largest fraction",
                marker={"color": role_colour(name, theme), "pattern": {"shape": "/", "fgcolor": "#FFFFFF"}},
            )
        )
    figure.update_layout(
        barmode="overlay",
        yaxis={"title": {"text": "slice, % of the width"}, "rangemode": "tozero", "ticksuffix": " %"},
    )
    if headroom:
        figure.update_yaxes(range=[0.0, min(100.0, headroom * max(float(cut.max()), 5.0))], fixedrange=True)
        figure.update_layout(dragmode=False)
    block_axis(figure, cut.size)
    low, high = int(cut.argmin()), int(cut.argmax())
    held = f"; {int(capped.sum())} held back by the largest fraction" if capped.any() else ""
    return Drawing(
        figure,
        f"Blocks lose between {cut[low]:.1f} % (block {low}) and {cut[high]:.1f} % (block {high}) of their "
        f"width, {mean:.1f} % on average{held}.",
    )


def _planned_bars(
    schedule: SlicingSchedule,
    cut: np.ndarray,
    capped: np.ndarray,
    name: str,
    block_path: str,
    theme: Theme,
) -> go.Bar:
    """Draw a bar for every block: ``cut`` in percent of its width, hatched where it is held back."""
    blocks = np.arange(cut.size)
    return go.Bar(
        x=blocks,
        y=cut,
        name=f"{as_text(name)}, planned",
        marker={
            "color": role_colour(name, theme),
            "line": {"width": 0},
            "pattern": {"shape": ["/" if each else "" for each in capped], "fgcolor": "#FFFFFF"},
        },
        customdata=[
            (
                f" · {as_text(block_path)}.{block}" if block_path else "",
                schedule.widths[block],
                schedule.hidden_size,
            )
            for block in blocks
        ],
        hovertemplate="block %{x}%{customdata[0]}<br>slice %{y:.1f} %, width %{customdata[1]} of "
        "%{customdata[2]}<extra></extra>",
    )


def draw_schedules(schedules: Sequence[tuple[str, SlicingSchedule]], theme: Theme = LIGHT) -> Drawing:
    """Draw what several plans cut where, over relative depth."""
    figure = empty_figure(theme, height=400)
    for index, (name, schedule) in enumerate(schedules):
        cut = 100.0 * np.asarray(schedule.block_fractions, dtype=np.float32)
        dash, symbol = OVERLAY[index % len(OVERLAY)]
        figure.add_trace(
            go.Scatter(
                x=100.0 * (np.arange(cut.size) + 0.5) / cut.size,
                y=cut,
                name=as_text(name),
                mode="lines+markers",
                line={"color": overlay_colour(index, theme), "width": 2, "dash": dash},
                marker={"size": 8, "symbol": symbol},
                customdata=np.arange(cut.size),
                hovertemplate="block %{customdata}: slice %{y:.1f} %<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_layout(
        xaxis={"title": {"text": "relative depth"}, "range": [0, 100], "ticksuffix": " %"},
        yaxis={"title": {"text": "slice, % of the width"}, "rangemode": "tozero", "ticksuffix": " %"},
    )
    means = ", ".join(f"{name} {100 * schedule.mean_slice:.1f} %" for name, schedule in schedules)
    return Drawing(figure, f"Mean slices: {means}.")
