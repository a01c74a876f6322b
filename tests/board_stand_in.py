"""A leaderboard that nobody ran, made of the comparison that ships: what everyone loses is chosen here."""

from __future__ import annotations

from typing import Any

from contest_stand_in import evaluation
from slicing.runs import Contestant, LeaderboardRecipe, LeaderboardResult, TrialRecipe

from app.journal import Entry
from slicing.depth.layout import Layout
from slicing.plan import Plan
from slicing.study.results import Run
from slicing.study.store import bundled_run

LOSSES = {
    "constant": 1.0,
    "dynamic:lr:base=0+span=3+repair": 0.5,
    "remove:random:draw=0": 0.9,
    "remove:random:draw=1": 1.4,
    "remove:shortgpt": 0.6,
    "remove:streamline+matrix": 0.4,
    "remove:streamline+writers": 0.3,
    "remove:streamline:share=0.5/constant+span=3+repair": 0.45,
}
"""Of every entry above dense at the first size, in nats per token; at the second twice as much."""
SIZES = (0.1, 0.2)
REMOVED = {0.1: 4, 0.2: 8}


def board_recipe(**changes: Any) -> LeaderboardRecipe:
    """The recipe, at two sizes."""
    shipped = bundled_run().recipe
    fields: dict[str, Any] = {
        **{name: getattr(shipped, name) for name in ("model", "calibration", "evaluation")},
        "plan": Plan(),
        "entries": tuple(Entry.parse(name) for name in LOSSES),
        "sizes": SIZES,
        "other": shipped.evaluation,
    }
    return LeaderboardRecipe(**{**fields, **changes})


def board_run(**changes: Any) -> Run:
    """The run."""
    recipe, shipped = board_recipe(**changes), bundled_run()
    result: Any = shipped.result
    losses: dict[str, float] = {}
    for contest in recipe.contests():
        for entry in contest.entries:
            for seed in contest.seeds_of(entry):
                times = 1 + SIZES.index(contest.fewer or 0.0)
                losses[contest.trial(entry, seed).key] = times * LOSSES[entry.name]
    found = LeaderboardResult(
        profile=result.profile,
        shape=result.shape,
        contestants=tuple(_contestant(trial, losses.get(trial.key, 0.0)) for trial in recipe.trials()),
        calibration=result.calibration,
        evaluation=result.evaluation,
    )
    return shipped.model_copy(update={"recorded_key": recipe.key, "recipe": recipe, "result": found})


def _contestant(trial: TrialRecipe, loss: float) -> Contestant:
    result: Any = bundled_run().result
    blocks, dense = result.shape.block_count, result.contestant("dense")
    changes: dict[str, Any] = {
        "evaluation": evaluation(loss),
        "other": evaluation(loss / 2),
        "deciding_seconds": 30.0,
    }
    if trial.fewer is not None:
        changes["parameters"] = round(dense.parameters * (1 - trial.fewer))
    if trial.removal:
        changes["layout"] = Layout.without(blocks, range(5, 5 + REMOVED[trial.fewer or 0.0]))
        changes["schedule"] = None
    sliced = trial.plan is not None and not trial.removal
    return (result.contestant("dynamic") if sliced else dense).model_copy(update=changes)
