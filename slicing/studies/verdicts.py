"""A study as far as it has come: what every recipe lost at every budget, beside the baseline, over all seeds.

Reads runs, makes none.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple, get_args

import numpy as np

from analysis.evaluate import Difference, Perplexity, corrected, difference, paired, perplexity_of
from slicing.budget import Budget
from slicing.studies.recipe import Kind, Recipe
from slicing.studies.requests import Trial
from slicing.studies.results import Measurement, StudyResult
from slicing.studies.store import finished_trials
from slicing.studies.study import Study

Known = dict[str, Measurement | None]
"""What is known of trials, by their keys."""
Runs = dict[int, Measurement]
"""What a recipe made at a budget, by the seeds that ran."""
Drawn = Sequence[Sequence[Perplexity]]
"""Evaluations without noise, then those of each draw of it; each is a list over seeds."""


class Standing(NamedTuple):
    """One recipe at one budget."""

    recipe: Recipe
    runs: tuple[Measurement, ...]
    """One for each seed that ran."""
    nats: float
    """Mean loss above the dense model's, nats per token."""
    spread: tuple[float, float]
    """The least and the largest of that over the calibration seeds."""
    gain: Difference | None
    """Against the baseline with the same seeds, paired window by window; ``None`` for the baseline."""
    share: float
    """Excess loss, of the baseline's: 1 for the baseline, 0 for the dense model."""
    other_nats: float | None
    """The same three on the second text."""
    other_gain: Difference | None
    other_share: float | None
    repeats: tuple[tuple[Measurement, ...], ...] = ()
    """The same as ``runs`` for each repetition with noise on the Gram matrices, where all its seeds ran."""

    @property
    def draws(self) -> tuple[tuple[Measurement, ...], ...]:
        """The runs without noise, then those of each draw of it."""
        return self.runs, *self.repeats

    @property
    def noise(self) -> float | None:
        """Range of the mean loss over the repetitions with noise, nats per token; ``None`` without any."""
        return noise_between(_firsts(self.draws))

    @property
    def name(self) -> str:
        """The line of its recipe."""
        return self.recipe.line

    @property
    def perplexity(self) -> float:
        """Exp of the mean loss over windows and seeds."""
        return perplexity_of(float(np.mean([each.evaluation.nll for each in self.runs])))

    @property
    def other_perplexity(self) -> float | None:
        """The same on the second text."""
        found = [each.other.nll for each in self.runs if each.other]
        return perplexity_of(float(np.mean(found))) if found else None

    @property
    def parameters(self) -> int:
        """Of the first run; the others differ by a rounding step."""
        return self.runs[0].parameters

    @property
    def seconds(self) -> float:
        """Mean time to decide and to make the model, beside the profile."""
        return float(
            np.mean([(each.slicing_seconds or 0) + (each.deciding_seconds or 0) for each in self.runs])
        )


class Table(NamedTuple):
    """All recipes at one budget, best first."""

    study: Study
    budget: Budget
    dense: Measurement | None
    standings: tuple[Standing, ...]
    """Of the recipes that ran beside the baseline and the dense model."""

    def standing(self, name: str) -> Standing | None:
        """The standing of a recipe by its line."""
        return next((each for each in self.standings if each.name == name), None)

    @property
    def baseline(self) -> Standing | None:
        """The standing of what all others are measured by."""
        return self.standing(self.study.baseline.line)

    @property
    def random(self) -> tuple[float, float] | None:
        """The band of the random baselines: the least and the largest loss above dense, nats per token."""
        drawn = [each.nats for each in self.standings if each.recipe.by_chance]
        return (min(drawn), max(drawn)) if len(drawn) > 1 else None

    @property
    def best(self) -> Standing | None:
        """The one that loses least."""
        return self.standings[0] if self.standings else None

    def best_of(self, kind: Kind | None = None) -> Standing | None:
        """The one that loses least, of one kind where that is given; random baselines are passed over."""
        return next((each for each in _rightful(self) if kind in (None, each.recipe.kind)), None)


class Board(NamedTuple):
    """A study: a table for each budget, whose verdicts are corrected together."""

    study: Study
    tables: tuple[Table, ...]
    matched: tuple[Measurement | None, ...]
    """The baseline once more, for each of ``Study.matches``."""
    done: int
    """Trials that are stored, of ``total``."""
    total: int

    @property
    def dense(self) -> Measurement | None:
        """The dense model."""
        return self.tables[0].dense

    def table(self, budget: Budget) -> Table:
        """The table of this budget."""
        return next(each for each in self.tables if each.budget == budget)

    @property
    def front(self) -> tuple[Standing, ...]:
        """The ones that no other beats in both size and loss, largest first; random baselines are passed
        over.
        """
        everyone = [each for table in self.tables for each in _rightful(table)]
        # By the first seed, as a size is too.
        unbeaten = pareto([(str(place), each.runs[0]) for place, each in enumerate(everyone)])
        chosen = [each for place, each in enumerate(everyone) if str(place) in unbeaten]
        return tuple(sorted(chosen, key=lambda each: -each.parameters))


