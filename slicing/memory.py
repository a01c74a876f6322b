"""What slicing, previews and cutting inside blocks take in memory, from shapes alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from analysis.needs import FP32, FP64, ROWS, MemoryNeed, passing_numbers
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
    the largest sub-layer, there are at once:

    - while it turns, ``(R + C) D`` weights, read and written whole, and once more in fp32; a Gram matrix, its
      eigenvectors and LAPACK's workspace in fp64 (5 D²), as many Gram matrices as sub-layers share a basis,
      and three turns in fp32;
    - while a batch passes, what ``analysis.needs.passing_numbers`` tells of each token, two states of the
      stream in fp32 where the model is in 16 bits, and the Gram matrices of what comes out;
    - while it is repaired, what ``fit_bytes`` tells of D + C features, and its weights; the dense stream is
      kept too, and on a host with room what the writers read. The model without repair is made afterwards, so
      that there are two in the end.
    """
    width = shape.hidden_size
    square, sums = width * width * FP64, _shared(shape, schedule)
    turns = 5 * square + 3 * width * width * FP32
    read = max(each.writer_columns for each in shape.sublayers)
    working = fitting = 0
    for sublayer in shape.sublayers:
        rows, columns = sublayer.reader_rows, sublayer.writer_columns
        weights = (rows + columns) * width * (itemsize + FP32)
        passing = batch * (passing_numbers(sublayer, width) * itemsize + 2 * width * FP32 * (itemsize < FP32))
        working = max(working, weights + turns + sums * square, passing + (1 + sums) * square)
        if repair:
            features = width + columns + (sublayer.writer_bias > 0)
            rows_at_once = batch * (3 * (features + width) + columns) * FP32
            solving, adding = fit_bytes(features, width)
            fitting = max(fitting, weights + square + max(solving, adding + max(passing, rows_at_once)))
    sliced = _sliced(shape, schedule) * itemsize
    # The second model is there only after all fits, and without the dense stream.
    first = max(working, fitting)
    peak = max(sliced + first, 2 * sliced + working) if repair else sliced + working
    made = sliced * (1 + repair)
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=made,
        resting=made,
        working=max(working, peak - made),
        activations=tokens * (width * FP32 * (1 + repair) + read * itemsize * repair),
    )


def fit_bytes(features: int, width: int) -> tuple[int, int]:
    """The bytes of a ridge regression (``slicing.repair.RidgeFit``) from ``features`` to ``width`` numbers:
    at the peak of solving it, and while batches are added.

    Two Gram matrices of features and targets are summed up, in fp64. The first of them is read whole while
    both are there, with two in the making; the second beside the equations of the first. What is solved is a
    matrix of the features alone, with two in fp32 that are half as large, one that a ridge is added to, its
    factor and a copy, and six maps.
    """
    gram, own, maps = (count * FP64 for count in ((features + width) ** 2, features**2, features * width))
    return max(5 * gram, 4 * gram + own + maps, 5 * own + 6 * maps), 2 * gram


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
    """Tells what a method that cuts inside blocks keeps of all blocks, and what it holds for one block."""

    goes_back: bool = False
    """Gradients pass through the blocks, one window at a time."""
    curvature: bool = False
    """A second moment (D, D) in fp32 for every sub-layer."""
    mixes: int = 0
    """So many matrices (F, K) in fp32 for every MLP, which take its F channels to the K that stay."""
    ranks: bool = False
    """Two square matrices in fp64 for the coordinates of the values of every block."""
    weights: int = 0
    """So many fp32 copies of the blocks' weights, until units are chosen."""
    moments: bool = True
    """The second moments of what the writers read are taken, one sub-layer after the other."""
    solves: int = 0
    """So many matrices (F, F) in fp64 beside such a moment, to choose by it."""
    products: int = 0
    """So many matrices (D, F) in fp64 beside it."""
    transport: int = 0
    """So many matrices (F, K) in fp32 while the channels of one MLP are brought together."""
    compared: int = 0
    """So many tokens of what the writers read are kept for that."""
    policy: bool = False
    """A policy is trained on the rows (F, D) of one reader."""
    tries: int = 0
    """On so many windows models without single sub-layers are tried, for which what enters every block is
    kept."""
    profiles: bool = False
    """The layer profile says how much every block loses."""
    unequal: bool = False
    """Some blocks lose far less than others."""


