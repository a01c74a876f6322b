"""What training takes in memory, from shapes alone."""

from __future__ import annotations

from analysis.needs import FP32, MemoryNeed
from analysis.shape import ModelShape
from slicing.memory import block_graph, graph_numbers, inside_numbers, passing_bytes

KEPT = 5
"""Numbers in fp32 for each that is trained: itself, its gradient, two moments of Adam, the best so far."""
EIGHT_BIT = 1 + FP32 / 256
"""Bytes of a moment in 8 bits, with a scale in fp32 for 256 of them."""
LOGITS = 4
"""So many tensors of all logits are there at once where a loss has the next token of a text alone: these,
their rows that count, logarithms of chances, and the gradient."""


def training_need(
    shape: ModelShape,
    size: int,
    trained: int,
    tokens: int,
    itemsize: int,
    *,
    judged: int = 0,
    logits: int = LOGITS,
    states: bool = False,
    adapters: bool = False,
    checkpointed: bool = False,
    eight_bit: bool = False,
) -> MemoryNeed:
    """The peak of training ``trained`` of the ``size`` numbers of a smaller model, ``tokens`` at a time.

    ``shape`` is the dense model's, whose weights have ``itemsize`` bytes. All of the student is in fp32: its
    weights, ``KEPT`` of what is trained, and the larger of three: the graph of all blocks with ``logits``
    times the logits; the gradient on its way back through one block; and a batch of ``judged`` tokens of what
    is held out. With ``adapters`` the graph has the weights with what they add, too. ``states``: the stream
    of the dense model is kept at every depth, and distances to it. ``checkpointed``: the graph is what enters
    every block, and that of one block while the gradient is there. ``eight_bit``: the moments are.
    """
    width, share = shape.hidden_size, size / shape.parameters
    adapted = [
        round(share * shape.block_parameters(place)) if adapters else 0 for place in range(shape.block_count)
    ]
    graphs = [
        tokens * sum(graph_numbers(each, width) for each in block) + weights
        for block, weights in zip(shape.blocks, adapted, strict=True)
    ]
    entering = tokens * width * shape.block_count
    # Of one sub-layer the gradients inside, and of one adapted weight its product and its gradient.
    matrix = max(max(each.reader_rows, each.writer_columns) for each in shape.sublayers) * width
    inside = tokens * max(inside_numbers(block, width) for block in shape.blocks) + 2 * matrix * adapters
    at_head = tokens * (logits * shape.vocab_size + 2 * width)
    if checkpointed:
        graph = entering + max(at_head, max(graphs) + inside)
    else:
        graph = share * sum(graphs) + max(at_head, inside)
    if states:
        graph += 3 * entering
    saved = 2 * (FP32 - EIGHT_BIT) if eight_bit else 0.0
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=size * FP32 + round(trained * ((KEPT - 1) * FP32 - saved)),
        working=round(max(graph * FP32, passing_bytes(shape, judged, FP32))),
    )


def reconstruction_need(shape: ModelShape, size: int, tokens: int, batch: int, itemsize: int) -> MemoryNeed:
    """The peak of training block after block of a smaller model of ``size`` numbers to follow a stream.

    ``shape`` is the dense model's, whose weights have ``itemsize`` bytes; ``tokens`` of two streams are kept,
    and pass in batches of ``batch``. A student in fp32, and of its largest block ``KEPT`` with the graph of a
    batch; or the best so far twice, and no gradient, while a new best is noted.
    """
    width = shape.hidden_size
    largest = max(shape.block_parameters(place) for place in range(shape.block_count))
    graph = batch * max(block_graph(block, width) for block in shape.blocks) * FP32
    judging = passing_bytes(shape, batch, FP32)
    return MemoryNeed(
        dense=shape.parameters * itemsize,
        sliced=size * FP32,
        working=max(KEPT * largest * FP32 + graph, (KEPT + 1) * largest * FP32 + judging),
        activations=2 * tokens * width * FP32,
    )
