"""A leaderboard as far as it has come: what every way to make a model smaller lost, at every size.

Reads runs, makes none.
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple, get_args

import numpy as np

from analysis.evaluate import Difference, corrected, paired
from slicing.contest import Standing, Table, known_trials, read_tables
from slicing.grid import pareto
from slicing.runs import Contestant, Entry, LeaderboardRecipe, LeaderboardResult

Kind = Literal["width", "depth", "both"]
"""What an entry makes smaller."""


class Board(NamedTuple):
    """The contests of a leaderboard."""

    recipe: LeaderboardRecipe
    tables: tuple[Table, ...]
    """One for each size, best first."""
    done: int
    """Trials that are stored, of ``total``."""
    total: int

    @property
    def dense(self) -> Contestant | None:
        """The dense model."""
        return self.tables[0].dense

    @property
    def front(self) -> tuple[Standing, ...]:
        """The ones that no other beats in both size and loss, largest first; controls are passed over."""
        everyone = [each for table in self.tables for each in table.standings if not each.entry.control]
        # By the first seed, as a size is too.
        unbeaten = pareto([(str(place), each.runs[0]) for place, each in enumerate(everyone)])
        chosen = [each for place, each in enumerate(everyone) if str(place) in unbeaten]
        return tuple(sorted(chosen, key=lambda each: -each.parameters))


def best(table: Table, kind: Kind | None = None) -> Standing | None:
    """The one that loses least at a size, of one kind where that is given; controls are passed over."""
    return next((each for each in _rightful(table) if kind in (None, kind_of(each.entry))), None)


def against(one: Standing, other: Standing) -> Difference:
    """How much more one loses than the other, on the windows of the first text, averaged over the seeds that
    both ran with.
    """
    both = min(len(one.runs), len(other.runs))  # seeds are run in their order
    ours, theirs = (
        np.mean([each.evaluation.nll for each in side.runs[:both]], axis=0) for side in (one, other)
    )
    return paired(other.entry.name, one.entry.name, ours - theirs)


def kind_of(entry: Entry) -> Kind:
    """What an entry makes smaller."""
    if entry.removal is None:
        return "width"
    return "both" if entry.slices else "depth"


class Rival(NamedTuple):
    """The best of another kind at a size, beside the best of all."""

    kind: Kind
    standing: Standing
    gap: Difference
    """How much more it loses than the winner."""


def rivals(board: Board) -> tuple[tuple[Rival, ...], ...]:
    """Find the rivals of every size's winner.

    Winner and rivals are chosen by the numbers that are then compared, so their verdicts are corrected for
    all pairs of entries that the choice was made from, at all sizes.
    """
    pairs = [
        (place, rival, winner)
        for place, table in enumerate(board.tables)
        for winner, rival in itertools.combinations(_rightful(table), 2)  # best first
    ]
    told = corrected([against(rival, winner) for _, rival, winner in pairs])
    gaps = {
        (place, rival.entry.name, winner.entry.name): gap
        for (place, rival, winner), gap in zip(pairs, told, strict=True)
    }
    return tuple(
        tuple(
            Rival(kind, rival, gaps[place, rival.entry.name, winner.entry.name])
            for kind in get_args(Kind)
            if (winner := best(table)) and kind != kind_of(winner.entry) and (rival := best(table, kind))
        )
        for place, table in enumerate(board.tables)
    )


def _rightful(table: Table) -> list[Standing]:
    return [each for each in table.standings if not each.entry.control]


def read_board(recipe: LeaderboardRecipe, result: LeaderboardResult | None = None) -> Board:
    """A finished leaderboard, or what is stored of one that runs or was stopped."""
    known = known_trials(recipe, result)
    return Board(
        recipe=recipe,
        tables=read_tables(recipe.contests(), known),
        done=sum(each is not None for each in known.values()),
        total=len(known),
    )
