"""The charts of the story: few marks and large type, to be read from the last row.

Charts of other pages are reused where they say the same. Knows nothing about streamlit or about the
sentences around a chart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from analysis.profile import LayerProfile
from analysis.scores import find_score
from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    INSIDE,
    MANUAL,
    Drawing,
    Theme,
    as_text,
    role_colour,
)
from app.figures.compare import draw_perplexities
from app.figures.plan import draw_schedule
from app.figures.profile import draw_profile
from slicing.allocation import Fractions
from slicing.schedule import SlicingSchedule
from slicing.studies.results import Measurement

SIZE = 22
"""Of all type in a chart, px."""
SMALL = 20
"""Of type that stands close to more of it, px."""
LEAST_HEIGHT = 240
"""A chart is as high as the screen has room for, but not lower, px."""
LABELS = 4
"""At most so many blocks are numbered: as many as a phone has room for, the first with its word."""


class Turn(NamedTuple):
    """What a block does to the state of a token, on average."""

    block: int
    cosine: float
    growth: float | None
    """Ratio of the norms leaving and entering; ``None`` where it was not kept."""

    @property
    def degrees(self) -> float:
        """The angle between the states entering and leaving."""
        return math.degrees(math.acos(max(-1.0, min(1.0, self.cosine))))


class Spread(NamedTuple):
    """How far the cosine of every block varies, each (L,)."""

    low: np.ndarray
    middle: np.ndarray
    high: np.ndarray
    first: np.ndarray | None
    """The mean over the first tokens of the windows, where they were kept apart."""


class Rival(NamedTuple):
    """One way to a size."""

    name: str
    kind: str | None
    """What it makes smaller (``Recipe.kind``); ``None`` for the dense model."""
    perplexity: float
    parameters: int
    is_baseline: bool = False
    """Whether it is constant slicing, which has one colour in all scenes."""


def draw_turns(turns: Sequence[Turn], theme: Theme, concealed: bool = False) -> Drawing:
    """The state entering a block and the one leaving it, in the plane of the two, pair beside pair.

    Angles and ratios of lengths are exact; each pair has a scale of its own. Concealed, only what enters
    is there.
    """
    figure = go.Figure()
    edge = 0.0
    for turn in turns:
        growth, angle = turn.growth or 1.0, math.radians(turn.degrees)
        scale = 1.0 / max(1.0, growth)
        tip = (scale * growth * math.cos(angle), scale * growth * math.sin(angle))
        foot = edge - min(0.0, tip[0])
        entering = 1.0 if concealed else scale  # a short one would betray how long the other is
        _arrow(figure, foot, (entering, 0.0), theme.dense)
        _label(figure, foot + entering, 0.0, "in", theme.dense, xshift=SIZE)
        words = "?"
        if not concealed:
            _arrow(figure, foot, tip, theme.measured)
            _arc(figure, foot, min(0.3, 0.6 * scale * min(1.0, growth)), angle, theme.ink)
            _label(figure, foot + tip[0], tip[1], "out", theme.measured, xshift=1.4 * SIZE)
            longer = f", {turn.growth:.3g} × as long" if turn.growth else ""
            words = f"block {turn.block}<br>{turn.degrees:.0f}°{longer}"
        _label(
            figure, edge, 0.0, words, theme.ink, yshift=-0.6 * SIZE, yanchor="top", xanchor="left", size=SMALL
        )
        edge = foot + max(1.0, scale, tip[0]) + _GAP
    if not concealed and any(turn.growth for turn in turns):
        paper = {"xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "top"}
        _label(figure, 1.0, 1.0, "each pair has<br>a scale of its own", theme.label, **paper, size=SMALL)
    on_stage(figure, theme, bottom=round(3.2 * SIZE))
    # Ranges that grow to keep the angles true would not shrink again when the chart gets its height.
    figure.update_xaxes(visible=False, range=[-0.1, edge - _GAP + 0.4], constrain="domain")
    figure.update_yaxes(visible=False, range=[-0.02, 1.12], constrain="domain", scaleanchor="x")
    told = "; ".join(
        f"block {turn.block} turns a state by {turn.degrees:.0f} degrees"
        + (f" and makes it {turn.growth:.3g} times as long" if turn.growth else "")
        for turn in turns
    )
    return Drawing(figure, f"{told.capitalize()}.")


def draw_cosines(spread: Spread, theme: Theme, concealed: bool = False) -> Drawing:
    """The cosine of every block: a bar for where most of it lies, a line for its middle, a mark for the
    first token.
    """
    blocks = np.arange(spread.middle.size)
    figure = go.Figure()
    if not concealed:
        figure.add_trace(
            go.Bar(
                x=blocks,
                base=spread.low.astype(np.float32),
                y=(spread.high - spread.low).astype(np.float32),
                name="5 to 95 %",
                marker={"color": theme.measured, "opacity": 0.55, "line": {"width": 0}},
                hoverinfo="skip",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=blocks,
                y=spread.middle.astype(np.float32),
                name="median",
                mode="markers",
                marker={"symbol": "line-ew", "size": 14, "line": {"color": theme.ink, "width": 3}},
                hovertemplate="block %{x}: median cosine %{y:.3f}<extra></extra>",
            )
        )
        if spread.first is not None:
            figure.add_trace(
                go.Scatter(
                    x=blocks,
                    y=spread.first.astype(np.float32),
                    name="first token",
                    mode="markers",
                    marker={"symbol": "diamond", "size": 12, "color": HIGHLIGHT},
                    hovertemplate="block %{x}: first token %{y:.3f}<extra></extra>",
                )
            )
    ends = [spread.low, spread.high] + ([] if spread.first is None else [spread.first])
    on_stage(figure, theme)
    _few_blocks(figure, blocks.size)
    figure.update_yaxes(title_text="cosine", range=[min(0.0, *map(np.min, ends)) - 0.05, 1.05])
    low, high = int(spread.middle.argmin()), int(spread.middle.argmax())
    return Drawing(
        figure,
        f"The median cosine lies between {spread.middle[low]:.3f} (block {low}) and "
        f"{spread.middle[high]:.3f} (block {high}).",
    )


def draw_scores(
    profile: LayerProfile, score: str, first_token: bool, theme: Theme, concealed: bool = False
) -> Drawing:
    """The profile, as the Profile page draws it."""
    drawing = draw_profile(profile, score, first_token, theme=theme)
    values, spread = profile.values(score, first_token), profile.spread(score, first_token)
    lowest = min(0.0, 1.05 * float((values - spread).min())) if values.min() < 0.0 else 0.0
    on_stage(drawing.figure, theme)
    _few_blocks(drawing.figure, profile.blocks)
    top = float((values + spread).max())
    # The room above the bars is for words: no score is so high.
    drawing.figure.update_yaxes(range=[lowest, 1.3 * top], tickvals=_round_steps(lowest, top))
    if concealed:
        drawing.figure.data = ()
    else:
        _add_extremes(drawing.figure, values, find_score(score).higher_is_redundant, top, theme)
    return drawing


def _round_steps(low: float, high: float) -> list[float]:
    """Give round numbers from ``low`` to ``high``, about five of them."""
    rough = (high - low) / 5 or 1.0
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * times for times in (1, 2, 5, 10) if unit * times >= 0.99 * rough)
    return [
        round(step * place, 12) for place in range(math.ceil(low / step), math.floor(high / step + 1e-6) + 1)
    ]


def _add_extremes(figure: go.Figure, values: np.ndarray, higher: bool, top: float, theme: Theme) -> None:
    """Name the most and the least redundant block above the bars, each with an arrow down to its own bar.

    The least redundant one often has a bar of no height, which nobody would see.
    """
    order = values if higher else -values
    ends = {"most redundant": int(order.argmax()), "least redundant": int(order.argmin())}
    near = abs(ends["most redundant"] - ends["least redundant"]) < 0.4 * values.size
    for said, block in ends.items():
        left = block < values.size / 2
        figure.add_annotation(
            x=block,
            y=max(float(values[block]), 0.0),
            ax=block,
            ay=(1.20 if near and said == "most redundant" else 1.11) * top,
            xref="x",
            yref="y",
            axref="x",
            ayref="y",
            text=f"<b>{said}</b>",
            font={"size": SMALL, "color": theme.ink},
            xanchor="left" if left else "right",
            yanchor="bottom",
            showarrow=True,
            arrowhead=2,
            arrowwidth=2,
            arrowcolor=theme.ink,
            standoff=3,
        )


def draw_floor(
    fractions: Fractions, base: float, top: float, theme: Theme, concealed: bool = False
) -> Drawing:
    """The slice base as the floor of every bar; what the scores add to it is hatched.

    The axis ends above ``top`` wherever the base stands, so that a moving bar is a changing one.
    """
    values = 100.0 * np.asarray(fractions.values, dtype=np.float32)
    floor = np.minimum(values, 100.0 * base)
    figure = go.Figure()
    if not concealed:
        for name, height, pattern in (
            (f"slice base, {100 * base:.0f} %", floor, {}),
            (
                "by redundancy",
                values - floor,
                {"shape": "/", "fgcolor": DYNAMIC, "bgcolor": "rgba(0,0,0,0)", "fgopacity": 1.0},
            ),
        ):
            figure.add_trace(
                go.Bar(
                    x=np.arange(values.size),
                    y=height,
                    name=name,
                    marker={"color": DYNAMIC, "pattern": pattern, "line": {"width": 1.5, "color": DYNAMIC}},
                    hovertemplate="block %{x}: %{y:.1f} %<extra></extra>",
                )
            )
    on_stage(figure, theme)
    _few_blocks(figure, values.size)
    figure.update_layout(barmode="stack")
    figure.update_yaxes(title_text="slice", ticksuffix=" %", nticks=5, range=[0.0, 105.0 * top])
    return Drawing(
        figure,
        f"Every block loses {100 * base:.0f} %; the scores add up to {(values - floor).max():.1f} % to that.",
    )


def draw_plan(
    schedule: SlicingSchedule,
    constant: SlicingSchedule,
    fractions: Fractions,
    name: str,
    block_path: str,
    top: float,
    theme: Theme,
    concealed: bool = False,
) -> Drawing:
    """The plan against constant slicing, as the Tune page draws it. Concealed, only constant is there.

    The axis ends above ``top`` wherever the target stands.
    """
    drawing = draw_schedule(schedule, constant, fractions, name, block_path, theme)
    figure = drawing.figure
    on_stage(figure, theme)
    _few_blocks(figure, len(schedule.block_fractions))
    figure.update_yaxes(title_text="slice", nticks=5, range=[0.0, 105.0 * top])
    if concealed:
        figure.data = figure.data[1:2]
    return drawing


def draw_pipe(
    planned: SlicingSchedule,
    constant: SlicingSchedule,
    name: str,
    theme: Theme,
    concealed: bool = False,
    shortcuts: Sequence[float] = (),
) -> Drawing:
    """The width of the stream along the depth, as a pipe. Concealed, only the dense one is there.

    ``shortcuts``: where along the blocks a matrix takes the stream from one basis to the next.
    """
    width, depth = planned.hidden_size, len(planned.widths)
    figure = go.Figure()
    pipes = [("dense", (width,) * depth, theme.dense, "rgba(0,0,0,0)")]
    if not concealed:
        colour = role_colour(name, theme)
        pipes += [
            (f"{as_text(name)}, planned", planned.widths, colour, _faint(colour)),
            ("constant", constant.widths, CONSTANT, "rgba(0,0,0,0)"),
        ]
    for title, widths, colour, fill in pipes:
        across, up = _outline(widths)
        figure.add_trace(
            go.Scatter(
                x=across,
                y=up,
                name=title,
                mode="lines",
                line={"color": colour, "width": 4, "dash": "dot" if title == "constant" else "solid"},
                fill="toself",
                fillcolor=fill,
                hoverinfo="skip",
            )
        )
    if shortcuts and not concealed:
        figure.add_trace(
            go.Scatter(
                x=list(shortcuts),
                y=[0.0] * len(shortcuts),
                name=f"{len(shortcuts)} shortcut matrices",
                mode="markers",
                marker={"symbol": "square", "size": 9, "color": HIGHLIGHT, "line": {"width": 0}},
                hoverinfo="skip",
            )
        )
    on_stage(figure, theme)
    _few_blocks(figure, depth, last="head")
    figure.update_layout(margin_r=34)  # half of the last word, which stands below the edge
    figure.update_yaxes(
        title_text=f"width, D = {width:,}",
        range=[-0.55 * width, 0.55 * width],
        showticklabels=False,
        showgrid=False,
        zeroline=False,
    )
    low, high = min(planned.widths[:-1]), max(planned.widths[:-1])
    return Drawing(
        figure,
        f"The stream of {width:,} dimensions keeps {low:,} to {high:,} of them by the plan, "
        f"{min(constant.widths[:-1]):,} to {max(constant.widths[:-1]):,} by constant slicing.",
    )


def draw_costs(measured: Sequence[Measurement], theme: Theme, concealed: bool = False) -> Drawing:
    """The perplexities, as the Compare page draws them. Concealed, only the dense model's is there."""
    drawing = draw_perplexities(measured, theme)
    figure = drawing.figure
    labels = [f"{as_text(each.name.capitalize())}<br>{each.evaluation.perplexity:.2f}" for each in measured]
    shown = [labels[0], *("?" * place for place in range(1, len(labels)))] if concealed else labels
    bars: Any = figure.data
    for bar, label in zip(bars, shown, strict=True):
        bar.update(y=[label])
    ends = [max(each.evaluation.interval or (each.evaluation.perplexity,)) for each in measured]
    on_stage(figure, theme)
    figure.update_xaxes(range=[0.0, 1.05 * max(ends)], nticks=6)
    figure.update_yaxes(categoryarray=shown, range=[len(measured) - 0.5, -0.5], autorange=False)
    if concealed:
        figure.data = figure.data[:1]
    return drawing


