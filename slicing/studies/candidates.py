"""Recipes that may fulfil a wish: every registered method in the forms that it names itself.

Knows no method by its name, and nothing about time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from analysis.errors import Cancelled, PlanError, SlicescopeError
from analysis.shape import ModelShape
from slicing.budget import Budget
from slicing.steps.base import STEPS, Step
from slicing.studies.grammar import parse_line
from slicing.studies.possible import check_recipe
from slicing.studies.recipe import Recipe
from slicing.wish import Opens

HALF = 0.5
"""Where blocks go and the rest is made smaller too, so much of what is to go are blocks."""


class Candidate(NamedTuple):
    """A recipe and the budget that it is to keep."""

    recipe: Recipe
    budget: Budget | None
    """``None`` for one that keeps no budget of the wish."""
    problem: str = ""
    """Why it cannot take part; empty where it can."""


Fits = Callable[[Recipe, Budget], None]
"""Raises one of our errors where a model cannot be made smaller so."""


def candidates(opens: Opens, budgets: Sequence[Budget], fits: Fits) -> tuple[Candidate, ...]:
    """Every method in each of its variants, without a repair, that opens where it is to open.

    What is there to be beaten takes no part. Of ``budgets``, the most exact one first, each keeps the first
    that it can.
    """
    steps = (step for kind in STEPS.values() for step in _variants(kind) if not _beaten(step))
    forms = (form for step in steps if (form := _opening(step, opens)))
    return tuple(fitting(recipe, budgets, fits) for recipe in dict.fromkeys(map(_alone, forms)))


def fitting(recipe: Recipe, budgets: Sequence[Budget], fits: Fits) -> Candidate:
    """The recipe with the first budget that it can keep, or with the problem that it has with the last."""
    problem = ""
    for budget in budgets:
        try:
            recipe.check_budget(budget)
            fits(recipe, budget)
        except Cancelled:
            raise
        except SlicescopeError as error:
            problem = str(error)
        else:
            return Candidate(recipe, budget)
    return Candidate(recipe, None, problem)


def on_shape(shape: ModelShape, windows: int) -> Fits:
    """What the shape of a model alone tells, with so many calibration windows."""
    return lambda recipe, budget: check_recipe(recipe, budget, shape, windows)


def preview_of(recipe: Recipe) -> Recipe:
    """The quick form of a recipe, whose loss tells about its own."""
    return Recipe(steps=tuple(quick for step in recipe.steps if (quick := step.preview())))


def full_forms(recipe: Recipe, opens: Opens) -> tuple[Recipe, ...]:
    """The recipe with each repair of its last step, the strongest first, and last as it is."""
    *first, last = recipe.steps
    forms = (form for form in last.full_forms() if opens != "everywhere" or form.opens_everywhere)
    return tuple(Recipe(steps=(*first, form)) for form in forms)


def halves(ranked: Sequence[Recipe]) -> Recipe | None:
    """Half by the best method that removes blocks and half by the best of the others; best first.

    ``None`` where there is no such pair.
    """
    single = [each.steps[0] for each in ranked if len(each.steps) == 1]
    blocks = next((step for step in single if step.axis == "blocks"), None)
    rest = next((step for step in single if step.axis != "blocks"), None)
    if blocks is None or rest is None:
        return None
    return Recipe(steps=(blocks.read({**dict(blocks), "share": HALF, "repair": "none"}), rest))


def healed(recipe: Recipe, minutes: float) -> tuple[Recipe, ...]:
    """The recipe with each way to heal it in so many minutes, those without a known issue first.

    None where none is registered.
    """
    kinds = [kind for kind in STEPS.values() if kind.axis == "weights" and "minutes" in kind.model_fields]
    found = []
    for step in (step for kind in kinds for step in _variants(kind)):
        with suppress(PlanError):  # not every one can follow every other step
            healing = step.read({**dict(step), "minutes": minutes})
            found.append(Recipe(steps=(*recipe.steps, healing)))
    return tuple(sorted(found, key=lambda each: bool(each.steps[-1].known_issue)))


def _variants(kind: type[Step]) -> Iterator[Step]:
    for variant in kind.variants:
        yield from parse_line(f"{kind.name}({variant})" if variant else kind.name)


def _alone(step: Step) -> Recipe:
    return Recipe(steps=(step,))


def _beaten(step: Step) -> bool:
    return step.axis == "weights" or step.control or step.by_chance


def _opening(step: Step, opens: Opens) -> Step | None:
    return step.for_every_tool() if opens == "everywhere" else step
