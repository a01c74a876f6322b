"""What a model cannot give of a study, told before the job from the shape of the model alone.

``slicing.studies.run`` refuses the same once the model is open, and what only the open model tells.
"""

from __future__ import annotations

from analysis.errors import PlanError
from analysis.shape import ModelShape
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.study import Study


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
    for step in recipe.steps:
        step.check_shape(shape, budget, windows)
