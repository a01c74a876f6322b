"""Tell what removing blocks and repairing take in memory, before they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analysis.anatomy import blocks
from analysis.evaluate import tokens_at_a_time
from analysis.needs import MemoryNeed, passing_need, refuse_unless_it_fits
from slicing.depth.layout import Layout
from slicing.repairs import find_repair

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def removal_need(model: Any, layout: Layout, repair: str, tokens: int, batch: int) -> MemoryNeed:
    """The peak of taking blocks out and repairing with ``tokens`` in batches of ``batch``.

    Blocks that become one are made anew, and of any one weight the sum is in fp32. The rest is the repair's.
    """
    sizes = [sum(each.numel() for each in block.parameters()) for block in blocks(model)]
    merged = [sizes[group[-1]] for group in layout.groups if len(group) > 1 and layout.merge != "top"]
    made = sum(merged) * model.dtype.itemsize
    need = passing_need(model, batch).model_copy(update={"sliced": made, "activations": 0})
    return need if repair == "none" else find_repair(repair).need(need, model, layout, tokens, batch)


def refuse_unless_removal_fits(
    model: PreTrainedModel, layout: Layout, windows: Tensor | None, repair: str
) -> None:
    """Raise ``OutOfMemoryError`` where taking the blocks out and repairing do not fit."""
    tokens = 0 if windows is None else windows.numel()
    batch = 0 if windows is None else tokens_at_a_time(windows, model.device)
    unrepaired = removal_need(model, layout, "none", tokens, batch)
    need = removal_need(model, layout, repair, tokens, batch)
    doing = "Removing blocks" if repair == "none" else "Repairing"
    refuse_unless_it_fits(doing, model, need, {"leave out the repair": unrepaired})