def draw_rivals(rivals: Sequence[Rival], theme: Theme, concealed: bool = False) -> Drawing:
    """The perplexity of every way to one size, the families in colour. Concealed, only dense is there."""
    colours = {None: theme.dense, "width": DYNAMIC, "depth": MANUAL, "inner": INSIDE, "both": HIGHLIGHT}
    figure = go.Figure()
    shown = rivals[:1] if concealed else rivals
    for row, each in enumerate(shown):
        figure.add_trace(
            go.Bar(
                x=[each.perplexity],
                y=[row],
                orientation="h",
                width=0.32,
                offset=0.04,
                marker={"color": CONSTANT if each.is_baseline else colours[each.kind], "line": {"width": 0}},
                hovertemplate=f"{as_text(each.name)}: %{{x:.2f}}, {each.parameters:,} "
                "parameters<extra></extra>",
                showlegend=False,
            )
        )
        # Above its bar, or names would take half of a narrow screen.
        words = f"{as_text(each.name)} <b>{each.perplexity:.2f}</b>"
        _label(figure, 0.0, row, words, theme.ink, xanchor="left", yanchor="bottom", yshift=-3)
    on_stage(figure, theme)
    # No axis: every bar has its number, and rows need the height.
    figure.update_xaxes(range=[0.0, 1.02 * max(each.perplexity for each in rivals)], visible=False)
    figure.update_yaxes(range=[len(rivals) - 0.5, -0.7], visible=False)
    best = min(rivals[1:], key=lambda each: each.perplexity)
    told = ", ".join(f"{each.name} {each.perplexity:.2f}" for each in rivals)
    return Drawing(figure, f"{best.name} loses least at this size: {told}.")


