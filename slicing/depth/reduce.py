"""A model without some of its blocks, and what closes the gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from analysis.anatomy import anatomy_of, blocks, core_of, why_not_sliceable
from analysis.device import out_of_memory_told
from analysis.errors import UnsupportedError
from analysis.evaluate import check_windows, perplexity
from analysis.read_shape import read_shape
from analysis.values import Progress, no_progress
from slicing.assembly import spread_like
from slicing.depth.bridge import bridge_model, train_blocks
from slicing.depth.layout import Closing, Layout
from slicing.depth.memory import refuse_unless_removal_fits
from slicing.depth.operator import reduce_blocks
from slicing.modeling_bridged import BridgedForCausalLM
from slicing.modeling_sliced import SlicedForCausalLM, parameters_named
from slicing.repair import Repair, held_out
from slicing.schedule import SlicingSchedule
from slicing.slicer import Followed, refuse_unless_invariant, slice_once


@dataclass(frozen=True)
class ReducedModel:
    """A model with fewer blocks: it runs, generates and evaluates like the dense one."""

    model: PreTrainedModel
    """Of the dense model's class; a ``BridgedForCausalLM`` where matrices close the gaps."""
    layout: Layout
    repair: Repair | None = None
    """What closing the gaps did, where it was asked for."""

    @property
    def plain(self) -> bool:
        """Whether any tool opens it as one of its architecture."""
        return not isinstance(self.model, BridgedForCausalLM | SlicedForCausalLM)


@torch.no_grad()
def reduce_model(
    model: PreTrainedModel,
    layout: Layout,
    windows: Tensor | None = None,
    closing: Closing = "none",
    progress: Progress = no_progress,
    phase: str = "Closing gaps",
    budget: tuple[int, int] | None = None,
) -> ReducedModel:
    """Take ``model`` down to the blocks of ``layout`` and close the gaps, calibrated on ``windows`` (N, T).

    What closes them is kept only where the loss on windows held out of the fits is less than without. Raises
    ``UnsupportedError`` for a family whose blocks cannot be removed, or whose writers are not known, and what
    ``slice_model`` raises.
    """
    refuse_unless_removal_fits(model, layout, windows, closing)
    with out_of_memory_told("removing blocks", model.device):
        reduced = reduce_blocks(model, layout)
        # Behind a gap at the very start there is no block in front to close it with, only writers after it.
        if closing == "none" or not (layout.seams or (layout.gaps and closing == "writers")):
            return ReducedModel(reduced, layout)
        assert windows is not None, "closing gaps takes windows"
        check_windows(model, windows)
        held = held_out(len(windows))
        if closing == "matrix":
            closed: Any
            closed, told = bridge_model(
                model, layout, windows, held, lambda done: progress(phase, done, layout.blocks), budget
            )
        elif closing == "block":
            closed = reduce_blocks(model, layout, check=False, spread=False)
            told = train_blocks(
                model,
                reduced,
                closed,
                layout,
                windows,
                held,
                lambda done: progress(phase, done, layout.blocks),
                budget,
            )
        else:
            closed = reduce_blocks(model, layout, check=False, spread=False)
            told = _fit_writers(
                model, reduced, closed, layout, windows, held, closing, progress, phase, budget
            )
        if closing != "matrix":
            spread_like(model, closed)
        loss, other = (float(np.mean(perplexity(each, windows[-held:]).nll)) for each in (closed, reduced))
        repair = Repair(sublayers=told, windows=held, unrepaired=other, repaired=loss)
        return ReducedModel(closed if repair.kept else reduced, layout, repair)


def refuse_closing(model: PreTrainedModel, closing: Closing) -> None:
    """Raise ``UnsupportedError`` where the gaps of this family cannot be closed like this."""
    if closing in ("writer", "writers") and (reason := why_not_sliceable(model.config)):
        raise UnsupportedError(f"Writers cannot be fitted: {reason} Close the gaps with a matrix instead.")


