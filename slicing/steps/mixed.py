"""One budget over everything inside the blocks: channels, heads, value ranks and whole sub-layers, whichever
is predicted to cost least per parameter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from analysis.late import torch
from slicing.inner.costs import SCALED_BLOCKS, widths_at
from slicing.inner.cut import BranchCuts, UnitCut
from slicing.inner.obs import Order, Ranks
from slicing.inner.select import branches_of
from slicing.inner.widths import FORMS, InnerWidths
from slicing.inner.without import Place
from slicing.inner.worth import Worth, unit_costs, unit_worth
from slicing.memory import Holds
from slicing.steps.base import step
from slicing.steps.inner import InnerPlan, Selective
from slicing.steps.removal import SEARCH_WINDOWS

if TYPE_CHECKING:
    from slicing.view import ModelView


@step
class Mixed(Selective):
    """Take out whichever unit is predicted to cost least per parameter, of all kinds and all blocks.

    Predicted: optimal brain surgery with the loss's own curvature, from one backward pass. Each branch has a
    curve of cost over parameters saved; the segment of least slope on its lower convex hull goes next. The
    prediction fails for the first blocks, whose error grows on the way; there it is scaled to what is
    measured.
    """

    name = "mixed"
    title = "One budget over channels, heads and sub-layers"
    source = "slicescope, 2026; after Kurtic et al., ZipLM, NeurIPS 2023"
    cite = "kurtic2023ziplm"
    known_issue = (
        "Costs are predicted one branch at a time, and add up only while little goes: where much goes, the "
        "loss rises by more than their sum."
    )
    kinds = ("channels", "kv_groups", "value_pairs")
    holds = Holds(unequal=True, goes_back=True, curvature=True, ranks=True, solves=4, products=4)

    measured: int = Field(default=SCALED_BLOCKS, ge=0, title="Blocks measured")
    """Of so many first blocks every sub-layer's cost is measured: what is predicted is too low there."""
    windows: int = Field(default=SEARCH_WINDOWS, ge=1, title="Windows to measure on")
    """Of the calibration windows, so many measure the first blocks."""

    def held(self) -> Holds:
        """The windows on which it measures the first blocks, too."""
        return self.holds.model_copy(update={"tries": self.windows if self.measured else 0})

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Predict, measure where that fails, share the budget out, and name the units."""
        costs, shape = unit_costs(view, self.measured, self.windows), view.shape
        stay = FORMS[self.export].stay(shape)
        kinds = self.kinds_cut(shape)
        widths = widths_at(costs, shape, size, self.uniform, self.measured, kinds, stay)
        return InnerPlan(widths, _cuts(view.model, widths, unit_worth(view)))


def _cuts(model: Any, widths: InnerWidths, worth: dict[Place, Worth]) -> list[list[BranchCuts]]:
    """The units that stay, by the orders in which they go, and the coordinates of values of lower rank."""
    cuts: list[list[BranchCuts]] = []
    for block, rows in enumerate(widths.blocks):
        own: list[BranchCuts] = []
        for index, (row, _) in enumerate(branches_of(model)):
            kept, known = rows[row].kept, worth[block, index]
            if rows[row].gone:
                own.append(None)
                continue
            cut: list[UnitCut] = []
            if known.channels and "channels" in kept:
                cut.append(UnitCut("channels", _last(known.channels, kept["channels"])))
            if known.groups:
                stay = _last(known.groups, kept.get("kv_groups", len(known.groups.units)))
                if "kv_groups" in kept:
                    cut.append(UnitCut("kv_groups", stay))
                if "value_pairs" in kept:
                    cut.append(_of_rank([known.ranks[group] for group in stay], kept["value_pairs"]))
            own.append(cut)
        cuts.append(own)
    return cuts


def _last(order: Order, count: int) -> np.ndarray:
    return np.sort(order.units[len(order.units) - count :])


def _of_rank(groups: list[Ranks], rank: int) -> UnitCut:
    """The cut of the values of these groups to their best ``rank`` coordinates each."""
    size = len(groups[0].rows)
    kept = np.concatenate([np.arange(rank) + place * size for place in range(len(groups))])
    rows = torch.block_diag(*(each.rows[:, :rank] for each in groups))
    columns = torch.block_diag(*(each.columns[:, :rank] for each in groups))
    return UnitCut("value_pairs", kept, rows, columns)
