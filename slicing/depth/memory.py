"""What taking blocks out of a model and closing the gaps takes in memory, told before it begins."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from analysis.anatomy import blocks, why_not_sliceable
from analysis.evaluate import tokens_at_a_time
from analysis.needs import FP32, FP64, MemoryNeed, passing_need, refuse_unless_it_fits
from analysis.read_shape import read_shape
from slicing.depth.layout import Closing, Layout
from slicing.memory import slicing_need
from slicing.schedule import SlicingSchedule


def removal_need(model: Any, layout: Layout, closing: Closing, tokens: int, batch: int) -> MemoryNeed:
    """The peak of taking blocks out and closing the gaps with ``tokens`` in batches of ``batch``.

    Blocks that become one are made anew, and of any one weight the sum is in fp32. A matrix (D, D) takes the
    fit of 2 D features and targets, as repair does, for each gap; a block is trained in fp32, with its
    gradients, the two moments of the optimiser and the best so far. What fits writers is ``slicing_need``.
    """
    size, width = model.dtype.itemsize, model.config.get_text_config(decoder=True).hidden_size
    sizes = [sum(each.numel() for each in block.parameters()) for block in blocks(model)]
    merged = [sizes[group[-1]] for group in layout.groups if len(group) > 1 and layout.merge != "top"]
    need = passing_need(model, batch)
    made, working, kept = sum(merged), need.working, 0
    if closing in ("matrix", "block") and layout.seams:
        kept = 2 * tokens * width * size
    if closing == "matrix" and layout.seams:
        made += len(layout.seams) * width**2
        working += 4 * (2 * width) ** 2 * FP64
    elif closing == "block" and layout.seams:
        made += len(layout.seams) * max(sizes)
        working += 5 * max(sizes) * FP32 + need.working
    return need.model_copy(update={"sliced": made * size, "working": working, "activations": kept})


def refuse_unless_removal_fits(
    model: PreTrainedModel, layout: Layout, windows: Tensor | None, closing: Closing
) -> None:
    """Raise ``OutOfMemoryError`` where taking the blocks out and closing the gaps does not fit."""
    tokens = 0 if windows is None else windows.numel()
    batch = 0 if windows is None else tokens_at_a_time(windows, model.device)
    open_gaps = removal_need(model, layout, "none", tokens, batch)
    need = removal_need(model, layout, closing, tokens, batch)
    if closing in ("writer", "writers") and not why_not_sliceable(model.config):
        shape = read_shape(model)
        shape = shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in layout.tops)})
        uncut = SlicingSchedule.uncut(shape, shape.block_count)
        fitting = slicing_need(shape, uncut, tokens, batch, model.dtype.itemsize, repair=True)
        made = need.sliced + fitting.sliced // 2  # once: it is not sliced without repair as well
        need = fitting.model_copy(update={"dense": need.dense, "sliced": made})
    doing = "Removing blocks" if closing == "none" else "Closing gaps"
    refuse_unless_it_fits(doing, model, need, {"leave the gaps open": open_gaps})