def followed(model: PreTrainedModel, layout: Layout) -> Followed:
    """The dense model, for repair of one that was made of it by ``layout``."""
    rows = len(anatomy_of(model.config).sublayers)
    ends: list[int] = []
    following = [*(group[0] for group in layout.groups[1:]), layout.blocks]
    for top, first in zip(layout.tops, following, strict=True):
        ends += [rows * top + row + 1 for row in range(rows - 1)]
        ends.append(rows * first)  # over the gap, where there is one
    return Followed(model, tuple(ends))


def _fit_writers(
    model: PreTrainedModel,
    reduced: PreTrainedModel,
    closed: PreTrainedModel,
    layout: Layout,
    windows: Tensor,
    held: int,
    closing: Closing,
    progress: Progress,
    phase: str,
    budget: tuple[int, int] | None,
) -> Any:
    """Fit the writers of ``reduced`` for ``closed``; slicing at full width, where nothing turns, does it."""
    refuse_closing(model, closing)
    refuse_unless_invariant(model)
    shape, rows = read_shape(reduced), len(anatomy_of(model.config).sublayers)
    lasts = {rows * (place + 1) - 1 for place in layout.seams}
    # In front of a gap the stream is still the dense one; a merged block's first writer reads another.
    merged = {rows * place for place, group in enumerate(layout.groups) if len(group) > 1}
    first = min({max(0, rows * (gap.after + 1) - 1) for gap in layout.gaps} | merged)

    def fitted(place: int) -> bool:
        return place in lasts if closing == "writer" else place >= first

    _refuse_experts(reduced, fitted)
    steps = len(shape.sublayers)
    sliced = slice_once(
        reduced,
        SlicingSchedule.uncut(shape, shape.block_count),
        windows,
        budget,
        lambda done: progress(phase, done, steps),
        held,
        followed(model, layout),
        fitted,
    )
    _adopt_writers(closed, sliced.model, fitted)
    assert sliced.repair is not None
    return sliced.repair.sublayers


def _refuse_experts(model: PreTrainedModel, fitted: Callable[[int], bool]) -> None:
    rows = anatomy_of(model.config).sublayers
    for place, (block, branches) in enumerate(product(blocks(model), rows)):
        for branch in branches:
            for name, holder, _ in parameters_named(core_of(block, branch), branch.writers):
                if fitted(place) and not isinstance(holder, torch.nn.Linear | Conv1D):
                    raise UnsupportedError(
                        f"Writers cannot be fitted: '{name}' is one for every expert, not a plain linear "
                        "map. Close the gaps with a matrix instead."
                    )


def _adopt_writers(
    reduced: PreTrainedModel, sliced: SlicedForCausalLM, fitted: Callable[[int], bool]
) -> None:
    """Give the plain model the writers of the one that was sliced at full width."""
    anatomy = anatomy_of(reduced.config)
    place = 0
    for plain, block in zip(blocks(reduced), blocks(sliced), strict=True):
        for branches, sublayer in zip(anatomy.sublayers, block.sublayers, strict=True):  # type: ignore[arg-type]
            for branch, core in zip(branches, sublayer.cores, strict=True):
                there = parameters_named(core_of(plain, branch), branch.writers)
                found = parameters_named(core, branch.writers)
                for (_, holder, attribute), (_, new, _) in zip(there, found, strict=True):
                    if not fitted(place):
                        continue
                    weight: Tensor = getattr(new, attribute) / anatomy.branch_scale
                    _put(holder, attribute, weight.T if isinstance(holder, Conv1D) else weight)
                    bias: Tensor | None = getattr(new, "bias", None)
                    if bias is not None:
                        _put(holder, "bias", bias / anatomy.branch_scale)
            place += 1


def _put(holder: Any, attribute: str, tensor: Tensor) -> None:
    like = getattr(holder, attribute)
    setattr(
        holder,
        attribute,
        torch.nn.Parameter(tensor.to(like.device, like.dtype).contiguous(), requires_grad=False),
    )
