"""What a model cannot give of a study, told before the job from the shape of the model alone.

``slicing.study.run`` refuses the same once the model is open, and what only the open model tells.
"""

from __future__ import annotations

from typing import Any

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.budget import Budget, whole_blocks
from slicing.repair import held_out
from slicing.study.recipe import Recipe
from slicing.study.study import Study


def check_study(study: Study, shape: ModelShape) -> None:
    """Raise ``PlanError``, which names recipe and budget, where a model of this shape cannot give a trial."""
    for budget in study.budgets:
        for recipe in study.recipes:
            if recipe.is_constant_at(budget):  # which is not run
                continue
            try:
                check_recipe(recipe, budget, shape, study.calibration_windows)
            except PlanError as error:
                raise PlanError(
                    f"The recipe “{recipe.title}” is not possible at {budget.title}. {error}"
                ) from None


def check_recipe(recipe: Recipe, budget: Budget, shape: ModelShape, windows: int) -> None:
    """Raise ``PlanError`` where a model of this shape cannot be made smaller by a recipe at a budget.

    ``windows``: how many calibration windows there are, of which a repair holds some out.
    """
    budget.parameters(shape)  # which says so where it names no whole block
    for step in recipe.steps:
        if plan_at := getattr(step, "plan_at", None):  # of steps that slice
            plan_at(budget).check_fits(shape)
        if hasattr(step, "whole_blocks"):  # of steps that remove blocks
            _check_removal(step, budget, shape)
        if step.repair != "none":
            held_out(windows)


def _check_removal(step: Any, budget: Budget, shape: ModelShape) -> None:
    """Raise ``PlanError`` where a step cannot take away as many blocks as the budget says."""
    by_number = budget.measure == "blocks"
    count = int(budget.amount) if by_number else whole_blocks(shape, budget.amount)[0]
    step.refuse_unless_so_many_can_go(shape.block_count, step.whole_blocks(count))