def read_board(study: Study, result: StudyResult | None = None) -> Board:
    """Read a finished study, or what is stored of one that runs or was stopped."""
    known = _known(study, result)
    tables = tuple(_table(study, budget, known) for budget in study.budgets)
    alone = [gain for table in tables for each in table.standings for gain in _gains(each) if gain]
    told = iter(corrected(alone))

    def correct(each: Standing) -> Standing:
        gain, other = (gain and next(told) for gain in _gains(each))
        return each._replace(gain=gain, other_gain=other)

    matched = _known_matches(study, result, known)
    return Board(
        study=study,
        tables=tuple(table._replace(standings=tuple(map(correct, table.standings))) for table in tables),
        matched=matched,
        done=sum(each is not None for each in (*known.values(), *matched)),
        total=len(known) + len(matched),
    )


def _known(study: Study, result: StudyResult | None) -> Known:
    trials = study.trials()
    if result:
        return {trial.key: each for trial, each in zip(trials, result.measurements, strict=True)}
    return {key: each and each.measurement for key, each in finished_trials(trials).items()}


def _known_matches(study: Study, result: StudyResult | None, known: Known) -> tuple[Measurement | None, ...]:
    if result:
        return result.matched
    found: list[Measurement | None] = []
    for trial in study.matches():
        beside = known[trial.key]
        match = study.matched_trial(trial, beside.parameters) if beside else None
        each = finished_trials((match,))[match.key] if match else None
        found.append(each and each.measurement)
    return tuple(found)


def _gains(each: Standing) -> tuple[Difference | None, Difference | None]:
    return each.gain, each.other_gain


def _table(study: Study, budget: Budget, known: Known) -> Table:
    dense = known[study.dense().key]

    def ran(recipe: Recipe, draw: int = 0) -> Runs:
        found = {}
        for seed in study.seeds_of(recipe):
            trial = study.trial(recipe, budget, seed, draw)
            if trial and (each := known[trial.key]):
                found[seed] = each
        return found

    def drawn(recipe: Recipe) -> list[Runs]:
        return [ran(recipe, draw) for draw in study.draws_of(recipe)]

    baseline = drawn(study.baseline)
    standings = [
        _standing(study, recipe, drawn(recipe), baseline, dense)
        for recipe in study.recipes
        if dense and any(seed in baseline[0] for seed in ran(recipe))
    ]
    ordered = tuple(sorted(standings, key=lambda each: each.nats))
    return Table(study=study, budget=budget, dense=dense, standings=ordered)


def _standing(
    study: Study,
    recipe: Recipe,
    drawn: list[Runs],
    baseline: list[Runs],
    dense: Measurement,
) -> Standing:
    seeds = [seed for seed in drawn[0] if seed in baseline[0]]
    ours, theirs = _whole(drawn, seeds), _whole(baseline, seeds)
    names = study.baseline.line, recipe.line
    main = _against(names, _firsts(ours), _firsts(theirs), dense.evaluation)
    other = _against(names, _seconds(ours), _seconds(theirs), dense.other) if dense.other else None
    return Standing(
        recipe=recipe,
        runs=ours[0],
        repeats=tuple(ours[1:]),
        nats=main.nats,
        spread=main.spread,
        gain=main.gain,
        share=main.share,
        other_nats=other and other.nats,
        other_gain=other and other.gain,
        other_share=other and other.share,
    )


def _whole(drawn: list[Runs], seeds: list[int]) -> list[tuple[Measurement, ...]]:
    """The runs of each draw of noise that ran with all ``seeds``; without noise all did."""
    return [tuple(runs[seed] for seed in seeds) for runs in drawn if all(seed in runs for seed in seeds)]


def _firsts(drawn: Sequence[Sequence[Measurement]]) -> Drawn:
    return [[each.evaluation for each in runs] for runs in drawn]


def _seconds(drawn: Sequence[Sequence[Measurement]]) -> Drawn:
    return [[each.other for each in runs if each.other] for runs in drawn]


class _Against(NamedTuple):
    nats: float
    spread: tuple[float, float]
    gain: Difference | None
    share: float


