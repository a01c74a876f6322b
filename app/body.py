"""What is left of the body of a model: a box for every attention and every MLP, in numbers and in words.

Knows nothing about streamlit or plotly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import pandas as pd

from analysis.shape import ModelShape, SublayerShape, UnitShape
from analysis.units import COARSE, Kind
from app.wording.numbers import joined, parameters
from slicing.depth.layout import Layout
from slicing.inner.widths import KINDS, ORDER, InnerWidths, SublayerWidths, parameters_saved, units_of
from slicing.schedule import SlicingSchedule

Role = Literal["attention", "mlp", "other"]
_INSIDE_ATTENTION: tuple[Kind, ...] = ("kv_groups", "value_pairs", "rotary_pairs")
_NAMES = {"attention": "attention", "mlp": "MLP", "parallel": "attention and MLP", "bridge": "matrix"}
"""What a sub-layer or a part of one is called, by its kind."""


class Box(NamedTuple):
    """Attention or MLP of one block: how large it is in the dense model, and how much of it stays."""

    block: int
    """Which block of the dense model it belongs to, from 0."""
    role: Role
    name: str
    dense: int
    """Parameters of it in the dense model."""
    high: float
    """The share of its parameters that stays where whole units alone go: heads, channels, experts."""
    wide: float
    """The share of what ``high`` leaves that stays where units and stream become narrower: ``high * wide``
    of the parameters are left."""
    gone: bool
    what: str
    """What stays, in words."""

    @property
    def left(self) -> int:
        """How many of its parameters stay."""
        return round(self.dense * self.high * self.wide)

    @property
    def told(self) -> str:
        """Say it in one sentence, with its place."""
        fewer = self.dense - self.left
        end = f"{parameters(fewer)} parameters fewer" if fewer else f"{parameters(self.dense)} parameters"
        return f"block {self.block}, {self.name}: {self.what}; {end}"


def body_of(
    shape: ModelShape,
    widths: InnerWidths | None = None,
    layout: Layout | None = None,
    schedule: SlicingSchedule | None = None,
) -> tuple[Box, ...]:
    """Give the boxes of a dense model of this shape, block by block, and what stays of them.

    ``widths`` and ``schedule`` are of the blocks that ``layout`` leaves; ``None`` for all of something. Of a
    model whose stream is sliced, shortcut matrices are in no box. Raises ``PlanError`` where what stays is
    of another model.
    """
    layout = layout or Layout.whole(shape.block_count)
    left = layout.shape_after(shape)
    widths = widths or InnerWidths.whole(left)
    widths.check_fits(left)
    sliced = schedule.shape_after(left) if schedule else None
    boxes = []
    for block, row in enumerate(shape.blocks):
        if block not in layout.tops:
            boxes += _named(block, [_gone(part, _where(block, layout)) for part in _parts(row, shape)])
            continue
        place = layout.tops.index(block)
        found = []
        for part in _parts(row, shape):
            own = widths.blocks[place][part.place]
            narrower, dimensions = 1.0, ""
            if sliced:
                after = sliced.blocks[place][part.place]
                narrower = _in_boxes(after, sliced.hidden_size) / part.shape.parameters(shape.hidden_size)
                entering = after.entering or sliced.hidden_size
                if entering < shape.hidden_size:
                    dimensions = f"reads {entering:,} of {shape.hidden_size:,} dimensions of the stream"
            found.append(_left(part, own, shape.hidden_size, narrower, dimensions))
        boxes += _named(block, found)
    return tuple(boxes)


def body_table(boxes: tuple[Box, ...]) -> pd.DataFrame:
    """One row per box: what stays of it, and its parameters."""
    return pd.DataFrame(
        {
            "block": each.block,
            "part": each.name,
            "what stays": each.what,
            "parameters": each.left,
            "of": each.dense,
            "stays, %": round(100 * each.left / each.dense, 1),
        }
        for each in boxes
    )


class _Part(NamedTuple):
    """What becomes a box: a sub-layer, or one of the two in a parallel one."""

    place: int
    """Of the sub-layer, in its block."""
    role: Role
    name: str
    shape: SublayerShape
    dense: int
    kinds: tuple[Kind, ...]
    """The units that are in it."""


def _parts(row: tuple[SublayerShape, ...], shape: ModelShape) -> Iterator[_Part]:
    """Everything in a block that has parameters."""
    for index, sublayer in enumerate(row):
        total = sublayer.parameters(shape.hidden_size)
        if total == 0:  # a model that was cut before, whose sub-layer has gone
            continue
        roles = _roles(sublayer, total, shape.hidden_size)
        for role, dense in roles.items():
            kinds: tuple[Kind, ...] = ORDER
            if len(roles) > 1:
                kinds = tuple(each for each in ORDER if (each in _INSIDE_ATTENTION) == (role == "attention"))
            name = _NAMES.get(sublayer.kind if role == "other" else role, sublayer.kind)
            yield _Part(index, role, name, sublayer, dense, kinds)


def _roles(sublayer: SublayerShape, total: int, hidden_size: int) -> dict[Role, int]:
    """How many of the parameters of a sub-layer are attention, and how many are MLP."""
    if sublayer.kind == "attention":
        return {"attention": total}
    if sublayer.kind == "mlp":
        return {"mlp": total}
    if sublayer.kind == "parallel":  # both in one: told apart by what their units hold
        if heads := _held(sublayer, ("kv_groups",), hidden_size):
            return {"attention": heads, "mlp": total - heads}
        if channels := _held(sublayer, ("channels", "experts"), hidden_size):
            return {"attention": total - channels, "mlp": channels}
    return {"other": total}


def _held(sublayer: SublayerShape, kinds: tuple[Kind, ...], hidden_size: int) -> int:
    """Parameters in the units of some kinds."""

    def each(units: UnitShape) -> int:
        return (units.reader_rows + units.writer_columns) * hidden_size + units.inner

    return sum(units.count * each(units) for units in sublayer.units if units.kind in kinds)


def _in_boxes(sublayer: SublayerShape, hidden_size: int) -> int:
    """Parameters of a sub-layer without its shortcut matrix."""
    return sublayer.model_copy(update={"turns": False}).parameters(hidden_size)


def _where(block: int, layout: Layout) -> str:
    """Say what became of a block that does not come back."""
    into = next((group[-1] for group in layout.groups if block in group), None)
    return "gone with its block" if into is None else f"became one with block {into}"


def _gone(part: _Part, what: str) -> tuple[_Part, float, float, bool, str]:
    return part, 0.0, 1.0, True, what


def _left(
    part: _Part, widths: SublayerWidths, hidden_size: int, narrower: float, dimensions: str
) -> tuple[_Part, float, float, bool, str]:
    """What stays of a part of a block that stays."""
    if widths.gone:
        return _gone(part, "gone")
    kept = {kind: count for kind, count in widths.kept.items() if kind in part.kinds}

    def saved(kinds: tuple[Kind, ...]) -> int:
        some = SublayerWidths(kept={kind: kept[kind] for kind in kinds if kind in kept})
        return parameters_saved(part.shape, some, hidden_size)

    high = max(0.0, 1 - saved(COARSE) / part.dense)
    wide = max(0.0, 1 - saved(ORDER) / part.dense) / high if high else 0.0
    said = [_count(part.shape, kind, kept[kind]) for kind in ORDER if kind in kept]
    words = [*([f"{joined(said)} stay"] if said else []), *([dimensions] if dimensions else [])]
    return part, high, wide * narrower, False, ", ".join(words) or "all of it stays"


def _count(shape: SublayerShape, kind: Kind, stay: int) -> str:
    units = units_of(shape, kind)
    if kind in COARSE:  # what is said of every part is said of all
        return f"{stay * units.parts:,} of {units.count:,} {KINDS[kind]}"
    return f"{stay:,} of {units.count // units.parts:,} {KINDS[kind]}"


def _named(block: int, found: list[tuple[_Part, float, float, bool, str]]) -> Iterator[Box]:
    """The boxes of a block; those of one name are numbered."""
    names = [part.name for part, *_ in found]
    for place, (part, high, wide, gone, what) in enumerate(found):
        alike, name = names.count(part.name), part.name
        if alike > 1:
            name = f"{name} {names[: place + 1].count(name)} of {alike}"
        yield Box(block, part.role, name, part.dense, high, wide, gone, what)
