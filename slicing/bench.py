"""The bench: where recipes are carried out and their runs stored.

Nothing here knows who asks: progress is a callback.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from analysis.anatomy import blocks, why_not_sliceable
from analysis.bases import Bases, BasesCollector, find_bases
from analysis.details import Details, DetailsCollector
from analysis.device import Facts, PeakMemory, Precision, free_memory, pick_device, pick_dtype, synchronise
from analysis.errors import PlanError, UnsupportedError, unknown_name
from analysis.evaluate import (
    batch_size,
    batch_tokens,
    check_windows,
    continue_text,
    perplexity,
    safe_precision,
)
from analysis.lens import logit_lens
from analysis.needs import MemoryNeed, refuse_unless_it_fits
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.scores import find_score
from analysis.shape import ModelShape
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel, fetch_missing, outline, require_plain_weights
from analysis.sources.text import TextSource
from analysis.sources.windows import Passage, passages, token_windows
from analysis.speed import NEW_TOKENS, PROMPT_TOKENS, compare_speed
from analysis.storage import require_space
from analysis.tasks import TaskScore, check_tasks, evaluate_tasks
from analysis.values import Progress, no_progress
from slicing.allocation import Fractions, Searched
from slicing.depth.layout import Layout
from slicing.depth.memory import refuse_unless_removal_fits
from slicing.depth.operator import reduce_blocks
from slicing.depth.reduce import ReducedModel, reduce_model
from slicing.depth.survey import Survey
from slicing.guard import refuse_unless_invariant
from slicing.memory import preview_need, slicing_need
from slicing.plan import Plan
from slicing.probes import CURVES, FRACTIONS, NEED_SLICING, PROBES, USUAL, Probing
from slicing.repair import Repair, held_out
from slicing.repairs import find_repair
from slicing.repairs.writers import followed
from slicing.runs import (
    SHARES,
    Calibrated,
    CompareRecipe,
    CompareResult,
    Contestant,
    ContestRecipe,
    ContestResult,
    Environment,
    Equal,
    Evaluated,
    LeaderboardRecipe,
    LeaderboardResult,
    ProfileRecipe,
    ProfileResult,
    Recipe,
    Removal,
    RemoveRecipe,
    RemoveResult,
    Run,
    SearchRecipe,
    SearchResult,
    SliceRecipe,
    SliceResult,
    SweepRecipe,
    SweepResult,
    TextUsed,
    TrialRecipe,
    TrialResult,
    TrialsResult,
)
from slicing.schedule import SlicingSchedule, constant_at_parameters
from slicing.search import SearchLog, search
from slicing.slicer import (
    SlicedModel,
    recut,
    refuse_unless_slicing_fits,
    slice_model,
)
from slicing.store import open_model, save_reduced, save_sliced
from slicing.study.store import (
    BASES_FILE,
    DETAILS_FILE,
    MODEL_FOLDER,
    find_stored,
    keep_run,
    store_run,
)


def memory_need(
    recipe: SliceRecipe | CompareRecipe, shape: ModelShape, told: Facts | None = None
) -> MemoryNeed:
    """What slicing will take at its peak, told before the job; constant slicing stands for the plan.

    What is ``told`` of the device is not asked.
    """
    # On the host dtype auto is float32; on an accelerator it is a 16-bit one.
    device = pick_device(recipe.model.device)
    itemsize = pick_dtype(recipe.model.dtype, device, None, told).itemsize
    constant = recipe.plan.constant(shape)
    if recipe.method == "preview":
        return preview_need(shape, constant, itemsize)
    tokens = recipe.calibration_windows * recipe.window_length
    batch = min(tokens, max(batch_tokens(device, told), recipe.window_length))
    return slicing_need(shape, constant, tokens, batch, itemsize, recipe.repair)


Opener = Callable[[ModelSource], OpenModel]


_START = (("Opening", 0.0), ("Reading text", 0.0))


def phases(recipe: Recipe) -> tuple[tuple[str, float], ...]:
    """The phases of a job in order, each with its share of the work, for a time left that is honest.

    The unit is one token through the decoder; evaluation adds the head, slicing the bases.
    """
    if isinstance(recipe, ProfileRecipe):
        tokens = recipe.windows * recipe.window_length
        steps = [*_START, ("Profiling", tokens)]
        if recipe.lens:
            steps.append(("Looking through the head", 10.0 * tokens))  # the head once for every block
        steps += [("Finding bases", 800.0)] if recipe.bases else []
        if passing := [name for name in recipe.probes if name in ("leave-one-out", "slice-one")]:
            steps.append(("Probing", 20.0 * len(passing) * tokens))
        return tuple(steps)
    if isinstance(recipe, SearchRecipe):
        return (
            *_START,
            ("Finding bases", 1.2 * recipe.calibration_windows * recipe.window_length),
            ("Searching", 9e4),
        )
    profile = ("Profiling", 1.0 * recipe.profile_windows * recipe.window_length)
    slicing = (9.0 if recipe.repair else 2.0) * recipe.calibration_windows * recipe.window_length
    steps: list[tuple[str, float]] = [*_START, profile]
    if recipe.method == "preview":
        steps.append(("Finding bases", 1.2 * recipe.calibration_windows * recipe.window_length))
        slicing = 500.0  # the products with the weights; no token passes
    evaluating = 1.0 * recipe.evaluation_windows * recipe.window_length
    if isinstance(recipe, SliceRecipe):
        steps.append(("Slicing", slicing))
        if recipe.evaluation is not None:
            steps += [("Evaluating dense", evaluating), ("Evaluating sliced", evaluating)]
        return (*steps, ("Saving", 0.0))
    if isinstance(recipe, RemoveRecipe):
        closing = 0.0 if recipe.removal.closing == "none" else slicing
        steps += [("Trying", 20.0 * recipe.search_windows * recipe.window_length), ("Closing gaps", closing)]
        if recipe.evaluation is not None:
            steps += [("Evaluating dense", evaluating), ("Evaluating reduced", evaluating)]
        return (*steps, ("Saving", 0.0))
    if isinstance(recipe, TrialRecipe):
        return (*steps, *_own_phases(recipe, slicing, evaluating))
    if isinstance(recipe, SweepRecipe | ContestRecipe | LeaderboardRecipe):
        shared = {name for name, _ in steps}
        each = (step for trial in recipe.trials() for step in phases(trial) if step[0] not in shared)
        return (*steps, ("Trials", sum(weight for _, weight in each)))
    told = len(recipe.tasks) * 300.0 * (recipe.task_limit or 1000)  # a guess: tasks differ
    # Of the time for timing: a prompt and some tokens, by two models.
    timing = 2.0 * recipe.speed_rounds * (PROMPT_TOKENS + 20 * NEW_TOKENS)
    steps += [("Slicing constant", slicing), ("Evaluating dense", evaluating)]
    steps += [("Tasks by dense", told)] if told else []
    for name in ("constant", recipe.planned, "constant-matched"):
        steps += [] if name == "constant" else [(f"Slicing {name}", slicing)]
        steps += [(f"Evaluating {name}", evaluating)]
        steps += [(f"Tasks by {name}", told)] if told else []
        steps += [(f"Timing {name}", timing)] if recipe.speed_rounds else []
    return tuple(steps)


def _own_phases(recipe: TrialRecipe, slicing: float, evaluating: float) -> Iterator[tuple[str, float]]:
    """What a trial does beside what it shares with others."""
    if recipe.removal:
        tried = 20.0 * recipe.search_windows * recipe.window_length
        yield "Trying", tried if recipe.removal.rule().tries else 0.0
        if recipe.plan is None and recipe.removal.closing != "none":
            yield "Closing gaps", slicing
    if recipe.plan:
        yield "Slicing", slicing
    yield "Evaluating", (1 + (recipe.other is not None)) * evaluating


Executor = Callable[[Sequence[TrialRecipe], Callable[[Run], None], Progress], None]
"""Carries trials out elsewhere, and hands over every run once it is made, in whatever order."""


def fetch_for(recipe: Recipe, progress: Progress = no_progress, asks: bool = True) -> None:
    """Fetch the model of a recipe where it is not here; what its weights are no good for is told before.

    ``asks``: whether this process may ask the device; see ``fetch_missing``.
    """
    if recipe.changes_weights:
        require_plain_weights(recipe.model)
    fetch_missing(recipe.model, progress, asks)


def perform(
    recipe: Recipe,
    progress: Progress = no_progress,
    opener: Opener = open_model,
    executor: Executor | None = None,
) -> Run:
    """Do what the recipe says and store the run, whole or not at all.

    A run of the same recipe is replaced; the trials of a sweep or contest that are stored already are not
    made again, and with an ``executor`` the others are carried out by that. Raises the errors of what it
    does, and ``StorageError`` before any work when the runs folder cannot be written.
    """

    def work(folder: Path) -> tuple[OpenModel, Any]:
        if opener is open_model:  # another opener has the model already
            fetch_for(recipe, progress)
        many = recipe if isinstance(recipe, SweepRecipe | ContestRecipe | LeaderboardRecipe) else None
        if many and executor:  # which has the devices to itself: the model is opened here when it is done
            drawn = outline(recipe.model) if opener is open_model else opener(recipe.model)
            _refuse_impossible(many, drawn)
            missing = [trial for trial in many.trials() if not _stored_trial(trial, drawn)]
            executor(missing, keep_run, progress)
            del drawn
        progress("Opening", 0, 1)
        opened = opener(recipe.model)
        progress("Opening", 1, 1)
        if many and not executor:
            _refuse_impossible(many, opened)
        return opened, makers[type(recipe)](recipe, opened, progress, folder)

    makers: dict[type, Callable[..., Any]] = {
        ProfileRecipe: _profile,
        SliceRecipe: _slice,
        CompareRecipe: _compare,
        TrialRecipe: _trial,
        SearchRecipe: lambda recipe, opened, progress, _: _search(recipe, opened, progress),
        SweepRecipe: partial(_all_trials, SweepResult),
        ContestRecipe: _contest,
        LeaderboardRecipe: _leaderboard,
        RemoveRecipe: _remove,
    }
    return _stored(recipe, work)


def _stored(recipe: Recipe, work: Callable[[Path], tuple[OpenModel, Any]]) -> Run:
    """Do ``work`` in the run's folder, which it gets to write into, and store the run with its outcome."""
    return store_run(recipe, lambda folder: _made(recipe, lambda: work(folder)))


