"""Charts of a profile: scores of every block, from near and beside another model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import numpy as np
import plotly.graph_objects as go

from analysis.details import LIKENESSES, Details
from analysis.errors import visible
from analysis.profile import LayerProfile
from analysis.scores import Score, find_score
from analysis.statistics import rank_correlation
from app.figures.base import (
    CONSTANT,
    HIGHLIGHT,
    LIGHT,
    MANUAL,
    OVERLAY,
    Drawing,
    Theme,
    as_text,
    block_axis,
    block_step,
    empty_figure,
    frame,
    overlay_colour,
)

NO_NOTES: Mapping[int, str] = MappingProxyType({})
_NOTE_SHOWN = 24
"""Characters of a note that stand in a chart; the whole note stands in its label."""


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
    notes: Mapping[int, str] = NO_NOTES,
) -> Drawing:
    """A score of every block with its spread over windows, and the ``notes`` on blocks.

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
        "customdata": [f"{as_text(profile.block_path)}.{block}" for block in shown],
        "hovertemplate": f"block %{{x}} · %{{customdata}}<br>{entry.title} "
        + ("%{y:.3f} ± %{error_y.array:.3f}" if entry.measure else "%{y:.3g} ± %{error_y.array:.3g}")
        + "<extra></extra>",
        "name": entry.title,
    }
    figure = empty_figure(theme, height=400)
    if without:
        figure.add_trace(go.Scatter(**common, mode="markers", marker={"size": 10, "color": colours}))
    else:
        figure.add_trace(go.Bar(**common, marker={"color": colours, "line": {"width": 0}}))
    ending = " (axis fitted)" if without else ""
    figure.update_layout(showlegend=False, yaxis_title_text=entry.title + ending, margin_t=10)
    block_axis(figure, profile.blocks)
    _add_notes(figure, values, {block: notes[block] for block in notes if block not in without}, theme)
    order = values if entry.higher_is_redundant else -values
    most, least = int(order.argmax()), int(order.argmin())
    digits = ".3f" if entry.measure else ".3g"  # others may be far below 1 everywhere
    return Drawing(
        figure,
        f"Block {most} {entry.ends[0]} ({entry.title} {values[most]:{digits}}), "
        f"block {least} {entry.ends[1]} ({values[least]:{digits}}).",
    )


def _add_direction(figure: go.Figure, higher: bool, theme: Theme) -> None:
    """Say at the end of the axis which way is redundant: a score and a change of the input have opposite
    ones.
    """
    figure.update_layout(margin_t=34)
    figure.add_annotation(
        x=0,
        y=1 if higher else 0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=8 if higher else 0,
        text=f"<b>{'↑ higher' if higher else '↓ lower'}: more redundant</b>",
        showarrow=False,
        font={"size": 13, "color": theme.ink},
    )


def _add_notes(
    figure: go.Figure, values: np.ndarray, notes: Mapping[int, str], theme: Theme, log: bool = False
) -> None:
    """Add a flag with the beginning of each note at its block; the whole note stands in the label."""
    for block, text in notes.items():
        short = text if len(text) <= _NOTE_SHOWN else f"{text[: _NOTE_SHOWN - 1].rstrip()}…"
        level = float(values[block])
        left = block < values.size / 2
        figure.add_annotation(
            x=block,
            y=np.log10(level) if log else level,
            ax=18 if left else -18,
            ay=-44,
            text=f"<b>{block}</b> {as_text(short)}",
            hovertext=as_text(text),
            showarrow=True,
            arrowhead=0,
            arrowcolor=HIGHLIGHT,
            arrowwidth=1.5,
            xanchor="left" if left else "right",
            bgcolor=theme.paper,
            bordercolor=HIGHLIGHT,
            borderpad=3,
            font={"size": 13, "color": theme.ink},
        )


class TokenPath(NamedTuple):
    """One token on its way through the blocks."""

    text: str
    change: np.ndarray
    """(L,): one minus the cosine of its states entering and leaving each block."""

    @classmethod
    def of(cls, details: Details, window: int, place: int) -> Self:
        """Take it from the details of a profile."""
        piece = visible(details.piece(int(details.tokens[window, place])))
        return cls(piece.strip() or repr(piece), details.path(window, place))


