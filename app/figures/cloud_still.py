"""The picture of slicing as a still chart: the cloud at one stage, with its numbers and its energies.

Knows nothing about streamlit or about the sentences around a picture.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.base import CONSTANT, HIGHLIGHT, LIGHT, Drawing, Theme, empty_figure
from app.figures.cloud import LABELS, CloudView, Stage, edges_of, fine

ASKEW = 1.15
"""Angle of the turn in radians, around the axis of the script: chosen for the eye, not measured."""
_AXIS = np.asarray([0.48, 0.6, 0.64])
"""Around which the cloud turns."""


def draw_cloud(view: CloudView, stage: Stage, theme: Theme = LIGHT, takeaway: str = "") -> Drawing:
    """Draw one stage of the picture as a chart: the tokens, the slab of what is cut, what each token loses.

    What is seen is what the moving picture shows at rest: the same two strong directions and the same thin
    one, from the same side.
    """
    place = view.cloud.middle()
    points, reach = view.drawn(place), view.reach(place)
    thick = view.thickness(place, view.width)
    turn = np.eye(3) if stage != "askew" else _rotation(ASKEW)
    whole = points * [1.0, 1.0, thick]
    here = whole * [1.0, 1.0, 0.0] if stage == "cut" else whole
    figure = empty_figure(theme, 420)
    if stage in ("shaded", "cut"):
        _add_slab(figure, view.bounds(place), reach, 1.8 * thick)
    for axis, length in enumerate((0.9 * reach, 0.9 * reach, 2.4 * thick)):
        if axis == 2 and stage == "cut":
            continue
        end = np.eye(3)[axis] * length
        colour = HIGHLIGHT if axis == 2 else theme.ink
        _add_lines(figure, _seen(np.stack([-end, end]) @ turn.T, reach), colour, 3.0)
    if stage == "cut":
        pairs = np.stack([whole, here], axis=1).reshape(-1, 3)
        _add_lines(figure, _seen(pairs, reach), HIGHLIGHT, 1.0)
    seen = _seen(here @ turn.T, reach)
    figure.add_trace(
        go.Scatter(
            x=seen[:, 0].astype(np.float32),
            y=seen[:, 1].astype(np.float32),
            mode="markers",
            marker={"size": 7, "color": theme.measured, "opacity": 0.8},
            text=[html.escape(text, quote=False) for text in view.texts()],
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    _fit(figure, view)
    return Drawing(figure, takeaway)


def _fit(figure: go.Figure, view: CloudView, turns: Sequence[float] = (0.0, ASKEW)) -> None:
    """Set the axes so that the box and the cloud at these angles are whole, but for tokens far out of it."""
    place = view.cloud.middle()
    thick, reach, (across, along) = view.thickness(place, view.width), view.reach(place), view.bounds(place)
    points = view.drawn(place) * [1.0, 1.0, thick]
    near = points[np.linalg.norm(points, axis=1) < 1.5 * reach]
    box = np.asarray([[x, y, z] for x in across for y in along for z in (-1.8 * thick, 1.8 * thick)])
    seen = _seen(np.concatenate([box, *(near @ _rotation(angle).T for angle in turns)]), reach)
    low, high = seen.min(axis=0), seen.max(axis=0)
    low, high = low - 0.03 * (high - low), high + 0.03 * (high - low)
    figure.update_xaxes(visible=False, range=[float(low[0]), float(high[0])], constrain="domain")
    ends = [float(low[1]), float(high[1])]
    figure.update_yaxes(visible=False, range=ends, scaleanchor="x", constrain="domain")


def draw_whole(view: CloudView, stage: Stage, theme: Theme = LIGHT, takeaway: str = "") -> Drawing:
    """Draw one stage with the numbers beside it and the energies below it, as the moving picture has them."""
    drawing = draw_cloud(view, stage, theme, takeaway)
    _fit(drawing.figure, view, (ASKEW,) if stage == "askew" else (0.0,))
    figure, shares = drawing.figure, view.cloud.principal[view.cloud.middle()]
    if stage == "askew":
        shares = view.cloud.own[view.cloud.middle()]
    edges = edges_of(view.size)
    means = np.add.reduceat(shares.astype(np.float64), edges[:-1]) / np.diff(edges)
    middles = (edges[:-1] + edges[1:] + 1) / 2
    gone = (middles > view.width + 0.5) & (stage in ("shaded", "cut"))
    lost = "rgba(204,121,167,0.35)" if stage == "cut" else HIGHLIGHT
    figure.add_trace(
        go.Bar(
            x=middles,
            y=np.maximum(100.0 * means, 1e-7).astype(np.float32),
            width=np.diff(edges),
            marker={"color": [lost if each else theme.measured for each in gone], "line": {"width": 0}},
            xaxis="x2",
            yaxis="y2",
            showlegend=False,
            hoverinfo="skip",
        )
    )
    label = {"size": _TYPE, "color": theme.label}
    figure.update_layout(
        bargap=0.0,
        xaxis={"domain": [0.0, 0.8]},
        yaxis={"domain": [0.33, 1.0]},
        margin={"l": 10, "r": 24, "t": 0, "b": 10},
        xaxis2={
            "domain": [0.0, 1.0],
            "anchor": "y2",
            "range": [0.5, view.size + 0.5],
            "tickvals": [1, *([round(view.width)] if gone.any() else []), view.size],
            "tickfont": label,
            "showgrid": False,
        },
        yaxis2={
            "domain": [0.0, 0.2],
            "anchor": "x2",
            "type": "log",
            "ticksuffix": " %",
            "dtick": 2,
            "tickfont": label,
        },
    )
    which = LABELS["own" if stage == "askew" else "principal"].format(size=view.size)
    paper = {"xref": "paper", "yref": "paper", "xanchor": "left", "showarrow": False, "align": "left"}
    figure.add_annotation(x=0.0, y=0.21, yanchor="bottom", text=which, font=label, **paper)
    for place, (value, note) in enumerate(_numbers(view, stage)):
        said = f"<span style='font-size:{_LARGE}px'><b>{value}</b></span><br>{note}"
        font = {"size": _TYPE, "color": theme.ink}
        figure.add_annotation(x=0.82, y=1.0 - 0.22 * place, yanchor="top", text=said, font=font, **paper)
    return drawing


_TYPE, _LARGE = 18, 30
"""Of words and of numbers beside a still picture, px."""


def _numbers(view: CloudView, stage: Stage) -> list[tuple[str, str]]:
    """Give what the counters of the moving picture show at rest, each with its name."""
    width = view.width if stage == "cut" else float(view.size)
    kept = 1.0 - view.held() if stage == "cut" else 1.0
    known = [cost for at, cost in view.stops if abs(at - width) < 0.5]
    return [
        *((f"{cost:.2f}", LABELS["perplexity"]) for cost in known[:1]),
        (f"{100.0 * kept:.{2 if kept < 1.0 else 0}f}\N{NO-BREAK SPACE}%", LABELS["energy"]),
        (f"{round(width)}", f"of {view.size} {LABELS['width']}"),
    ]


def draw_energies(view: CloudView, theme: Theme = LIGHT) -> Drawing:
    """Draw the energy of every direction: along the model's own axes, and along the principal ones."""
    place, size = view.cloud.middle(), view.size
    figure = empty_figure(theme, 320)
    for name, shares, colour in (
        ("the model's own axes, sorted", view.cloud.own[place], CONSTANT),
        ("principal directions", view.cloud.principal[place], theme.measured),
    ):
        figure.add_trace(
            go.Scatter(
                x=np.arange(1, size + 1),
                y=np.maximum(100.0 * shares, 1e-7).astype(np.float32),
                name=name,
                mode="lines",
                line={"color": colour, "width": 3, "dash": "dot" if colour == CONSTANT else "solid"},
                hovertemplate="direction %{x}: %{y:.3g} %<extra></extra>",
            )
        )
    cut = {"x0": view.width + 0.5, "x1": size + 0.5, "fillcolor": HIGHLIGHT, "opacity": 0.2, "line_width": 0}
    figure.add_vrect(**cut)
    figure.update_xaxes(title_text="direction", range=[0, size + 1], showgrid=False)
    figure.update_yaxes(title_text="energy", type="log", ticksuffix=" %")
    return Drawing(
        figure,
        f"Before block {view.block} the {view.gone} thinnest of {size} principal directions hold "
        f"{fine(view.held())} of the energy.",
    )


