"""What the trials of a study take in CPU seconds: deciding, making and judging, recipe by recipe.

Not a test. Run with ``OMP_NUM_THREADS=1 python tests/benchmarks/study_time.py``; ``--recipes`` and ``--sizes``
choose some of them. All of them share one view, as in a study that one process runs, so that what an earlier
trial has measured costs a later one nothing. CPU seconds, because other programs make a machine's clock useless.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from analysis.sources.opening import open_dense
from slicing.budget import Budget
from slicing.steps.base import Made
from slicing.studies.best_share import with_best_shares
from slicing.studies.files import read_study
from slicing.studies.run import Trials

STUDY = Path(__file__).parents[2] / "assets" / "studies" / "families.toml"


def main() -> None:
    """Print a line for each trial once it is done, then the sums."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipes", default="", help="numbers of recipes, from 0, with commas between")
    parser.add_argument("--sizes", default="", help="shares of parameters that go, with commas between")
    asked = parser.parse_args()
    study = read_study(STUDY)
    some = [int(each) for each in asked.recipes.split(",") if each] or range(len(study.recipes))
    sizes = [float(each) for each in asked.sizes.split(",") if each]
    budgets = [each for each in study.budgets if not sizes or each.amount in sizes]
    trials = Trials(open_dense(study.model))
    view, judge = trials.view(study.dense())
    clock = Clock()
    print(f"{'recipe':60} {'size':>5} {'decide':>7} {'make':>7} {'judge':>7}  loss")
    _ = view.profile, view.precision, judge.precision
    print(f"{'profile':60} {'':5} {clock():7.1f}")
    total = np.zeros(3)
    for budget in budgets:
        for recipe in (study.recipes[each] for each in some):
            trial = study.trial(recipe, budget, study.seeds[0])
            if trial is None:
                continue
            spent = np.zeros(3)
            chosen, _ = with_best_shares(recipe, budget, view)
            made = Made(view.model)
            spent[0] += clock()
            for step in chosen.steps:
                plan = step.decide(view, budget, made)
                spent[0] += clock()
                made = step.apply(view, plan, made)
                spent[1] += clock()
            found = judge.measure(trial, made, None)
            spent[2] += clock()
            total += spent
            row = " ".join(f"{each:7.1f}" for each in spent)
            print(f"{recipe.line[:60]:60} {budget.amount:5g} {row}  {np.mean(found.evaluation.nll):.8f}", flush=True)
    print(f"{'all':60} {'':5} {' '.join(f'{each:7.1f}' for each in total)}  {total.sum() / 60:.1f} minutes")


class Clock:
    """Tells the CPU seconds of this process since it was asked last."""

    def __init__(self) -> None:
        self.last = time.process_time()

    def __call__(self) -> float:
        before, self.last = self.last, time.process_time()
        return self.last - before


if __name__ == "__main__":
    main()
