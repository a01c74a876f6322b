"""A contest as far as it has come: what every entry lost, beside constant slicing, over all seeds.

Reads runs, makes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from analysis.evaluate import Difference, Perplexity, corrected, paired, perplexity_of
from slicing.runs import (
    Contestant,
    ContestRecipe,
    ContestResult,
    Entry,
    LeaderboardRecipe,
    SweepRecipe,
    TrialsResult,
)
from slicing.study.store import finished_trials


class Standing(NamedTuple):
    """One entry of a contest."""

    entry: Entry
    runs: tuple[Contestant, ...]
    """One for each seed that ran."""
    nats: float
    """Mean loss above the dense model's, nats per token."""
    spread: tuple[float, float]
    """The least and the largest of that over the calibration seeds."""
    gain: Difference | None
    """Against constant slicing with the same seeds, paired window by window; ``None`` for constant."""
    share: float
    """Of what constant slicing loses: 1 for constant, 0 for the dense model."""
    other_nats: float | None
    """The same three on the second text."""
    other_gain: Difference | None
    other_share: float | None

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
        """Mean time to decide and to slice, beside the profile."""
        return float(
            np.mean([(each.slicing_seconds or 0) + (each.deciding_seconds or 0) for each in self.runs])
        )


class Table(NamedTuple):
    """A contest, best first."""

    recipe: ContestRecipe
    dense: Contestant | None
    standings: tuple[Standing, ...]
    """Of the entries that ran beside constant slicing and the dense model."""
    done: int
    """Trials that are stored, of ``total``."""
    total: int

    def standing(self, name: str) -> Standing | None:
        """The standing of an entry by its name."""
        return next((each for each in self.standings if each.entry.name == name), None)

    @property
    def random(self) -> tuple[float, float] | None:
        """The band of the random draws: the least and the largest loss above dense, nats per token."""
        drawn = [each.nats for each in self.standings if each.entry.by_chance]
        return (min(drawn), max(drawn)) if len(drawn) > 1 else None

    @property
    def best(self) -> Standing | None:
        """The one that loses least."""
        return self.standings[0] if self.standings else None


Known = dict[str, Contestant | None]
"""What is known of trials, by their keys."""


def known_trials(
    recipe: SweepRecipe | ContestRecipe | LeaderboardRecipe, result: TrialsResult | None = None
) -> Known:
    """What a finished run says of its trials, or what is stored of one that runs or was stopped."""
    trials = recipe.trials()
    if result:
        return {trial.key: each for trial, each in zip(trials, result.contestants, strict=True)}
    return {key: each and each.contestant for key, each in finished_trials(trials).items()}


def read_contest(recipe: ContestRecipe, result: ContestResult | None = None) -> Table:
    """Read the table of a finished contest, or what is stored of one that runs or was stopped."""
    return read_tables((recipe,), known_trials(recipe, result))[0]


def read_tables(contests: Sequence[ContestRecipe], known: Known) -> tuple[Table, ...]:
    """Read the tables of all contests of one study, whose verdicts are corrected together."""
    tables = tuple(_table(contest, known) for contest in contests)
    alone = [gain for table in tables for each in table.standings for gain in _gains(each) if gain]
    told = iter(corrected(alone))

    def correct(each: Standing) -> Standing:
        gain, other = (gain and next(told) for gain in _gains(each))
        return each._replace(gain=gain, other_gain=other)

    return tuple(table._replace(standings=tuple(map(correct, table.standings))) for table in tables)


def _gains(each: Standing) -> tuple[Difference | None, Difference | None]:
    return each.gain, each.other_gain


def _table(recipe: ContestRecipe, known: Known) -> Table:
    trials = recipe.trials()
    dense = known[recipe.dense().key]

    def ran(entry: Entry) -> dict[int, Contestant]:
        found = ((seed, known[recipe.trial(entry, seed).key]) for seed in recipe.seeds_of(entry))
        return {seed: each for seed, each in found if each}

    constant = ran(next(entry for entry in recipe.entries if entry.name == "constant"))
    standings = [
        _standing(entry, ran(entry), constant, dense)
        for entry in recipe.entries
        if dense and any(seed in constant for seed in ran(entry))
    ]
    return Table(
        recipe=recipe,
        dense=dense,
        standings=tuple(sorted(standings, key=lambda each: each.nats)),
        done=sum(known[trial.key] is not None for trial in trials),
        total=len(trials),
    )


def _standing(
    entry: Entry, runs: dict[int, Contestant], constant: dict[int, Contestant], dense: Contestant
) -> Standing:
    seeds = [seed for seed in runs if seed in constant]
    ours, theirs = [runs[seed] for seed in seeds], [constant[seed] for seed in seeds]
    main = _against(
        entry, [each.evaluation for each in ours], [each.evaluation for each in theirs], dense.evaluation
    )
    other = None
    if dense.other:
        found = [(mine.other, its.other) for mine, its in zip(ours, theirs, strict=True)]
        pairs = [(mine, its) for mine, its in found if mine and its]
        other = _against(entry, [mine for mine, _ in pairs], [its for _, its in pairs], dense.other)
    return Standing(
        entry=entry,
        runs=tuple(ours),
        nats=main.nats,
        spread=main.spread,
        gain=main.gain,
        share=main.share,
        other_nats=other and other.nats,
        other_gain=other and other.gain,
        other_share=other and other.share,
    )


class _Against(NamedTuple):
    nats: float
    spread: tuple[float, float]
    gain: Difference | None
    share: float


def _against(entry: Entry, ours: list[Perplexity], theirs: list[Perplexity], dense: Perplexity) -> _Against:
    floor = float(np.mean(dense.nll))
    losses = [float(np.mean(each.nll)) - floor for each in ours]
    nats, reference = float(np.mean(losses)), float(np.mean([np.mean(each.nll) for each in theirs])) - floor
    gain = None
    if entry.name != "constant":
        # Windows are what the interval is over; seeds are averaged within each.
        mean = np.mean([each.nll for each in ours], axis=0) - np.mean([each.nll for each in theirs], axis=0)
        gain = paired("constant", entry.name, mean)
    return _Against(nats, (min(losses), max(losses)), gain, nats / reference if reference > 0 else 1.0)