def _rotation(angle: float) -> np.ndarray:
    """The turn around the axis of the script, (3, 3) (Rodrigues' formula)."""
    x, y, z = _AXIS
    cross = np.asarray([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross


def _seen(points: np.ndarray, reach: float) -> np.ndarray:
    """Where points (n, 3) lie on the screen, (n, 2), with the camera of the script."""
    across = np.cos(-0.55) * points[:, 0] - np.sin(-0.55) * points[:, 1]
    deep = np.sin(-0.55) * points[:, 0] + np.cos(-0.55) * points[:, 1]
    lower, upper = np.cos(0.4), np.sin(0.4)
    near = 1.0 / (1.0 + 0.16 * (deep * lower - points[:, 2] * upper) / reach)
    return np.column_stack([across * near, (points[:, 2] * lower + deep * upper) * near]) / reach


def _add_lines(figure: go.Figure, ends: np.ndarray, colour: str, width: float) -> None:
    """Add lines between every two of ``ends`` (2 n, 2)."""
    parted = np.full((len(ends) // 2, 3, 2), np.nan)
    parted[:, :2] = ends.reshape(-1, 2, 2)
    flat = parted.reshape(-1, 2).astype(np.float32)
    figure.add_trace(
        go.Scatter(
            x=flat[:, 0],
            y=flat[:, 1],
            mode="lines",
            line={"color": colour, "width": width},
            hoverinfo="skip",
            showlegend=False,
        )
    )


def _add_slab(figure: go.Figure, bounds: np.ndarray, reach: float, half: float) -> None:
    """Add the box that holds what is cut, as its two faces."""
    (left, right), (low, high) = bounds
    corners = np.asarray([[left, low], [right, low], [right, high], [left, high], [left, low]])
    for height in (-half, half):
        seen = _seen(np.column_stack([corners, np.full(5, height)]), reach).astype(np.float32)
        figure.add_trace(
            go.Scatter(
                x=seen[:, 0],
                y=seen[:, 1],
                mode="lines",
                line={"color": HIGHLIGHT, "width": 1},
                fill="toself",
                fillcolor="rgba(204,121,167,0.16)",
                hoverinfo="skip",
                showlegend=False,
            )
        )
