"""What the trials of a study take in CPU seconds: deciding, making and judging, recipe by recipe.

Not a test. Run with ``OMP_NUM_THREADS=1 python tests/benchmarks/study_time.py``; ``--recipes`` and
``--sizes`` choose some of them. They run in one process as in a study: what an earlier trial has measured or
cut costs a later one nothing. CPU seconds, because the clock of a machine with other work tells little.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from analysis.device import reuse_memory
from analysis.sources.opening import open_dense
from slicing.steps.base import Step
from slicing.studies.cuts import Cuts
from slicing.studies.files import read_study
from slicing.studies.judge import Judge
from slicing.studies.results import Measurement
from slicing.studies.run import Trials

STUDY = Path(__file__).parents[2] / "assets" / "studies" / "families.toml"


def main() -> None:
    """Print a line for each trial once it is done, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default="", help="numbers of recipes, from 0, with commas between")
    parser.add_argument("--sizes", default="", help="shares of parameters that go, with commas between")
    parser.add_argument("--precision", default="exact", help="of calibration: exact or fast")
    asked = parser.parse_args()
    reuse_memory()  # as in every process that carries a study out
    study = read_study(STUDY).model_copy(update={"calibration_precision": asked.precision})
    some = [int(each) for each in asked.recipes.split(",") if each] or range(len(study.recipes))
    sizes = [float(each) for each in asked.sizes.split(",") if each]
    budgets = [each for each in study.budgets if not sizes or each.amount in sizes]
    trials = Trials(open_dense(study.model), cuts=Cuts())
    view, judge = trials.view(study.dense())
    clock, spent = Clock(), np.zeros(3)
    _ = view.profile, view.precision, judge.precision
    print(f"{'recipe':56} {'size':>5} {'decide':>7} {'make':>7} {'judge':>7}  nats per token")  # noqa: T201
    print(f"{'the profile, for all':56} {'':5} {clock():7.1f}")  # noqa: T201
    wanted = [
        trial
        for budget in budgets
        for recipe in (study.recipes[each] for each in some)
        if (trial := study.trial(recipe, budget, study.seeds[0]))
    ]
    total = np.zeros(3)

    def deciding(step: Step, *given: Any) -> Any:
        spent[1] += clock()
        plan = decide[type(step)](step, *given)
        spent[0] += clock()
        return plan

    decide = {type(step): type(step).decide for each in wanted for step in each.recipe.steps}
    for kind in decide:
        kind.decide = deciding  # type: ignore[method-assign]

    def judging(*given: Any) -> Measurement:
        spent[1] += clock()
        found = Judge.measure(judge, *given)
        spent[2] += clock()
        return found

    judge.measure = judging  # type: ignore[method-assign]
    for place, trial in enumerate(wanted):
        trials.keep_cuts_of(wanted[place:])
        spent[:] = 0.0
        result = trials.make(trial).result
        assert result.kind == "trial"
        assert trial.budget
        total += spent
        row, loss = " ".join(f"{each:7.1f}" for each in spent), np.mean(result.measurement.evaluation.nll)
        print(f"{trial.recipe.line[:56]:56} {trial.budget.amount:5g} {row}  {loss:.6f}", flush=True)  # noqa: T201
    print(f"{'all':56} {'':5} {' '.join(f'{each:7.1f}' for each in total)}  {total.sum() / 60:.1f} minutes")  # noqa: T201


class Clock:
    """Tells the CPU seconds of this process since it was asked last."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def __call__(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


if __name__ == "__main__":
    main()
