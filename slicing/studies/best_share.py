"""Searching for a share: how much of what is to go a step takes, where its recipe leaves that open."""

from __future__ import annotations

import time

import numpy as np

from analysis.device import free_memory
from analysis.evaluate import perplexity
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.steps.base import SHARES, Made, Step
from slicing.steps.removal import SEARCH_WINDOWS
from slicing.studies.recipe import Recipe
from slicing.view import ModelView


def with_best_shares(recipe: Recipe, budget: Budget, view: ModelView) -> tuple[Recipe, float]:
    """Give the recipe with the share of ``SHARES`` whose preview loses least on windows of its own.

    Also the seconds that the previews took; 0 where no share is to be searched for.
    """
    open_step = next((each for each in recipe.steps if each.share == "search"), None)
    if open_step is None:
        return recipe, 0.0
    start = time.perf_counter()
    place = recipe.steps.index(open_step)
    windows = view.draw_more(getattr(open_step, "windows", SEARCH_WINDOWS))
    losses: dict[float, float] = {}
    tried: dict[Layout, float] = {}
    for share in SHARES:
        steps = _with_share(recipe, place, share)
        layout = steps[place].decide(view, budget, Made(view.model))
        assert isinstance(layout, Layout)  # steps that leave something to others remove blocks
        if layout not in tried:  # at small sizes several shares are the same number of blocks
            model = _previewed(steps, budget, view)
            found = perplexity(model, windows, view.progress, "Searching", view.precision)
            tried[layout] = float(np.mean(found.nll))
            del model
            free_memory()
        losses[share] = tried[layout]
    best = min(losses, key=lambda share: losses[share])
    return Recipe(steps=_with_share(recipe, place, best)), time.perf_counter() - start


def _with_share(recipe: Recipe, place: int, share: float) -> tuple[Step, ...]:
    step = recipe.steps[place].model_copy(update={"share": share})
    return (*recipe.steps[:place], step, *recipe.steps[place + 1 :])


def _previewed(steps: tuple[Step, ...], budget: Budget, view: ModelView) -> object:
    made = Made(view.model)
    for step in steps:
        if quick := step.preview():
            made = quick.apply(view, quick.decide(view, budget, made), made)
    return made.model
