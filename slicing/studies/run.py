"""Carrying requests out: the steps of a recipe on a model view, one maker for each kind of request.

Nothing here knows who asks: progress is a callback. What is stored is whole, or is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from analysis.anatomy import why_not_sliceable
from analysis.bases import jittered
from analysis.device import free_memory
from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import safe_precision
from analysis.precision import calibrating, check_calibration
from analysis.profile import LayerProfile
from analysis.sources.opening import OpenModel, fetch_missing, outline, require_plain_weights
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.tasks import check_tasks
from analysis.values import Progress, no_progress
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.steps.base import Made, Step
from slicing.store import Opener, open_model, open_telling
from slicing.studies.best_share import with_best_shares
from slicing.studies.cuts import Cut, Cuts, cutting
from slicing.studies.healing import healing_examples, training_key
from slicing.studies.judge import (
    Judge,
    card_numbers,
    count_parameters,
    digest,
    environment,
    evaluated,
    judged_windows,
    search_windows,
    used,
)
from slicing.studies.keep import save_made
from slicing.studies.profiling import look, profile
from slicing.studies.recipe import Recipe
from slicing.studies.requests import (
    Calibrated,
    CompressRequest,
    SearchRequest,
    ShrinkRequest,
    Trial,
    by_view,
)
from slicing.studies.results import (
    CompressResult,
    Environment,
    Measurement,
    Request,
    Run,
    SearchResult,
    ShrinkResult,
    StudyResult,
    TrialResult,
)
from slicing.studies.searching import find_shares, search_request, search_shares
from slicing.studies.shrinking import shrink
from slicing.studies.store import MODEL_FOLDER, find_stored, keep_run, store_run
from slicing.studies.study import Study
from slicing.view import ModelView

Executor = Callable[[Sequence[Trial], Callable[[Run], None], Progress], None]
"""Carries trials out elsewhere, and hands over every run once it is made, in whatever order."""
Keep = Callable[[Made, Measurement], None]
"""Gets what a trial has made, and what was measured of it, before it goes."""


def perform(
    request: Request,
    progress: Progress = no_progress,
    opener: Opener = open_model,
    executor: Executor | None = None,
) -> Run:
    """Do what the request says and store the run, whole or not at all.

    A run of the same request is replaced; the trials of a study that are stored already are not made again,
    and with an ``executor`` the others are carried out by that. Raises the errors of what it does, and
    ``StorageError`` before any work when the runs folder cannot be written.
    """

    def work(folder: Path) -> tuple[Environment, Any]:
        if opener is open_model:  # another opener has the model already
            fetch_for(request, progress)
        if executor:  # which has the devices to itself: here are shapes and a tokenizer
            drawn = outline(request.model) if opener is open_model else opener(request.model)
            if found := _carry_out(request, drawn, executor, progress):
                return found
            del drawn
        opened = open_telling(request.model, progress, opener)
        made = MAKERS[request.kind](request, opened, progress, folder)
        return environment(opened.model), made

    return store_run(request, lambda folder: _made(request, lambda: work(folder)))


def fetch_for(request: Request, progress: Progress = no_progress, asks: bool = True) -> None:
    """Fetch the model of a request where it is not here; what its weights are no good for is told before.

    So is a text that is not installed, which some requests would come to after hours (``TextError``).

    ``asks``: whether this process may ask the device; see ``fetch_missing``.
    """
    for name in type(request).model_fields:
        if isinstance(text := getattr(request, name), TextSource):
            text.require_installed()
    if request.changes_weights:
        require_plain_weights(request.model)
    fetch_missing(request.model, progress, asks)


def _made(request: Request, work: Callable[[], tuple[Environment, Any]]) -> Run:
    start = time.perf_counter()
    with calibrating(getattr(request, "calibration_precision", "exact")):
        where, result = work()
    return Run(
        recorded_key=request.key,
        request=request,
        created=datetime.now(UTC).replace(microsecond=0),
        seconds=time.perf_counter() - start,
        environment=where,
        result=result,
    )


# The main loop


def make_smaller(recipe: Recipe, budget: Budget, view: ModelView) -> Cut:
    """Carry a recipe out within a budget: decide and apply, step by step.

    Gives what was made, and the seconds that deciding took beside the profile.
    """
    recipe, searching = with_best_shares(recipe, budget, view)
    return carry_on(recipe.steps, budget, view, Cut(Made(view.model), searching))


def carry_on(steps: Sequence[Step], budget: Budget, view: ModelView, begun: Cut) -> Cut:
    """Decide and apply further steps behind what others made."""
    made, deciding = begun
    for step in steps:
        with view.timing() as seconds:
            plan = step.decide(view, budget, made)
            deciding += seconds()
        made = replace(step.apply(view, plan, made), line=made.line + _line([step], budget))
    return Cut(made, deciding)


def _line(steps: Sequence[Step], budget: Budget) -> str:
    return "".join(f" | {step.key} {budget.line}" for step in steps)


def _cut_and_healed(trial: Trial, budget: Budget, view: ModelView, cuts: Cuts | None) -> Cut:
    """Do what ``make_smaller`` does; what is cut is kept among the ``cuts``, or was before."""
    if cuts is None:
        return make_smaller(trial.recipe, budget, view)
    first = cutting(trial.recipe)
    if (cut := cuts.find(trial)) is None:
        begun, mending = cuts.find_unrepaired(trial), first[-1].mending if first else None
        if begun and mending:
            made = replace(mending.repair(view, begun.made), line=_line(first, budget))
            cut = begun._replace(made=made)
        else:
            cut = make_smaller(Recipe(steps=first), budget, view)
        cuts.keep(trial, cut)
    return carry_on(trial.recipe.steps[len(first) :], budget, view, cut)


def _run_trial(
    trial: Trial, view: ModelView, judge: Judge, keep: Keep | None = None, cuts: Cuts | None = None
) -> TrialResult:
    made = deciding = None
    if trial.budget is not None:
        with jittered(trial.jitter):
            made, seconds = _cut_and_healed(trial, trial.budget, view, cuts)
        deciding = seconds or None  # nothing was measured for it
    measurement = judge.measure(trial, made, deciding)
    if keep and made:
        keep(made, measurement)
    del made
    free_memory()
    return TrialResult(
        profile=view.profile,
        shape=view.shape,
        measurement=measurement,
        calibration=judge.calibration,
        evaluation=judge.evaluated,
    )


def open_view(
    request: Calibrated, opened: OpenModel, progress: Progress, folder: Path | None = None, lens: bool = False
) -> ModelView:
    """Draw the calibration windows and look at the model, which is profiled when it is asked for.

    The details of the profile go into ``folder``, with the logit lens where that is asked for.
    """
    if request.profile_windows > request.calibration_windows or request.profile_windows < 1:
        raise PlanError(
            f"The profile is to use {request.profile_windows} of the {request.calibration_windows} "
            "calibration windows: choose a number from 1 to all of them."
        )

    def measure_profile(progress: Progress) -> LayerProfile:
        return look(request, opened, windows[: request.profile_windows], progress, folder, lens)

    def make_search(asked: SearchRequest) -> Run:
        result = partial(search_shares, asked, open_view(asked, opened, progress), progress)
        with jittered(0):  # trials with and without noise share its run
            return store_run(asked, lambda _: _made(asked, lambda: (environment(opened.model), result())))

    def searched(plan: Plan) -> tuple[tuple[float, ...], float]:
        run = find_shares(search_request(request, plan), opened, make_search)
        assert run.result.kind == "search"
        return run.result.shares, run.seconds

    check_calibration(request.calibration_precision, opened.model)
    progress("Reading text", 0, 1)
    drawn = (request.window_length, request.calibration_windows, request.seed)
    windows = token_windows(request.calibration, opened.tokenizer, *drawn)
    progress("Reading text", 1, 1)
    return ModelView(
        opened.model,
        windows,
        profile_windows=request.profile_windows,
        progress=progress,
        measure_profile=measure_profile,
        find_precision=lambda: safe_precision(request.model, windows, opened.model),
        search=searched,
        draw_more=lambda count: search_windows(request, opened.tokenizer, count),
        healing_windows=lambda: healing_examples(request, opened.tokenizer),
        seed=request.seed,
        key=training_key(request, windows),
    )


def check_recipe(recipe: Recipe, budget: Budget, view: ModelView) -> None:
    """Refuse what this model cannot give, before any work (``PlanError``, ``OutOfMemoryError``)."""
    for step in recipe.steps:
        step.check(view, budget)
    if len(recipe.cutting) == 1:  # of more, the later ones meet a smaller model
        recipe.cutting[0].refuse_unless_it_fits(view, budget)


# One maker for each kind of request


def _search(request: SearchRequest, opened: OpenModel, progress: Progress, folder: Path) -> SearchResult:
    view = open_view(request, opened, progress)
    (recipe,) = request.recipes_used()
    check_recipe(recipe, Budget(amount=request.plan.target), view)
    return search_shares(request, view, progress)


def _compress(
    request: CompressRequest, opened: OpenModel, progress: Progress, folder: Path
) -> CompressResult:
    view = open_view(request, opened, progress, folder)
    check_recipe(request.recipe, request.budget, view)
    profile = view.profile
    made, deciding = make_smaller(request.recipe, request.budget, view)
    precision = request.calibration_precision
    calibration = used(request.calibration, view.windows, opened.model, precision=precision)
    dense, smaller = evaluated(request, opened, made, progress)
    reason = why_not_sliceable(opened.model.config)
    shape = None if reason else view.shape
    parameters, dense_parameters = count_parameters(made.model), count_parameters(opened.model)
    plain = save_made(
        made,
        opened,
        folder / MODEL_FOLDER,
        request.recipe.short_title,
        made_from=request.model.label,
        calibration=calibration,
        numbers=(*(each.told for each in made.healed), *card_numbers(request.evaluation, dense, smaller)),
        warnings=request.warnings(shape) + profile.warnings() + made.warnings,
        progress=progress,
    )
    return CompressResult(
        profile=view.profile,
        shape=shape,
        not_sliceable=reason,
        schedule=made.sliced.schedule if made.sliced else None,
        plain=plain,
        discarded=made.sliced.discarded if made.sliced else None,
        deciding_seconds=deciding or None,
        **{name: getattr(made, name) for name in CompressResult.of_made},
        calibration=calibration,
        dense=dense,
        smaller=smaller,
        parameters=parameters,
        dense_parameters=dense_parameters,
    )


class Trials:
    """Trials on one model, one after the other; those that share calibration and profile share a view."""

    def __init__(self, opened: OpenModel, progress: Progress = no_progress, cuts: Cuts | None = None) -> None:
        self.opened, self.progress, self.cuts = opened, progress, cuts
        self._view: tuple[str, ModelView] | None = None
        self._judge: tuple[str, Judge] | None = None

    def view(self, trial: Trial, folder: Path | None = None, lens: bool = False) -> tuple[ModelView, Judge]:
        """The view of a trial and its judge; details of the profile go into ``folder``."""
        if self._view is None or self._view[0] != trial.calibration_key:
            self._view = self._judge = None  # and its windows, bases and answers go
            self._view = trial.calibration_key, open_view(trial, self.opened, self.progress, folder, lens)
        view = self._view[1]
        if self._judge is None or self._judge[0] != trial.view_key:
            self._judge = trial.view_key, Judge(trial, self.opened, view)
        view.listener, view.shares = self.progress, self.cuts is not None
        # Trials that heal on a text of their own share what was measured with those that do not.
        view.healing_windows = partial(healing_examples, trial, self.opened.tokenizer)
        view.key = training_key(trial, view.windows)
        return view, self._judge[1]

    def make(self, trial: Trial, keep: Keep | None = None) -> Run:
        """Make the run of a trial, and store nothing; ``keep`` gets what was made before it goes."""

        def work() -> tuple[Environment, TrialResult]:
            made = _run_trial(trial, *self.view(trial), keep, self.cuts)
            return environment(self.opened.model), made

        return _made(trial, work)

    def stored(self, trial: Trial) -> Run | None:
        """Find the stored run of a trial, where there is one that saw the windows of today."""
        return stored_trial(trial, self.opened)

    def run(self, trial: Trial, keep: Keep | None = None) -> Run:
        """Give the stored run of a trial, or else make and store one."""
        return self.stored(trial) or self.again(trial, keep)

    def again(self, trial: Trial, keep: Keep | None = None) -> Run:
        """Make the run of a trial, also where there is one, and store it."""
        run = self.make(trial, keep)
        keep_run(run)
        return run

    def has_cut(self, trial: Trial) -> bool:
        """Tell whether what a trial cuts is kept."""
        return self.cuts is not None and self.cuts.find(trial) is not None

    def keep_cuts_of(self, trials: Collection[Trial]) -> None:
        """Forget the models that none of these begins with."""
        if self.cuts is not None:
            self.cuts.keep_only(trials)

    def check(self, trial: Trial) -> None:
        """Refuse what this model cannot give of a smaller one, before any work."""
        if trial.budget is not None:
            check_recipe(trial.recipe, trial.budget, self.view(trial)[0])


def stored_trial(trial: Trial, opened: OpenModel) -> Run | None:
    """Find the stored run of a trial, if it saw the windows of today: a text can change meanwhile."""
    run = find_stored(trial)
    if run is None or run.result.kind != "trial":
        return None
    length = trial.window_length
    calibrated = (length, trial.calibration_windows, trial.seed)
    today = (
        digest(token_windows(trial.calibration, opened.tokenizer, *calibrated)),
        digest(judged_windows(trial, opened.tokenizer)),
    )
    return run if today == (run.result.calibration.digest, run.result.evaluation.digest) else None


def _trial(trial: Trial, opened: OpenModel, progress: Progress, folder: Path) -> TrialResult:
    view, judge = Trials(opened, progress).view(trial, folder)
    if trial.budget is not None:
        check_recipe(trial.recipe, trial.budget, view)
    return _run_trial(trial, view, judge)


def _study(study: Study, opened: OpenModel, progress: Progress, folder: Path) -> StudyResult:
    """The outcomes of all trials in order, with the first one's profile and the scores measured for it."""
    _refuse_impossible(study, opened)
    trials, wanted, matches = Trials(opened, progress, Cuts()), study.trials(), study.matches()
    first, judge = trials.view(wanted[0], folder, study.lens)
    profile, shape, texts = first.profile, first.shape, (judge.calibration, judge.evaluated)
    total = len(wanted) + len(matches)
    found: dict[str, Measurement] = {}

    def measured(trial: Trial, name: str) -> Measurement:
        nonlocal profile
        trials.progress = _telling(study, progress, name, len(found), total)
        trials.progress("Trials", 0, 1)
        result = trials.run(trial).result
        assert result.kind == "trial"
        if trial.view_key == wanted[0].view_key:
            profile = first.profile  # with what trials have measured
        return result.measurement

    ordered = by_view(wanted)
    for place, trial in enumerate(ordered):
        trials.keep_cuts_of(ordered[place:])
        found[trial.key] = measured(trial, trial.short)
    again = []
    for trial in matches:
        match = study.matched_trial(trial, found[trial.key].parameters)
        again.append(found.get(match.key) or measured(match, f"{study.baseline.short}-matched"))
    if not study.told_singly:
        progress("Trials", total, total)
    return StudyResult(
        profile=profile,
        shape=shape,
        measurements=tuple(found[trial.key] for trial in wanted),
        matched=tuple(again),
        calibration=texts[0],
        evaluation=texts[1],
    )