def _made(recipe: Recipe, work: Callable[[], tuple[OpenModel, Any]]) -> Run:
    start = time.perf_counter()
    opened, result = work()
    return Run(
        recorded_key=recipe.key,
        recipe=recipe,
        created=datetime.now(UTC).replace(microsecond=0),
        seconds=time.perf_counter() - start,
        environment=_environment(opened.model),
        result=result,
    )


def _profile(recipe: ProfileRecipe, opened: OpenModel, progress: Progress, folder: Path) -> ProfileResult:
    reason = why_not_sliceable(opened.model.config)
    progress("Reading text", 0, 1)
    drawn = recipe.drawn or recipe.windows
    windows = token_windows(recipe.text, opened.tokenizer, recipe.window_length, drawn, recipe.seed)
    windows = windows[: recipe.windows]
    progress("Reading text", 1, 1)
    for name in recipe.probes:
        if name not in PROBES:
            raise PlanError(unknown_name("probe", name, PROBES))
        if reason and name in NEED_SLICING:
            raise UnsupportedError(f"The probe '{name}' slices blocks. {reason}")
    needed = recipe.bases or any(name in NEED_SLICING for name in recipe.probes)
    collector = BasesCollector(opened.model) if needed and not reason else None
    details = DetailsCollector(opened.model, windows)
    profile = profile_blocks(
        opened.model,
        windows,
        model_label=recipe.model.label,
        text_label=recipe.text.label,
        progress=progress,
        bases=collector,
        details=details,
    )
    found = details.details(opened.tokenizer)
    if recipe.lens:
        found = _through_lens(found, recipe.model, opened.model, windows, progress)
    found.save(folder / DETAILS_FILE)
    bases: Any = None
    if collector is not None:
        progress("Finding bases", 0, 1)
        bases = collector.bases()
        if recipe.bases:
            require_space(folder, bases.bytes)
            bases.save(folder / BASES_FILE)
        progress("Finding bases", 1, 1)
    if recipe.probes:
        precision = safe_precision(recipe.model, windows, opened.model)
        probing = Probing(opened.model, windows, lambda: bases, progress, precision)
        for name in recipe.probes:
            profile = profile.with_probed(name, PROBES[name](probing))
    return ProfileResult(
        profile=profile,
        shape=None if reason else read_shape(opened.model),
        not_sliceable=reason,
        text=_used(recipe.text, windows, opened.model),
        bases=collector is not None and recipe.bases,
    )


