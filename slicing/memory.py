"""What slicing takes in memory, from shapes alone: told before the work begins.

Knows nothing about torch.
"""

from __future__ import annotations

from analysis.shape import ModelShape
from analysis.values import Value
from slicing.schedule import SlicingSchedule

FP32, FP64 = 4, 8
"""Bytes."""


class MemoryNeed(Value):
    """Bytes at the peak of faithful slicing."""

    dense: int
    """The dense weights; they are there before."""
    sliced: int
    """The weights that are made anew; what slicing leaves alone is shared with the dense model."""
    working: int
    """One sub-layer with its products, its eigenproblem and one batch passing through it."""
    activations: int
    """The calibration stream, which goes to disk where it does not fit."""

    @property
    def total(self) -> int:
        """All four."""
        return self.dense + self.sliced + self.working + self.activations

    @property
    def least(self) -> int:
        """With every activation on disk."""
        return self.total - self.activations

    def __str__(self) -> str:
        parts = {
            "dense weights": self.dense,
            "sliced weights": self.sliced,
            "working set": self.working,
            "activations": self.activations,
        }
        listed = " + ".join(f"{size / 1e9:.2f} {name}" for name, size in parts.items())
        return f"about {self.total / 1e9:.2f} GB = {listed}"


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
    sliced = shape.positions * schedule.widths[0]
    if schedule.embedding == "shared":
        sliced += width * schedule.widths[0]
    else:
        sliced += shape.vocab_size * (schedule.widths[0] + width + 1)
    working = 0
    for sublayer, site in zip(shape.sublayers, schedule.sites(shape), strict=True):
        rows, columns = sublayer.reader_rows, sublayer.writer_columns
        sliced += rows * site.entering + columns * site.leaving + site.shortcut
        sliced += sublayer.new_bias + sublayer.writer_bias * site.leaving
        weights = (rows + columns) * width * (itemsize + FP32)
        passing = batch * 2 * (sublayer.busy_reader_rows + sublayer.busy_writer_columns + 2 * width) * FP32
        fitting = 4 * (2 * width + columns) ** 2 * FP64 + weights if repair else 0
        working = max(working, weights + passing + fitting)
    shared = schedule.span * max(len(block) for block in shape.blocks)
    working += width * width * ((5 + shared) * FP64 + 3 * FP32)
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=sliced * itemsize * (1 + repair),
        working=working,
        activations=tokens * width * FP32 * (1 + repair),
    )
