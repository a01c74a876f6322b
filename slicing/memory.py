"""What slicing, previews and cutting inside blocks take in memory, from shapes alone."""

from __future__ import annotations

from analysis.needs import FP32, FP64, ROWS, MemoryNeed
from analysis.shape import ModelShape, SublayerShape
from analysis.units import Kind
from analysis.values import Value
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
    readers put out and, twice, what writers read, beside two states of the stream in fp32. Repair keeps the
    dense stream too, ends with two sliced models, and takes two Gram matrices of F = D + C + D features and
    targets, and as much again to solve with them, in fp64.
    """
    width = shape.hidden_size
    working = 0
    for sublayer in shape.sublayers:
        rows, columns = sublayer.reader_rows, sublayer.writer_columns
        weights = (rows + columns) * width * (itemsize + FP32)
        inner = sublayer.busy_reader_rows + 2 * sublayer.busy_writer_columns
        passing = batch * (inner * itemsize + 2 * width * FP32)
        fitting = 4 * (2 * width + columns) ** 2 * FP64 + weights if repair else 0
        working = max(working, weights + passing + fitting)
    working += width * width * ((5 + _shared(shape, schedule)) * FP64 + 3 * FP32)
    sliced = _sliced(shape, schedule) * itemsize * (1 + repair)
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=sliced,
        resting=sliced,
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
    sliced = _sliced(shape, schedule) * itemsize
    bases = 0 if held else len(shape.sublayers) * width * width * FP32
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=sliced,
        bases=bases,
        resting=sliced + bases,
        working=turning * (itemsize + FP32) + width * width * (moments + 3 * FP32),
    )


class Holds(Value):
    """What a method that cuts inside blocks keeps of all of them, beside the cut weights."""

    goes_back: bool = False
    """Gradients pass through the blocks, one window at a time."""
    curvature: bool = False
    """A second moment (D, D) in fp32 for every sub-layer."""
    mixes: int = 0
    """So many matrices (F, F) in fp32, at most, for the channels of every MLP."""
    ranks: bool = False
    """Two square matrices in fp64 for the coordinates of the values of every block."""
    weights: int = 0
    """So many fp32 copies of the blocks' weights."""


def inner_need(
    shape: ModelShape,
    size: int,
    tokens: int,
    batch: int,
    window: int,
    itemsize: int,
    holds: Holds | None = None,
    restore: bool = True,
    repair: bool = False,
) -> MemoryNeed:
    """The peak of cutting inside blocks to ``size`` parameters, with ``tokens`` in batches of ``batch``.

    ``window``: tokens of one window; ``itemsize``: of the weights. With F what the writers of a sub-layer
    read of a token, its second moment, its inverse and their copies are 7 F² in fp64, with three products
    (D, F). A fit has two Gram matrices of F + 1 + D features and targets, the same read whole, and as much
    again to solve with: 6 of these in fp64. For each token of a batch there is what readers and writers put
    out, and three times what is read and aimed at, in fp32. Going back holds the stream in front of every
    block, the graph of one, and the logits four times in fp32. What is cut is made anew, and once more where
    it is repaired, which keeps two streams.
    """
    holds, width = holds or Holds(), shape.hidden_size
    fits = restore or repair
    working = 0
    for sublayer in shape.sublayers:
        read = sublayer.writer_columns - _in_experts(sublayer)
        rows, columns = sublayer.busy_reader_rows, sublayer.busy_writer_columns
        passing = batch * (2 * (rows + columns + 2 * width) + 3 * (read + width)) * FP32
        moments = (7 * read * read + 3 * read * width) * FP64
        fitted = max(read + 1, width if repair else 0) + width
        fitting = 6 * fitted * fitted * FP64 if fits else 0
        working = max(working, passing + max(moments, fitting))
        if holds.goes_back:
            graph = window * (4 * (rows + columns) + (shape.block_count + 9) * width) * max(itemsize, FP32)
            working = max(working, graph + 4 * window * shape.vocab_size * FP32)
    inside = sum(shape.block_parameters(block) for block in range(shape.block_count))
    left = max(0, size - (shape.parameters - inside))
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=left * itemsize * (1 + repair),
        measured=_held(shape, holds, inside),
        working=working + 3 * ROWS * shape.vocab_size * FP32,
        activations=tokens * width * itemsize * (1 + fits),
    )


def _held(shape: ModelShape, holds: Holds, inside: int) -> int:
    """Bytes of what a method keeps of all blocks, which have so many parameters ``inside``."""

    def squares(kind: Kind) -> int:
        units = [each for sublayer in shape.sublayers for each in sublayer.units if each.kind == kind]
        return sum(each.count * each.count for each in units)

    curved = 2 * len(shape.sublayers) * shape.hidden_size**2 * FP32  # the sums, and the means made of them
    return (
        holds.curvature * curved
        + holds.mixes * squares("channels") * FP32
        + holds.ranks * 2 * squares("value_pairs") * FP64
        + holds.weights * inside * FP32
    )


def _in_experts(sublayer: SublayerShape) -> int:
    """Columns of stacks of experts, whose second moments nobody takes."""
    stacks = [each for each in sublayer.units if each.kind == "expert_channels"]
    return sum(each.count * each.writer_columns for each in stacks)


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
