"""How large a plan's model is at every target (SP), and from which one on it is smaller than the dense one.

From shapes alone: no weight is read, and a plan answers while a slider moves.
"""

from __future__ import annotations

from collections.abc import Sequence

from analysis.errors import PlanError
from analysis.shape import ModelShape
from analysis.values import Value
from slicing.plans import Plan

TARGETS = tuple(percent / 100 for percent in range(61))
"""The targets that are looked at: every whole percent of the width from 0 to 60."""


class SizesOverTargets(Value):
    """The parameters of one plan at several targets."""

    dense: int
    """Parameters of the dense model."""
    targets: tuple[float, ...]
    """(T,), rising: those of ``TARGETS`` that the plan can meet."""
    parameters: tuple[int, ...]
    """(T,): parameters of the sliced model at each target."""

    @property
    def break_even(self) -> float | None:
        """The target from which on the model is smaller than the dense one, linear between two targets.

        ``None`` where it is smaller at every target that was looked at, or at none of the last.
        """
        larger = [place for place, size in enumerate(self.parameters) if size >= self.dense]
        if not larger or larger[-1] == len(self.parameters) - 1:
            return None
        place = larger[-1]
        over, under = self.parameters[place] - self.dense, self.dense - self.parameters[place + 1]
        low, high = self.targets[place], self.targets[place + 1]
        return low + (high - low) * over / (over + under)


def at_target(plan: Plan, target: float) -> Plan:
    """Give the plan another target; a base (SB) above it comes down to it, as its slider does.

    Raises ``PlanError`` when the allocation cannot meet this target.
    """
    settings = dict(plan.settings)
    if plan.base > target:
        settings["base"] = target
    return Plan.model_validate({**dict(plan), "target": target, "settings": settings})


def sizes_over_targets(plan: Plan, redundancy: Sequence[float], shape: ModelShape) -> SizesOverTargets:
    """Count the parameters of this plan at every target; those that it cannot meet are left out.

    ``redundancy`` (L,): higher means more redundant.
    """
    targets: list[float] = []
    parameters: list[int] = []
    for target in TARGETS:
        try:
            schedule = at_target(plan, target).schedule(redundancy, shape)
        except PlanError:  # more than its largest fraction allows, or shares of which none is above 0
            continue
        targets.append(target)
        parameters.append(schedule.shape_after(shape).parameters)
    return SizesOverTargets(dense=shape.parameters, targets=tuple(targets), parameters=tuple(parameters))
