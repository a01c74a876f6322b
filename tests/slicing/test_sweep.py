"""Sweeps: their trials, what is run again, what is stored when one is stopped, and the grid read from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from slicing.bench import phases
from slicing.grid import read_grid
from slicing.runs import CompareRecipe, SweepRecipe, SweepResult

from analysis.errors import Cancelled, PlanError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from slicing.plan import Plan
from slicing.study.results import Run, TrialResult
from slicing.study.run import perform
from slicing.study.store import find_details, finished_trials, load_run
from slicing.study.verdicts import pareto

TEXT = "A grid is what has rows and columns; a cell has at least the place where one of each meets. "


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> SweepRecipe:
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    return SweepRecipe(
        model=ModelSource.parse(str(tiny_folder)),
        plan=Plan(rounding=1),
        bases=(0.0, 0.2),
        targets=(0.2, 0.4),
        calibration=TextSource.parse(str(tmp_path / "calibration.txt"), "calibration"),
        calibration_windows=3,
        profile_windows=2,
        evaluation=TextSource.parse(str(tmp_path / "evaluation.txt"), "evaluation"),
        evaluation_windows=9,
        window_length=24,
    )


class Stop:
    """A progress callback that cancels before the trial of this number."""

    def __init__(self, trial: int) -> None:
        self.trial, self.seen = trial, []

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.seen.append((phase, done, total))
        if phase == "Trials" and done == self.trial:
            raise Cancelled("enough")


def test_the_trials_are_dense_then_constant_and_cells_by_target(recipe):
    plans = [
        trial.plan and (trial.plan.allocation, trial.plan.target, trial.plan.settings)
        for trial in recipe.trials()
    ]
    assert plans == [
        None,
        ("constant", 0.2, {}),
        ("dynamic", 0.2, {"base": 0.0}),
        ("constant", 0.4, {}),
        ("dynamic", 0.4, {"base": 0.0}),
        ("dynamic", 0.4, {"base": 0.2}),
    ]
    assert len({trial.key for trial in recipe.trials()}) == 6
    assert all(trial.plan.rounding == 1 for trial in recipe.trials() if trial.plan)


def test_trials_on_a_text_that_has_changed_are_made_anew(recipe, tmp_path):
    before = perform(recipe).result
    (tmp_path / "evaluation.txt").write_text(TEXT.upper() * 20)
    after = perform(recipe).result
    assert after.evaluation.digest != before.evaluation.digest
    pairs = zip(before.contestants, after.contestants, strict=True)
    assert all(old.evaluation.nll != new.evaluation.nll for old, new in pairs)


def test_what_cells_are_measured_by_stays_as_published(recipe):
    plan = Plan(**{**dict(recipe.plan), "span": 2})
    swept = recipe.model_copy(update={"plan": plan})
    assert swept.constant(0.2) == recipe.constant(0.2)
    assert swept.cell(0.0, 0.2) != recipe.cell(0.0, 0.2)


def test_a_sweep_keeps_every_trial_and_its_grid_is_theirs(recipe):
    run = perform(recipe)
    assert isinstance(run.result, SweepResult)
    assert load_run(runs_folder() / recipe.key) == run
    assert find_details(run) is not None
    grid = read_grid(recipe)
    assert grid == read_grid(recipe, run.result)
    assert (grid.done, grid.total) == (6, 6)
    cell = grid.cell(0.0, 0.4)
    constant = grid.constant[0.4]
    assert cell.contestant is not None
    assert constant is not None
    assert cell.gain is not None
    paired = [a - b for a, b in zip(cell.contestant.evaluation.nll, constant.evaluation.nll, strict=True)]
    assert cell.gain.nats == pytest.approx(sum(paired) / len(paired))
    diagonal = grid.cell(0.2, 0.2)
    assert (diagonal.trial, diagonal.contestant, diagonal.gain) == (None, None, None)


@pytest.mark.parametrize("method", ["faithful", "preview"])
def test_a_cell_is_what_a_comparison_of_its_plan_finds(recipe, method):
    recipe = recipe.model_copy(update={"method": method})
    grid = read_grid(recipe, perform(recipe).result)
    shared = recipe.model_dump(exclude={"kind", "bases", "targets", "plan"})
    plan = Plan(target=0.4, settings={"base": 0.2}, rounding=1)
    compared: Any = perform(CompareRecipe(**shared, plan=plan, new_tokens=0, speed_rounds=0)).result
    for name, found in (
        ("dense", grid.dense),
        ("constant", grid.constant[0.4]),
        ("dynamic", grid.cell(0.2, 0.4).contestant),
    ):
        expected = compared.contestant(name)
        assert found.schedule == expected.schedule
        assert found.parameters == expected.parameters
        assert found.evaluation.nll == pytest.approx(expected.evaluation.nll, rel=1e-5)


def test_a_sweep_that_was_stopped_goes_on_where_it_was(recipe, monkeypatch):
    with pytest.raises(Cancelled):
        perform(recipe, Stop(3))
    grid = read_grid(recipe)
    assert grid.done == 3
    assert grid.constant[0.4] is None
    assert grid.cell(0.0, 0.2).gain is not None
    assert grid.cell(0.0, 0.4).contestant is None
    assert not (runs_folder() / recipe.key).exists()
    before = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert len(before) == 3
    cuts: list[str] = []
    from slicing import bench

    real = bench._Bench.cut
    monkeypatch.setattr(bench._Bench, "cut", lambda *given: cuts.append(given[2]) or real(*given))
    perform(recipe)
    assert len(cuts) == 3
    assert all(path.stat().st_mtime_ns == made for path, made in before.items())


def test_another_sweep_shares_the_cells_it_has_in_common(recipe):
    perform(recipe)
    wider = recipe.model_copy(update={"bases": (0.0, 0.1)})
    assert read_grid(wider).done == 5  # all but SB 10 % at both targets
    listener = Stop(-1)
    perform(wider, listener)
    assert read_grid(wider).done == read_grid(wider).total == 7


def test_a_trial_alone_is_the_trial_of_the_sweep(recipe):
    trial = recipe.cell(0.0, 0.4)
    alone = perform(trial)
    assert isinstance(alone.result, TrialResult)
    assert finished_trials((trial,))[trial.key] == alone.result
    grid = read_grid(recipe)
    assert grid.done == 1
    assert grid.cell(0.0, 0.4).contestant == alone.result.contestant


def test_a_damaged_trial_is_run_again(recipe):
    trial = recipe.dense()
    perform(trial)
    (runs_folder() / trial.key / "run.json").write_text("{")
    assert finished_trials((trial,))[trial.key] is None
    perform(recipe)
    assert finished_trials((trial,))[trial.key] is not None


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"bases": ()}, "distinct bases"),
        ({"targets": (0.2, 0.2)}, "distinct targets"),
        ({"targets": (1.0,)}, "target \\(SP\\)"),
        ({"bases": (-0.1,)}, "base \\(SB\\)"),
        ({"bases": (0.0, 2.0)}, "base \\(SB\\) .* got 2"),
        ({"plan": Plan(allocation="constant", settings={})}, "no base to sweep over"),
    ],
)
def test_impossible_grids_are_one_sentence(recipe, changes, part):
    with pytest.raises(PlanError, match=part):
        SweepRecipe(**{**dict(recipe), **changes})


@pytest.mark.parametrize("method", ["faithful", "preview"])
def test_progress_keeps_to_the_phases(recipe, method):
    for asked in (
        recipe.model_copy(update={"method": method}),
        recipe.cell(0.0, 0.4).model_copy(update={"method": method}),
    ):
        listener = Stop(-1)
        perform(asked, listener)
        names = [name for name, _ in phases(asked)]
        seen = list(dict.fromkeys(phase for phase, _, _ in listener.seen))
        assert seen == names


def test_the_unbeaten_are_those_that_nobody_beats_in_both():
    class Fake:
        def __init__(self, parameters: int, perplexity: float) -> None:
            self.parameters = parameters
            self.evaluation = type("Evaluation", (), {"perplexity": perplexity})

    everyone: Any = [
        ("a", Fake(10, 5.0)),
        ("b", Fake(8, 6.0)),
        ("c", Fake(9, 7.0)),
        ("d", Fake(8, 6.5)),
        ("e", Fake(12, 5.0)),
    ]
    assert pareto(everyone) == ["b", "a"]


def test_a_run_of_each_kind_goes_to_json_and_back(recipe):
    for asked in (recipe.dense(), recipe):
        run = perform(asked)
        assert Run.from_json(run.to_json(), "it") == run
