"""Studies: their trials, equal sizes, what is run again, what a stopped one leaves, and how they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analysis.errors import Cancelled, PlanError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from analysis.values import no_progress
from slicing.allocation import ALLOCATIONS
from slicing.budget import Budget
from slicing.plans import Plan, Slicing
from slicing.studies import run as running
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial
from slicing.studies.results import Run
from slicing.studies.run import perform
from slicing.studies.searching import search_windows
from slicing.studies.store import find_details, finished_trials, list_runs, load_run
from slicing.studies.study import USUAL, Study, comparison, contest, leaderboard, recipes, sweep
from slicing.studies.verdicts import Board, Map, Standing, pareto, read_board, read_comparison, read_map

TEXT = "A study is what has recipes and sizes; all run the same way, and the loss alone tells who is first. "


@pytest.fixture
def judged(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    def source(name: str, text: str) -> TextSource:
        (tmp_path / f"{name}.txt").write_text(text * 30)
        return TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")

    return {
        "model": ModelSource.parse(str(tiny_folder)),
        "calibration": source("calibration", TEXT),
        "calibration_windows": 4,
        "profile_windows": 2,
        "evaluation": source("evaluation", TEXT[::-1]),
        "evaluation_windows": 9,
        "window_length": 24,
    }


@pytest.fixture
def other(tmp_path: Path) -> TextSource:
    (tmp_path / "other.txt").write_text(TEXT.upper() * 30)
    return TextSource.parse(str(tmp_path / "other.txt"), "evaluation")


@pytest.fixture
def swept(judged) -> Study:
    return sweep(Plan(rounding=1), (0.0, 0.2), (0.2, 0.4), **judged)


def fine(*lines: str, **form: Any) -> tuple[Recipe, ...]:
    """Recipes whose widths are multiples of one."""
    return tuple(each.in_form(Slicing(rounding=1, **form)) for each in recipes(*lines))


def standing(board: Board, line: str) -> Standing:
    """That of a recipe at the first budget."""
    (recipe,) = fine(line)
    found = board.tables[0].standing(recipe.line)
    assert found is not None
    return found


def as_map(study: Study, result: Any = None) -> Map:
    found = read_map(read_board(study, result))
    assert found is not None
    return found


class Stop:
    """A progress callback that cancels before the trial of this number."""

    def __init__(self, trial: int) -> None:
        self.trial, self.seen = trial, []

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.seen.append((phase, done, total))
        if phase == "Trials" and done == self.trial:
            raise Cancelled("enough")


# Trials


def test_the_trials_of_a_sweep_are_dense_then_constant_and_cells_by_target(swept):
    told = [(each.recipe.line, each.budget and each.budget.line) for each in swept.trials()]
    assert told == [
        ("dense", None),
        ("slice(constant, rounding=1)", "mean_slice=0.2"),
        ("slice(dynamic, base=0, rounding=1)", "mean_slice=0.2"),
        ("slice(constant, rounding=1)", "mean_slice=0.4"),
        ("slice(dynamic, base=0, rounding=1)", "mean_slice=0.4"),
        ("slice(dynamic, base=0.2, rounding=1)", "mean_slice=0.4"),
    ]
    assert len({trial.key for trial in swept.trials()}) == 6


def test_what_cells_are_measured_by_stays_as_published(swept, judged):
    plan = Plan(rounding=1, blocks_per_basis=2, score="angular", first_token=True)
    shared = sweep(plan, (0.0, 0.2), (0.2, 0.4), **judged)
    assert shared.baseline == swept.baseline
    assert not {*shared.recipes[1:]} & {*swept.recipes[1:]}


def test_random_baselines_run_for_the_first_seed_alone(judged):
    study = contest(fine("slice(constant)", "slice(random)", "slice(dynamic)"), seeds=(3, 1), **judged)
    assert [(each.recipe.short, each.seed) for each in study.trials()] == [
        ("dense", 3),
        ("constant", 3),
        ("random", 3),
        ("dynamic", 3),
        ("constant", 1),
        ("dynamic", 1),
    ]


def test_several_draws_are_for_the_recipes_that_are_named_and_for_the_baseline(judged):
    lines = ("slice(constant)", "slice(dynamic, base=0)", "slice(rising)")
    once = contest(recipes(*lines), seeds=(0, 1), **judged)
    assert len(once.trials()) == 1 + 3 * 2
    some = once.model_copy(update={"redrawn": recipes(lines[1])})
    drawn = [(each.recipe.line, each.seed) for each in some.trials()[1:]]
    assert drawn == [(lines[0], 0), (lines[1], 0), (lines[2], 0), (lines[0], 1), (lines[1], 1)]
    with pytest.raises(PlanError, match="is none of the recipes: name it among the recipes too"):
        contest(recipes(*lines), redrawn=recipes("shortgpt"), **judged)


def test_trials_that_share_a_view_run_one_behind_the_other(judged, monkeypatch):
    opened, real = [], running.open_view
    monkeypatch.setattr(running, "open_view", lambda *a, **k: opened.append(a[0]) or real(*a, **k))
    study = leaderboard(recipes("shortgpt"), sizes=(0.25, 0.45), seeds=(0, 1), **judged)
    result = perform(study).result
    assert len(opened) == 1 + 2  # one to tell what cannot be, then one of each seed
    assert [each.title for each in result.measurements] == ["Dense"] + 4 * [study.recipes[0].title]
    for trial, found in zip(study.trials(), result.measurements, strict=True):
        assert perform(trial).result.measurement.evaluation.nll == found.evaluation.nll


def test_a_search_is_judged_on_the_text_that_is_named(judged, other):
    request = Trial(**judged, recipe=recipes("shortgpt")[0], budget=Budget.parse("parameters=0.3"))
    tokenizer = running.open_model(request.model).tokenizer
    own = search_windows(request, tokenizer, 2)
    fitted = token_windows(request.calibration, tokenizer, 24, 4, 0)
    assert not (own[:, None] == fitted).all(-1).any()
    elsewhere = request.model_copy(update={"search_text": other})
    assert torch.equal(search_windows(elsewhere, tokenizer, 2), token_windows(other, tokenizer, 24, 2, 0))
    view = running.open_view(elsewhere, running.open_model(request.model), no_progress)
    assert torch.equal(view.draw_more(2), search_windows(elsewhere, tokenizer, 2))
    lines = ("shortgpt(share=search) | slice(constant)", "shortgpt")
    study = leaderboard(recipes(*lines), sizes=(0.4,), search_text=other, **judged)
    assert [each.search_text for each in study.trials()] == [None, other, None]
    flattering = elsewhere.model_copy(update={"other": other})
    assert any("Search and evaluation are both on" in each for each in flattering.warnings(None))
    assert not elsewhere.warnings(None)


def test_all_allocations_are_among_the_usual_recipes():
    found = {getattr(step, "allocation", "") for line in USUAL for step in Recipe.parse(line).steps}
    assert found == set(ALLOCATIONS) - {"manual"}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipes": ()}, "distinct recipes"),
        ({"recipes": recipes("slice(constant)") * 2}, "distinct recipes"),
        ({"recipes": recipes("slice(constant)", "dense")}, "leave 'dense' out"),
        ({"budgets": ()}, "distinct budgets"),
        ({"budgets": (Budget(), Budget())}, "distinct budgets"),
        ({"seeds": (1, 1)}, "distinct seeds"),
        ({"seeds": tuple(range(20_001))}, "20,001 trials, but 10,000 are the most"),
        ({"recipes": recipes("slice(constant)", "sleb")}, "removes whole blocks, which the budget"),
        (
            {"recipes": recipes("slice(searched)"), "budgets": (Budget.parse("parameters=0.2"),)},
            "A search looks for shares at the size that a target",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_one_sentence(judged, changes, told):
    fields: dict[str, Any] = {"recipes": recipes("slice(constant)"), **changes}
    with pytest.raises(PlanError, match=told) as error:
        Study(**judged, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"bases": ()}, "distinct bases"),
        ({"targets": (0.2, 0.2)}, "distinct targets"),
        ({"targets": (1.0,)}, r"target \(SP\)"),
        ({"bases": (-0.1,)}, r"base"),
        ({"bases": (0.0, 2.0)}, r"base .* got 2"),
        ({"plan": Plan(allocation="constant")}, "no base to sweep over"),
    ],
)
def test_an_impossible_sweep_is_one_sentence(judged, changes, told):
    with pytest.raises(PlanError, match=told):
        sweep(**{"plan": Plan(), **changes}, **judged)


@pytest.mark.parametrize(
    ("line", "told"),
    [("slice(water-filling, lr)", "score with curves"), ("sleb(share=0.5) | slice(constant)", "two blocks'")],
)
def test_what_cannot_be_is_told_before_any_trial_runs(judged, line, told):
    def executor(*_: object) -> None:
        raise AssertionError("work began")

    study = leaderboard(recipes("slice(constant)", line), (0.25,), **judged)
    with pytest.raises(PlanError, match=told):
        perform(study, executor=executor)


# Sizes and verdicts


def test_everyone_runs_at_the_same_size_and_is_measured_by_the_baseline(judged, other):
    lines = (
        "slice(constant)",
        "slice(dynamic, leave-one-out, base=0)",
        "slice(rising)",
        "slice(water-filling, slice-one)",
        "slice(searched)",
        "slice(random)",
        "slice(random, draw=1)",
        "slice(inverted, base=0)",
        "slice(dynamic, base=0, repair=writers)",
    )
    study = contest(fine(*lines), 0.3, seeds=(0, 1), **judged, other=other)
    run = perform(study)
    assert run.result.kind == "study"
    board = read_board(study)
    assert board == read_board(study, run.result)
    (table,) = board.tables
    assert board.done == board.total == len(study.trials())
    assert len(table.standings) == len(lines)
    constant = standing(board, "slice(constant)")
    assert table.baseline == constant
    assert (constant.share, constant.gain) == (1.0, None)
    for each in table.standings:
        assert each.parameters == pytest.approx(
            constant.parameters, rel=0.02
        )  # a tiny model's steps are coarse
        assert len(each.runs) == (1 if each.recipe.control else 2)
        assert all((run.repair is not None) == (each.recipe.repaired != "none") for run in each.runs)
        assert each.other_share is not None
    assert list(table.standings) == sorted(table.standings, key=lambda each: each.nats)
    dynamic = standing(board, "slice(dynamic, leave-one-out, base=0)")
    assert dynamic.gain is not None
    by_hand = np.mean([each.evaluation.nll for each in dynamic.runs]) - np.mean(
        [each.evaluation.nll for each in constant.runs]
    )
    assert dynamic.gain.nats == pytest.approx(by_hand)
    assert table.random is not None
    assert table.random[0] < table.random[1]
    # Scores that took passes of their own are in the profile, for the scatter of LR against damage.
    assert {"leave-one-out", "slice-one"} <= set(run.result.profile.scores())
    for line in ("slice(searched)", "slice(water-filling, slice-one)"):
        assert standing(board, line).runs[0].deciding_seconds is not None
    # One that runs once is measured by the baseline of its own seed.
    control = standing(board, "slice(inverted, base=0)")
    assert control.gain is not None
    first = np.asarray(control.runs[0].evaluation.nll) - np.asarray(constant.runs[0].evaluation.nll)
    assert control.gain.nats == pytest.approx(float(first.mean()))


def test_equal_mean_slice_is_the_published_protocol_and_what_a_comparison_finds(judged):
    lines = fine("slice(constant)", "slice(dynamic)", embedding="untied")
    study = contest(lines, 0.25, equal="slice", seeds=(0,), **judged)
    board = read_board(study, perform(study).result)  # type: ignore[arg-type]
    assert {round(each.runs[0].mean_slice, 2) for each in board.tables[0].standings} == {0.25}
    plan = Plan(target=0.25, rounding=1, embedding="untied")
    compared = comparison(plan, **judged, new_tokens=0, speed_rounds=0)
    made: list[str] = []
    result: Any = perform(compared, lambda phase, *_: made.append(phase)).result
    expected = read_comparison(compared, result).measured["dynamic"]
    found = board.tables[0].standing(lines[1].line)
    assert found is not None
    assert found.runs[0] == expected  # the trial was stored
    assert "Slicing dynamic" not in made


@pytest.mark.parametrize("one_shot", [False, True])
def test_a_cell_is_what_a_comparison_of_its_plan_finds(judged, one_shot):
    study = sweep(Plan(rounding=1), (0.0, 0.2), (0.2, 0.4), one_shot=one_shot, **judged)
    result: Any = perform(study).result
    board, found = read_board(study, result), as_map(study, result)
    plan = Plan(target=0.4, settings={"base": 0.2}, rounding=1)
    compared = comparison(plan, one_shot=one_shot, **judged, new_tokens=0, speed_rounds=0)
    measured = read_comparison(compared, perform(compared).result).measured  # type: ignore[arg-type]
    cell, table = found.cell(0.2, Budget(amount=0.4)), board.tables[1]
    assert cell.standing is not None
    assert table.baseline is not None
    for name, one in (
        ("dense", board.dense),
        ("constant", table.baseline.runs[0]),
        ("dynamic", cell.standing.runs[0]),
    ):
        assert one is not None
        assert one.evaluation.nll == measured[name].evaluation.nll
        assert one.schedule == measured[name].schedule
    diagonal = found.cell(0.2, Budget(amount=0.2))
    assert (diagonal.constant, diagonal.standing) == (True, None)


@pytest.mark.parametrize("equal", ["slice", "parameters"])
def test_constant_slicing_in_shared_bases_is_not_the_published_one(judged, equal):
    lines = fine("slice(constant)", "slice(constant, blocks_per_basis=2)")
    result: Any = perform(contest(lines, seeds=(0,), equal=equal, **judged)).result
    assert [each.schedule and each.schedule.span for each in result.measurements] == [None, 0, 2]


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


# What is stored


def test_a_study_keeps_every_trial_and_its_map_is_theirs(swept):
    run = perform(swept)
    assert load_run(runs_folder() / swept.key) == run
    assert Run.from_json(run.to_json(), "it") == run
    assert find_details(run) is not None
    board = read_board(swept)
    assert board == read_board(swept, run.result)  # type: ignore[arg-type]
    assert (board.done, board.total) == (6, 6)
    assert as_map(swept).bases == (0.0, 0.2)


def test_a_study_that_was_stopped_goes_on_where_it_was(judged, monkeypatch):
    swept = sweep(Plan(rounding=1), (0.0, 0.1, 0.2), (0.2, 0.4), **judged)  # so many are told by their number
    with pytest.raises(Cancelled):
        perform(swept, Stop(3))
    board = read_board(swept)
    assert (board.done, board.total) == (3, 8)
    assert board.tables[1].baseline is None
    cell = as_map(swept).cell(0.0, Budget(amount=0.2)).standing
    assert cell is not None
    assert cell.gain is not None
    assert as_map(swept).cell(0.0, Budget(amount=0.4)).standing is None
    assert not (runs_folder() / swept.key).exists()
    before = {path: path.stat().st_mtime_ns for path in runs_folder().glob("*/run.json")}
    assert len(before) == 3
    made: list[Trial] = []
    real = running.Trials.make
    monkeypatch.setattr(
        running.Trials, "make", lambda self, trial, keep=None: made.append(trial) or real(self, trial)
    )
    perform(swept)
    assert made == list(swept.trials()[3:])
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_a_search_that_is_stored_is_not_run_again(judged):
    study = contest(fine("slice(constant)", "slice(searched)", "slice(rising, repair=writers)"), **judged)
    with pytest.raises(Cancelled):
        perform(study, Stop(3))
    runs, _ = list_runs()
    assert sum(run.request.kind == "search" for run in runs) == 1
    stamps = {run.key: (runs_folder() / run.key / "run.json").stat().st_mtime_ns for run in runs}
    perform(study)
    assert read_board(study).done == read_board(study).total
    for key, stamp in stamps.items():
        assert (runs_folder() / key / "run.json").stat().st_mtime_ns == stamp


def test_a_search_serves_only_plans_like_its_own(judged):
    (recipe,) = fine("slice(searched)")
    key = recipe.steps[0].search_key(Budget())
    assert key is not None
    for line in ("slice(searched, blocks_per_basis=3)", "slice(searched, draw=1)"):
        assert fine(line)[0].steps[0].search_key(Budget()) != key
    assert recipe.steps[0].search_key(Budget(amount=0.3)) != key
    assert fine("slice(searched, repair=writers)")[0].steps[0].search_key(Budget()) == key


def test_trials_on_a_text_that_has_changed_are_made_anew(swept, tmp_path):
    before: Any = perform(swept).result
    (tmp_path / "evaluation.txt").write_text(TEXT.upper() * 20)
    after: Any = perform(swept).result
    assert after.evaluation.digest != before.evaluation.digest
    pairs = zip(before.measurements, after.measurements, strict=True)
    assert all(old.evaluation.nll != new.evaluation.nll for old, new in pairs)


def test_another_study_shares_the_trials_it_has_in_common(swept, judged):
    perform(swept)
    wider = sweep(Plan(rounding=1), (0.0, 0.1), (0.2, 0.4), **judged)
    assert read_board(wider).done == 5  # all but SB 10 % at both targets
    perform(wider)
    assert read_board(wider).done == read_board(wider).total == 7


def test_a_trial_alone_is_the_trial_of_the_study(swept):
    trial = swept.trials()[4]
    alone = perform(trial)
    assert alone.result.kind == "trial"
    assert finished_trials((trial,))[trial.key] == alone.result
    assert read_board(swept).done == 1
    assert Run.from_json(alone.to_json(), "it") == alone


def test_a_damaged_trial_is_run_again(swept):
    trial = swept.dense()
    perform(trial)
    (runs_folder() / trial.key / "run.json").write_text("{")
    assert finished_trials((trial,))[trial.key] is None
    perform(swept)
    assert finished_trials((trial,))[trial.key] is not None


# Progress


@pytest.mark.parametrize("one_shot", [False, True])
def test_progress_keeps_to_the_phases(judged, one_shot):
    many = contest(
        tuple(each.in_form(Slicing(rounding=1), one_shot) for each in fine(*USUAL[:3])),
        seeds=(0, 1),
        **judged,
    )
    few = contest(many.recipes[:2], seeds=(0,), **judged)
    for asked in (many, few, many.trials()[2]):
        listener = Stop(-1)
        perform(asked, listener)
        names = [name for name, _ in asked.phases()]
        seen = list(dict.fromkeys(phase for phase, _, _ in listener.seen))
        assert set(seen) <= set(names)
        assert seen == [name for name in names if name in seen]
    told = dict(many.phases())
    assert told["Trials"] > 5 * told["Profiling"]


def test_repair_and_one_shot_bases_do_not_go_together():
    with pytest.raises(PlanError, match="Repair follows sequential slicing"):
        Recipe.parse("slice(dynamic, one_shot=true, repair=writers)")
