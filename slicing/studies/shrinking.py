"""Shrinking: from a wish to a model, by successive halving (Jamieson and Talwalkar, AISTATS 2016).

Many candidates are tried cheaply, the best of them in full, the best of these to the end. Search windows
choose; the evaluation texts are for what is left, so that they flatter no answer.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from functools import partial
from itertools import accumulate, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from analysis.anatomy import why_not_sliceable
from analysis.errors import Cancelled, PlanError, SlicescopeError, UnsupportedError
from analysis.evaluate import paired, perplexity
from analysis.values import Progress
from slicing.budget import Budget
from slicing.steps.base import Made
from slicing.studies.candidates import Candidate, candidates, fitting, full_forms, halves, healed, preview_of
from slicing.studies.clock import Clock
from slicing.studies.judge import card_numbers
from slicing.studies.keep import save_made
from slicing.studies.recipe import Recipe
from slicing.studies.requests import ShrinkRequest, Trial
from slicing.studies.results import Finalist, Measurement, Run, ShrinkResult, TrialResult, Tried
from slicing.studies.store import MODEL_FOLDER

if TYPE_CHECKING:
    from slicing.studies.run import Trials

Rung = Literal[1, 2, 3]
UNTIL: dict[Rung, float] = {1: 0.25, 2: 0.5, 3: 1.0}
"""The share of the minutes by which each rung begins no further trial."""
OVERTIME = 0.1
"""Of the minutes, a trial that began in time may take so much more; then it is given up."""
PHASES: dict[Rung, str] = {1: "Previews", 2: "Full forms", 3: "Finalists"}
KEPT = 4
"""Of so many previews, one is tried in full; two at least."""
FINALISTS = 2
HEALING = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1)
"""Of the minutes, healing takes the largest of these shares that is left, so that a shrink that was stopped
comes to the same trial again."""
LATE = 1.2
"""A wish is refused where even its least trials take so many times its minutes."""


class Entry(NamedTuple):
    """A trial that is to be run where there is time."""

    trial: Trial
    origin: Recipe
    """The recipe that it is a preview, a repaired or a healed form of."""
    expected: float | None = None
    """Seconds that it will take; ``None`` for what its work tells."""


class Done(NamedTuple):
    """A trial that ran, or was stored already."""

    trial: Trial
    result: TrialResult
    origin: Recipe
    """The recipe that it is a preview, a repaired or a healed form of."""

    @property
    def nll(self) -> tuple[float, ...]:
        """The losses on search windows, nats per token."""
        measured = self.result.measurement
        return (measured.search or measured.evaluation).nll

    @property
    def loss(self) -> float:
        """Their mean."""
        return float(np.mean(self.nll))

    @property
    def model(self) -> tuple[object, ...]:
        """The same for two recipes that make one model."""
        measured = self.result.measurement
        return measured.layout, measured.inner, measured.schedule, self.nll


def shrink(request: ShrinkRequest, trials: Trials, folder: Path, progress: Progress) -> ShrinkResult:
    """Carry a wish out, and write the model into ``folder``.

    Raises ``PlanError`` for a wish that no method fulfils, or that takes longer than its minutes.
    """
    race = _Race(request, trials, folder, progress)
    previews = race.run(1, race.previews())
    dense = race.dense()
    best = race.run(2, race.full(previews))
    finalists = race.run(3, race.finals(best))
    winner, plain = race.keep(finalists)
    others = [each for each in finalists if each.trial != winner.trial]
    return ShrinkResult(
        profile=dense.profile,
        shape=race.shape,
        size=race.size,
        tokens_per_second=race.clock.pace,
        tried=tuple(race.tried),
        dense=dense.measurement,
        finalists=tuple(_finalist(each) for each in (winner, *others)),
        plain=plain,
        calibration=dense.calibration,
        evaluation=dense.evaluation,
    )


class _Race:
    """The rungs of one wish on one model."""

    def __init__(self, request: ShrinkRequest, trials: Trials, folder: Path, progress: Progress) -> None:
        self.request, self.trials, self.folder, self.progress = request, trials, folder, progress
        self.wish = request.wish
        self.tried: list[Tried] = []
        self.judged: TrialResult
        self.judging: float
        """Seconds that it takes to judge a finalist."""
        self.saved: dict[str, tuple[Path, bool]] = {}
        self.deadline = math.inf
        """Seconds of the clock at which the trial that runs is given up."""
        if reason := why_not_sliceable(trials.opened.model.config):
            raise UnsupportedError(reason)
        self.itemsize = trials.opened.model.dtype.itemsize
        progress(PHASES[1], 0, 1)
        view, _ = trials.view(request.trial(Recipe(), None, 1))
        self.shape = view.shape
        self.size = request.wish.size(self.shape, self.itemsize)
        self.budgets = request.wish.budgets(self.shape, self.itemsize)
        pace = perplexity(view.model, view.windows[:2], precision=view.precision).tokens_per_second
        self.clock = Clock(60.0 * request.wish.minutes, pace)

    # What each rung tries

    def previews(self) -> list[Entry]:
        """All candidates in their quick forms, the cheapest first."""
        found = candidates(self.wish.opens, self.budgets, partial(self._fits, 1))
        self._drop(1, [each for each in found if each.problem])
        kept = [
            Entry(self.request.trial(preview_of(each.recipe), each.budget, 1), each.recipe)
            for each in found
            if each.budget
        ]
        if not kept:
            raise PlanError(f"No method fulfils the wish for {self.wish.line} here. {found[0].problem}")
        kept.sort(key=lambda each: self.clock.expect(each.trial))
        self._refuse_unless_in_time(kept[0].trial)
        self._tell_what_fits(kept)
        return kept

    def full(self, previews: Sequence[Done]) -> list[Entry]:
        """The best previews with their strongest repairs, and blocks and the rest by half."""
        count = max(2, math.ceil(len(previews) / KEPT))
        self._go_no_further(previews[count:])
        chosen = [each.origin for each in previews[:count]]
        if pair := halves([each.origin for each in previews]):
            chosen.insert(1, pair)
        found = []
        for recipe in chosen:
            forms = full_forms(recipe, self.wish.opens)
            fitted = (fitting(each, self.budgets, partial(self._fits, 2)) for each in forms)
            form = next((each for each in fitted if each.budget), None)
            if form:
                found.append(Entry(self.request.trial(form.recipe, form.budget, 2), form.recipe))
        return found

    def finals(self, best: Sequence[Done]) -> list[Entry]:
        """The best, healed as long as time allows, then the same as they are.

        The second one is healed too where there is no clear difference on search windows.
        """
        leading = best[:FINALISTS]
        self._go_no_further(best[FINALISTS:])
        close = (
            len(leading) > 1
            and paired("", "", np.subtract(leading[1].nll, leading[0].nll)).verdict != "worse"
        )
        plain = [self.request.trial(each.trial.recipe, each.trial.budget, 3) for each in leading]
        left = self.clock.left - sum(map(self._expect_final, plain))
        healing: list[Entry] = []
        for count in range(FINALISTS if close else 1, 0, -1):
            if minutes := self._healing(left / count):
                healing = self._healed(plain, minutes)[:count]
                break
        return [*healing, *(Entry(each, each.recipe, self._expect_final(each)) for each in plain)]

    def _expect_final(self, trial: Trial) -> float:
        """Seconds that a finalist takes without healing: to be judged, and cut where that is not kept."""
        return self.judging if self.trials.has_cut(trial) else self.clock.expect(trial)

    def _healed(self, plain: Sequence[Trial], minutes: float) -> list[Entry]:
        """All of them healed in one way, then in the next one."""
        ways = zip_longest(*(healed(each.recipe, minutes) for each in plain))
        return [
            Entry(
                self.request.trial(recipe, trial.budget, 3),
                trial.recipe,
                self._expect_final(trial) + 60.0 * minutes,
            )
            for way in ways
            for recipe, trial in zip(way, plain, strict=True)
            if recipe
        ]

    def _healing(self, seconds: float) -> float:
        """Minutes of healing, where so many seconds are left for it; 0 for none."""
        for share in HEALING:
            minutes = round(share * self.wish.minutes, 3)  # it stands in the line of the recipe
            if 60.0 * minutes <= seconds:
                return minutes
        return 0.0

    # Trying

    def run(self, rung: Rung, entries: Sequence[Entry]) -> list[Done]:
        """Try what there is time for, one at least, and give what fulfils the wish, best first."""
        found: list[Done] = []
        for place, each in enumerate(entries):
            if rung == 3 and len(found) == FINALISTS:
                break
            self.trials.progress = partial(self._tell, rung, place, len(entries))
            if done := self._try(rung, each, bool(found)):
                twin = next((other for other in found if other.model == done.model), None)
                if twin is None:
                    found.append(done)
                else:
                    why = f"it is the same model as that of '{twin.trial.recipe.line}'"
                    self.tried[-1] = self.tried[-1].model_copy(update={"dropped": why})
            if rung < 3:
                leading = sorted(found, key=lambda each: each.loss)[:FINALISTS]
                self.trials.keep_cuts_of([each.trial for each in leading])
        if not found:
            why = self.tried[-1].dropped
            raise PlanError(f"No method fulfils the wish for {self.wish.line} here: {why}.")
        return sorted(found, key=lambda each: each.loss)

    def _try(self, rung: Rung, entry: Entry, spare: bool) -> Done | None:
        """Run one trial, unless another ran and there is no time; what came of it is written down."""
        trial, clock = entry.trial, self.clock
        stored = self.trials.stored(trial)
        expected = None if stored else entry.expected or clock.expect(trial)
        told = Tried(rung=rung, line=trial.recipe.line, expected=expected)
        left = max(0.0, UNTIL[rung] * clock.seconds - clock.spent)
        if spare and expected is not None and expected > left:
            why = f"it would take about {expected:.0f} s, and {left:.0f} s were left for it"
            self._write(told, dropped=why)
            return None
        self.deadline = (UNTIL[rung] + OVERTIME) * clock.seconds if spare else math.inf
        try:
            run = stored or self.trials.run(trial, partial(self._save, trial) if rung == 3 else None)
        except Cancelled:
            raise
        except SlicescopeError as error:
            self._write(told, dropped=str(error).rstrip("."))
            return None
        finally:
            self.deadline = math.inf
        if stored:
            clock.count(run.seconds)
        clock.learn(trial, run.seconds)
        done = Done(trial, _result(run), entry.origin)
        size, flops = done.result.measurement.parameters, done.result.measurement.flops_per_token
        missed = self.wish.missed_by(self.shape, self.itemsize, size, flops)
        self._write(told, nats=done.loss, parameters=size, seconds=run.seconds, dropped=missed)
        return None if missed else done

    def dense(self) -> TrialResult:
        """The dense model, judged as finalists are."""
        self.trials.progress = partial(self._tell, 2, 0, 1)
        run = self.trials.run(self.request.trial(Recipe(), None, 3))
        self.judged, self.judging = _result(run), run.seconds
        return self.judged

    def _fits(self, rung: Rung, recipe: Recipe, budget: Budget) -> None:
        self.trials.check(self.request.trial(recipe, budget, rung))

    def _refuse_unless_in_time(self, cheapest: Trial) -> None:
        """Raise ``PlanError`` where the cheapest candidate alone does not go through all rungs in time."""
        dense = self.request.trial(Recipe(), None, 3)
        again = [self.request.trial(cheapest.recipe, cheapest.budget, rung) for rung in PHASES]
        needed = sum(self.clock.expect(each) for each in (dense, *again) if not self.trials.stored(each))
        if needed > LATE * self.clock.seconds:
            raise PlanError(
                f"Even the quickest method takes about {needed / 60:.2g} minutes at the pace of this model "
                f"here, {self.clock.pace:,.0f} tokens per second, but {self.wish.minutes:g} are wished for: "
                f"give more minutes (--minutes {1.2 * needed / 60:.0f}), or fewer or shorter windows "
                "(--calibration-windows, --search-windows, --evaluation-windows, --window-length)."
            )

    def _tell_what_fits(self, entries: Sequence[Entry]) -> None:
        """Tell before the first preview how many of them there is time for, and the minutes that all take."""
        left = UNTIL[1] * self.clock.seconds - self.clock.spent
        new = [self.clock.expect(each.trial) for each in entries if not self.trials.stored(each.trial)]
        if sum(new) <= left:
            return
        stored = len(entries) - len(new)
        fits = max(1, stored + sum(total <= left for total in accumulate(new)))
        self.progress(f"Time for {fits} of {len(entries)} previews", 1, 1)
        self.progress(f"All take --minutes {math.ceil(sum(new) / UNTIL[1] / 60)}", 1, 1)

    # Writing down and telling

    def _write(self, told: Tried, **found: Any) -> None:
        self.tried.append(told.model_copy(update=found))

    def _drop(self, rung: Rung, found: Sequence[Candidate]) -> None:
        self.tried += [
            Tried(rung=rung, line=each.recipe.line, dropped=each.problem.rstrip(".")) for each in found
        ]

    def _go_no_further(self, rest: Sequence[Done]) -> None:
        """Write down of those that ran that others lose less."""
        rung, lines = self.tried[-1].rung, {each.trial.recipe.line for each in rest}
        for place, each in enumerate(self.tried):
            if each.rung == rung and each.line in lines:
                self.tried[place] = each.model_copy(update={"dropped": "others lose less"})

    def _tell(self, rung: Rung, done: int, total: int, *within: object) -> None:
        """Tell how many trials of a rung are done, whatever one of them tells ``within``.

        Raises ``PlanError`` where the one that runs is to be given up.
        """
        if self.clock.spent > self.deadline:
            raise PlanError("it was given up: it took longer than was left for it")
        self.progress(PHASES[rung], done, total)

    # Keeping

    def _save(self, trial: Trial, made: Made, measured: Measurement) -> None:
        """Write the model of a finalist, before it goes."""
        opened, place = self.trials.opened, self.folder / f"{MODEL_FOLDER}-{trial.key}"
        dense, request = self.judged.measurement, self.request
        shutil.rmtree(place, ignore_errors=True)
        plain = save_made(
            made,
            opened,
            place,
            trial.recipe.short_title,
            made_from=request.model.label,
            calibration=self.judged.calibration,
            numbers=(
                *(each.told for each in made.healed),
                *card_numbers(request.evaluation, dense.evaluation, measured.evaluation),
                *card_numbers(request.other, dense.other, measured.other),
            ),
            warnings=trial.warnings(self.shape) + self.judged.profile.warnings() + made.warnings,
        )
        self.saved[trial.key] = place, plain

    def keep(self, finalists: Sequence[Done]) -> tuple[Done, bool]:
        """Keep the model of the best one, which is made again where its trial was stored already.

        Gives what was made, and whether any tool opens it.
        """
        winner = finalists[0]
        if winner.trial.key not in self.saved:
            again = self.trials.again(winner.trial, partial(self._save, winner.trial))
            winner = winner._replace(result=_result(again))
        place, plain = self.saved.pop(winner.trial.key)
        for other, _ in self.saved.values():
            shutil.rmtree(other)
        place.rename(self.folder / MODEL_FOLDER)
        return winner, plain


def _result(run: Run) -> TrialResult:
    assert run.result.kind == "trial"
    return run.result


def _finalist(done: Done) -> Finalist:
    assert done.trial.budget is not None
    return Finalist(recipe=done.trial.recipe, budget=done.trial.budget, measurement=done.result.measurement)
