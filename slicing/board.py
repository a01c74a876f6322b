"""A leaderboard as far as it has come: what every way to make a model smaller lost, at every size.

Reads runs, makes none.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from slicing.contest import Standing, Table, known_trials, read_contest
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
        return tuple(
            sorted(
                (
                    each
                    for each in everyone
                    if not any(
                        other.parameters <= each.parameters
                        and other.nats <= each.nats
                        and (other.parameters, other.nats) != (each.parameters, each.nats)
                        for other in everyone
                    )
                ),
                key=lambda each: -each.parameters,
            )
        )

    def best(self, kind: Kind) -> tuple[Standing | None, ...]:
        """The one of this kind that loses least, at every size."""
        return tuple(
            next(
                (each for each in table.standings if kind_of(each.entry) == kind and not each.entry.control),
                None,
            )
            for table in self.tables
        )


def kind_of(entry: Entry) -> Kind:
    """What an entry makes smaller."""
    if entry.removal is None:
        return "width"
    return "both" if entry.slices else "depth"


def read_board(recipe: LeaderboardRecipe, result: LeaderboardResult | None = None) -> Board:
    """A finished leaderboard, or what is stored of one that runs or was stopped."""
    known = known_trials(recipe, result)
    return Board(
        recipe=recipe,
        tables=tuple(read_contest(contest, known=known) for contest in recipe.contests()),
        done=sum(each is not None for each in known.values()),
        total=len(known),
    )