def draw_change(
    profile: LayerProfile,
    score: str,
    first_token: bool = False,
    chosen: int | None = None,
    theme: Theme = LIGHT,
    path: TokenPath | None = None,
    notes: Mapping[int, str] = NO_NOTES,
) -> Drawing:
    """Draw how much every block changes its input as a dot on a log axis, with its spread over windows.

    Of a score that is derived from a cosine that is one minus the mean cosine, else the score itself. A score
    that is no change, or is not above 0 everywhere, is drawn as ``draw_profile`` draws it. ``chosen`` is the
    block that is looked at from near; ``path`` is drawn as a line where the score is derived from a cosine,
    ``notes`` at their blocks.
    """
    entry = find_score(score)
    turned, change = entry.of_cosine, profile.change(score, first_token)
    values = change.mean(axis=0)
    if (entry.higher_is_redundant and not turned) or values.min() <= 0.0:
        drawing = draw_profile(profile, score, first_token, theme=theme, notes=notes)
        _add_direction(drawing.figure, entry.higher_is_redundant, theme)
        return drawing
    scores = profile.values(score, first_token)
    figure = empty_figure(theme, height=340)
    ends = [float(values.min()), float(values.max())]
    if path is not None and turned:
        # A change that is next to none would stretch the axis for one token.
        shown = np.maximum(path.change, 0.3 * ends[0])
        ends = [min(ends[0], float(shown.min())), max(ends[1], float(shown.max()))]
        _add_path(figure, path, shown, theme)
    figure.add_trace(_change_dots(profile, entry, change, scores, chosen, theme))
    most, least = int(values.argmax()), int(values.argmin())
    # Short, since a phone has no room for what the sentence below says.
    briefly = (
        ("changes it least", "changes it most") if entry.measure else ("most redundant", "least redundant")
    )
    for block, said, below in ((most, briefly[1], 0), (least, briefly[0], 1)):
        figure.add_annotation(
            x=block,
            y=np.log10(values[block]),
            yshift=-16 if below else 16,
            text=f"<b>block {block}</b> {said}",
            showarrow=False,
            xanchor="left" if block < profile.blocks / 2 else "right",
            font={"size": 13, "color": theme.ink},
        )
    room = 0.25 * max(float(np.log10(ends[1] / ends[0])), 0.4)
    figure.update_layout(
        showlegend=False,
        yaxis={
            "title": {"text": "change: 1 − mean cosine (log)" if turned else f"{entry.title} (log)"},
            "type": "log",
            "range": [float(np.log10(ends[0])) - room, float(np.log10(ends[1])) + room],
            "dtick": "D2",
            "tickformat": "~r",
            "minor": {"showgrid": False},
        },
    )
    _add_direction(figure, False, theme)
    block_axis(figure, profile.blocks)
    _add_notes(figure, values, notes, theme, log=True)
    redundant = "" if "redundant" in entry.ends[0] else " and so is the most redundant"
    return Drawing(
        figure,
        f"Block {least} {entry.ends[0]} ({values[least]:.3g}){redundant}; block {most} {entry.ends[1]} "
        f"({values[most]:.3g}), {values[most] / values[least]:,.0f} times as much.",
    )


def _change_dots(
    profile: LayerProfile,
    entry: Score,
    change: np.ndarray,
    scores: np.ndarray,
    chosen: int | None,
    theme: Theme,
) -> go.Scatter:
    """Draw the dots of ``draw_change``: ``change`` is (N, L), ``scores`` are (L,)."""
    values, blocks = change.mean(axis=0), range(profile.blocks)
    spread = change.std(axis=0, ddof=1) if len(change) > 1 else np.zeros(profile.blocks)
    hovered = f"{entry.title} %{{y:.4f}} ± %{{error_y.array:.4f}}"
    if entry.of_cosine:
        hovered = "changes its input by %{y:.4f} ± %{error_y.array:.4f}<br>"
        hovered += f"{entry.title} %{{customdata[1]:.3f}}"
    return go.Scatter(
        x=list(blocks),
        y=values.astype(np.float32),
        error_y={
            "symmetric": False,
            "array": spread.astype(np.float32),
            "arrayminus": np.minimum(spread, 0.9 * values).astype(np.float32),  # a log axis has no zero
            "color": theme.ink,
            "thickness": 1.2,
            "width": 5,
        },
        mode="markers",
        marker={
            "size": [14 if block == chosen else 9 for block in blocks],
            "color": [HIGHLIGHT if block == chosen else theme.measured for block in blocks],
            "line": {"width": [2 if block == chosen else 0 for block in blocks], "color": theme.ink},
        },
        customdata=[(f"{as_text(profile.block_path)}.{block}", scores[block]) for block in blocks],
        hovertemplate=f"block %{{x}} · %{{customdata[0]}}<br>{hovered}<extra></extra>",
        name="change" if entry.of_cosine else entry.title,
    )


