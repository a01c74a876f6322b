"""Models that were cut, kept in memory for trials that begin with them: to heal them, or to repair them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import takewhile
from typing import NamedTuple

from analysis.device import memory_of
from analysis.values import key_of
from slicing.steps.base import Made, Step
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial

SPARE = 4
"""A model is kept where the device has room for so many of it: training takes that much beside."""


class Cut(NamedTuple):
    """What the steps of a recipe made before anything was healed."""

    made: Made
    deciding: float
    """Seconds that deciding took."""


class Cuts:
    """The models that are kept, by what they were made from."""

    def __init__(self) -> None:
        self._kept: dict[str, Cut] = {}

    def find(self, trial: Trial) -> Cut | None:
        """Give what the trial begins with, if it is kept."""
        return self._kept.get(_key(trial))

    def find_unrepaired(self, trial: Trial) -> Cut | None:
        """Give the model from which the repair of a trial goes on, if it is kept."""
        key = _unrepaired_key(trial)
        return self._kept.get(key) if key else None

    def keep(self, trial: Trial, cut: Cut) -> None:
        """Keep what a trial has cut, where there is room for it."""
        model = cut.made.model
        size = sum(each.numel() * each.element_size() for each in model.parameters())
        if memory_of(model.device)[0] >= SPARE * size:
            self._kept[_key(trial)] = cut

    def keep_only(self, trials: Collection[Trial]) -> None:
        """Forget what none of these begins with."""
        wanted = {key for each in trials for key in (_key(each), _unrepaired_key(each))}
        self._kept = {key: cut for key, cut in self._kept.items() if key in wanted}


def cutting(recipe: Recipe) -> tuple[Step, ...]:
    """The steps in front of the first one that heals."""
    return tuple(takewhile(lambda step: step.axis != "weights", recipe.steps))


def unrepaired(recipe: Recipe) -> tuple[Step, ...] | None:
    """Give the steps whose model the repair of a recipe goes on from; ``None`` where there are none."""
    first = cutting(recipe)
    mending = first[-1].mending if first else None
    return (*first[:-1], mending.before) if mending else None


def kin(trial: Trial) -> str:
    """Give one key to trials that differ in size and repair alone: they share most of what is measured."""
    return key_of([step.model_copy(update={"repair": "none"}).key for step in trial.recipe.steps])


def _key(trial: Trial) -> str:
    return _key_of(trial, cutting(trial.recipe))


def _unrepaired_key(trial: Trial) -> str | None:
    steps = unrepaired(trial.recipe)
    return _key_of(trial, steps) if steps else None


def _key_of(trial: Trial, steps: Sequence[Step]) -> str:
    budget = trial.budget and trial.budget.line
    return key_of([trial.calibration_key, *(step.key for step in steps), budget])