def _through_lens(
    details: Details, source: ModelSource, model: Any, windows: Tensor, progress: Progress
) -> Details:
    """The details with the logit lens on all windows."""
    precision = safe_precision(source, windows, model)
    lens = logit_lens(model, windows, progress, precision)
    return details._replace(lens=lens.astype(np.float32))


class _Bench:
    """What slicing, comparing and trials share: windows, profile, bases, and how a model is judged."""

    def __init__(
        self,
        recipe: Calibrated,
        opened: OpenModel,
        progress: Progress,
        *plans: Plan,
        slices: bool = True,
    ) -> None:
        if recipe.profile_windows > recipe.calibration_windows or recipe.profile_windows < 1:
            raise PlanError(
                f"The profile is to use {recipe.profile_windows} of the {recipe.calibration_windows} "
                "calibration windows: choose a number from 1 to all of them."
            )
        self.recipe, self.opened, self.model, self.progress = recipe, opened, opened.model, progress
        if slices:
            if reason := why_not_sliceable(opened.model.config):
                raise UnsupportedError(reason)
            self.shape = read_shape(opened.model)
        # An impossible plan is told before the work begins.
        for plan in plans:
            find_score(plan.score)
            plan.check_fits(self.shape)
            if plan.allocation == "water-filling" and "at" not in plan.settings and plan.score not in CURVES:
                raise PlanError(unknown_name("score with curves", plan.score, CURVES))
        progress("Reading text", 0, 1)
        self.windows = self.draw(recipe.calibration_windows)
        self.evaluation = self.other = None
        evaluation = getattr(recipe, "evaluation", None)
        if evaluation is not None:
            self.evaluation = self._first(evaluation)
        if getattr(recipe, "other", None) is not None:
            self.other = self._first(recipe.other)  # type: ignore[attr-defined]
        progress("Reading text", 1, 1)
        for plan in plans:
            self._refuse_unless_it_fits(plan)
        self.deciding: dict[str, float] = {}
        """Seconds that every probe and search took."""
        self.measured: dict[str, Any] = {}
        """Curves and searched shares."""
        self.surveys: dict[int, Survey] = {}
        """What methods of removal asked, by the number of windows that it was measured on."""

    def _refuse_unless_it_fits(self, plan: Plan) -> None:
        """Tell before the work begins what would not fit at its end; constant slicing stands for the plan."""
        constant, model, recipe = plan.constant(self.shape), self.model, self.recipe
        if getattr(recipe, "removal", None):  # then it is a smaller model that is sliced
            return
        if recipe.method == "faithful":
            refuse_unless_slicing_fits(model, constant, self.windows, recipe.repair)
            return
        BasesCollector(model).refuse_unless_they_fit(self.windows)
        refuse_unless_it_fits("Previewing", model, preview_need(self.shape, constant, model.dtype.itemsize))

    def draw(self, count: int, skip: int = 0) -> Tensor:
        """Windows of the calibration text, (count, T), after the first ``skip`` of the draw."""
        recipe = self.recipe
        return token_windows(
            recipe.calibration, self.opened.tokenizer, recipe.window_length, count, recipe.seed, skip
        )

    def _first(self, text: TextSource) -> Tensor:
        recipe: Any = self.recipe
        windows = token_windows(text, self.opened.tokenizer, recipe.window_length, recipe.evaluation_windows)
        check_windows(self.model, windows)
        return windows

    def measure(self, folder: Path | None, lens: bool = False) -> None:
        """Profile the model, its details into ``folder``, with the logit lens where that is asked for; for
        previews find the bases as well.
        """
        windows = self.windows[: self.recipe.profile_windows]
        details = DetailsCollector(self.model, windows) if folder else None
        self.profile = profile_blocks(
            self.model,
            windows,
            model_label=self.recipe.model.label,
            text_label=self.recipe.calibration.label,
            progress=self.progress,
            details=details,
        )
        if folder and details:
            found = details.details(self.opened.tokenizer)
            if lens:
                found = _through_lens(found, self.recipe.model, self.model, windows, self.progress)
            found.save(folder / DETAILS_FILE)
        if self.recipe.method == "preview":
            self.bases  # noqa: B018 (found now, so that the time left is told rightly)

    @cached_property
    def bases(self) -> Bases:
        """The bases of the dense stream on all calibration windows."""
        return find_bases(self.model, self.windows, self.progress)

    @cached_property
    def probing(self) -> Probing:
        """What probes need: they look at the windows of the profile."""
        windows = self.windows[: self.recipe.profile_windows]
        return Probing(
            self.model,
            windows,
            lambda: self.bases,
            lambda *step: self.progress(*step),
            safe_precision(self.recipe.model, windows, self.model),
        )

    def survey(self, search_windows: int) -> Survey:
        """What methods of removal ask."""
        if search_windows not in self.surveys:
            windows = self.windows[:search_windows]
            self.surveys[search_windows] = Survey(
                self.model,
                windows,
                self.profile,
                lambda *step: self.progress(*step),
                safe_precision(self.recipe.model, windows, self.model),
            )
        return self.surveys[search_windows]

    def layout(self, removal: Removal, count: int, search_windows: int) -> tuple[Layout, float]:
        """The layout without ``count`` blocks, and the seconds that deciding on it takes."""
        survey = self.survey(search_windows)
        with survey.timing() as seconds:
            layout = removal.rule()(survey, count)
            return layout, seconds()

    def check(self, trial: TrialRecipe) -> None:
        """Refuse what this model cannot give, before any work (``PlanError``)."""
        if trial.repair or (trial.removal and trial.removal.closing != "none"):
            held_out(trial.calibration_windows)
        if trial.fewer is None:
            return
        count, _ = self.budget(trial.fewer)
        if trial.removal:
            share = trial.removal.share
            whole = trial.removal.whole_blocks(count, max(SHARES) if share == "search" else share)
            trial.removal.rule().check(self.shape.block_count, whole)

    def budget(self, fewer: float) -> tuple[int, int]:
        """Of a share of the parameters: the nearest number of whole blocks, and what a model without so many
        has. Blocks are taken to be alike; ``PlanError`` where that is no block, or all.
        """
        shape = self.shape
        each = sum(shape.block_parameters(block) for block in range(shape.block_count)) / shape.block_count
        count = round(fewer * shape.parameters / each)
        if not 1 <= count < shape.block_count:
            raise PlanError(
                f"{fewer:.0%} of the {shape.parameters:,} parameters is {count} of the {shape.block_count} "
                f"blocks: choose a share from {each / shape.parameters:.1%} to "
                f"{(shape.block_count - 1) * each / shape.parameters:.0%}."
            )
        return count, round(shape.parameters - count * each)

    def probe(self, score: str) -> None:
        """Measure a score that takes passes of its own, unless it is there."""
        if score in PROBES and score not in self.profile.scores():
            values = self._timed(score, lambda: PROBES[score](self.probing))
            self.profile = self.profile.with_probed(score, values)

    def resolve(self, plan: Plan) -> Plan:
        """The plan with what has to be measured or searched for on this model in its settings."""
        settings: dict[str, float | tuple[float, ...]] = {}
        if plan.allocation == "water-filling" and "at" not in plan.settings:
            curves = self._curves(plan.score)
            settings = {"at": FRACTIONS, "damage": tuple(np.maximum(curves, 0.0).T.ravel().tolist())}
        elif plan.allocation == "searched" and "shares" not in plan.settings:
            settings = {"shares": self._shares(plan)}
        elif plan.rule().uses_scores:
            self.probe(plan.score)
        return plan.model_copy(update={"settings": {**plan.settings, **settings}}) if settings else plan

    def deciding_seconds(self, plan: Plan) -> float | None:
        """What measuring or searching for this plan took, beside the profile."""
        return self.deciding.get(_deciding(plan))

    def _curves(self, score: str) -> np.ndarray:
        name = f"{score} curves"
        if name not in self.measured:
            curves = self._timed(name, lambda: CURVES[score](self.probing))
            self.measured[name] = curves
            if score not in self.profile.scores():  # one point of the curves is the score
                self.profile = self.profile.with_probed(score, curves[[FRACTIONS.index(USUAL)]])
        return self.measured[name]

    def _shares(self, plan: Plan) -> tuple[float, ...]:
        shared = {name: getattr(self.recipe, name) for name in Calibrated.model_fields}
        rule = plan.rule()
        assert isinstance(rule, Searched)
        shared |= {"seed": rule.draw, "repair": False, "method": "preview"}
        recipe = SearchRecipe(**shared, plan=plan)
        name = _deciding(plan)
        if name not in self.measured:
            run = _stored_search(recipe, self.opened) or _stored(
                recipe, lambda _: (self.opened, _search(recipe, self.opened, self.progress))
            )
            assert isinstance(run.result, SearchResult)
            self.measured[name], self.deciding[name] = run.result.shares, run.seconds
        return self.measured[name]

    def _timed(self, name: str, measure: Callable[[], np.ndarray]) -> np.ndarray:
        start = time.perf_counter()
        found = measure()
        self.deciding[name] = time.perf_counter() - start
        return found

    def fractions(self, plan: Plan) -> Fractions:
        """What each block is to lose."""
        return plan.fractions(self._redundancy(plan))

    def schedule(
        self, plan: Plan, equal: Equal = "slice", size: int | None = None, layout: Layout | None = None
    ) -> SlicingSchedule:
        """The schedule of a resolved plan on this profile, for a model of ``size`` where that is given.

        With a ``layout`` it is for what that leaves of the model.
        """
        redundancy = self._redundancy(plan)
        if size is not None:
            shape = self.shape
            if layout:
                plan = _of_layout(plan, layout)
                redundancy = tuple(redundancy[top] for top in layout.tops)
                shape = shape.model_copy(update={"blocks": tuple(shape.blocks[top] for top in layout.tops)})
            if plan.published_constant:
                return constant_at_parameters(shape, size, plan.rounding, plan.form(shape))
            return plan.at_parameters(size, redundancy, shape)
        if equal == "slice":
            return plan.schedule(redundancy, self.shape)
        if plan.published_constant:
            return plan.constant(self.shape)
        size = plan.constant(self.shape).shape_after(self.shape).parameters
        return plan.at_parameters(size, redundancy, self.shape)

    def _redundancy(self, plan: Plan) -> tuple[float, ...]:
        if not plan.rule().uses_scores or plan.rule().made:
            return (0.0,) * self.shape.block_count
        return self.profile.redundancy(plan.score, plan.first_token)

    def cut(
        self, schedule: SlicingSchedule, phase: str, repair: bool = False, layout: Layout | None = None
    ) -> _Cut:
        """Slice the model to ``schedule``, or what ``layout`` leaves of it, with what that took."""
        start = time.perf_counter()
        with PeakMemory(self.model.device) as peak:
            model = reduce_blocks(self.model, layout) if layout else self.model
            if self.recipe.method == "preview":
                self.progress(phase, 0, 1)
                bases = find_bases(model, self.windows, self.progress) if layout else self.bases
                sliced = recut(model, schedule, bases)
            else:
                sliced = slice_model(
                    model,
                    schedule,
                    self.windows,
                    self.progress,
                    phase,
                    repair=repair,
                    followed=followed(self.model, layout) if layout else None,
                )
            synchronise(self.model.device)
        return _Cut(sliced.model, time.perf_counter() - start, peak.bytes, sliced.repair, sliced, layout)

    def reduce(self, layout: Layout, closing: str, phase: str) -> _Cut:
        """Take blocks out of the model and close the gaps, with what that took."""
        start = time.perf_counter()
        with PeakMemory(self.model.device) as peak:
            found = reduce_model(self.model, layout, self.windows, closing, self.progress, phase)
            synchronise(self.model.device)
        return _Cut(found.model, time.perf_counter() - start, peak.bytes, found.repair, None, layout)

    def judge(
        self, name: str, title: str, cut: _Cut | None, precision: Precision, phase: str, **extra: Any
    ) -> Contestant:
        """Evaluate the model that was made, or the dense one."""
        assert self.evaluation is not None
        model: Any = cut.model if cut else self.model
        schedule = cut.sliced.schedule if cut and cut.sliced else None
        size = count_parameters(model) if cut else self.shape.parameters
        return Contestant(
            name=name,
            title=title,
            schedule=schedule,
            layout=cut.layout if cut else None,
            mean_slice=schedule.mean_slice if schedule else 0.0,
            parameters=size,
            bytes=size * self.model.dtype.itemsize,
            flops_per_token=self._flops(cut),
            evaluation=perplexity(model, self.evaluation, self.progress, phase, precision),
            slicing_seconds=cut.seconds if cut else None,
            slicing_peak_memory=cut.peak_memory if cut else None,
            discarded=cut.sliced.discarded if cut and cut.sliced else None,
            repair=cut.repair if cut else None,
            other=None
            if self.other is None
            else perplexity(model, self.other, self.progress, f"{phase} elsewhere", precision),
            **extra,
        )

    def _flops(self, cut: _Cut | None) -> int:
        shape = self.shape
        if cut and cut.sliced:
            shape = cut.sliced.schedule.shape_after(cut.sliced.shape)
        elif cut and cut.layout:
            shape = cut.layout.shape_after(shape, getattr(cut.model.config, "bridges", None) or ())
        return shape.flops_per_token

    def texts(self) -> dict[str, Any]:
        """The windows that calibration and evaluation saw."""
        assert self.evaluation is not None
        assert isinstance(self.recipe, Evaluated)
        where = passages(self.recipe.evaluation, self.opened.tokenizer, self.evaluation)
        return {
            "calibration": _used(self.recipe.calibration, self.windows, self.model),
            "evaluation": _used(self.recipe.evaluation, self.evaluation, self.model, where),
        }


