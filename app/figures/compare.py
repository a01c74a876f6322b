"""Charts of a comparison: perplexities, paired differences, and where the loss comes from."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import plotly.graph_objects as go

from analysis.evaluate import Difference, Perplexity, perplexity_of
from analysis.sources.windows import Passage
from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    LIGHT,
    ROWS_HEIGHT,
    WHISKERS,
    Drawing,
    Theme,
    as_text,
    block_step,
    empty_figure,
    role_colour,
)
from slicing.studies.results import Measurement, TextUsed
from slicing.studies.verdicts import Comparison


def draw_perplexities(measured: Collection[Measurement], theme: Theme = LIGHT) -> Drawing:
    """Perplexity of every model with its interval."""
    figure = empty_figure(theme, height=ROWS_HEIGHT)
    for each in measured:
        found = each.evaluation
        low, high = found.interval or (found.perplexity, found.perplexity)
        figure.add_trace(
            go.Bar(
                x=[found.perplexity],
                y=[as_text(each.title)],
                orientation="h",
                name=as_text(each.title),
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
                    "array": [high - found.perplexity],
                    "arrayminus": [found.perplexity - low],
                    "color": theme.ink,
                    "thickness": 1.5,
                    "visible": found.interval is not None,
                },
                hovertemplate="%{y}: perplexity %{x:.2f}<extra></extra>",
            )
        )
    whiskers = f"<br>{WHISKERS}" if any(each.evaluation.interval for each in measured) else ""
    figure.update_layout(
        showlegend=False,
        bargap=0.3,
        xaxis={"title": {"text": f"perplexity, lower is better{whiskers}"}, "rangemode": "tozero"},
        yaxis={"autorange": "reversed", "automargin": True, "ticklabelstandoff": 8, "showgrid": False},
    )
    ranked = ", ".join(f"{each.title} {each.evaluation.perplexity:.2f}" for each in measured)
    smaller = [each for each in measured if each.name != "dense"]
    if len(smaller) < 2:
        return Drawing(figure, f"Perplexity: {ranked}.")
    best = min(smaller, key=lambda each: each.evaluation.perplexity)
    return Drawing(figure, f"Perplexity: {ranked}. Of the smaller models {best.title} has the lowest.")


def draw_differences(differences: Sequence[tuple[str, Difference]], theme: Theme = LIGHT) -> Drawing:
    """Paired differences around zero, each with its label, its interval and its verdict."""
    figure = empty_figure(theme, height=90 + 65 * len(differences))
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
    whiskers = f"<br>{WHISKERS}" if any(each.percent_interval for _, each in differences) else ""
    figure.add_vline(x=0, line={"color": theme.ink, "width": 1.5})
    figure.update_layout(
        showlegend=False,
        xaxis={
            "title": {"text": f"change of perplexity, %{whiskers}"},
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


def draw_windows(comparison: Comparison, baseline: str, contender: str, theme: Theme = LIGHT) -> Drawing:
    """Draw how much more one model of a comparison loses on every evaluation window than another."""
    base, other = (comparison.measured[name].evaluation for name in (baseline, contender))
    title = f"{contender} against {baseline}"
    return draw_window_losses(base, other, comparison.result.evaluation, title, theme)


def draw_window_losses(
    first: Perplexity, second: Perplexity, used: TextUsed, title: str, theme: Theme = LIGHT
) -> Drawing:
    """Draw how much more the second model loses on every window ``used`` than the first, by document.

    The change is that of the window's perplexity, in percent; windows are in the order of the text.
    """
    base, other = np.asarray(first.nll), np.asarray(second.nll)
    percent = 100.0 * np.expm1(other - base)
    worse = percent > 0
    where = used.passages
    told = [f"{as_text(each.document)}<br>{as_text(each.begins)}" for each in where] or [""] * percent.size
    figure = empty_figure(theme, height=340)
    for name, chosen, colour, pattern in (
        ("worse", worse, DYNAMIC, "/"),
        ("better", ~worse, CONSTANT, ""),
    ):
        windows = np.flatnonzero(chosen)
        figure.add_trace(
            go.Bar(
                x=windows,
                y=percent[chosen],
                name=name,
                marker={
                    "color": colour,
                    "line": {"width": 0},
                    "pattern": {"shape": pattern, "fgcolor": "#FFFFFF", "solidity": 0.2},
                },
                customdata=[told[window] for window in windows],
                hovertemplate="window %{x}: %{y:+.1f} %<br>%{customdata}<extra></extra>",
            )
        )
    figure.add_hline(y=0, line={"color": theme.ink, "width": 1.5})
    for start, name in _documents(used):
        figure.add_vline(x=start - 0.5, line={"color": theme.label, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=start - 0.4,
            y=1,
            yref="paper",
            yanchor="bottom",
            xanchor="left",
            text=as_text(name),
            showarrow=False,
            font={"size": 13, "color": theme.label},
        )
    figure.update_layout(
        margin_t=60,
        legend={"y": 1.12},
        xaxis={"title": {"text": "evaluation window"}, "range": [-0.6, len(base) - 0.4]},
        yaxis={"title": {"text": as_text(title)}, "ticksuffix": " %"},
    )
    hardest = int(percent.argmax())
    place = f" ({where[hardest].document})" if where else ""
    return Drawing(
        figure,
        f"Better on {int((~worse).sum())} of {percent.size} windows: from {percent.min():+.1f} % perplexity "
        f"to {percent[hardest]:+.1f} % on window {hardest}{place}.".replace("-", "−"),
    )


def draw_losses(measured: Perplexity, where: Sequence[Passage] = (), theme: Theme = LIGHT) -> Drawing:
    """Draw the perplexity of one model on every window, with that on all of them and its interval."""
    each = np.asarray([perplexity_of(nats) for nats in measured.nll])
    told = [f"{as_text(one.document)}<br>{as_text(one.begins)}" for one in where] or [""] * each.size
    figure = empty_figure(theme, height=340)
    figure.add_trace(
        go.Bar(
            x=np.arange(each.size),
            y=each,
            marker={"color": theme.measured, "line": {"width": 0}},
            customdata=told,
            hovertemplate="window %{x}: %{y:.2f}<br>%{customdata}<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_hline(y=measured.perplexity, line={"color": theme.ink, "width": 1.5})
    between = measured.interval
    if between:
        figure.add_hrect(*between, fillcolor=theme.dense, opacity=0.25, line_width=0)
    figure.update_layout(
        xaxis={
            "title": {"text": "evaluation window"},
            "range": [-0.6, each.size - 0.4],
            "dtick": block_step(each.size),
            "showgrid": False,
        },
        yaxis={"title": {"text": "perplexity"}, "rangemode": "tozero"},
    )
    interval = f" (95 % interval {between[0]:.2f} to {between[1]:.2f})" if between else ""
    return Drawing(
        figure,
        f"Perplexity {measured.perplexity:.2f}{interval}; the hardest window is {int(each.argmax())}, at "
        f"{each.max():.2f}, the easiest {int(each.argmin())}, at {each.min():.2f}.",
    )


def _documents(evaluation: TextUsed) -> list[tuple[int, str]]:
    """The first window of each document and its name, where they are few enough to be read."""
    names = [each.document for each in evaluation.passages]
    starts = [place for place, name in enumerate(names) if place == 0 or name != names[place - 1]]
    return [(place, names[place]) for place in starts] if len(starts) <= 8 else []
