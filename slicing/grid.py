"""A sweep as far as it has come: which trials are stored, and what they say beside constant slicing.

Reads runs, makes none.
"""

from __future__ import annotations

from typing import NamedTuple

from analysis.evaluate import Difference, corrected, difference
from slicing.contest import Known, known_trials
from slicing.runs import Contestant, SweepRecipe, SweepResult, TrialRecipe


class Cell(NamedTuple):
    """One base and target of the grid."""

    base: float
    target: float
    trial: TrialRecipe | None
    """``None`` where the base reaches the target: constant slicing, by definition."""
    contestant: Contestant | None
    """``None`` where nothing ran yet."""
    gain: Difference | None
    """Against constant slicing at the same target, on the same windows."""


class Grid(NamedTuple):
    """All cells of a sweep, target by target, with what they are compared to."""

    recipe: SweepRecipe
    dense: Contestant | None
    constant: dict[float, Contestant | None]
    """By target."""
    cells: tuple[Cell, ...]
    done: int
    """Trials that are stored, of ``total``."""
    total: int

    def cell(self, base: float, target: float) -> Cell:
        """The cell of this base and target."""
        return next(each for each in self.cells if (each.base, each.target) == (base, target))

    def contestants(self) -> list[tuple[str, Contestant]]:
        """Everyone that ran, each with its place: dense, constant by target, then the cells."""
        found = [("dense", self.dense)] if self.dense else []
        found += [
            (f"constant, SP {100 * target:g} %", each) for target, each in self.constant.items() if each
        ]
        found += [
            (f"SB {100 * each.base:g} %, SP {100 * each.target:g} %", each.contestant)
            for each in self.cells
            if each.contestant
        ]
        return found


def read_grid(recipe: SweepRecipe, result: SweepResult | None = None) -> Grid:
    """The grid of a finished sweep, or what is stored of one that runs or was stopped."""
    known = known_trials(recipe, result)
    constant = {target: known[recipe.constant(target).key] for target in recipe.targets}
    cells = [
        _cell(recipe, base, target, known, constant[target])
        for target in recipe.targets
        for base in recipe.bases
    ]
    told = iter(corrected([cell.gain for cell in cells if cell.gain]))
    return Grid(
        recipe=recipe,
        dense=known[recipe.dense().key],
        constant=constant,
        cells=tuple(cell._replace(gain=next(told)) if cell.gain else cell for cell in cells),
        done=sum(each is not None for each in known.values()),
        total=len(known),
    )


def _cell(
    recipe: SweepRecipe,
    base: float,
    target: float,
    known: Known,
    constant: Contestant | None,
) -> Cell:
    trial = recipe.cell(base, target)
    found = known[trial.key] if trial else None
    gain = None
    if found and constant:
        gain = difference("constant", constant.evaluation, found.name, found.evaluation)
    return Cell(base, target, trial, found, gain)


def pareto(contestants: list[tuple[str, Contestant]]) -> list[str]:
    """The names of those that nobody beats in both parameters and perplexity, by size."""
    front: list[str] = []
    best = float("inf")
    for name, each in sorted(
        contestants, key=lambda pair: (pair[1].parameters, pair[1].evaluation.perplexity)
    ):
        if each.evaluation.perplexity < best:
            best = each.evaluation.perplexity
            front.append(name)
    return front
