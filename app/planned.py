"""What a request plans to slice, for charts and tables of scores and widths."""

from __future__ import annotations

import numpy as np

from slicing.allocation import Fractions
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.schedule import SlicingSchedule
from slicing.studies.recipe import Recipe
from slicing.studies.results import Request


def plan_asked(request: Request) -> Plan | None:
    """Find the plan that a request is about; ``None`` where it is about none, or about several."""
    if request.kind == "search":
        return request.plan
    if request.kind == "study":
        return _plan_at(request.recipes[-1], request.budgets[0]) if request.view == "comparison" else None
    budget: Budget | None = getattr(request, "budget", None)
    return _plan_at(request.recipes_used()[-1], budget) if budget else None


def plan_of(recipe: Recipe, budget: Budget) -> Plan | None:
    """The plan of a recipe that slices and does no more, at a budget.

    ``None`` for others, and where the base reaches the target, which no plan says.
    """
    if recipe.is_constant_at(budget):
        return None
    plan_at = getattr(recipe.steps[0], "plan_at", None) if len(recipe.steps) == 1 else None
    return plan_at(budget) if plan_at else None


def _plan_at(recipe: Recipe, budget: Budget) -> Plan | None:
    ways = (getattr(step, "plan_at", None) for step in recipe.steps)
    return next((plan_at(budget) for plan_at in ways if plan_at), None)


def held_back(schedule: SlicingSchedule, plan: Plan) -> Fractions:
    """Tell which blocks of a schedule lose the largest fraction of a plan, to a step of rounding."""
    cut = schedule.block_fractions
    least = plan.max_fraction - plan.rounding / schedule.hidden_size
    return Fractions(values=cut, capped=tuple((np.asarray(cut) > least).tolist()))
