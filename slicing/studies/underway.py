"""A shrink as far as it has come: its trials that are stored, by their rungs.

Reads runs, makes none.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from slicing.studies.requests import ShrinkRequest, Trial
from slicing.studies.results import Run
from slicing.studies.store import list_runs

Rung = Literal[1, 2, 3]


class Come(NamedTuple):
    """One trial of a shrink that is stored."""

    rung: Rung
    """1: a preview; 2: the full form; 3: a finalist."""
    line: str
    """Of its recipe."""
    nats: float
    """The mean loss on search windows, nats per token."""
    seconds: float
    """What making and judging it took."""


def come_so_far(request: ShrinkRequest) -> list[Come]:
    """Find the trials of a shrink that are stored, in the order in which they came.

    Those of an earlier shrink that this one asks for too are among them: it does not make them again.
    """
    stored, _ = list_runs(but=("profile", "search", "compress", "study", "shrink"))
    return [come for run in reversed(stored) if (come := _read(request, run))]


def _read(request: ShrinkRequest, run: Run) -> Come | None:
    trial, result = run.request, run.result
    if (
        trial.kind != "trial"
        or result.kind != "trial"
        or trial.model != request.model
        or trial.budget is None
    ):
        return None
    rung = _rung_of(request, trial)
    if rung is None:
        return None
    judged = result.measurement.search or result.measurement.evaluation
    return Come(rung, trial.recipe.line, float(np.mean(judged.nll)), run.seconds)


def _rung_of(request: ShrinkRequest, trial: Trial) -> Rung | None:
    """The rung at which a shrink asks for this very trial; ``None`` where it is one of another job."""
    rungs: tuple[Rung, ...] = get_args(Rung)
    return next((rung for rung in rungs if request.trial(trial.recipe, trial.budget, rung) == trial), None)
