"""Charts of a comparison: perplexities, paired differences, and where the loss comes from."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from analysis.evaluate import Difference
from app.figures.base import LIGHT, ROWS_HEIGHT, Drawing, Theme, empty_figure, role_colour
from slicing.runs import Contestant


def draw_perplexities(contestants: Sequence[Contestant], theme: Theme = LIGHT) -> Drawing:
    """Perplexity of every contestant with its interval."""
    figure = empty_figure(theme, height=ROWS_HEIGHT)
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
    figure = empty_figure(theme, height=ROWS_HEIGHT)
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