class _Cut(NamedTuple):
    model: Any
    seconds: float
    peak_memory: int
    repair: Repair | None
    sliced: SlicedModel | None = None
    layout: Layout | None = None


def count_parameters(model: Any) -> int:
    """Parameters of a model; what is shared counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _slice(recipe: SliceRecipe, opened: OpenModel, progress: Progress, folder: Path) -> SliceResult:
    bench = _Bench(recipe, opened, progress, recipe.plan)
    bench.measure(folder)
    plan = bench.resolve(recipe.plan)
    schedule = bench.schedule(plan)
    cut = bench.cut(schedule, "Slicing", recipe.repair)
    assert cut.sliced is not None
    used = _used(recipe.calibration, bench.windows, opened.model)
    dense = sliced = None
    numbers: tuple[str, ...] = ()
    if bench.evaluation is not None and recipe.evaluation is not None:
        precision = safe_precision(recipe.model, bench.evaluation, opened.model, cut.model)
        dense = perplexity(opened.model, bench.evaluation, progress, "Evaluating dense", precision)
        sliced = perplexity(cut.model, bench.evaluation, progress, "Evaluating sliced", precision)
        numbers = (
            f"Perplexity {sliced.perplexity:.2f}, dense {dense.perplexity:.2f}, on "
            f"{recipe.evaluation.label}: {sliced.protocol}.",
        )
    progress("Saving", 0, 1)
    save_sliced(
        cut.sliced,
        opened.tokenizer,
        folder / MODEL_FOLDER,
        made_from=recipe.model.label,
        calibration=f"{used.label}, {used.windows} windows of {used.window_length} tokens",
        numbers=numbers,
        warnings=recipe.warnings(bench.shape) + bench.profile.warnings(),
    )
    progress("Saving", 1, 1)
    return SliceResult(
        profile=bench.profile,
        shape=bench.shape,
        fractions=bench.fractions(plan),
        schedule=schedule,
        parameters=schedule.shape_after(bench.shape).parameters,
        discarded=cut.sliced.discarded,
        repair=cut.repair,
        seconds=cut.seconds,
        peak_memory=cut.peak_memory,
        calibration=used,
        dense=dense,
        sliced=sliced,
    )


def _remove(recipe: RemoveRecipe, opened: OpenModel, progress: Progress, folder: Path) -> RemoveResult:
    # Told before the work begins.
    recipe.removal.rule().check(len(blocks(opened.model)), recipe.blocks)
    if recipe.removal.closing != "none":
        held_out(recipe.calibration_windows)
        find_repair(recipe.removal.closing).check(opened.model)
    bench = _Bench(recipe, opened, progress, slices=False)
    some = Layout.without(len(blocks(opened.model)), range(1, recipe.blocks + 1))  # which is not known yet
    refuse_unless_removal_fits(opened.model, some, bench.windows, recipe.removal.closing)
    bench.measure(folder)
    layout, deciding = bench.layout(recipe.removal, recipe.blocks, recipe.search_windows)
    cut = bench.reduce(layout, recipe.removal.closing, "Closing gaps")
    used = _used(recipe.calibration, bench.windows, opened.model)
    dense = reduced = None
    numbers: tuple[str, ...] = ()
    if bench.evaluation is not None and recipe.evaluation is not None:
        precision = safe_precision(recipe.model, bench.evaluation, opened.model, cut.model)
        dense = perplexity(opened.model, bench.evaluation, progress, "Evaluating dense", precision)
        reduced = perplexity(cut.model, bench.evaluation, progress, "Evaluating reduced", precision)
        numbers = (
            f"Perplexity {reduced.perplexity:.2f}, dense {dense.perplexity:.2f}, on "
            f"{recipe.evaluation.label}: {reduced.protocol}.",
        )
    progress("Saving", 0, 1)
    made = ReducedModel(cut.model, layout, cut.repair)
    reason = why_not_sliceable(opened.model.config)
    shape = None if reason else read_shape(opened.model)
    save_reduced(
        made,
        opened.tokenizer,
        folder / MODEL_FOLDER,
        made_from=recipe.model.label,
        method=recipe.removal.rule().title,
        dense_parameters=count_parameters(opened.model),
        calibration=f"{used.label}, {used.windows} windows of {used.window_length} tokens",
        numbers=numbers,
        warnings=recipe.warnings(shape) + bench.profile.warnings(),
    )
    progress("Saving", 1, 1)
    return RemoveResult(
        profile=bench.profile,
        shape=shape,
        not_sliceable=reason,
        layout=layout,
        parameters=count_parameters(cut.model),
        dense_parameters=count_parameters(opened.model),
        plain=made.plain,
        repair=cut.repair,
        deciding_seconds=deciding,
        seconds=cut.seconds,
        calibration=used,
        dense=dense,
        reduced=reduced,
    )


def _compare(recipe: CompareRecipe, opened: OpenModel, progress: Progress, folder: Path) -> CompareResult:
    if recipe.tasks:  # before the work begins
        check_tasks(recipe.tasks, limit=recipe.task_limit, include=recipe.task_folder)
    bench = _Bench(recipe, opened, progress, recipe.plan)
    bench.measure(folder, recipe.lens)
    assert bench.evaluation is not None
    plan, shape, evaluation = bench.resolve(recipe.plan), bench.shape, bench.evaluation

    def judge(name: str, title: str, cut: _Cut | None) -> Contestant:
        model: Any = cut.model if cut else opened.model
        sample = speed = None
        if recipe.new_tokens:
            sample = continue_text(OpenModel(model, opened.tokenizer), recipe.prompt, recipe.new_tokens)
        judged = bench.judge(name, title, cut, precision, f"Evaluating {name}", sample=sample)
        tasks: tuple[TaskScore, ...] = ()
        if recipe.tasks:
            progress(f"Tasks by {name}", 0, 1)
            tasks = evaluate_tasks(
                OpenModel(model, opened.tokenizer),
                recipe.tasks,
                limit=recipe.task_limit,
                include=recipe.task_folder,
            )
            progress(f"Tasks by {name}", 1, 1)
        if cut and recipe.speed_rounds:
            speed = compare_speed(
                "dense", opened.model, model, evaluation, recipe.speed_rounds, progress, f"Timing {name}"
            )
        return judged.model_copy(update={"speed": speed, "tasks": tasks})

    made: dict[SlicingSchedule, Contestant] = {}

    def slice_and_judge(name: str, title: str, schedule: SlicingSchedule) -> Contestant:
        if schedule in made:  # such as SB = SP, which is constant slicing
            return made[schedule].model_copy(update={"name": name, "title": title})
        cut = bench.cut(schedule, f"Slicing {name}", recipe.repair)
        made[schedule] = judge(name, title, cut)
        del cut  # before the next one is sliced
        free_memory()
        return made[schedule]

    planned, schedule = recipe.planned, bench.schedule(plan)
    title = plan.rule().title if planned == plan.allocation else planned.capitalize()
    equal_slice = plan.constant(shape)
    equal_size = plan.constant_at_parameters_of(schedule, shape)
    first = bench.cut(equal_slice, "Slicing constant", recipe.repair)
    # One precision for all contestants: fast only where it is safe for the dense model and a sliced one.
    precision: Precision = safe_precision(recipe.model, evaluation, opened.model, first.model)
    dense = judge("dense", "Dense", None)
    constant = made[equal_slice] = judge("constant", "Constant", first)
    del first
    free_memory()
    dynamic = slice_and_judge(planned, title, schedule)
    matched = slice_and_judge("constant-matched", "Constant, equal parameters", equal_size)
    everyone = {each.name: each for each in (dense, constant, dynamic, matched)}
    return CompareResult(
        profile=bench.profile,
        shape=shape,
        fractions=bench.fractions(plan),
        contestants=tuple(everyone.values()),
        **bench.texts(),
    )


def _trial(recipe: TrialRecipe, opened: OpenModel, progress: Progress, folder: Path) -> TrialResult:
    bench = _Bench(recipe, opened, progress, *([recipe.plan] if recipe.plan else []))
    bench.measure(folder)
    return _tried(recipe, bench)


def _tried(recipe: TrialRecipe, bench: _Bench) -> TrialResult:
    """The outcome of a trial on a bench that has measured."""
    assert bench.evaluation is not None
    # By the dense model alone, so that the answer is the same for all trials that are to be compared.
    precision = safe_precision(recipe.model, bench.evaluation, bench.model)
    cut, deciding = None, None
    name, title = "dense", "Dense"
    if recipe.removal or recipe.plan:
        cut, deciding, name, title = _made_smaller(recipe, bench)
    contestant = bench.judge(name, title, cut, precision, "Evaluating", deciding_seconds=deciding)
    model: Any = cut.model if cut else bench.model
    more: dict[str, Any] = {}
    if recipe.tasks:
        more["tasks"] = evaluate_tasks(
            OpenModel(model, bench.opened.tokenizer),
            recipe.tasks,
            limit=recipe.task_limit,
            include=recipe.task_folder,
        )
    if cut and recipe.speed_rounds:
        more["speed"] = compare_speed(
            "dense", bench.model, model, bench.evaluation, recipe.speed_rounds, bench.progress, "Timing"
        )
    del cut, model
    free_memory()
    return TrialResult(
        profile=bench.profile,
        shape=bench.shape,
        contestant=contestant.model_copy(update=more),
        **bench.texts(),
    )


def _made_smaller(recipe: TrialRecipe, bench: _Bench) -> tuple[_Cut, float | None, str, str]:
    """The model of a trial, the seconds of deciding, its name and title."""
    count, size = (None, None) if recipe.fewer is None else bench.budget(recipe.fewer)
    layout: Layout | None = None
    seconds: list[float] = []
    names, titles = [], []
    if recipe.removal:
        assert count is not None
        assert size is not None
        rule = recipe.removal.rule()
        share, searching = recipe.removal.share, 0.0
        if share == "search":
            share, searching = _best_share(recipe, bench, count, size)
        whole = recipe.removal.whole_blocks(count, share)
        layout, spent = bench.layout(recipe.removal, whole, recipe.search_windows)
        names, titles, seconds = [rule.name], [rule.title], [spent + searching]
    if recipe.plan is None:
        assert layout is not None
        assert recipe.removal is not None
        cut = bench.reduce(layout, recipe.removal.closing, "Closing gaps")
    else:
        plan = bench.resolve(recipe.plan)
        cut = bench.cut(bench.schedule(plan, recipe.equal, size, layout), "Slicing", recipe.repair, layout)
        names, titles = [*names, plan.allocation], [*titles, plan.rule().title]
        if (spent := bench.deciding_seconds(recipe.plan)) is not None:
            seconds.append(spent)
    return cut, sum(seconds) if seconds else None, "/".join(names), ", ".join(titles)


def _best_share(recipe: TrialRecipe, bench: _Bench, count: int, size: int) -> tuple[float, float]:
    """The share in whole blocks whose preview loses least on windows of its own, and the seconds of the
    previews.
    """
    assert recipe.removal is not None
    assert recipe.plan is not None
    windows = bench.draw(recipe.search_windows, skip=recipe.calibration_windows)
    precision = safe_precision(recipe.model, windows, bench.model)
    plan = bench.resolve(recipe.plan)

    def loss(layout: Layout) -> float:
        reduced = reduce_blocks(bench.model, layout)
        bases = find_bases(reduced, bench.windows, bench.progress)
        preview = recut(reduced, bench.schedule(plan, recipe.equal, size, layout), bases)
        return float(np.mean(perplexity(preview.model, windows, bench.progress, "Searching", precision).nll))

    losses: dict[float, float] = {}
    tried: dict[Layout, float] = {}
    seconds = 0.0
    for share in SHARES:
        whole = recipe.removal.whole_blocks(count, share)
        layout, _ = bench.layout(recipe.removal, whole, recipe.search_windows)
        if layout not in tried:  # at small sizes several shares are the same number of blocks
            start = time.perf_counter()
            tried[layout] = loss(layout)
            free_memory()
            seconds += time.perf_counter() - start
        losses[share] = tried[layout]
    return min(losses, key=lambda share: losses[share]), seconds


def _stored_trial(recipe: TrialRecipe, opened: OpenModel) -> Run | None:
    """Find the stored run of a trial, if it saw the windows of today: a text can change meanwhile."""
    run = find_stored(recipe)
    if run is None or not isinstance(run.result, TrialResult):
        return None
    today = (
        _digest(recipe.calibration, opened, recipe.window_length, recipe.calibration_windows, recipe.seed),
        _digest(recipe.evaluation, opened, recipe.window_length, recipe.evaluation_windows),
    )
    return run if today == (run.result.calibration.digest, run.result.evaluation.digest) else None


def _stored_search(recipe: SearchRecipe, opened: OpenModel) -> Run | None:
    """Find the stored run of a search, if it saw the windows of today."""
    run = find_stored(recipe)
    if run is None or not isinstance(run.result, SearchResult):
        return None
    skip = recipe.calibration_windows
    today = _digest(recipe.calibration, opened, recipe.window_length, recipe.windows, recipe.seed, skip)
    return run if today == run.result.windows.digest else None


def _digest(source: TextSource, opened: OpenModel, *drawn: Any) -> str:
    """The name of windows; ``drawn`` as ``token_windows`` takes it."""
    return _name(token_windows(source, opened.tokenizer, *drawn))


class Trials:
    """Trials on one model, one after the other; those that share calibration and profile share a bench."""

    def __init__(self, opened: OpenModel, progress: Progress = no_progress) -> None:
        self.opened, self.progress = opened, progress
        self._bench: tuple[str, _Bench] | None = None

    def bench(self, recipe: TrialRecipe, folder: Path | None = None) -> _Bench:
        """A bench for this trial that has measured; details of its profile go into ``folder``."""
        if self._bench is None or self._bench[0] != recipe.bench_key:
            self._bench = None
            bench = _Bench(recipe, self.opened, self.progress)
            bench.measure(folder)
            self._bench = recipe.bench_key, bench
        self._bench[1].progress = self.progress
        return self._bench[1]

    def make(self, recipe: TrialRecipe) -> Run:
        """Make the run of a trial, and store nothing."""
        return _made(recipe, lambda: (self.opened, _tried(recipe, self.bench(recipe))))

    def run(self, recipe: TrialRecipe) -> Run:
        """Give the stored run of a trial, or else make and store one."""
        run = _stored_trial(recipe, self.opened)
        if run is None:
            run = self.make(recipe)
            keep_run(run)
        return run


def _contest(recipe: ContestRecipe, opened: OpenModel, progress: Progress, folder: Path) -> ContestResult:
    scores = sorted({entry.score for entry in recipe.entries if entry.score in PROBES})
    return _all_trials(ContestResult, recipe, opened, progress, folder, scores)


def _leaderboard(
    recipe: LeaderboardRecipe, opened: OpenModel, progress: Progress, folder: Path
) -> LeaderboardResult:
    return _all_trials(LeaderboardResult, recipe, opened, progress, folder)


def _refuse_impossible(recipe: SweepRecipe | ContestRecipe | LeaderboardRecipe, opened: OpenModel) -> None:
    """Tell before any work what cannot be carried out on this model."""
    if isinstance(recipe, LeaderboardRecipe) and recipe.tasks:
        check_tasks(recipe.tasks, limit=recipe.task_limit, include=recipe.task_folder)
    trials = recipe.trials()
    bench = _Bench(trials[0], opened, no_progress, *(trial.plan for trial in trials if trial.plan))
    for trial in trials:
        bench.check(trial)


Found = TypeVar("Found", bound=TrialsResult)


def _all_trials(
    made: type[Found],
    recipe: SweepRecipe | ContestRecipe | LeaderboardRecipe,
    opened: OpenModel,
    progress: Progress,
    folder: Path,
    probes: Sequence[str] = (),
) -> Found:
    """The outcomes of all trials in order, with the first one's profile and those probes measured for it."""
    wanted = recipe.trials()
    trials = Trials(opened, progress)
    first: _Bench | None = trials.bench(wanted[0], folder)
    for name in probes:
        first.probe(name)
    profile, shape = first.profile, first.shape
    found: list[TrialResult] = []
    for trial in wanted:
        begun = len(found)
        progress("Trials", begun, len(wanted))
        # Its own steps are too many to name; they are where the job can be cancelled.
        trials.progress = lambda *_, begun=begun: progress("Trials", begun, len(wanted))
        result = trials.run(trial).result
        assert isinstance(result, TrialResult)
        found.append(result)
        if first and trial.bench_key == wanted[0].bench_key:
            profile, shape = first.profile, first.shape  # with what trials have measured
        else:
            first = None  # and its windows, bases and answers go
    progress("Trials", len(wanted), len(wanted))
    return made(
        profile=profile,
        shape=shape,
        contestants=tuple(each.contestant for each in found),
        calibration=found[0].calibration,
        evaluation=found[0].evaluation,
    )


