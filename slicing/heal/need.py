"""What training takes in memory, from shapes alone."""

from __future__ import annotations

from analysis.needs import FP32, MemoryNeed
from analysis.shape import ModelShape

KEPT = 5
"""Numbers in fp32 for each that is trained: itself, its gradient, two moments of Adam, the best so far."""


def training_need(shape: ModelShape, size: int, trained: int, tokens: int, itemsize: int) -> MemoryNeed:
    """The peak of training ``trained`` of the ``size`` numbers of a smaller model, ``tokens`` at a time.

    ``shape`` is the dense model's, whose weights have ``itemsize`` bytes. The graph holds, for each token and
    sub-layer, twice what readers and writers put out and four times the stream; the logits are there six
    times, the dense model's among them. All is in fp32.
    """
    graph = sum(
        2 * (each.busy_reader_rows + each.busy_writer_columns) + 4 * shape.hidden_size
        for each in shape.sublayers
    )
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=size * (itemsize + FP32) + (KEPT - 1) * trained * FP32,
        working=tokens * (graph + 6 * shape.vocab_size) * FP32,
    )
