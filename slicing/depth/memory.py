"""Tell what removing blocks and repairing take in memory, before they begin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.anatomy import blocks
from analysis.batches import tokens_at_a_time
from analysis.needs import MemoryNeed, passing_need, refuse_unless_it_fits
from slicing.depth.layout import Layout
from slicing.repairs import find_repair

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


TRIED = 24
"""Tokens on which a model that has lost blocks is checked."""
TEXTS, TEXT_TOKENS = 10, 128
"""Texts, and tokens of each, on which outputs are compared: as many and as long as the published code of
Sliding Layer Merging takes."""


class Looked(NamedTuple):
    """Tells how many tokens a method passes through the model to choose blocks, and what it keeps of them."""

    tokens: int = 0
    """At a time."""
    kept: int = 0
    """So many states of the stream are kept of each."""


def removal_need(
    model: Any, layout: Layout, repair: str, tokens: int, batch: int, looked: Looked | None = None
) -> MemoryNeed:
    """The peak of choosing blocks, taking them out and repairing with ``tokens`` in batches of ``batch``.

    Blocks that become one are made anew, and of any one weight the sum is in fp32. The rest is the repair's.
    ``looked``: at what the method looks, by default at nothing.
    """
    sizes = [sum(each.numel() for each in block.parameters()) for block in blocks(model)]
    merged = [sizes[group[-1]] for group in layout.groups if len(group) > 1 and layout.merge != "top"]
    made = sum(merged) * model.dtype.itemsize
    choosing = passing_need(model, *(looked or Looked()))
    need = passing_need(model, batch if repair != "none" else TRIED)
    need = need.model_copy(update={"sliced": made, "activations": 0})
    if repair != "none":
        need = find_repair(repair).need(need, model, layout, tokens, batch)
    # Choosing comes first. Where blocks become one, models are made for it, too.
    return need.model_copy(update={"working": max(need.working, choosing.working - need.sliced + made)})


def refuse_unless_removal_fits(
    model: PreTrainedModel, layout: Layout, windows: Tensor | None, repair: str, looked: Looked | None = None
) -> None:
    """Raise ``OutOfMemoryError`` where taking the blocks out and repairing do not fit."""
    tokens = 0 if windows is None else windows.numel()
    batch = 0 if windows is None else tokens_at_a_time(windows, model.device)
    unrepaired = removal_need(model, layout, "none", tokens, batch, looked)
    need = removal_need(model, layout, repair, tokens, batch, looked)
    doing = "Removing blocks" if repair == "none" else "Repairing"
    refuse_unless_it_fits(doing, model, need, {"leave out the repair": unrepaired})