def _search(recipe: SearchRecipe, opened: OpenModel, progress: Progress) -> SearchResult:
    bench = _Bench(recipe, opened, progress, recipe.plan)
    bench.measure(None)
    bases = bench.bases
    refuse_unless_invariant(opened.model)
    windows = bench.draw(recipe.windows, skip=recipe.calibration_windows)
    precision = safe_precision(recipe.model, windows, opened.model)
    shape, plan = bench.shape, recipe.plan
    size = plan.constant(shape).shape_after(shape).parameters
    rule = plan.rule()
    assert isinstance(rule, Searched)

    def schedule(shares: tuple[float, ...]) -> SlicingSchedule:
        settings = {**plan.settings, "shares": shares}
        even = (0.0,) * shape.block_count
        return plan.model_copy(update={"settings": settings}).at_parameters(size, even, shape)

    def loss(shares: tuple[float, ...]) -> float:
        sliced = recut(opened.model, schedule(shares), bases)
        return float(np.mean(perplexity(sliced.model, windows, precision=precision).nll))

    with SearchLog(recipe.key) as journal:
        found = search(loss, shape.block_count, plan.target, rule.rounds, journal, progress)
    return SearchResult(
        profile=bench.profile,
        shape=shape,
        shares=found.shares,
        losses=found.losses,
        evaluations=found.evaluations,
        schedule=schedule(found.shares),
        windows=_used(recipe.calibration, windows, opened.model),
    )