@dataclass(frozen=True)
class _Phase:
    """Counts the bytes that one part of a job holds at the same time."""

    working: int
    held: int = 0
    sliced: int = 0
    streams: int = 0


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
    kinds: Collection[Kind] | None = None,
) -> MemoryNeed:
    """The peak of cutting inside blocks to ``size`` parameters, with ``tokens`` in batches of ``batch``.

    ``window``: tokens of one window; ``itemsize``: of the weights; ``kinds``: of units that go, by default
    all. One part of the work follows another: gradients go back, the method looks at one sub-layer after the
    other, blocks are cut, and what is left is fitted. The largest of them counts.
    """
    holds, width = holds or Holds(), shape.hidden_size
    inside = sum(shape.block_parameters(block) for block in range(shape.block_count))
    left = max(0, size - (shape.parameters - inside))
    made = min(left, _in_sublayers_with(shape, kinds)) * itemsize
    share = _share_kept(shape, inside - left, kinds)
    cut = _cut_with(shape, holds, share)
    curved = holds.curvature * len(shape.sublayers) * width**2 * FP32
    largest = max(max(each.reader_rows, each.writer_columns) for each in shape.sublayers) * width
    phases = [
        _Phase(_looking(shape, holds, batch, itemsize, share), curved + cut, 0, int(_sees_text(holds))),
        # One matrix in its old and its new form and in the products between, and what joins its units.
        _Phase(4 * largest * FP32, curved + cut, made),
    ]
    if holds.goes_back:
        copies = holds.weights * inside * FP32
        # Of second moments there are the sums, and the means made of them.
        phases.append(_Phase(_going_back(shape, window, itemsize, bool(holds.weights)), 2 * curved + copies))
    if holds.profiles:
        phases.append(_Phase(passing_bytes(shape, batch, itemsize, 3 * FP32 // itemsize)))
    if holds.tries:
        some = min(batch, holds.tries * window)
        phases.append(_Phase(passing_bytes(shape, some, itemsize, shape.block_count + 1), curved, made))
    stayed = 1.0 if holds.unequal else share
    for readers in (False,) * restore + (True,) * repair:
        fitting = projections_bytes(shape, batch, itemsize, readers, stayed, kinds)
        phases.append(_Phase(fitting, curved + cut, made + readers * left * itemsize, 2))
    return _largest(shape.parameters * itemsize, phases, tokens * width * itemsize)


def _largest(dense: int, phases: Sequence[_Phase], stream: int) -> MemoryNeed:
    """The need of a job in several parts, of which the largest counts, with its streams and without."""
    bare = max(phases, key=lambda each: each.working + each.held + each.sliced)
    least = bare.working + bare.held + bare.sliced
    total = max(each.working + each.held + each.sliced + each.streams * stream for each in phases)
    return MemoryNeed(
        dense=dense, sliced=bare.sliced, measured=bare.held, working=bare.working, activations=total - least
    )


def passing_bytes(shape: ModelShape, tokens: int, itemsize: int, kept: int = 0) -> int:
    """Bytes of so many ``tokens`` that pass through a model of this shape, with states at ``kept`` depths.

    The head takes some rows at a time, once the blocks' own numbers are gone.
    """
    width = shape.hidden_size
    numbers = max(passing_numbers(each, width) for each in shape.sublayers)
    head = 3 * ROWS * shape.vocab_size * FP32 if tokens else 0
    return tokens * kept * width * itemsize + max(
        tokens * numbers * itemsize, tokens * 4 * width * itemsize + head
    )


def _sees_text(holds: Holds) -> bool:
    return holds.moments or bool(holds.transport)


def _looking(shape: ModelShape, holds: Holds, batch: int, itemsize: int, share: float) -> int:
    """Bytes at the peak of choosing units, one sub-layer after the other."""
    width, found = shape.hidden_size, 0
    for sublayer in shape.sublayers:
        read = sublayer.writer_columns - _in_experts(sublayer)
        passing = batch * passing_numbers(sublayer, width) * itemsize
        if holds.moments:
            square = read * read * FP64
            # Of a batch: what is read, that over the stream's size, its squares, and without massive tokens.
            summing = batch * (4 * read + 4 * width) * max(itemsize, FP32) + square
            reading = (3 + max(0, holds.solves - 2)) * square + holds.products * read * width * FP64
            found = max(found, passing + square, summing, reading)
        if holds.transport:
            channels = _units(sublayer, "channels")
            joining = holds.transport * round(share * channels * channels) * FP32
            found = max(found, passing, joining + 3 * holds.compared * read * FP32)
        if holds.policy and (channels := _units(sublayer, "channels")):
            # The policy (D, F) with its gradient and moments, and the rows of the reader. What it makes
            # of them (F, F) stays for the way back, where it has a gradient, and so has the policy. Before,
            # the rows that were drawn are measured in fp64, by the smaller Gram matrix of them.
            rows, square = channels * width * FP32, channels * channels * FP32
            drawn = 3 * rows + 3 * min(channels, width) ** 2 * FP64
            found = max(found, 5 * rows + square + max(square + rows, drawn))
    return found


def _going_back(shape: ModelShape, window: int, itemsize: int, weights: bool) -> int:
    """Bytes at the peak of a gradient that goes back through the blocks; ``weights``: also to weights."""
    width, size = shape.hidden_size, max(itemsize, FP32)
    # What enters every block, and what leaves the last.
    streams = window * (shape.block_count + 1) * width * itemsize
    # Logits, the chances that labels are drawn from, logarithms, and the gradient.
    found = 4 * window * shape.vocab_size * FP32
    for block in shape.blocks:
        found = max(found, window * block_graph(block, width) * size)
        for each in block if weights else ():
            # The gradients of one sub-layer's weights; of one of them what is added, and the sum.
            own = (each.reader_rows + each.writer_columns) * width
            matrix = max(each.reader_rows, each.writer_columns) * width
            found = max(found, window * block_graph((each,), width) * size + (own + 2 * matrix) * FP32)
    return streams + found


def graph_numbers(sublayer: SublayerShape, width: int) -> int:
    """Numbers of one token that the graph of a sub-layer keeps for the way back."""
    # Of an MLP what is read, what the activation makes of it and the product; of attention queries and keys
    # as they are turned, values, and what is written, once more side by side. And the stream, and its norm in
    # two steps.
    return sublayer.busy_reader_rows + 2 * sublayer.busy_writer_columns + 3 * width


def block_graph(block: Sequence[SublayerShape], width: int) -> int:
    """Numbers that there are of one token while a gradient goes back through a block: its graph, and
    gradients of one sub-layer's inside.
    """
    return sum(graph_numbers(each, width) for each in block) + inside_numbers(block, width)


def inside_numbers(block: Sequence[SublayerShape], width: int) -> int:
    """Numbers of one token that a gradient takes on its way back through a block, beside the graph."""
    return max(each.busy_reader_rows + each.busy_writer_columns for each in block) + 4 * width


def projections_bytes(
    shape: ModelShape,
    batch: int,
    itemsize: int,
    readers: bool,
    share: float = 1.0,
    kinds: Collection[Kind] | None = None,
) -> int:
    """Bytes at the peak of fitting projections, sub-layer by sub-layer (``slicing.inner.fit``).

    ``readers``: also what they are given. Of units of these ``kinds`` a ``share`` has stayed.
    """
    width, found = shape.hidden_size, 0
    for sublayer in shape.sublayers:
        experts = _in_experts(sublayer)
        less = any(each.writer_columns and (kinds is None or each.kind in kinds) for each in sublayer.units)
        read = sublayer.writer_columns - experts
        read = round(read * (share if less else 1.0)) + (sublayer.writer_bias > 0)
        features = max(read, width if readers or experts else 0)
        passing = batch * passing_numbers(sublayer, width) * itemsize
        # Of a batch: what is read, alone and beside the target, weighted, and squared; before that, what is
        # read while the target is found.
        rows = batch * (5 * features + 7 * width) * max(itemsize, FP32)
        passing += batch * (features + 2 * width) * itemsize
        solving, adding = fit_bytes(features, width)
        found = max(found, solving, adding + max(passing, rows))
    return found


def _cut_with(shape: ModelShape, holds: Holds, share: float) -> int:
    """Bytes of the matrices that take all units to those that stay, where a ``share`` of them does."""
    found = 0
    for sublayer in shape.sublayers:
        channels, pairs = _units(sublayer, "channels"), _units(sublayer, "value_pairs")
        found += holds.mixes * round(share * channels * channels) * FP32
        found += holds.ranks * 2 * pairs * pairs * FP64
    return found


def _units(sublayer: SublayerShape, kind: Kind) -> int:
    """How many units of a kind there are in the largest part of a sub-layer that has some."""
    return max((each.count for each in sublayer.units if each.kind == kind), default=0)


def _share_kept(shape: ModelShape, gone: int, kinds: Collection[Kind] | None) -> float:
    """The share of units that stay where so many parameters go, and all blocks lose the same share."""
    width = shape.hidden_size
    every = sum(
        each.count * ((each.reader_rows + each.writer_columns) * width + each.inner)
        for sublayer in shape.sublayers
        for each in sublayer.units
        if kinds is None or each.kind in kinds
    )
    return max(0.0, 1.0 - gone / every) if every else 1.0


def _in_sublayers_with(shape: ModelShape, kinds: Collection[Kind] | None) -> int:
    """Parameters of the sub-layers that have units of these kinds."""
    return sum(
        sublayer.parameters(shape.hidden_size)
        for sublayer in shape.sublayers
        if kinds is None or any(each.kind in kinds for each in sublayer.units)
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
