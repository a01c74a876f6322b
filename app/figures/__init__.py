"""Every chart: a pure function from results to a plotly figure and the sentence that says what it shows.

The only module that knows plotly. Knows nothing about streamlit, so a figure looks the same when exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from analysis.evaluate import Difference
from analysis.profile import LayerProfile
from analysis.scores import find_score
from slicing.allocation import Fractions
from slicing.runs import Contestant
from slicing.schedule import SlicingSchedule

ROWS_HEIGHT = 320
"""Height of the charts whose rows are models or differences: they stand side by side."""
CONSTANT, DYNAMIC, MANUAL, HIGHLIGHT = "#0072B2", "#D55E00", "#009E73", "#CC79A7"


class Theme(NamedTuple):
    """The colours that depend on the background; roles keep theirs on both."""

    dense: str
    measured: str
    ink: str
    label: str
    template: str


LIGHT = Theme(dense="#595959", measured="#4F6D94", ink="#10151B", label="#4A5058", template="plotly_white")
DARK = Theme(dense="#9AA0A6", measured="#6F93C4", ink="#E8EAED", label="#B9BFC7", template="plotly_dark")


class Drawing(NamedTuple):
    """A figure and its takeaway, which is also what a screen reader says."""

    figure: go.Figure
    takeaway: str


def role_colour(name: str, theme: Theme) -> str:
    """The colour of a contestant or an allocation, by what it is."""
    if name == "dense":
        return theme.dense
    return CONSTANT if name.startswith("constant") else DYNAMIC


def outliers(values: np.ndarray) -> list[int]:
    """The few blocks so far from the others that the gap between takes more than half of the axis."""
    order = np.argsort(values)
    gaps = np.diff(values[order])
    if values.size < 8 or gaps.max() <= 0.5 * np.ptp(values):
        return []
    cut = int(gaps.argmax()) + 1
    few = min(order[:cut], order[cut:], key=len)
    return sorted(few.tolist()) if few.size <= values.size / 4 else []


def draw_profile(
    profile: LayerProfile,
    score: str,
    first_token: bool = False,
    without: Sequence[int] = (),
    theme: Theme = LIGHT,
) -> Drawing:
    """A score of every block with its spread over windows.

    Blocks in ``without`` are left off and the axis is fitted to the others; then dots are drawn instead of
    bars, since a bar whose axis does not begin at zero deceives.
    """
    entry = find_score(score)
    values, spread = profile.values(score, first_token), profile.spread(score, first_token)
    shown = np.setdiff1d(np.arange(profile.blocks), np.asarray(without, dtype=int))
    marked = outliers(values)
    colours = [HIGHLIGHT if block in marked else theme.measured for block in shown]
    common: dict[str, Any] = {
        "x": shown,
        "y": values[shown].astype(np.float32),
        "error_y": {
            "array": spread[shown].astype(np.float32),
            "color": theme.ink,
            "thickness": 1.2,
            "width": 3,
        },
        "customdata": [f"{profile.block_path}.{block}" for block in shown],
        "hovertemplate": f"block %{{x}} · %{{customdata}}<br>{entry.title} %{{y:.3f}} "
        "± %{error_y.array:.3f}<extra></extra>",
        "name": entry.title,
    }
    figure = _figure(theme, height=400)
    if without:
        figure.add_trace(go.Scatter(**common, mode="markers", marker={"size": 10, "color": colours}))
    else:
        figure.add_trace(go.Bar(**common, marker={"color": colours, "line": {"width": 0}}))
    ending = " (axis fitted)" if without else ""
    figure.update_layout(showlegend=False, yaxis_title_text=entry.title + ending, margin_t=10)
    _block_axis(figure, profile.blocks)
    order = values if entry.higher_is_redundant else -values
    most, least = int(order.argmax()), int(order.argmin())
    return Drawing(
        figure,
        f"Block {most} changes its input least ({entry.title} {values[most]:.3f}), "
        f"block {least} changes it most ({values[least]:.3f}).",
    )


def draw_schedule(
    schedule: SlicingSchedule,
    constant: SlicingSchedule,
    fractions: Fractions,
    name: str,
    block_path: str,
    theme: Theme = LIGHT,
) -> Drawing:
    """How much of its width every block loses: planned as bars, constant as a line, the mean dashed."""
    cut = 100.0 * np.asarray(schedule.block_fractions, dtype=np.float32)
    blocks = np.arange(cut.size)
    capped = np.asarray(fractions.capped)
    figure = _figure(theme, height=430)
    figure.add_trace(
        go.Bar(
            x=blocks,
            y=cut,
            name=f"{name}, planned",
            marker={
                "color": role_colour(name, theme),
                "line": {"width": 0},
                "pattern": {"shape": ["/" if each else "" for each in capped], "fgcolor": "#FFFFFF"},
            },
            customdata=[
                (f"{block_path}.{block}", schedule.widths[block], schedule.hidden_size) for block in blocks
            ],
            hovertemplate="block %{x} · %{customdata[0]}<br>slice %{y:.1f} %, width %{customdata[1]} of "
            "%{customdata[2]}<extra></extra>",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=blocks,
            y=100.0 * np.asarray(constant.block_fractions, dtype=np.float32),
            name="constant",
            mode="lines",
            line={"color": CONSTANT, "width": 3, "shape": "hvh"},
            hovertemplate="constant: block %{x}, slice %{y:.1f} %<extra></extra>",
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
    _block_axis(figure, cut.size)
    low, high = int(cut.argmin()), int(cut.argmax())
    held = f"; {int(capped.sum())} held back by the largest fraction" if capped.any() else ""
    return Drawing(
        figure,
        f"Blocks lose between {cut[low]:.1f} % (block {low}) and {cut[high]:.1f} % (block {high}) of their "
        f"width, {mean:.1f} % on average{held}.",
    )


def draw_perplexities(contestants: Sequence[Contestant], theme: Theme = LIGHT) -> Drawing:
    """Perplexity of every contestant with its interval."""
    figure = _figure(theme, height=ROWS_HEIGHT)
    for each in contestants:
        measured = each.evaluation
        low, high = measured.interval or (measured.perplexity, measured.perplexity)
        figure.add_trace(
            go.Bar(
                x=[measured.perplexity],
                y=[each.title],
                orientation="h",
                name=each.title,
                width=0.62,
                marker={
                    "color": role_colour(each.name, theme),
                    "line": {"width": 0},
                    "pattern": {
                        "shape": "/" if each.name == "constant-matched" else "",
                        "fgcolor": "#FFFFFF",
                    },
                },
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - measured.perplexity],
                    "arrayminus": [measured.perplexity - low],
                    "color": theme.ink,
                    "thickness": 1.5,
                    "visible": measured.interval is not None,
                },
                hovertemplate="%{y}: perplexity %{x:.2f}<extra></extra>",
            )
        )
    figure.update_layout(
        showlegend=False,
        bargap=0.3,
        xaxis={"title": {"text": "perplexity, lower is better"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "automargin": True, "ticklabelstandoff": 8, "showgrid": False},
    )
    best = min(contestants, key=lambda each: each.evaluation.perplexity)
    ranked = ", ".join(f"{each.title} {each.evaluation.perplexity:.2f}" for each in contestants)
    return Drawing(figure, f"Perplexity is lowest for {best.title}: {ranked}.")


def draw_differences(differences: Sequence[tuple[str, Difference]], theme: Theme = LIGHT) -> Drawing:
    """Paired differences around zero, each with its label, its interval and its verdict."""
    figure = _figure(theme, height=ROWS_HEIGHT)
    for label, each in differences:
        low, high = each.percent_interval or (each.percent, each.percent)
        figure.add_trace(
            go.Scatter(
                x=[each.percent],
                y=[label],
                mode="markers+text",
                text=[each.verdict],
                textposition="top center",
                textfont={"color": theme.ink},
                marker={"size": 13, "color": role_colour(each.contender, theme)},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - each.percent],
                    "arrayminus": [each.percent - low],
                    "color": theme.ink,
                    "thickness": 1.5,
                    "visible": each.percent_interval is not None,
                },
                hovertemplate="%{y}: %{x:+.1f} %<extra></extra>",
            )
        )
    ends = [end for _, each in differences for end in (each.percent_interval or (each.percent,))]
    reach = 1.25 * max(1.0, *(abs(end) for end in ends))
    figure.add_vline(x=0, line={"color": theme.ink, "width": 1.5})
    figure.update_layout(
        showlegend=False,
        xaxis={
            "title": {"text": "change of perplexity, %"},
            "range": [-reach, reach],
            "zeroline": False,
        },
        yaxis={
            "autorange": False,
            "range": [len(differences) - 0.5, -0.5],
            "automargin": True,
            "showgrid": False,
            "ticklabelstandoff": 8,
        },
    )
    return Drawing(
        figure,
        " ".join(
            f"{label.capitalize()}: {each.percent:+.1f} % perplexity, {each.verdict}.".replace("-", "−")
            for label, each in differences
        ),
    )


def _figure(theme: Theme, height: int) -> go.Figure:
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


def _block_axis(figure: go.Figure, blocks: int) -> None:
    step = next(step for step in (1, 2, 5, 10, 20, 50) if blocks / step <= 16)
    figure.update_xaxes(
        title={"text": "block (0-based)"},
        tickmode="linear",
        tickangle=0,
        tick0=0,
        dtick=step,
        range=[-0.7, blocks - 0.3],
        showgrid=False,
    )