def _against(names: tuple[str, str], our_draws: Drawn, their_draws: Drawn, dense: Perplexity) -> _Against:
    ours, theirs = our_draws[0], their_draws[0]
    floor = float(np.mean(dense.nll))
    losses = [float(np.mean(each.nll)) - floor for each in ours]
    nats, reference = float(np.mean(losses)), float(np.mean([np.mean(each.nll) for each in theirs])) - floor
    gain = None
    if names[0] != names[1]:
        # Windows are what the interval is over; seeds are averaged within each.
        mean = np.mean([each.nll for each in ours], axis=0) - np.mean([each.nll for each in theirs], axis=0)
        gain = _noted(paired(*names, mean), our_draws, their_draws)
    return _Against(nats, (min(losses), max(losses)), gain, nats / reference if reference > 0 else 1.0)


def noise_between(ours: Drawn, theirs: Drawn = ()) -> float | None:
    """Range of a mean loss, or of how much more one loses than another, over draws of noise, nats per token.

    Each side is the evaluations without noise, then those of each draw, a list over seeds that are averaged.
    A side that was repeated less often stands as it is without noise. ``None`` where neither was repeated.
    """
    count = max(len(ours), len(theirs))
    if count < 2:
        return None
    ours, theirs = (
        [draws[draw if draw < len(draws) else 0] for draw in range(count)] if draws else []
        for draws in (ours, theirs)
    )
    levels = [_level(draw) for draw in ours]
    if theirs:
        levels = [level - _level(draw) for level, draw in zip(levels, theirs, strict=True)]
    return max(levels) - min(levels)


def _level(evaluations: Sequence[Perplexity]) -> float:
    return float(np.mean([np.mean(each.nll) for each in evaluations]))


def _noted(told: Difference, ours: Drawn, theirs: Drawn) -> Difference:
    """The difference with what noise does to it, where something was repeated."""
    return told.model_copy(update={"noise": noise_between(ours, theirs)})


# Views of a board


class Cell(NamedTuple):
    """One base and target of a map."""

    base: float
    recipe: Recipe
    budget: Budget
    constant: bool
    """Whether the base reaches the target: constant slicing, by definition."""
    standing: Standing | None
    """``None`` where nothing ran yet, or nothing has to."""


class Map(NamedTuple):
    """Bases (SB) by targets (SP), target by target."""

    bases: tuple[float, ...]
    budgets: tuple[Budget, ...]
    cells: tuple[Cell, ...]

    def cell(self, base: float, budget: Budget) -> Cell:
        """The cell of this base and target."""
        return next(each for each in self.cells if (each.base, each.budget) == (base, budget))


def read_map(board: Board) -> Map | None:
    """Look at a board as a map; ``None`` where its recipes do not differ in the base alone."""
    bases = {recipe: base for recipe in board.study.recipes[1:] if (base := _base(recipe)) is not None}
    if not bases or len(bases) != len(board.study.recipes) - 1 or len(set(bases.values())) != len(bases):
        return None
    cells = [
        Cell(
            base=base,
            recipe=recipe,
            budget=table.budget,
            constant=recipe.is_constant_at(table.budget),
            standing=table.standing(recipe.line),
        )
        for table in board.tables
        for recipe, base in bases.items()
    ]
    return Map(tuple(bases.values()), tuple(table.budget for table in board.tables), tuple(cells))


def _base(recipe: Recipe) -> float | None:
    """The base of a recipe that slices by a rule that has one."""
    rule = getattr(recipe.steps[0], "rule", None) if len(recipe.steps) == 1 else None
    return getattr(rule(), "base", None) if rule else None


class Rival(NamedTuple):
    """The best of another kind at a budget, beside the best of all."""

    kind: Kind
    standing: Standing
    gap: Difference
    """How much more it loses than the winner."""


def rivals(board: Board) -> tuple[tuple[Rival, ...], ...]:
    """Find the rivals of every budget's winner.

    Winner and rivals are chosen by the numbers that are then compared, so their verdicts are corrected for
    all pairs of recipes that the choice was made from, at all budgets.
    """
    pairs = [
        (place, rival, winner)
        for place, table in enumerate(board.tables)
        for winner, rival in itertools.combinations(_rightful(table), 2)  # best first
    ]
    told = corrected([beside(rival, winner) for _, rival, winner in pairs])
    gaps = {
        (place, rival.name, winner.name): gap for (place, rival, winner), gap in zip(pairs, told, strict=True)
    }
    return tuple(
        tuple(
            Rival(kind, rival, gaps[place, rival.name, winner.name])
            for kind in get_args(Kind)
            if (winner := table.best_of()) and kind != winner.recipe.kind and (rival := table.best_of(kind))
        )
        for place, table in enumerate(board.tables)
    )


