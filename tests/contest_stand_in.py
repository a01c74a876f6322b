"""A contest that nobody ran, made of the comparison that ships: what everyone loses is chosen here."""

from __future__ import annotations

from typing import Any

import numpy as np
from slicing.runs import Contestant, ContestRecipe, ContestResult

from analysis.evaluate import Perplexity
from app.journal import Entry
from slicing.plan import Plan
from slicing.repair import Repair, SublayerRepair
from slicing.study.results import Run
from slicing.study.store import bundled_run

LOSSES = {
    "constant": 1.0,
    "dynamic:lr:base=0": 0.8,
    "softmax:block-influence": 0.95,
    "water-filling:slice-one": 0.85,
    "random:draw=0": 0.9,
    "random:draw=1": 1.1,
    "constant+span=3": 0.7,
    "constant+repair": 0.6,
}
"""Of every entry above dense, in nats per token, with the first seed; with each further seed 0.02 more."""
DAMAGE = 0.1
"""Of every block left out, times its number."""


def contest_recipe(**changes: Any) -> ContestRecipe:
    """The recipe, with two seeds."""
    shipped = bundled_run().recipe
    fields: dict[str, Any] = {
        **{name: getattr(shipped, name) for name in ("model", "calibration", "evaluation")},
        "plan": Plan(),
        "entries": tuple(Entry.parse(name) for name in LOSSES),
        "seeds": (0, 1),
        "other": shipped.evaluation,
    }
    return ContestRecipe(**{**fields, **changes})


def contest_run(**changes: Any) -> Run:
    """The run, whose profile holds the damage of leaving each block out."""
    recipe, shipped = contest_recipe(**changes), bundled_run()
    result: Any = shipped.result
    losses: dict[str, float] = {recipe.dense().key: 0.0}
    for entry in recipe.entries:
        for place, seed in enumerate(recipe.seeds_of(entry)):
            losses[recipe.trial(entry, seed).key] = LOSSES[entry.name] + 0.02 * place
    blocks = np.arange(result.profile.blocks)
    found = ContestResult(
        profile=result.profile.with_probed("leave-one-out", DAMAGE * blocks[None, :]),
        shape=result.shape,
        contestants=tuple(
            _contestant(trial.repair, losses[trial.key], trial.plan) for trial in recipe.trials()
        ),
        calibration=result.calibration,
        evaluation=result.evaluation,
    )
    return shipped.model_copy(update={"recorded_key": recipe.key, "recipe": recipe, "result": found})


def _contestant(repaired: bool, loss: float, plan: Plan | None) -> Contestant:
    result: Any = bundled_run().result
    like = result.contestant("dense" if plan is None else "dynamic")
    repair = Repair(
        sublayers=(
            SublayerRepair(ridge=1.0, before=0.2, after=0.1),
            SublayerRepair(ridge=None, before=0.2, after=0.2),
        ),
        windows=2,
        unrepaired=3.5,
        repaired=3.25,
    )
    return like.model_copy(
        update={
            "evaluation": evaluation(loss),
            "other": evaluation(loss / 2),
            "repair": repair if repaired else None,
            "deciding_seconds": 30.0,
        }
    )


def evaluation(loss: float) -> Perplexity:
    """The dense model's, with so many nats per token more."""
    dense: Perplexity = bundled_run().result.contestant("dense").evaluation  # type: ignore[union-attr]
    # What is lost differs from window to window, so that there is an interval to draw.
    nll = np.asarray(dense.nll) + loss * np.linspace(0.9, 1.1, len(dense.nll))
    return dense.model_copy(update={"nll": tuple(nll), "perplexity": float(np.exp(nll.mean()))})