def _add_path(figure: go.Figure, path: TokenPath, shown: np.ndarray, theme: Theme) -> None:
    """Add the line of one token, named at its end."""
    blocks, text = np.arange(shown.size), as_text(path.text)
    figure.add_trace(
        go.Scatter(
            x=blocks,
            y=shown.astype(np.float32),
            mode="lines+markers",
            line={"color": theme.label, "width": 1, "dash": "dot"},
            marker={"size": 3, "color": theme.label},
            opacity=0.6,
            customdata=path.change,
            hovertemplate=f"“{text}”: block %{{x}} changes it by %{{customdata:.4f}}<extra></extra>",
            name=f"“{text}”",
        )
    )
    figure.add_annotation(
        x=0,  # at the right the buttons of the chart stand over it
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        yshift=8,
        text=f"dots: mean of all tokens; dotted line: the token “{text}”",
        showarrow=False,
        font={"size": 13, "color": theme.ink},
    )


UNITS = {"similarity": "cosine", "angular": "angle / π", "cka": "CKA"}
"""What the numbers of a map of depths are called, beside them."""


def draw_similarity(
    details: Details,
    chosen: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
    by: str = "similarity",
) -> Drawing:
    """Draw how alike the stream is at every two depths, bright for alike.

    ``by`` names a measure in ``LIKENESSES``. An invisible marker over every cell answers to a click, which a
    heat map's cells do not. A visible one stands where the ends of a quarter of the blocks are most alike.
    """
    values, higher = details.maps()[by], LIKENESSES[by].higher_is_alike
    span, first, value = most_alike(values, higher)
    depths = np.arange(len(values))
    figure = empty_figure(theme, height=520)
    low, high = (min(0.0, float(values.min())), 1.0) if higher else (0.0, max(0.5, float(values.max())))
    figure.add_trace(
        go.Heatmap(
            z=values,
            x=depths,
            y=depths,
            colorscale="Cividis" if higher else "Cividis_r",
            zmin=low,
            zmax=high,
            colorbar={"title": {"text": UNITS[by]}, "thickness": 14, "outlinewidth": 0},
            hoverinfo="skip",
        )
    )
    figure.add_trace(_clickable_cells(values, UNITS[by]))
    picked = f"span of {span} picked by Unreasonable Ineffectiveness"
    figure.add_trace(
        go.Scatter(
            x=[first + span],
            y=[first],
            mode="markers",
            marker={"size": 10, "color": "#FFFFFF", "line": {"color": LIGHT.ink, "width": 2}},
            name=picked if by == "angular" else f"most alike ends of {span} blocks",
            hoverinfo="skip",
            showlegend=True,
        )
    )
    if chosen:
        row, column = chosen
        frame(figure, row, column)
    _depth_axes(figure, len(values))
    what = "CKA" if by == "cka" else "mean cosine"
    told = f"change the stream least: its states before and after them have a {what} of {value:.3f}."
    if by == "angular":
        told = (
            f"turn the last token least, by {value:.3f} π ({180 * value:.0f}°): the span that Unreasonable "
            "Ineffectiveness would remove."
        )
    return Drawing(figure, f"Of all stretches of {span} blocks, blocks {first} to {first + span - 1} {told}")


def _clickable_cells(values: np.ndarray, unit: str) -> go.Scatter:
    """Draw an invisible marker over every cell of a map of depths, with the cell's names and value."""
    names = [depth_name(depth) for depth in range(len(values))]
    rows, columns = np.divmod(np.arange(values.size), len(values))
    return go.Scatter(
        x=columns,
        y=rows,
        mode="markers",
        marker={"symbol": "square", "size": 14, "opacity": 0},
        customdata=[
            (names[row], names[column], float(values[row, column]))
            for row, column in zip(rows, columns, strict=True)
        ],
        hovertemplate="%{customdata[0]} and %{customdata[1]}<br>"
        f"{unit} %{{customdata[2]:.3f}}<extra></extra>",
        showlegend=False,
    )


