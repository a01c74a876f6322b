"""MoDeGPT: pairs of matrices inside a block are made smaller in closed form, by what passes between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from analysis.device import HOST
from analysis.errors import PlanError
from analysis.late import torch
from analysis.read_units import read_units
from analysis.scores import find_score
from analysis.sublayers import Sublayer, out_in
from analysis.units import Kind, Units
from slicing.allocation import ALLOCATIONS, Allocation, Constant, find_allocation
from slicing.inner.cut import BranchCuts, UnitCut
from slicing.inner.moments import Look, view_moments, writer_moments
from slicing.inner.nystroem import leverage, nystroem
from slicing.inner.obs import value_ranks
from slicing.inner.pairs import Energies, pair_energies, pair_scores
from slicing.inner.select import best, branches_of, sites
from slicing.inner.widths import InnerWidths
from slicing.memory import Holds
from slicing.plans import Plan
from slicing.steps.base import step
from slicing.steps.inner import InnerPlan, Selective, at_size, widths_of_shares

if TYPE_CHECKING:
    from torch import Tensor

    from slicing.view import ModelView

MOST = 0.8
"""No block loses more than this share of its units, as published."""
MOMENTS: tuple[Kind, ...] = ("channels", "value_pairs")
"""Kinds that are decided by the moments of what the writers read."""
Cuts = dict[tuple[int, int, Kind], UnitCut]
"""By block, branch and kind."""


@step
class Modegpt(Selective):
    """Make three pairs of matrices smaller in every block, each by a decomposition of its own.

    - MLP: the channels of largest ridge leverage stay, and the down projection takes the others up (Nyström).
    - Queries and keys: the rotary pairs stay whose two norms have the largest product (CR decomposition).
    - Values and outputs: fewer coordinates per group, by a singular value decomposition.

    How much every block loses, its ``redundancy`` decides: ``L phi softmax(s / T)`` (equations 10 and 11).
    """

    name = "modegpt"
    title = "Modular decomposition (MoDeGPT)"
    source = "Lin et al., MoDeGPT, ICLR 2025"
    cite = "lin2025modegpt"
    known_issue = (
        "No code of the authors is known: here the ridge is relative to the mean energy of a channel, and "
        "values are weighted by what the output projection reads of them, and not by what they are made of."
    )
    kinds = ("channels", "value_pairs", "rotary_pairs")
    optional = ("value_pairs", "rotary_pairs")
    holds = Holds(unequal=True, mixes=1, ranks=True, solves=4, profiles=True)

    restore: bool = Field(default=False, title="Least-squares restoration")
    """Fit every output projection that lost inputs to what the dense one writes. The down projections are
    such a fit already, so that this adds the output projections of attention, and a choice of the ridge."""
    allocation: str = Field(default="softmax", title="Allocation over blocks")
    """A rule that gives every block its share: one that is neither measured nor searched for."""
    score: str = Field(default="block-influence", title="Score of blocks")
    """The score that the allocation follows."""
    temperature: float = Field(default=0.015, gt=0.0, title="Temperature of the softmax")
    """A higher one spreads the cut more evenly over the blocks."""
    ridge: float = Field(default=1e-4, gt=0.0, title="Ridge of the leverage scores")
    """Relative to the mean energy of a channel."""

    @model_validator(mode="after")
    def _check_allocation(self) -> Self:
        kind = find_allocation(self.allocation)
        if kind.made:
            known = ", ".join(name for name, each in ALLOCATIONS.items() if not each.made)
            raise PlanError(
                f"'{self.name}' takes no shares that are measured or searched for, as '{self.allocation}' "
                f"does: choose from {known}."
            )
        find_score(self.score)
        decide = {
            "allocation": not self.uniform,
            "score": not self.uniform and kind.uses_scores,
            "temperature": not self.uniform and "temperature" in kind.model_fields,
        }
        for name in (name for name, used in decide.items() if not used):
            object.__setattr__(self, name, type(self).model_fields[name].get_default())
        return self

    def identity(self) -> dict[str, Any]:
        """The version of the allocation, which the step only names, is part of the key too."""
        version = self.rule().version
        return {**super().identity(), **({"allocation version": version} if version != 1 else {})}

    def rule(self) -> Allocation:
        """The allocation with its settings; all blocks lose the same where they are to stay alike."""
        if self.uniform:
            return Constant()
        kind = find_allocation(self.allocation)
        return kind(**({"temperature": self.temperature} if "temperature" in kind.model_fields else {}))

    @property
    def control(self) -> bool:
        """Whether its allocation is there to be beaten."""
        return self.rule().control

    @property
    def by_chance(self) -> bool:
        """Whether the shares are drawn at random."""
        return self.rule().name == "random"

    @property
    def quick(self) -> bool:
        """Whether the score takes one pass too."""
        return super().quick and (not self.rule().uses_scores or find_score(self.score).quick)

    @property
    def cites(self) -> tuple[str, ...]:
        """The method, the allocation and the score that decides."""
        rule = self.rule()
        score = find_score(self.score).cite if rule.uses_scores else ""
        return tuple(dict.fromkeys(each for each in (*super().cites, rule.cite, score) if each))

    def plan(self, view: ModelView, size: int) -> InnerPlan:
        """Find the widths by the scores of the blocks, and then all cuts in one pass over the windows."""
        shape, rule = view.shape, self.rule()
        redundancy = view.redundancy(Plan(allocation=rule.name, score=self.score))

        def widths(target: float) -> InnerWidths:
            return widths_of_shares(shape, rule(redundancy, target, MOST).values, self.kinds_cut(shape))

        found = at_size(widths, shape, size, self.name)
        return InnerPlan(found, self.cuts(view, found))

    def cuts(self, view: ModelView, widths: InnerWidths) -> list[list[BranchCuts]]:
        """The cuts to these widths, by what is measured on the view's windows."""
        model = view.model
        units, branches = read_units(model), branches_of(model)
        found: Cuts = {}

        def look(place: int, row: int, sublayer: Sublayer, moments: list[Tensor]) -> None:
            kept = widths.blocks[place][row].kept
            for index, writer, own in sites(units[place], branches, row, sublayer, MOMENTS):
                if own.kind not in kept:
                    continue
                moment, count = moments[writer], kept[own.kind]
                if own.kind == "channels":
                    cut = channel_cut(moment, count, self.ridge)
                else:
                    cut = value_cut(own, out_in(sublayer.writers[writer]), moment, count)
                found[place, index, own.kind] = cut

        if view.shares:  # one pass for the energies serves all sizes, and one for the moments all methods
            energies = view.once("pair energies", lambda: _energies(view))
            view_moments(view, look, relative=False)
        else:
            energies = _energies(view, look)
        for (place, index), each in energies.items():
            (own,) = units[place][index].of("rotary_pairs")
            kept = widths.blocks[place][branches[index][0]].kept
            if own.kind in kept:
                stay = best(pair_scores(own, each), kept[own.kind], own.parts)
                found[place, index, own.kind] = UnitCut(own.kind, stay)
        return [
            [
                [found[place, index, each.kind] for each in own.units if (place, index, each.kind) in found]
                for index, own in enumerate(row)
            ]
            for place, row in enumerate(units)
        ]


