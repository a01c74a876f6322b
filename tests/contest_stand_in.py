"""A study of one size that nobody ran, made of the comparison that ships: what all lose is chosen here."""

from __future__ import annotations

from typing import Any

import numpy as np

from analysis.evaluate import Perplexity
from slicing.repair import Repair, SublayerRepair
from slicing.studies.requests import Trial
from slicing.studies.results import Measurement, Run, StudyResult
from slicing.studies.store import bundled_run
from slicing.studies.study import Study, contest, recipes

LOSSES = {
    "slice(constant)": 1.0,
    "slice(dynamic, base=0)": 0.8,
    "slice(softmax, block-influence)": 0.95,
    "slice(water-filling, slice-one)": 0.85,
    "slice(random)": 0.9,
    "slice(random, draw=1)": 1.1,
    "slice(constant, blocks_per_basis=3)": 0.7,
    "slice(constant, repair=writers)": 0.6,
}
"""Of every recipe above dense, in nats per token, with the first seed; with each further seed 0.02 more."""
DAMAGE = 0.1
"""Of every block left out, times its number."""


def contest_study(**changes: Any) -> Study:
    """The study, with two seeds; ``changes`` are arguments of ``contest``."""
    shipped = bundled_run().request
    fields: dict[str, Any] = {
        **{name: getattr(shipped, name) for name in ("model", "calibration", "evaluation")},
        "recipes": recipes(*LOSSES),
        "seeds": (0, 1),
        "other": getattr(shipped, "evaluation"),  # noqa: B009 (of a study)
    }
    return contest(**{**fields, **changes})


def contest_run(**changes: Any) -> Run:
    """The run, whose profile holds the damage of leaving each block out."""
    study, shipped = contest_study(**changes), bundled_run()
    result: Any = shipped.result
    blocks = np.arange(result.profile.blocks)
    found = StudyResult(
        profile=result.profile.with_probed("leave-one-out", DAMAGE * blocks[None, :]),
        shape=result.shape,
        measurements=tuple(_measurement(trial, study.seeds) for trial in study.trials()),
        calibration=result.calibration,
        evaluation=result.evaluation,
    )
    return shipped.model_copy(update={"recorded_key": study.key, "request": study, "result": found})


def shipped_measurement(name: str) -> Measurement:
    """The measurement of this name in the comparison that ships."""
    result: Any = bundled_run().result
    return next(each for each in result.measurements if each.name == name)


def _measurement(trial: Trial, seeds: tuple[int, ...]) -> Measurement:
    loss = LOSSES[trial.recipe.line] + 0.02 * seeds.index(trial.seed) if trial.budget else 0.0
    repair = Repair(
        sublayers=(
            SublayerRepair(ridge=1.0, before=0.2, after=0.1),
            SublayerRepair(ridge=None, before=0.2, after=0.2),
        ),
        windows=2,
        unrepaired=3.5,
        repaired=3.25,
    )
    return shipped_measurement("dynamic" if trial.budget else "dense").model_copy(
        update={
            "name": trial.recipe.short,
            "title": trial.recipe.short_title,
            "evaluation": evaluation(loss),
            "other": evaluation(loss / 2),
            "repair": None if trial.recipe.repaired == "none" else repair,
            "deciding_seconds": 30.0,
        }
    )


def evaluation(loss: float) -> Perplexity:
    """The dense model's, with so many nats per token more."""
    dense = shipped_measurement("dense").evaluation
    # What is lost differs from window to window, so that there is an interval to draw.
    nll = np.asarray(dense.nll) + loss * np.linspace(0.9, 1.1, len(dense.nll))
    return dense.model_copy(update={"nll": tuple(nll), "perplexity": float(np.exp(nll.mean()))})