def _depth_axes(figure: go.Figure, depths: int) -> None:
    """Give a map of depths its axes, the first depth at the top left."""
    step = block_step(depths)
    for axes in (figure.update_xaxes, figure.update_yaxes):
        axes(title={"text": "depth (blocks passed)"}, dtick=step, tick0=0, showgrid=False, zeroline=False)
    figure.update_xaxes(range=[-0.5, depths - 0.5])
    figure.update_yaxes(range=[depths - 0.5, -0.5])


def depth_name(depth: int) -> str:
    """Name the stream at a depth."""
    return "entering block 0" if depth == 0 else f"after block {depth - 1}"


def most_alike(values: np.ndarray, higher_is_alike: bool = True) -> tuple[int, int, float]:
    """The quarter of the blocks whose two ends are most alike: its length, first block and value."""
    span = max(1, (len(values) - 1) // 4)
    along = np.diagonal(values, offset=span)
    first = int(along.argmax() if higher_is_alike else along.argmin())
    return span, first, float(along[first])


def draw_lens(details: Details, theme: Theme = LIGHT) -> Drawing:
    """Perplexity when the stream goes straight to the head after each block, beside the dense model's."""
    found = details.lens_perplexities()
    count, dense = len(found), float(found[-1])
    figure = empty_figure(theme, height=400)
    figure.add_trace(
        go.Scatter(
            x=np.arange(count),
            y=found,
            mode="lines+markers",
            line={"color": theme.measured, "width": 2},
            marker={"size": 8, "color": theme.measured},
            customdata=np.stack([np.arange(count)[::-1], found / dense], axis=1),
            hovertemplate="straight after block %{x}: perplexity %{y:,.1f}<br>%{customdata[1]:.2f} × dense, "
            "%{customdata[0]} blocks left out<extra></extra>",
            name="straight to the head",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[-0.7, count - 0.3],
            y=[dense, dense],
            mode="lines",
            line={"color": theme.dense, "width": 2, "dash": "dash"},
            hoverinfo="skip",
            name=f"dense model: {dense:.2f}",
        )
    )
    block_axis(figure, count)
    figure.update_xaxes(title={"text": "last block that is run (0-based)"})
    figure.update_yaxes(
        title={"text": "perplexity (log)"}, type="log", exponentformat="power", minor={"showgrid": False}
    )
    return Drawing(figure, _lens_told(found))


def _lens_told(found: np.ndarray) -> str:
    """How many blocks can go from the top before perplexity doubles."""
    dense, count = float(found[-1]), len(found)
    doubled = np.flatnonzero(found > 2.0 * dense)
    gone = count - 2 - int(doubled.max()) if doubled.size else count - 1
    if count == 1:
        return f"There is one block alone, after which perplexity is {dense:.2f}."
    if not gone:
        return (
            f"No block can go from the top before perplexity doubles: straight after block {count - 2} it is "
            f"{found[-2]:,.2f}, {found[-2] / dense:.1f} times the dense model's {dense:.2f}."
        )
    which = "last block" if gone == 1 else f"last {gone} blocks"
    return (
        f"The {which} can go before perplexity doubles: straight after block {count - 1 - gone} it is "
        f"{found[count - 1 - gone]:,.2f}, {found[count - 1 - gone] / dense:.1f} times the dense model's "
        f"{dense:.2f}."
    )


def draw_split(details: Details, theme: Theme = LIGHT) -> Drawing:
    """Draw how much of every block's change its heads make and how much its MLP, in percent."""
    assert details.split is not None
    whole = details.split.sum(axis=1)
    shares = 100.0 * details.split / whole[:, None]
    figure = empty_figure(theme, height=340)
    blocks = np.arange(len(whole))
    for column, (name, colour, pattern) in enumerate((("heads", CONSTANT, ""), ("MLP", MANUAL, "/"))):
        figure.add_trace(
            go.Bar(
                x=blocks,
                y=shares[:, column],
                name=name,
                marker={
                    "color": colour,
                    "line": {"width": 0},
                    "pattern": {"shape": pattern, "fgcolor": "#FFFFFF", "solidity": 0.2},
                },
                customdata=details.split[:, column],
                hovertemplate=f"block %{{x}}: {name} %{{y:.0f}} % of the change<br>"
                "%{customdata:.3f} of the norm entering<extra></extra>",
            )
        )
    figure.update_layout(
        barmode="relative", yaxis={"title": {"text": "share of the change"}, "ticksuffix": " %"}
    )
    block_axis(figure, len(whole))
    most = [int(block) for block in np.flatnonzero(shares[:, 0] > 50)]
    mainly = f"in block{'s' if len(most) > 1 else ''} {', '.join(map(str, most))}" if most else "nowhere"
    return Drawing(
        figure,
        f"The MLP makes {np.median(shares[:, 1]):.0f} % of a block's change in the median; the heads make "
        f"the larger part {mainly}.",
    )


DAMAGES = ("leave-one-out", "slice-one")
"""Scores that are measured damage, which the others can be held against."""


def draw_scatter(
    profile: LayerProfile,
    damage: str,
    first_token: bool = False,
    without: Sequence[int] = (),
    theme: Theme = LIGHT,
) -> Drawing:
    """The LR score of every block against the damage that was measured, blocks by their numbers.

    Blocks in ``without`` are left off; the rank correlation is over all.
    """
    entry = find_score(damage)
    scores, damages = profile.values("lr", first_token), profile.values(damage)
    shown = np.setdiff1d(np.arange(profile.blocks), np.asarray(without, dtype=int))
    figure = empty_figure(theme, height=420)
    figure.add_trace(
        go.Scatter(
            x=scores[shown].astype(np.float32),
            y=damages[shown].astype(np.float32),
            mode="markers+text",
            marker={"size": 9, "color": theme.measured},
            text=[str(block) for block in shown],
            textposition="top center",
            textfont={"size": 13, "color": theme.ink},
            hovertemplate="block %{text}<br>LR score %{x:.3f}<br>"
            + entry.title
            + " %{y:+.4f}<extra></extra>",
        )
    )
    figure.update_layout(
        showlegend=False,
        margin_t=10,
        xaxis={"title": {"text": "LR score: 1 = changes its input least"}},
        yaxis={"title": {"text": f"{entry.title}, nats per token"}},
    )
    agreement = rank_correlation(scores, damages)
    if agreement <= -0.7:
        told = "the LR score ranks the blocks much as the damage does"
    elif agreement <= -0.3:
        told = "the LR score tells a part of the damage"
    else:
        told = "the LR score tells little of the damage" + (" and points the wrong way" * (agreement >= 0.3))
    off = (
        f" Not shown: block{'s' if len(without) > 1 else ''} {', '.join(map(str, without))}."
        if without
        else ""
    )
    return Drawing(
        figure,
        f"Spearman's rank correlation is {agreement:+.2f} over {profile.blocks} blocks (−1 would be "
        f"perfect): {told}. Most damage by block {int(damages.argmax())} ({damages.max():+.3f} nats per "
        f"token), least by block {int(damages.argmin())} ({damages.min():+.3f}).{off}".replace("-", "−"),
    )


def draw_overlay(
    profiles: Sequence[tuple[str, LayerProfile]], score: str, first_token: bool = False, theme: Theme = LIGHT
) -> Drawing:
    """A score of several profiles over relative depth, so that models of different depth can be compared."""
    entry = find_score(score)
    figure = empty_figure(theme, height=400)
    peaks: list[str] = []
    for index, (name, profile) in enumerate(profiles):
        values = profile.values(score, first_token)
        depth = 100.0 * (np.arange(profile.blocks) + 0.5) / profile.blocks
        dash, symbol = OVERLAY[index % len(OVERLAY)]
        figure.add_trace(
            go.Scatter(
                x=depth,
                y=values.astype(np.float32),
                name=as_text(name),
                mode="lines+markers",
                line={"color": overlay_colour(index, theme), "width": 2, "dash": dash},
                marker={"size": 8, "symbol": symbol},
                customdata=np.arange(profile.blocks),
                hovertemplate=f"block %{{customdata}} at %{{x:.0f}} % of the depth<br>{entry.title} "
                "%{y:.3f}<extra>%{fullData.name}</extra>",
            )
        )
        order = values if entry.higher_is_redundant else -values
        peaks.append(f"{name} at {depth[int(order.argmax())]:.0f} %")
    figure.update_layout(
        xaxis={"title": {"text": "relative depth"}, "range": [0, 100], "ticksuffix": " %"},
        yaxis={"title": {"text": entry.title}},
    )
    return Drawing(figure, f"The most redundant block lies at this share of the depth: {'; '.join(peaks)}.")
