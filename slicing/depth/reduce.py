"""A model without some of its blocks, repaired where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.device import out_of_memory_told
from analysis.evaluate import check_windows, perplexity
from analysis.late import no_grad
from analysis.values import Progress, no_progress
from slicing.depth.layout import Layout
from slicing.depth.memory import refuse_unless_removal_fits
from slicing.depth.operator import reduce_blocks
from slicing.inner.widths import InnerWidths
from slicing.late import modeling_bridged, modeling_sliced
from slicing.repair import Repair, held_out
from slicing.repairs import Cuts, find_repair

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from slicing.dense_states import DenseStates


@dataclass(frozen=True)
class ReducedModel:
    """A model with fewer blocks: it runs, generates and evaluates like the dense one."""

    model: PreTrainedModel
    """Of the dense model's class; a ``BridgedForCausalLM`` where matrices stand for the removed blocks."""
    layout: Layout
    repair: Repair | None = None
    """What the repair did, where it was asked for."""
    inner: InnerWidths | None = None
    """How much stays inside the blocks that are left; ``None`` for all."""

    @property
    def plain(self) -> bool:
        """Tell whether any tool opens it as one of its architecture."""
        return not isinstance(
            self.model, modeling_bridged.BridgedForCausalLM | modeling_sliced.SlicedForCausalLM
        )


@no_grad
def reduce_model(
    model: PreTrainedModel,
    layout: Layout,
    windows: Tensor | None = None,
    repair: str = "none",
    progress: Progress = no_progress,
    phase: str = "Repairing",
    budget: tuple[int, int] | None = None,
    kept: DenseStates | None = None,
) -> ReducedModel:
    """Take ``model`` down to the blocks of ``layout`` and repair it, calibrated on ``windows`` (N, T).

    The repair is kept only where the loss on windows held out of the fits is less than without. ``kept``: the
    dense stream on these windows, as far as fits and slicings before have left it. Raises
    ``UnsupportedError`` for a family whose blocks cannot be removed, or whose writers are not known, and what
    ``slice_model`` raises.
    """
    refuse_unless_removal_fits(model, layout, windows, repair)
    with out_of_memory_told("removing blocks", model.device):
        reduced = reduce_blocks(model, layout)
        if repair == "none" or not find_repair(repair).has_work(layout):
            return ReducedModel(reduced, layout)
        assert windows is not None, "a repair takes windows"
        check_windows(model, windows)
        held = held_out(len(windows))
        tell = partial(progress, phase)
        cuts = Cuts(model, reduced, layout, windows, held, tell, budget, kept)
        repaired, told = find_repair(repair).close(cuts)
        loss, other = (float(np.mean(perplexity(each, windows[-held:]).nll)) for each in (repaired, reduced))
        judged = Repair(sublayers=told, windows=held, unrepaired=other, repaired=loss)
        return ReducedModel(repaired if judged.kept else reduced, layout, judged)
