"""Charts of a plan: how much of its width every block loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    LIGHT,
    OVERLAY,
    WHISKERS,
    Drawing,
    Theme,
    as_text,
    block_axis,
    empty_figure,
    overlay_colour,
    role_colour,
)
from app.wording import counted
from slicing.allocation import Fractions
from slicing.over_targets import SizesOverTargets
from slicing.schedule import SlicingSchedule

if TYPE_CHECKING:
    from slicing.preview import Preview


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
    if np.isclose(cut[low], cut[high]):
        return Drawing(figure, f"Every block loses {mean:.1f} % of its width{held}.")
    return Drawing(
        figure,
        f"Blocks lose between {cut[low]:.1f} % ({_alike(cut, low)}) and {cut[high]:.1f} % "
        f"({_alike(cut, high)}) of their width, {mean:.1f} % on average{held}.",
    )


def _alike(cut: np.ndarray, block: int) -> str:
    """Name a block, and say how many others lose as much."""
    others = int(np.isclose(cut, cut[block]).sum()) - 1
    return f"block {block}" + (f" and {counted(others, 'other')}" if others else "")


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


def draw_over_targets(
    sizes: SizesOverTargets, target: float, previews: Mapping[float, Preview], theme: Theme = LIGHT
) -> Drawing:
    """Draw the size of a plan at every target, its break-even marked, and below it what previews found.

    ``previews`` are by their targets.
    """
    shares = 100.0 * np.asarray(sizes.parameters) / sizes.dense
    targets = 100.0 * np.asarray(sizes.targets)
    rows = 2 if previews else 1
    figure = empty_figure(theme, height=260 + 200 * (rows - 1))
    figure.set_subplots(rows=rows, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    figure.add_trace(_clickable(targets, shares, "SP %{x:.0f} %: %{y:.1f} % of the dense parameters"))
    _level(figure, 100.0, "", theme)
    if (even := sizes.break_even) is not None:
        _mark_break_even(figure, 100 * even, theme)
    here = float(np.interp(100 * target, targets, shares)) if targets.size else 100.0
    figure.add_vline(x=100 * target, line={"color": HIGHLIGHT, "width": 2, "dash": "dot"})
    figure.add_trace(
        go.Scatter(
            x=[100 * target],
            y=[here],
            mode="markers+text",
            marker={"size": 12, "color": HIGHLIGHT, "line": {"width": 2, "color": theme.ink}},
            text=[f"  SP {100 * target:.0f} %: {here:.1f} %  "],
            textposition="top right" if 200 * target < targets.max(initial=60.0) else "bottom left",
            textfont={"size": 14, "color": theme.ink},
            hoverinfo="skip",
            cliponaxis=False,
            selected={"marker": {"opacity": 1}, "textfont": {"color": theme.ink}},
            unselected={"marker": {"opacity": 1}, "textfont": {"color": theme.ink}},
        )
    )
    figure.update_yaxes(title_text="size, of dense", ticksuffix=" %", row=1, col=1)
    told = _previews_told(figure, previews, theme) if previews else ""
    font = {"size": 13, "color": theme.label}
    figure.update_yaxes(tickfont=font, title_font_color=theme.label)
    figure.update_xaxes(
        tickfont=font,
        title_font_color=theme.label,
        ticksuffix=" %",
        range=[0, AXIS * float(targets.max(initial=60.0))],
        showgrid=False,
        fixedrange=True,
    )
    figure.update_yaxes(fixedrange=True)
    figure.update_xaxes(title_text="target (SP)", row=rows, col=1)
    figure.update_layout(showlegend=False, margin_t=10, hovermode="x", dragmode=False)
    return Drawing(
        figure,
        f"{_even_told(sizes)} At SP {100 * target:.0f} % it has {here:.1f} % of the dense parameters.{told}",
    )


AXIS = 1.03
"""How far the axis of targets reaches, of the largest, so that its last number is not cut off."""
_UNDIMMED = {"selected": {"marker": {"opacity": 1}}, "unselected": {"marker": {"opacity": 1}}}
"""A click chooses a target, and leaves no mark of its own."""
_UNSEEN = {"selected": {"marker": {"opacity": 0}}, "unselected": {"marker": {"opacity": 0}}}


def _clickable(x: np.ndarray, y: np.ndarray, told: str) -> go.Scatter:
    """A line whose points can be clicked on: that needs marks, which nobody sees."""
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        line={"color": DYNAMIC, "width": 3},
        marker={"size": 10, "color": DYNAMIC, "opacity": 0},
        hovertemplate=f"{told}<extra></extra>",
        **_UNSEEN,
    )


def _level(figure: go.Figure, y: float, row: str, theme: Theme) -> None:
    """Draw what the dense model has across a row, whose axes are named with ``row`` behind."""
    figure.add_shape(
        type="line",
        x0=0,
        x1=1,
        xref=f"x{row} domain",
        y0=y,
        y1=y,
        yref=f"y{row}",
        line={"color": theme.dense, "width": 2, "dash": "dash"},
    )


def _mark_break_even(figure: go.Figure, even: float, theme: Theme) -> None:
    """Shade the targets at which the model is larger than the dense one, and name where that ends."""
    figure.add_shape(
        type="rect",
        x0=0.0,
        x1=even,
        xref="x",
        y0=0,
        y1=1,
        yref="y domain",
        fillcolor=theme.label,
        opacity=0.14,
        line_width=0,
        layer="below",
    )
    figure.add_annotation(
        x=even,
        y=100.0,
        ax=36,
        ay=-28,
        xanchor="left",
        text=f"break-even: SP {even:.1f} %",
        arrowcolor=theme.ink,
        font={"size": 14, "color": theme.ink},
        bgcolor=theme.paper,
    )


def _even_told(sizes: SizesOverTargets) -> str:
    """Say from which target on the model is smaller than the dense one."""
    if sizes.break_even is not None:
        return (
            f"Below SP {100 * sizes.break_even:.1f} % the model is larger than the dense one, because its "
            "shortcut matrices cost more parameters than the cut saves."
        )
    if sizes.parameters and sizes.parameters[-1] < sizes.dense:
        return "The model is smaller than the dense one at every target."
    return "The model is smaller than the dense one at no target that was looked at."


def _previews_told(figure: go.Figure, previews: Mapping[float, Preview], theme: Theme) -> str:
    """Add what previews found as the second row, and say it."""
    ordered = sorted(previews.items())
    targets = [100 * target for target, _ in ordered]
    values = [each.planned.perplexity for _, each in ordered]
    ends = [each.planned.interval or (value, value) for (_, each), value in zip(ordered, values, strict=True)]
    figure.add_trace(
        go.Scatter(
            x=targets,
            y=values,
            mode="lines+markers",
            line={"color": DYNAMIC, "width": 2},
            marker={"size": 9, "color": DYNAMIC},
            error_y={
                "symmetric": False,
                "array": [high - value for (_, high), value in zip(ends, values, strict=True)],
                "arrayminus": [value - low for (low, _), value in zip(ends, values, strict=True)],
                "color": theme.ink,
                "thickness": 1.2,
                "width": 4,
            },
            hovertemplate="SP %{x:.0f} %: perplexity %{y:.1f}<extra></extra>",
            **_UNDIMMED,
        ),
        row=2,
        col=1,
    )
    dense = ordered[0][1].dense.perplexity
    _level(figure, dense, "2", theme)
    figure.add_annotation(
        x=1,
        xref="x2 domain",
        y=float(np.log10(dense)),
        yref="y2",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        text=f"dense: {dense:.1f}",
        font={"size": 14, "color": theme.ink},
    )
    figure.update_yaxes(
        title_text=f"perplexity (log)<br>{WHISKERS}",
        type="log",
        dtick="D2",
        tickformat="~r",
        minor={"showgrid": False},
        row=2,
        col=1,
    )
    told = ", ".join(
        f"{value:.1f} at SP {target:.0f} %" for target, value in zip(targets, values, strict=True)
    )
    return f" Previewed perplexity (dense {dense:.1f}): {told}."