def beside(one: Standing, other: Standing) -> Difference:
    """Tell how much more one loses than the other, on the windows of the first text.

    Averaged over the seeds that both ran with.
    """
    both = min(len(one.runs), len(other.runs))  # seeds are run in their order
    ours, theirs = (_firsts([runs[:both] for runs in side.draws]) for side in (one, other))
    mean = [np.mean([each.nll for each in side[0]], axis=0) for side in (ours, theirs)]
    return _noted(paired(other.name, one.name, mean[0] - mean[1]), ours, theirs)


def pareto(measured: Sequence[tuple[str, Measurement]]) -> list[str]:
    """The names of those that nobody beats in both parameters and perplexity, by size."""
    front: list[str] = []
    best = float("inf")
    for name, each in sorted(measured, key=lambda pair: (pair[1].parameters, pair[1].evaluation.perplexity)):
        if each.evaluation.perplexity < best:
            best = each.evaluation.perplexity
            front.append(name)
    return front


def _rightful(table: Table) -> list[Standing]:
    return [each for each in table.standings if not each.recipe.control]


class Comparison(NamedTuple):
    """A study of one plan beside constant slicing, at one target, from near."""

    study: Study
    result: StudyResult
    planned: str
    """The name of what the plan makes."""
    measured: dict[str, Measurement]
    """``dense``, ``constant``, the planned one by its name, and ``constant-matched``."""
    differences: tuple[Difference, ...]
    """The paired differences, whose p-values are corrected for their number."""
    drawn: dict[str, Drawn]
    """Of each of ``measured``: its evaluation without noise, then those of each draw of it."""

    def paired(self, pairs: Sequence[tuple[str, str]]) -> tuple[Difference, ...]:
        """Pair models by their names, baseline first, with p-values corrected for their number."""
        found = {name: each.evaluation for name, each in self.measured.items()}
        told = [difference(one, found[one], two, found[two]) for one, two in pairs]
        return corrected(
            [
                _noted(each, self.drawn[two], self.drawn[one])
                for each, (one, two) in zip(told, pairs, strict=True)
            ]
        )

    def difference(self, baseline: str, contender: str) -> Difference:
        """The paired difference between two models."""
        return next(d for d in self.differences if (d.baseline, d.contender) == (baseline, contender))


def read_comparison(study: Study, result: StudyResult) -> Comparison:
    """Look at a finished study from near: the dense model, the baseline, and the last recipe beside it."""
    (dense,), constants, *others = _by_draw(study.trials(), result.measurements)
    contenders = others[-1] if others else constants  # where the plan is constant slicing, by definition
    recipe = study.recipes[len(study.recipes) - 1]
    planned = recipe.short if recipe != study.baseline else "constant"
    matches = _by_draw(study.matches(), result.matched)[-1] if result.matched else constants
    constant, contender, matched = constants[0], contenders[0], matches[0]
    drawn = {"dense": [dense], "constant": constants, "constant-matched": matches, planned: contenders}
    found = {
        "dense": dense,
        "constant": _called(constant, "constant", "Constant"),
        "constant-matched": _called(matched, "constant-matched", "Constant, equal parameters"),
    }
    if planned != "constant":
        title = planned.capitalize() if "+" in planned else recipe.short_title
        found[planned] = _called(contender, planned, title)
    order = ("dense", "constant", planned, "constant-matched")
    pairs = (("dense", "constant"), ("dense", planned), ("constant", planned), ("constant-matched", planned))
    known = list(dict.fromkeys((one, two) for one, two in pairs if one != two))
    ordered = {name: found[name] for name in dict.fromkeys(order)}
    draws = {name: _firsts([[each] for each in drawn[name]]) for name in ordered}
    compared = Comparison(study, result, planned, ordered, (), draws)
    return compared._replace(differences=compared.paired(known))


def _by_draw(trials: Sequence[Trial], measured: Sequence[Measurement]) -> list[list[Measurement]]:
    """The measurements of each trial without noise, in their order, each followed by its repetitions."""
    found: dict[str, list[Measurement]] = {}
    for trial, each in zip(trials, measured, strict=True):  # all without noise come first
        found.setdefault(trial.model_copy(update={"jitter": 0}).key, []).append(each)
    return list(found.values())


def _called(measured: Measurement, name: str, title: str) -> Measurement:
    return measured.model_copy(update={"name": name, "title": title})