def on_stage(figure: go.Figure, theme: Theme, bottom: int = 10) -> None:
    """Large type, nothing that can be dragged, and as high as the page lets it be."""
    font = {"size": SIZE, "color": theme.ink}
    figure.update_layout(
        template=theme.template,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font=font,
        hoverlabel_font_size=SIZE,
        legend={
            "font": font,
            "orientation": "h",
            "x": 0,
            "y": 1.02,
            "yanchor": "bottom",
            "traceorder": "normal",
        },
        margin={"l": 10, "r": 10, "t": 10, "b": bottom},
        bargap=0.25,
        dragmode=False,
        height=LEAST_HEIGHT,
    )
    figure.update_xaxes(tickfont=font, title_font=font, automargin=True)
    figure.update_yaxes(tickfont=font, title_font=font, automargin=True)


_GAP = 0.6
"""Between two pairs of arrows, the longest arrow of each being 1."""


def _arrow(figure: go.Figure, foot: float, tip: tuple[float, float], colour: str) -> None:
    figure.add_annotation(
        x=foot + tip[0],
        y=tip[1],
        ax=foot,
        ay=0.0,
        xref="x",
        yref="y",
        axref="x",
        ayref="y",
        text="",
        showarrow=True,
        arrowhead=2,
        # The head of a short arrow would cover all of it.
        arrowwidth=5 if math.hypot(*tip) > 0.2 else 3,
        arrowsize=0.8 if math.hypot(*tip) > 0.2 else 0.5,
        arrowcolor=colour,
    )


