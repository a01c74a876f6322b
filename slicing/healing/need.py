"""What training takes in memory, from shapes alone."""

from __future__ import annotations

from analysis.needs import FP32, MemoryNeed
from analysis.shape import ModelShape, SublayerShape

KEPT = 5
"""Numbers in fp32 for each that is trained: itself, its gradient, two moments of Adam, the best so far."""
EIGHT_BIT = 1 + FP32 / 256
"""Bytes of a moment in 8 bits, with a scale in fp32 for 256 of them."""


def training_need(
    shape: ModelShape,
    size: int,
    trained: int,
    tokens: int,
    itemsize: int,
    *,
    adapters: bool = False,
    checkpointed: bool = False,
    eight_bit: bool = False,
) -> MemoryNeed:
    """The peak of training ``trained`` of the ``size`` numbers of a smaller model, ``tokens`` at a time.

    ``shape`` is the dense model's, whose weights have ``itemsize`` bytes. The graph holds, for each token and
    sub-layer, twice what readers and writers put out and four times the stream; the logits are there six
    times, the dense model's among them. With ``adapters`` it holds the weights with what they add, too. All
    is in fp32. ``checkpointed``: the graph is that of the largest block, and what enters every other one.
    ``eight_bit``: the moments are.
    """
    listed = [
        tokens * sum(_numbers_per_token(each) + 4 * shape.hidden_size for each in block)
        + (shape.block_parameters(place) * size // shape.parameters if adapters else 0)
        for place, block in enumerate(shape.blocks)
    ]
    graph = max(listed) + tokens * shape.hidden_size * len(listed) if checkpointed else sum(listed)
    saved = 2 * (FP32 - EIGHT_BIT) if eight_bit else 0.0
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=size * (itemsize + FP32) + round(trained * ((KEPT - 1) * FP32 - saved)),
        working=(graph + tokens * 6 * shape.vocab_size) * FP32,
    )


def _numbers_per_token(each: SublayerShape) -> int:
    return 2 * (each.busy_reader_rows + each.busy_writer_columns)
