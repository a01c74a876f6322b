"""Picture of a model's body: every block a column along the stream, its attention above and its MLP below."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from analysis.numbers import as_ranges
from app.body import Box, Role
from app.figures.base import (
    CONSTANT,
    HIGHLIGHT,
    LIGHT,
    MANUAL,
    Drawing,
    Theme,
    as_text,
    block_axis,
    empty_figure,
)
from app.wording import percent

ROLES: dict[Role, tuple[str, str]] = {
    "attention": ("attention", CONSTANT),
    "mlp": ("MLP", MANUAL),
    "other": ("other parts", HIGHLIGHT),
}
"""What boxes of a role are called in the legend, and their colour."""
COLUMN = 0.84
"""Width of a box of the dense model, where columns are 1 apart."""
GAP = 0.012
"""Between boxes, and between them and the stream: of the height of the tallest column."""


def draw_body(boxes: Sequence[Box], theme: Theme = LIGHT, height: int = 360) -> Drawing:
    """Draw every box of a dense model as an outline, and in it what stays.

    Areas are parameters. A box is lower where heads, channels or experts went, and narrower where those that
    stay lost something inside, or read a narrower stream; what is gone is dashed.
    """
    figure = empty_figure(theme, height=height)
    blocks = 1 + max(each.block for each in boxes)
    placed = _placed(boxes)
    figure.add_trace(_outlines(placed, theme, thin=blocks > 40))
    for role, (name, colour) in ROLES.items():
        members = [(box, base, sign) for box, base, sign in placed if box.role == role and not box.gone]
        if any(box.role == role for box in boxes):
            figure.add_trace(_fillings(members, name, colour))
    if any(box.gone for box in boxes):
        figure.add_trace(_dashes([each for each in placed if each[0].gone], theme))
    figure.add_trace(
        go.Scatter(
            x=[-0.6, blocks - 0.4],
            y=[0, 0],
            mode="lines+markers",
            showlegend=False,
            line={"color": theme.ink, "width": 1.5},
            marker={"symbol": "triangle-right", "size": [0, 9], "color": theme.ink, "line": {"width": 0}},
            hoverinfo="skip",
            cliponaxis=False,
        )
    )
    figure.update_layout(barmode="overlay", hovermode="closest")
    block_axis(figure, blocks)
    figure.update_yaxes(visible=False, zeroline=False, fixedrange=True)
    return Drawing(figure, _takeaway(boxes, blocks))


Placed = tuple[Box, float, int]
"""A box, where the side of it that is nearer to the stream lies, and 1 above the stream or -1 below it."""


def _placed(boxes: Sequence[Box]) -> list[Placed]:
    """Every box on its side of the stream, those of one block and side one beyond the other."""
    ends: dict[tuple[int, int], float] = {}
    tallest: dict[int, int] = {}
    for each in boxes:
        tallest[each.block] = tallest.get(each.block, 0) + each.dense
    gap = GAP * max(tallest.values())
    found = []
    for each in boxes:
        sign = -1 if each.role == "mlp" else 1
        base = ends.get((each.block, sign), 0.0) + gap
        ends[each.block, sign] = base + each.dense
        found.append((each, sign * base, sign))
    return found


def _outlines(placed: Sequence[Placed], theme: Theme, thin: bool) -> go.Bar:
    """Draw the boxes of the dense model, which answer to the pointer."""
    clear = "rgba(127, 127, 127, 0)"
    return go.Bar(
        x=[box.block for box, _, _ in placed],
        y=[sign * box.dense for box, _, sign in placed],
        base=[base for _, base, _ in placed],
        width=COLUMN,
        name="cut away",
        legendrank=1001,
        marker={
            "color": [clear if box.gone else "rgba(127, 127, 127, 0.2)" for box, _, _ in placed],
            "line": {
                "color": [clear if box.gone else "rgba(127, 127, 127, 0.7)" for box, _, _ in placed],
                "width": 0.5 if thin else 1,
            },
        },
        hovertext=[as_text(f"{box.told[0].upper()}{box.told[1:]}") for box, _, _ in placed],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _fillings(members: Sequence[Placed], name: str, colour: str) -> go.Bar:
    """Draw what stays of the boxes of one role, from the stream on."""
    return go.Bar(
        x=[box.block for box, _, _ in members],
        y=[sign * box.dense * box.high for box, _, sign in members],
        base=[base for _, base, _ in members],
        width=[COLUMN * box.wide for box, _, _ in members],
        name=name,
        marker={"color": colour, "line": {"width": 0}},
        hoverinfo="skip",
    )


def _dashes(gone: Sequence[Placed], theme: Theme) -> go.Scatter:
    """Draw dashed outlines of what is gone."""
    x: list[float | None] = []
    y: list[float | None] = []
    for box, base, sign in gone:
        left, right, end = box.block - COLUMN / 2, box.block + COLUMN / 2, base + sign * box.dense
        x += [left, left, right, right, left, None]
        y += [base, end, end, base, base, None]
    return go.Scatter(
        x=x,
        y=y,
        name="gone",
        legendrank=1002,
        mode="lines",
        line={"color": theme.label, "width": 1, "dash": "dot"},
        hoverinfo="skip",
    )


def _takeaway(boxes: Sequence[Box], blocks: int) -> str:
    if all(each.left == each.dense for each in boxes):
        return "All of the body stays."
    shares = []
    for role, name in (("attention", "Attention keeps"), ("mlp", "MLPs keep"), ("other", "Other parts keep")):
        members = [each for each in boxes if each.role == role]
        if members:
            left = sum(each.left for each in members) / sum(each.dense for each in members)
            whose = "its" if role == "attention" else "their"
            shares.append(f"{name} {percent(left)} of {whose} parameters.")
    said = " ".join(shares)
    whole = [block for block in range(blocks) if all(each.gone for each in boxes if each.block == block)]
    if whole:
        said += f" Block{'s' * (len(whole) > 1)} {as_ranges(whole)} {'are' if len(whole) > 1 else 'is'} gone."
    alone = [each for each in boxes if each.gone and each.block not in whole]
    for name in dict.fromkeys(each.name for each in alone):
        where = [each.block for each in alone if each.name == name]
        several = len(where) > 1
        said += f" Block{'s' * several} {as_ranges(where)} {'have' if several else 'has'} no {name} any more."
    if cut := [each for each in boxes if not each.gone and each.left < each.dense]:
        least = min(cut, key=lambda each: each.high * each.wide)
        said += (
            f" Of what is left, the {least.name} of block {least.block} is cut most: "
            f"it keeps {percent(least.high * least.wide)}."
        )
    return said