def _label(
    figure: go.Figure, x: float, y: float, text: str, colour: str, size: int = SIZE, **place: float | str
) -> None:
    font = {"size": size, "color": colour}
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, font=font, align="left", **place)


def _arc(figure: go.Figure, foot: float, radius: float, angle: float, colour: str) -> None:
    angles = np.linspace(0.0, angle, 40)
    figure.add_trace(
        go.Scatter(
            x=foot + radius * np.cos(angles),
            y=radius * np.sin(angles),
            mode="lines",
            line={"color": colour, "width": 2},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _outline(widths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a pipe with these widths: along its upper edge, and back along the lower."""
    edges = np.repeat(np.arange(len(widths) + 1) - 0.5, 2)[1:-1]
    half = np.repeat(np.asarray(widths, dtype=np.float32), 2) / 2
    return (
        np.concatenate([edges, edges[::-1], edges[:1]]),
        np.concatenate([half, -half[::-1], half[:1]]),
    )


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.25)"


def _few_blocks(figure: go.Figure, blocks: int, last: str = "") -> None:
    """Number a few blocks, the first of them by the word: a title of its own would take the chart's height.

    ``last`` is what stands behind the blocks, if something does; its word takes the place of numbers near it.
    """
    step = next(step for step in (1, 2, 5, 10, 20, 50, blocks) if blocks / step <= LABELS)
    numbers = [block for block in range(0, blocks, step) if not last or block <= blocks - 2 - step // 2]
    figure.update_xaxes(
        tickmode="array",
        tickvals=[*numbers, *([blocks - 1] if last else [])],
        ticktext=[f"block {number}" if number == 0 else str(number) for number in numbers]
        + ([last] if last else []),
        tickangle=0,
        ticklabelstandoff=6,  # the first word would stand on the 0 of the other axis
        range=[-0.7, blocks - 0.3],
        showgrid=False,
        title_text="",
    )
