"""What slicing and previews take in memory, from shapes alone."""

from __future__ import annotations

from analysis.needs import FP32, FP64, MemoryNeed
from analysis.shape import ModelShape
from slicing.schedule import SlicingSchedule


def slicing_need(
    shape: ModelShape,
    schedule: SlicingSchedule,
    tokens: int,
    batch: int,
    itemsize: int,
    repair: bool = False,
) -> MemoryNeed:
    """The peak of slicing with ``tokens`` calibration tokens in batches of ``batch``.

    ``itemsize`` is that of the weights. With D the dense width, and R reader rows and C writer columns of
    the largest sub-layer, the working set is ``(R + C) D`` weights, read and written whole, and once more
    in fp32 while they turn; a Gram matrix, its eigenvectors and LAPACK's workspace in fp64 (5 D²), and as
    many Gram matrices as sub-layers share a basis; three turns in fp32; and for each token of a batch what
    readers and writers put out, twice. Repair keeps the dense stream too, ends with two sliced models, and
    takes two Gram matrices of F = D + C + D features and targets, and as much again to solve with them, in
    fp64.
    """
    width = shape.hidden_size
    working = 0
    for sublayer in shape.sublayers:
        rows, columns = sublayer.reader_rows, sublayer.writer_columns
        weights = (rows + columns) * width * (itemsize + FP32)
        passing = batch * 2 * (sublayer.busy_reader_rows + sublayer.busy_writer_columns + 2 * width) * FP32
        fitting = 4 * (2 * width + columns) ** 2 * FP64 + weights if repair else 0
        working = max(working, weights + passing + fitting)
    working += width * width * ((5 + _shared(shape, schedule)) * FP64 + 3 * FP32)
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=_sliced(shape, schedule) * itemsize * (1 + repair),
        working=working,
        activations=tokens * width * FP32 * (1 + repair),
    )


def preview_need(
    shape: ModelShape, schedule: SlicingSchedule, itemsize: int, held: bool = False
) -> MemoryNeed:
    """The peak of slicing in bases of the dense stream, which are counted unless they are ``held`` already.

    The largest sub-layer turns as in ``slicing_need``; blocks that share a basis have a second moment each.
    """
    width = shape.hidden_size
    turning = max((each.reader_rows + each.writer_columns) for each in shape.sublayers) * width
    moments = (5 + _shared(shape, schedule)) * FP64 if schedule.span else 0
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=_sliced(shape, schedule) * itemsize,
        bases=0 if held else len(shape.sublayers) * width * width * FP32,
        working=turning * (itemsize + FP32) + width * width * (moments + 3 * FP32),
    )


def _sliced(shape: ModelShape, schedule: SlicingSchedule) -> int:
    """Parameters that slicing makes anew; the others are shared with the dense model."""
    width = shape.hidden_size
    made = shape.positions * schedule.widths[0]
    if schedule.embedding == "shared":
        made += width * schedule.widths[0]
    else:
        made += shape.vocab_size * (schedule.widths[0] + schedule.widths[-1] + 1)
    for sublayer, site in zip(shape.sublayers, schedule.sites(shape), strict=True):
        made += sublayer.reader_rows * site.entering + sublayer.writer_columns * site.leaving + site.shortcut
        made += sublayer.new_bias + sublayer.writer_bias * site.leaving
    return made


def _shared(shape: ModelShape, schedule: SlicingSchedule) -> int:
    """How many sub-layers share a basis, at most, and so have a sum each; in one basis all have the same."""
    if schedule.plain:
        return 1
    return schedule.span * max(len(block) for block in shape.blocks)
