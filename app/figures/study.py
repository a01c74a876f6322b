"""Charts of a study: bases by targets as a map, and the size of every model against its loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.figures.base import (
    CONSTANT,
    DYNAMIC,
    HIGHLIGHT,
    INSIDE,
    LIGHT,
    MANUAL,
    Drawing,
    Theme,
    as_text,
    empty_figure,
    frame,
    luminance,
    rgb,
)
from app.wording import Named, budgets_line, models, noise
from slicing.studies.recipe import Kind
from slicing.studies.verdicts import Board, Cell, Map, pareto

SIGNS = {"better": "▼ better", "worse": "▲ worse", "no clear difference": "≈ no clear difference"}

ABOVE, ROW = 150, 56
"""Heights in a map, px: of the scale and the axis, and of a row."""


def draw_map(found: Map, board: Board, chosen: Cell | None = None, theme: Theme = LIGHT) -> Drawing:
    """Change of perplexity against constant slicing in every cell; blank where nothing ran.

    Blue is better and orange worse; the number and a sign say the same. An invisible marker over every cell
    answers to a click.
    """
    bases = [f"SB {100 * base:g} %" for base in found.bases]
    targets = [budgets_line((budget,)) for budget in found.budgets]
    known = [each.standing.gain.percent for each in found.cells if each.standing and each.standing.gain]
    reach = max([1.0, *(abs(value) for value in known)])
    figure = empty_figure(theme, height=ABOVE + ROW * len(targets))
    figure.add_trace(
        go.Heatmap(
            z=np.asarray([_gain(each) for each in found.cells], dtype=np.float32).reshape(-1, len(bases)),
            x=bases,
            y=targets,
            colorscale=[[0.0, CONSTANT], [0.5, theme.middle], [1.0, DYNAMIC]],
            zmin=-reach,
            zmax=reach,
            xgap=3,
            ygap=3,
            colorbar={
                "title": {"text": "perplexity vs constant, %", "side": "top", "font": {"size": 14}},
                "ticksuffix": " %",
                "orientation": "h",
                "thickness": 8,
                "x": 0.5,
                "y": 1.02,
                "yanchor": "bottom",
                "ypad": 0,
                "outlinewidth": 0,
            },
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[bases[found.bases.index(each.base)] for each in found.cells],
            y=[targets[found.budgets.index(each.budget)] for each in found.cells],
            mode="markers+text",
            marker={"symbol": "square", "size": 34, "color": "rgba(0,0,0,0)"},
            text=[_label(each) for each in found.cells],
            textfont={
                "size": [11 if each.constant else 14 for each in found.cells],
                "color": [_ink(each, reach, theme) for each in found.cells],
            },
            hovertext=[_told(each) for each in found.cells],
            hovertemplate="%{hovertext}<extra></extra>",
            showlegend=False,
        )
    )
    if chosen:
        frame(figure, found.budgets.index(chosen.budget), found.bases.index(chosen.base))
    figure.update_xaxes(
        title={"text": "slice base (SB): what every block loses at least"}, showgrid=False, zeroline=False
    )
    figure.update_yaxes(showgrid=False, zeroline=False, autorange="reversed")
    sliced = all(budget.measure == "mean_slice" for budget in found.budgets)
    figure.add_annotation(
        # Above the ticks, where no cell pays for it with its width.
        x=0.0,
        xref="paper",
        xanchor="right",
        y=1.0,
        yref="paper",
        yanchor="bottom",
        text="target (SP):<br>mean slice" if sliced else "target",
        align="right",
        showarrow=False,
        font={"size": 11, "color": theme.label},
    )
    figure.update_layout(margin={"t": 10})
    return Drawing(figure, _takeaway(found, board))


def _gain(cell: Cell) -> float:
    return cell.standing.gain.percent if cell.standing and cell.standing.gain else math.nan


def _label(cell: Cell) -> str:
    if cell.constant:
        return "=<br>constant"
    if cell.standing is None or cell.standing.gain is None:
        return ""
    sign = SIGNS.get(cell.standing.gain.verdict, "")[:1]
    return f"{cell.standing.gain.percent:+.1f} %<br>{sign}".replace("-", "−")


def _told(cell: Cell) -> str:
    where = f"SB {100 * cell.base:g} %, {budgets_line((cell.budget,))}"
    if cell.constant:
        return f"{where}: the base reaches the target, which is constant slicing"
    if cell.standing is None or cell.standing.gain is None:
        return f"{where}: not run yet"
    gain, interval = cell.standing.gain, cell.standing.gain.percent_interval
    between = f"<br>95 % interval {interval[0]:+.1f} to {interval[1]:+.1f} %" if interval else ""
    if moved := noise(gain):
        between += f"<br>{moved}"
    told = (
        f"{where}: {gain.percent:+.1f} % perplexity, {gain.verdict}{between}"
        f"<br>perplexity {cell.standing.perplexity:.2f}, {cell.standing.parameters:,} parameters"
    )
    return f"{told.replace('-', '−')}<br>{as_text(cell.recipe.line)}"


def _ink(cell: Cell, reach: float, theme: Theme) -> str:
    """Text that can be read on the cell: white or black, whichever stands out more."""
    gain = _gain(cell)
    if math.isnan(gain):
        return theme.label
    share = min(abs(gain) / reach, 1.0)
    end = CONSTANT if gain < 0 else DYNAMIC
    light = luminance([(1 - share) * a + share * b for a, b in zip(rgb(theme.middle), rgb(end), strict=True)])
    return "#FFFFFF" if 1.05 / (light + 0.05) > (light + 0.05) / 0.05 else "#000000"


def _takeaway(found: Map, board: Board) -> str:
    known = [(gain, each) for each in found.cells if each.standing and (gain := each.standing.gain)]
    if not known:
        return f"{board.done} of {board.total} trials have run."
    gain, best = min(known, key=lambda pair: pair[0].percent)
    clear = sum(each.verdict == "better" for each, _ in known)
    where = f"SB {100 * best.base:g}\N{NO-BREAK SPACE}%, {budgets_line((best.budget,))}"
    return (
        f"{clear} of {len(known)} cells predict clearly better than constant slicing at the same target; "
        f"the largest change is {gain.percent:+.1f} % at {where}."
    ).replace("-", "−")


def draw_sizes(board: Board, theme: Theme = LIGHT) -> Drawing:
    """Parameters against perplexity of all that ran, with the line of those that nobody beats in both."""
    found = models(board)
    front = pareto([(each.title, each.measured) for each in found])
    figure = empty_figure(theme, height=420)
    unbeaten = sorted(_point(each) for each in found if each.title in front)
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in unbeaten],
            y=[y for _, y in unbeaten],
            mode="lines",
            name="beaten by nobody",
            line={"color": theme.ink, "width": 1.5, "dash": "dot"},
            hoverinfo="skip",
        )
    )
    for group, colour, symbol in (
        ("dense", theme.dense, "star"),
        ("baseline", CONSTANT, "square"),
        ("slices", DYNAMIC, "circle"),
        ("removes blocks", MANUAL, "hexagon"),
        ("cuts inside blocks", INSIDE, "pentagon"),
        ("does both", HIGHLIGHT, "star-diamond"),
        ("baseline to beat", theme.label, "circle-open"),
    ):
        members = [each for each in found if _group(each, board) == group]
        if members or group in ("dense", "baseline"):
            figure.add_trace(_marks(group, colour, symbol, members))
    figure.update_layout(
        xaxis={"title": {"text": "parameters, millions"}},
        yaxis={"title": {"text": "perplexity, lower is better"}},
    )
    smaller = [each for each in front if each != "Dense"]
    named = "; ".join(smaller) if smaller else "none but the dense model"
    return Drawing(figure, f"Beaten by nobody in both size and perplexity: {named}.")


GROUPS: dict[Kind | None, str] = {
    None: "dense",
    "width": "slices",
    "depth": "removes blocks",
    "inner": "cuts inside blocks",
    "both": "does both",
}
"""What is drawn alike, by what a recipe makes smaller."""


def _group(each: Named, board: Board) -> str:
    if each.recipe == board.study.baseline:
        return "baseline"
    if each.recipe.control:
        return "baseline to beat"
    return GROUPS[each.recipe.kind]


def _point(each: Named) -> tuple[float, float]:
    return each.measured.parameters / 1e6, each.measured.evaluation.perplexity


def _marks(group: str, colour: str, symbol: str, members: Sequence[Named]) -> go.Scatter:
    points = [_point(each) for each in members]
    return go.Scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        mode="markers",
        name=group,
        marker={"size": 12, "color": colour, "symbol": symbol, "line": {"width": 1, "color": colour}},
        customdata=[as_text(each.recipe.line) for each in members],
        text=[as_text(each.title) for each in members],
        hovertemplate="%{text}<br>%{x:.1f} M parameters, perplexity %{y:.2f}<br>%{customdata}<extra></extra>",
    )