def _of_layout(plan: Plan, layout: Layout) -> Plan:
    """The plan with what its settings say of every block for those alone that ``layout`` leaves."""
    settings = dict(plan.settings)
    for name in ("shares", "damage"):
        values = settings.get(name)
        if isinstance(values, tuple):
            rows = np.reshape(values, (layout.blocks, -1))
            settings[name] = tuple(rows[list(layout.tops)].ravel().tolist())
    return plan.model_copy(update={"settings": settings})


def _deciding(plan: Plan) -> str:
    """What the time is kept under that a plan's scores, curves or search took."""
    if plan.allocation == "searched":
        settings = {name: value for name, value in plan.settings.items() if name != "shares"}
        return f"searched {plan.model_copy(update={'settings': settings}).key}"
    return f"{plan.score} curves" if plan.allocation == "water-filling" else plan.score


def _used(source: TextSource, windows: Tensor, model: Any, where: tuple[Passage, ...] = ()) -> TextUsed:
    return TextUsed(
        label=source.label,
        windows=windows.shape[0],
        window_length=windows.shape[1],
        digest=_name(windows),
        passages=where,
        batch=batch_size(windows, model.device),
    )


def _name(windows: Tensor) -> str:
    """Name windows by their tokens."""
    return hashlib.sha256(windows.numpy().tobytes()).hexdigest()[:16]


def _environment(model: Any) -> Environment:
    device: torch.device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    packages = ("slicescope", "torch", "transformers", "datasets", "numpy")
    return Environment(
        device=str(device),
        device_name=name or platform.machine(),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        platform=f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, "
        f"{os.cpu_count()} cores",
        versions={package: importlib.metadata.version(package) for package in packages},
    )
