"""The boxes of a model's body are exact for every family, and the picture shows what they say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_model

from analysis.errors import PlanError
from analysis.read_shape import read_shape
from analysis.shape import ModelShape, SublayerShape, UnitShape
from analysis.units import Kind
from app.body import Box, body_of, body_table
from app.figures.base import CONSTANT, DARK, HIGHLIGHT, LIGHT, MANUAL, Drawing
from app.figures.body import COLUMN, draw_body
from slicing.depth.layout import Layout
from slicing.inner.widths import ORDER, InnerWidths, SublayerWidths
from slicing.schedule import SlicingSchedule

HIDDEN = 64


def attention() -> SublayerShape:
    """Two heads of keys and values with one query head each, of size 16."""
    units = (
        UnitShape(kind="kv_groups", count=2, reader_rows=48, writer_columns=16),
        UnitShape(kind="value_pairs", count=32, reader_rows=1, writer_columns=1, parts=2),
    )
    return SublayerShape(kind="attention", reader_rows=96, writer_columns=32, norm=0, units=units)


def mlp() -> SublayerShape:
    units = (UnitShape(kind="channels", count=100, reader_rows=2, writer_columns=1),)
    return SublayerShape(kind="mlp", reader_rows=200, writer_columns=100, norm=0, units=units)


def shape(blocks: int = 4, row: tuple[SublayerShape, ...] | None = None) -> ModelShape:
    return ModelShape(
        architecture="llama",
        hidden_size=HIDDEN,
        vocab_size=10,
        tied=True,
        blocks=(row or (attention(), mlp()),) * blocks,
    )


def widths(*rows: tuple[dict[Kind, int] | None, ...]) -> InnerWidths:
    """What stays, sub-layer by sub-layer; ``None`` where one is gone."""
    return InnerWidths(
        blocks=tuple(
            tuple(SublayerWidths(gone=True) if kept is None else SublayerWidths(kept=kept) for kept in row)
            for row in rows
        )
    )


def in_body(of: ModelShape) -> int:
    return sum(of.block_parameters(block) for block in range(of.block_count))


def trace(drawing: Drawing, name: str) -> Any:
    return named(drawing)[name]


def named(drawing: Drawing) -> dict[str, Any]:
    traces: Any = drawing.figure.data
    return {each.name: each for each in traces}


def halved(found: ModelShape) -> InnerWidths:
    """Half of the units of every kind stay, and one at least."""
    rows = []
    for row in found.blocks:
        cut = []
        for sublayer in row:
            units = {each.kind: each for each in reversed(sublayer.units)}  # the first of a kind
            kept: dict[Kind, int] = {
                kind: max(1, units[kind].count // units[kind].parts // 2) for kind in ORDER if kind in units
            }
            cut.append(SublayerWidths(kept=kept))
        rows.append(tuple(cut))
    return InnerWidths(blocks=tuple(rows))


@pytest.mark.parametrize("family", FAMILIES)
def test_boxes_hold_all_parameters_of_the_blocks_before_and_after(family: str) -> None:
    with torch.device("meta"):
        dense = read_shape(tiny_model(family))
    cut = halved(dense)
    boxes = body_of(dense, cut)
    assert sum(each.dense for each in boxes) == in_body(dense)
    assert sum(each.left for each in boxes) == pytest.approx(in_body(cut.shape_after(dense)), abs=len(boxes))
    assert {each.role for each in boxes} == {"attention", "mlp"}
    assert all(0 < each.high <= 1 and 0 < each.wide <= 1 for each in boxes)
    assert [each.left for each in body_of(dense)] == [each.dense for each in boxes]


def test_heads_make_a_box_lower_and_their_values_make_it_narrower() -> None:
    heads, channels = body_of(shape(1), widths(({"kv_groups": 1, "value_pairs": 4}, {"channels": 30})))
    assert (heads.role, channels.role) == ("attention", "mlp")
    assert heads.high == pytest.approx(0.5)
    assert heads.wide == pytest.approx(1 - 12 / 32)  # of 64 maps of a head, 16 each for values and output
    assert (channels.high, channels.wide) == (pytest.approx(0.3), pytest.approx(1.0))
    assert heads.told == (
        "block 0, attention: 1 of 2 heads of keys and values and 4 of 16 value coordinates of each head "
        f"stay; {8192 - 2560:,} parameters fewer"
    )
    assert channels.told == "block 0, MLP: 30 of 100 channels stay; 13,440 parameters fewer"


def test_what_is_left_of_blocks_stands_where_they_were() -> None:
    layout = Layout(blocks=5, groups=((0,), (1, 2), (4,)))
    boxes = body_of(shape(5), widths((None, {}), ({}, {"channels": 50}), ({}, {})), layout)
    told = {(each.block, each.role): each for each in boxes}
    assert [each.block for each in boxes] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    gone = [(each.block, each.role) for each in boxes if each.gone]
    assert gone == [(0, "attention"), *((block, role) for block in (1, 3) for role in ("attention", "mlp"))]
    assert told[0, "attention"].what == "gone"
    assert told[1, "mlp"].what == "became one with block 2"
    assert told[2, "mlp"].left == told[2, "mlp"].dense / 2
    assert told[3, "mlp"].what == "gone with its block"
    assert told[4, "mlp"].what == "all of it stays"
    with pytest.raises(PlanError, match="has 3"):
        body_of(shape(5), widths(*(({}, {}),) * 4), layout)


def test_a_narrower_stream_makes_boxes_narrower() -> None:
    dense = shape(2)
    schedule = SlicingSchedule(hidden_size=HIDDEN, widths=(48, 32, HIDDEN), embedding="shared")
    boxes = body_of(dense, schedule=schedule)
    sliced = schedule.shape_after(dense)
    shortcuts = 48 * 48 + 48 * 32 + 32 * 32 + 32 * HIDDEN
    assert sum(each.left for each in boxes) == in_body(sliced) - shortcuts
    assert boxes[0].high == 1.0 and boxes[0].wide == pytest.approx(0.75)
    assert boxes[0].what == "reads 48 of 64 dimensions of the stream"


def test_blocks_of_one_part_and_of_several_alike() -> None:
    dense = shape().model_copy(
        update={
            "blocks": (
                (attention(), attention(), mlp()),
                (mlp(),),
                (SublayerShape(kind="parallel", reader_rows=9, writer_columns=3),),
                (SublayerShape(kind="attention", reader_rows=0, writer_columns=0, norm=0), mlp()),
            )
        }
    )
    boxes = body_of(dense)
    assert [(each.block, each.name) for each in boxes] == [
        (0, "attention 1 of 2"),
        (0, "attention 2 of 2"),
        (0, "MLP"),
        (1, "MLP"),
        (2, "attention and MLP"),
        (3, "MLP"),
    ]
    outlines = trace(draw_body(boxes), "cut away")
    first, second = outlines.base[:2]
    assert second > first + outlines.y[0] > first > 0  # one beyond the other
    assert outlines.base[2] < 0 > outlines.y[2]
    assert trace(draw_body(boxes), "other parts").marker.color == HIGHLIGHT


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_picture_shows_what_stays_in_what_was(theme: Any) -> None:
    boxes = body_of(
        shape(3), widths(({"kv_groups": 1, "value_pairs": 4}, {"channels": 30}), ({}, None), ({}, {}))
    )
    drawing = draw_body(boxes, theme)
    outlines, heads, channels = (trace(drawing, name) for name in ("cut away", "attention", "MLP"))
    assert list(outlines.x) == [0, 0, 1, 1, 2, 2]
    assert [abs(y) for y in outlines.y] == [each.dense for each in boxes]
    assert outlines.hovertext[1] == "Block 0, MLP: 30 of 100 channels stay; 13,440 parameters fewer"
    areas = [height * width / COLUMN for height, width in zip(heads.y, heads.width, strict=True)]
    assert areas == pytest.approx([each.left for each in boxes if each.role == "attention"])
    assert list(channels.y) == pytest.approx([-0.3 * 19200, -19200.0])
    assert [each > 0 for each in heads.base] == [True] * 3 and [each < 0 for each in channels.base] == [
        True
    ] * 2
    assert (heads.marker.color, channels.marker.color) == (CONSTANT, MANUAL)
    dashes = trace(drawing, "gone")
    assert min(x for x in dashes.x if x is not None) == pytest.approx(1 - COLUMN / 2)
    assert dashes.line.color == theme.label
    assert drawing.takeaway == (
        "Attention keeps 77.1\N{NO-BREAK SPACE}% of its parameters. MLPs keep 43.3\N{NO-BREAK SPACE}% of "
        "their parameters. Block 1 has no MLP any more. Of what is left, the MLP of block 0 is cut most: it "
        "keeps 30.0\N{NO-BREAK SPACE}%."
    )


def test_a_whole_body_says_so_and_blocks_that_are_gone_are_named() -> None:
    assert draw_body(body_of(shape(2))).takeaway == "All of the body stays."
    assert "gone" not in named(draw_body(body_of(shape(2))))
    removed = draw_body(body_of(shape(9), layout=Layout.without(9, (2, 3, 7))))
    assert removed.takeaway.endswith("Blocks 2-3, 7 are gone.")


def test_the_table_has_a_row_for_every_box() -> None:
    boxes: tuple[Box, ...] = body_of(shape(2), widths(({}, {"channels": 30}), (None, {})))
    table = body_table(boxes)
    assert list(table["part"]) == ["attention", "MLP"] * 2
    assert list(table["what stays"]) == [
        "all of it stays",
        "30 of 100 channels stay",
        "gone",
        "all of it stays",
    ]
    assert list(table["stays, %"]) == [100.0, 30.0, 0.0, 100.0]
    assert list(table["parameters"]) == [8192, 5760, 0, 19200] and list(table["of"]) == [8192, 19200] * 2
