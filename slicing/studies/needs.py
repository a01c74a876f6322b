"""What the steps of a request take in memory, told before the job from the shape of the model alone."""

from __future__ import annotations

import itertools

from analysis.device import Facts, batch_on, device_type, itemsize_of, pick_device, total_memory
from analysis.needs import MemoryNeed
from analysis.shape import ModelShape
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Calibrated
from slicing.studies.results import Request


def request_need(request: Request, shape: ModelShape, told: Facts | None = None) -> MemoryNeed | None:
    """Say what a request takes at its peak: the most of all recipes and budgets that it names.

    ``None`` for kinds of requests that make no model, for studies of many trials, and where ``memory_need``
    says nothing.
    """
    if request.kind == "compress":
        pairs = [(request.recipe, request.budget)]
    elif request.kind == "study" and request.view == "comparison":
        pairs = list(itertools.product(request.recipes, request.budgets))
    else:
        return None
    needs = (memory_need(request, recipe, budget, shape, told) for recipe, budget in pairs)
    return max((need for need in needs if need), key=lambda need: need.total, default=None)


def memory_need(
    asked: Calibrated, recipe: Recipe, budget: Budget, shape: ModelShape, told: Facts | None = None
) -> MemoryNeed | None:
    """Say what a recipe takes at its peak; ``None`` where none of its steps can say it from the shape.

    What is ``told`` of the device is not asked.
    """
    # On the host dtype auto is float32; on an accelerator it is a 16-bit one.
    name = asked.model.device
    itemsize = itemsize_of(asked.model.dtype, name)
    tokens = asked.calibration_windows * asked.window_length
    usual = batch_on(device_type(name), told.total if told else total_memory(pick_device(name)))
    batch = min(tokens, max(usual, asked.window_length))
    needs = [step.memory_need(shape, budget, tokens, batch, itemsize) for step in recipe.steps]
    return max((need for need in needs if need), key=lambda need: need.total, default=None)
