"""What is known already of a wish: trials of the same model at about this size that are stored, or that ship.

Reads runs, makes none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from analysis.evaluate import Perplexity, perplexity_of
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from slicing.budget import Budget
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial
from slicing.studies.results import Measurement, Run
from slicing.studies.store import bundled_board, list_runs
from slicing.wish import Wish

SMALLER = 0.9
"""What has fewer parameters than this share of what a wish allows answers another wish."""


class Option(NamedTuple):
    """One recipe that was judged already."""

    recipe: Recipe
    budget: Budget
    measured: Measurement
    """Measures the model of the middle draw; its losses per window are means over all ``draws``."""
    dense: Measurement
    """Judged on the same windows."""
    key: str
    """Of the run that it is from."""
    trial: Trial
    """Names the trial of the middle draw."""
    draws: int = 1
    """Counts the draws of calibration windows that it was judged by."""

    @property
    def times(self) -> float:
        """Perplexity, of the dense model's."""
        return perplexity_of(
            float(np.mean(self.measured.evaluation.nll) - np.mean(self.dense.evaluation.nll))
        )

    @property
    def other_times(self) -> float | None:
        """The same on the second text, where both were judged on one."""
        if self.measured.other is None or self.dense.other is None:
            return None
        return perplexity_of(float(np.mean(self.measured.other.nll) - np.mean(self.dense.other.nll)))

    @property
    def seconds(self) -> float:
        """What deciding and making took."""
        return (self.measured.slicing_seconds or 0.0) + (self.measured.deciding_seconds or 0.0)


class _Judged(NamedTuple):
    """A trial, and the digest of the windows that it was judged on."""

    trial: Trial
    measured: Measurement
    windows: str
    key: str


def known_options(
    model: ModelSource,
    wish: Wish,
    shape: ModelShape,
    itemsize: int,
    may_see: Callable[[str], bool] = lambda key: True,
) -> tuple[Option, ...]:
    """Rank what was judged of this model and fulfils a wish, least loss first.

    Of several texts that models were judged on it is the one with most recipes. A recipe that was judged by
    several draws of calibration windows is told by their mean, as a study tells it. Of a recipe that was
    judged with several settings, or at several sizes, it is what comes nearest to the size with most draws.
    ``itemsize``: bytes of a parameter. ``may_see`` says of the key of a stored run whether it counts. Raises
    ``PlanError`` for a size that no method reaches.
    """
    size = wish.size(shape, itemsize)
    known = list(_judged(model, may_see))
    groups: dict[str, list[Option]] = {}
    for windows in dict.fromkeys(each.windows for each in known):
        here = [each for each in known if each.windows == windows]
        dense = next((each.measured for each in here if not each.trial.recipe.steps), None)
        groups[windows] = [
            Option(each.trial.recipe, each.trial.budget, each.measured, dense, each.key, each.trial)
            for each in here
            if dense and each.trial.budget and _answers(each, wish, shape, itemsize, size)
        ]
    most = max(groups.values(), key=len, default=[])
    recipes: dict[str, dict[str, dict[str, Option]]] = {}
    for each in most:
        settings = recipes.setdefault(each.recipe.line, {})
        settings.setdefault(_settings(each.trial), {}).setdefault(each.trial.key, each)
    told = (
        _told([_over_draws(list(each.values())) for each in found.values()]) for found in recipes.values()
    )
    return tuple(sorted(told, key=lambda each: each.times))


def _settings(trial: Trial) -> str:
    """Tell the trials apart that differ in more than the draw."""
    return trial.model_copy(update={"seed": 0}).key


def _over_draws(draws: list[Option]) -> Option:
    """One recipe as the mean over its draws, which were judged on the same windows."""
    middle = sorted(draws, key=lambda each: each.times)[len(draws) // 2]
    others = [each.measured.other for each in draws]
    told = {
        "evaluation": _mean([each.measured.evaluation for each in draws]),
        "other": _mean([each for each in others if each]) if all(others) else None,
    }
    return middle._replace(measured=middle.measured.model_copy(update=told), draws=len(draws))


def _mean(found: Sequence[Perplexity]) -> Perplexity:
    """Average the losses of several models, window by window."""
    nll = np.mean([each.nll for each in found], axis=0)
    told = {"nll": tuple(map(float, nll)), "perplexity": perplexity_of(float(nll.mean()))}
    return found[0].model_copy(update=told)


def _told(found: list[Option]) -> Option:
    """The settings that come nearest to the size, to a percent, and of those the ones with most draws; of
    several such the one in the middle, since the best would flatter.
    """
    ranked = [(round(each.measured.parameters / each.dense.parameters, 2), each.draws) for each in found]
    alike = [each for each, rank in zip(found, ranked, strict=True) if rank == max(ranked)]
    return sorted(alike, key=lambda each: each.times)[len(alike) // 2]


def _answers(each: _Judged, wish: Wish, shape: ModelShape, itemsize: int, size: int) -> bool:
    found, recipe = each.measured, each.trial.recipe
    if found.parameters < SMALLER * size or recipe.control:
        return False
    if wish.opens == "everywhere" and not recipe.opens_everywhere:
        return False
    return not wish.missed_by(shape, itemsize, found.parameters, found.flops_per_token)


def _judged(model: ModelSource, may_see: Callable[[str], bool]) -> Iterator[_Judged]:
    """All trials of a model, wherever and in whatever dtype it was opened."""
    stored, _ = list_runs(but=("profile", "search", "compress", "study", "shrink"))
    for run in stored:
        if may_see(run.key) and _place(run.request.model) == _place(model):
            yield from _of_run(run)
    board = bundled_board()
    if _place(board.request.model) == _place(model):
        yield from _of_board(board.key)


@lru_cache(maxsize=2)
def _of_board(key: str) -> tuple[_Judged, ...]:
    """The trials of the study that ships, which does not change."""
    return tuple(_of_run(bundled_board()))


def _of_run(run: Run) -> Iterator[_Judged]:
    request, result = run.request, run.result
    if request.kind == "trial" and result.kind == "trial" and request.search != "alone":
        trials, measured = (request,), (result.measurement,)
    elif request.kind == "study" and result.kind == "study":
        trials, measured = request.trials(), result.measurements
    else:
        return
    for trial, each in zip(trials, measured, strict=True):
        if not trial.jitter:
            yield _Judged(trial, each, result.evaluation.digest, run.key)


def _place(model: ModelSource) -> tuple[str, str, str | None]:
    return model.kind, model.location, model.revision