def _energies(view: ModelView, look: Look | None = None) -> dict[tuple[int, int], Energies]:
    """Sum up the energies of rotary pairs, in a pass that shows the moments too, to ``look``."""
    with pair_energies(view.model) as energies:
        writer_moments(view.model, view.windows, look, view.progress, relative=False)
    return energies


def channel_cut(moment: Tensor, count: int, ridge: float) -> UnitCut:
    """Keep the ``count`` channels of the largest leverage (type I)."""
    kept = best(leverage(moment, ridge).cpu().numpy(), count)
    return UnitCut("channels", kept, columns=nystroem(moment, kept, ridge).to(HOST, torch.float32))


def value_cut(units: Units, weight: Tensor, moment: Tensor, count: int) -> UnitCut:
    """Keep ``count`` coordinates of the values of every group (type III).

    ``weight`` (D, F) and ``moment`` (F, F) are of the output projection. What its heads read is weighted,
    which is the values after attention: that is what the error is made of, and it is measured anyway.
    """
    (columns,) = units.columns.values()
    size = units.count // units.parts
    found = [
        value_ranks(weight, moment, columns[start : start + size].T) for start in range(0, units.count, size)
    ]
    starts = np.arange(units.parts)[:, None] * size
    return UnitCut(
        units.kind,
        (starts + np.arange(count)).ravel(),
        torch.block_diag(*(each.rows[:, :count].to(HOST, torch.float32) for each in found)),
        torch.block_diag(*(each.columns[:, :count].to(HOST, torch.float32) for each in found)),
    )