def _telling(study: Study, progress: Progress, name: str, begun: int, total: int) -> Progress:
    """The listener of one trial of a study: its own phases, or of many trials how many are done."""

    def tell(phase: str, done: int, of: int) -> None:
        if study.told_singly and phase != "Trials":
            progress(f"{phase} {name}", done, of)
        elif not study.told_singly:
            progress("Trials", begun, total)

    return tell


def _refuse_impossible(study: Study, opened: OpenModel) -> None:
    """Tell before any work what cannot be carried out on this model."""
    if study.tasks:
        check_tasks(study.tasks, limit=study.task_limit, include=study.task_folder)
    trials = study.trials()
    view = open_view(trials[0], opened, no_progress)
    if reason := why_not_sliceable(opened.model.config):
        raise UnsupportedError(reason)
    for trial in trials:
        if trial.budget is not None:
            check_recipe(trial.recipe, trial.budget, view)


def _shrink(request: ShrinkRequest, opened: OpenModel, progress: Progress, folder: Path) -> ShrinkResult:
    return shrink(request, Trials(opened, progress, Cuts()), folder, progress)


def _carry_out(
    request: Request, drawn: OpenModel, executor: Executor, progress: Progress
) -> tuple[Environment, StudyResult] | None:
    """Have an executor make the trials of a study that are not stored yet, and put their outcomes together.

    The model is ``drawn``: nothing is computed here, so that there are no details of the profile. ``None``
    for other requests, where the lens is asked for, and where an executor has left something undone.
    """
    if request.kind != "study":
        return None
    _refuse_impossible(request, drawn)
    found: dict[str, Run | None] = {}

    def carried(trials: Sequence[Trial]) -> bool:
        executor([each for each in by_view(trials) if not stored_trial(each, drawn)], keep_run, progress)
        found.update((each.key, stored_trial(each, drawn)) for each in trials)
        return all(found.values())

    def outcome(trial: Trial) -> TrialResult:
        run = found[trial.key]
        assert run is not None, "it was carried out"
        assert run.result.kind == "trial"
        return run.result

    wanted = request.trials()
    if not carried(wanted) or request.lens:
        return None
    again = [request.matched_trial(t, outcome(t).measurement.parameters) for t in request.matches()]
    if again and not carried(again):
        return None
    first, run = outcome(wanted[0]), found[wanted[0].key]
    assert run is not None
    alike = [outcome(trial).profile.measurements for trial in wanted if trial.view_key == wanted[0].view_key]
    probed = {name: rows for each in alike for name, rows in each.items()}
    return run.environment, StudyResult(
        profile=first.profile.model_copy(update={"measurements": {**probed, **first.profile.measurements}}),
        shape=first.shape,
        measurements=tuple(outcome(trial).measurement for trial in wanted),
        matched=tuple(outcome(trial).measurement for trial in again),
        calibration=first.calibration,
        evaluation=first.evaluation,
    )


MAKERS: dict[str, Callable[..., Any]] = {
    "profile": profile,
    "search": _search,
    "compress": _compress,
    "trial": _trial,
    "study": _study,
    "shrink": _shrink,
}
"""What makes the result of each kind of request on an open model; it may write into the run's folder."""
