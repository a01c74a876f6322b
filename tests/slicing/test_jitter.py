"""Repetitions with noise on the Gram matrices: what is repeated, what noise does, and what verdicts say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import byte_tokenizer, tiny_model
from contest_stand_in import contest_run, evaluation

from analysis.errors import PlanError
from analysis.evaluate import perplexity_of
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from app import wording
from app.report import build_report
from app.tables import ranking_table
from slicing.budget import Budget
from slicing.plans import Plan, Slicing
from slicing.studies.files import parse_study, write_study
from slicing.studies.recipe import Recipe
from slicing.studies.requests import MOST_REPETITIONS, Trial
from slicing.studies.results import Run, StudyResult
from slicing.studies.run import Trials, perform
from slicing.studies.searching import search_request
from slicing.studies.store import find_stored
from slicing.studies.study import Study, comparison, contest, recipes
from slicing.studies.verdicts import Standing, read_board, read_comparison, rivals

TEXT = "Noise on a matrix is small, and what comes of it need not be; so it is measured and said. "


@pytest.fixture
def judged(tmp_path: Path) -> dict[str, Any]:
    def source(name: str, text: str) -> TextSource:
        (tmp_path / f"{name}.txt").write_text(text * 30)
        return TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")

    return {
        "model": ModelSource(kind="hub", location="slicescope/tiny"),
        "calibration": source("calibration", TEXT),
        "calibration_windows": 4,
        "profile_windows": 2,
        "evaluation": source("evaluation", TEXT[::-1]),
        "evaluation_windows": 9,
        "window_length": 24,
    }


def tiny() -> OpenModel:
    return OpenModel(tiny_model("llama"), byte_tokenizer())


def fine(*lines: str) -> tuple[Recipe, ...]:
    """Recipes whose widths are multiples of one."""
    return tuple(each.in_form(Slicing(rounding=1)) for each in recipes(*lines))


# What is repeated


def test_calibrated_recipes_are_repeated_after_all_have_run_without_noise(judged):
    lines = (
        "slice(constant)",
        "random-blocks",
        "last-blocks",
        "last-blocks(repair=linear)",
        "sleb(repair=train-block)",
        "sleb(share=0.5) | slice(random)",
    )
    budgets = (Budget(measure="parameters", amount=0.5),)
    study = Study(**judged, recipes=fine(*lines), budgets=budgets, seeds=(3, 1), jitter=2)
    told = [(trial.recipe.short, trial.seed, trial.jitter) for trial in study.trials()]
    repeated = [("constant", 3), ("last-blocks", 3), ("sleb/random", 3), ("constant", 1), ("last-blocks", 1)]
    controls = {each.short for each in study.recipes if each.control}
    assert told[0] == ("dense", 3, 0)
    assert [each[2] for each in told] == sorted(each[2] for each in told)
    without = [each for each in told if each[2] == 0]
    for draw in (1, 2):
        found = {each[:2] for each in told if each[2] == draw}
        assert found == {pair for pair in repeated if pair[1] == 3 or pair[0] not in controls}
        with_noise = [trial for trial in study.trials() if trial.jitter == draw]
        assert all(trial.recipe.fits() for trial in with_noise)
    assert [each[:2] for each in without] == [
        (trial.recipe.short, trial.seed) for trial in study.model_copy(update={"jitter": 0}).trials()
    ]


def test_the_noise_is_part_of_a_key_and_none_is_not(judged):
    asked: dict[str, Any] = {**judged, "recipe": Recipe.parse("slice(constant)"), "budget": Budget()}
    plain, first, second = (Trial(**asked, jitter=draw) for draw in (0, 1, 2))
    assert plain.key == Trial(**asked).key
    assert len({plain.key, first.key, second.key}) == 3
    assert len({plain.view_key, first.view_key, second.view_key}) == 3
    assert (plain.short, first.short) == ("constant", "constant with noise 1")
    study = contest(fine("slice(constant)"), seeds=(0,), **judged)
    assert study.key == contest(fine("slice(constant)"), seeds=(0,), jitter=0, **judged).key
    assert study.key != contest(fine("slice(constant)"), seeds=(0,), jitter=1, **judged).key


def test_the_baseline_beside_is_repeated_too(judged):
    study = comparison(Plan(rounding=1), jitter=2, **judged)
    assert [trial.jitter for trial in study.matches()] == [0, 1, 2]
    assert [study.matched_trial(trial, 900).jitter for trial in study.matches()] == [0, 1, 2]


@pytest.mark.parametrize("jitter", [-1, MOST_REPETITIONS + 1])
def test_as_many_repetitions_as_nobody_waits_for_are_refused(judged, jitter):
    with pytest.raises(PlanError, match=rf"from 0 to {MOST_REPETITIONS} repetitions .* got {jitter}"):
        contest(fine("slice(constant)"), seeds=(0,), jitter=jitter, **judged)
    with pytest.raises(PlanError, match=f"got {jitter}"):
        Trial(**judged, jitter=jitter)


# What noise does


@pytest.mark.parametrize(
    "line",
    [
        "slice(constant)",
        "slice(constant, one_shot=true)",
        "slice(constant, blocks_per_basis=2)",
        "slice(constant, repair=writers)",
        "last-blocks(repair=linear)",
        "gromov-simple(repair=writers)",
    ],
)
def test_a_draw_gives_the_same_numbers_again_and_another_gives_others_that_are_near(judged, line):
    (recipe,) = fine(line)
    budget = Budget() if recipe.kind == "width" else Budget.parse("blocks=1")

    def losses(draw: int) -> np.ndarray:
        run: Any = Trials(tiny()).make(Trial(**judged, recipe=recipe, budget=budget, jitter=draw))
        return np.asarray(run.result.measurement.evaluation.nll)

    without, first, second = (losses(draw) for draw in (0, 1, 2))
    np.testing.assert_array_equal(losses(0), without)
    np.testing.assert_array_equal(losses(1), first)
    assert (first != second).any()
    assert (first != without).any()
    np.testing.assert_allclose(first, without, rtol=0.02)
    np.testing.assert_allclose(second, without, rtol=0.02)


def test_what_ran_before_changes_no_number_with_noise(judged):
    one, two = fine("slice(constant, one_shot=true)", "slice(rising, one_shot=true)")
    trials = [Trial(**judged, recipe=each, budget=Budget(), jitter=1) for each in (one, two)]
    together = Trials(tiny())
    after: Any = [together.make(trial) for trial in trials][1]
    alone: Any = Trials(tiny()).make(trials[1])
    assert after.result.measurement.evaluation.nll == alone.result.measurement.evaluation.nll


def test_a_search_is_made_without_noise_whoever_asks_first(judged, monkeypatch, tmp_path):
    (recipe,) = fine("slice(searched, rounds=1)")
    trial = Trial(**judged, recipe=recipe, budget=Budget(), jitter=1)
    step: Any = recipe.steps[0]
    asked = search_request(trial, step.plan_at(Budget()))
    Trials(tiny()).make(trial)
    noisy: Any = find_stored(asked)
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    plain: Any = perform(asked, opener=lambda _: tiny())
    assert noisy is not None
    assert noisy.result.losses == plain.result.losses


# What verdicts make of it


def noisy_run(moves: dict[str, tuple[float, ...]], **changes: Any) -> Run:
    """A study that nobody ran, where each draw of noise moves a recipe's loss by so many nats per token."""
    run = contest_run(jitter=max(map(len, moves.values())), **changes)
    study: Any = run.request
    result: Any = run.result
    found = []
    for trial, each in zip(study.trials(), result.measurements, strict=True):
        moved = moves.get(trial.recipe.line, ())[trial.jitter - 1 : trial.jitter] if trial.jitter else ()
        shift = moved[0] if moved else 0.0
        added = {
            name: evaluation(0.0).model_copy(
                update={"nll": tuple(np.asarray(getattr(each, name).nll) + factor * shift)}
            )
            for name, factor in (("evaluation", 1.0), ("other", 2.0))
        }
        found.append(each.model_copy(update=added))
    return run.model_copy(update={"result": result.model_copy(update={"measurements": tuple(found)})})


def standing(run: Run, line: str) -> Standing:
    study: Any = run.request
    result: Any = run.result
    found = read_board(study, result).tables[0].standing(line)
    assert found is not None
    return found


DYNAMIC, SOFTMAX = "slice(dynamic, base=0)", "slice(softmax, block-influence)"


def test_a_difference_below_the_range_over_noise_is_no_clear_one():
    # Against constant slicing the one gains 0.2 nats and the other 0.05.
    run = noisy_run({"slice(constant)": (0.03, -0.02), DYNAMIC: (0.0, 0.02), SOFTMAX: (-0.02, 0.01)})
    clear, drowned = standing(run, DYNAMIC).gain, standing(run, SOFTMAX).gain
    assert clear is not None
    assert drowned is not None
    assert clear.noise == pytest.approx(0.07)  # 0, -0.03 and 0.04 beside each other
    assert clear.verdict == "better"
    assert not clear.drowned
    assert drowned.noise == pytest.approx(0.08)  # 0, -0.05 and 0.03
    assert abs(drowned.nats) < drowned.noise
    assert drowned.nats_interval is not None
    assert drowned.nats_interval[1] < 0
    assert drowned.verdict == "no clear difference"
    quiet = standing(contest_run(), SOFTMAX).gain
    assert quiet is not None
    assert (quiet.verdict, quiet.noise) == ("better", None)
    assert quiet.nats == drowned.nats  # what is told is the model without noise
    told = wording.evidence(drowned)
    percent = f"{100 * (perplexity_of(drowned.noise) - 1):.1f}"
    assert f"noise moves it by {percent}\N{NO-BREAK SPACE}%, more than its size" in told
    assert "more than its size" not in wording.evidence(clear)
    assert wording.noise(quiet) == ""


def test_the_second_text_has_a_noise_of_its_own():
    other = standing(noisy_run({SOFTMAX: (0.02,)}), SOFTMAX).other_gain
    assert other is not None
    assert other.noise == pytest.approx(0.04)
    assert (other.verdict, other.drowned) == ("no clear difference", True)


def test_a_recipe_has_a_range_of_its_own_and_seeds_are_averaged_within_a_draw():
    run = noisy_run({"slice(constant)": (0.03, -0.02)})
    baseline = standing(run, "slice(constant)")
    assert baseline.gain is None
    assert baseline.noise == pytest.approx(0.05)
    assert len(baseline.repeats) == 2
    assert {len(runs) for runs in baseline.draws} == {2}  # seeds
    assert standing(contest_run(), "slice(constant)").noise is None


def test_a_rival_within_the_noise_is_no_clear_difference():
    lines = "slice(constant)", "shortgpt", "slice(dynamic, base=0)"
    study: Any = Study(
        **{name: getattr(contest_run().request, name) for name in ("model", "calibration", "evaluation")},
        recipes=recipes(*lines),
        budgets=(Budget(measure="parameters", amount=0.2),),
        jitter=1,
    )
    shipped: Any = contest_run().result
    losses = {"dense": 0.0, "slice(constant)": 1.0, "shortgpt": 0.84, "slice(dynamic, base=0)": 0.8}

    def gap(noise: float) -> Any:
        found = tuple(
            shipped.measurements[1].model_copy(
                update={"evaluation": evaluation(losses[trial.recipe.line] + noise * trial.jitter)}
            )
            for trial in study.trials()
        )
        result = StudyResult(
            profile=shipped.profile,
            shape=shipped.shape,
            measurements=found,
            calibration=shipped.calibration,
            evaluation=shipped.evaluation,
        )
        board = read_board(study, result)
        ((rival,),) = rivals(board)
        assert rival.standing.name == "shortgpt"
        return rival.gap, " ".join(wording.frontier(board))

    quiet, told = gap(0.01)
    assert (quiet.verdict, quiet.noise) == ("worse", pytest.approx(0.01))
    assert "no clear difference (" not in told
    loud, told = gap(0.05)
    assert (loud.verdict, loud.noise) == ("no clear difference", pytest.approx(0.05))
    assert "no clear difference (noise moves it by 5.1" in told


def test_a_stopped_study_counts_the_draws_that_all_seeds_have(monkeypatch):
    run = noisy_run({SOFTMAX: (0.02, 0.3)})
    study: Any = run.request
    result: Any = run.result
    known = {
        trial.key: each
        for trial, each in zip(study.trials(), result.measurements, strict=True)
        if (trial.jitter, trial.seed) != (2, 1)
    }
    monkeypatch.setattr(
        "slicing.studies.verdicts._known",
        lambda *_: {trial.key: known.get(trial.key) for trial in study.trials()},
    )
    found = read_board(study).tables[0].standing(SOFTMAX)
    assert found is not None
    assert found.gain is not None
    assert found.gain.noise == pytest.approx(0.02)


def test_what_is_said_of_a_study_says_what_was_repeated():
    run = noisy_run({SOFTMAX: (0.02, 0.06)})
    study: Any = run.request
    result: Any = run.result
    board = read_board(study, result)
    (reading,) = [each for each in wording.ranking(board.tables[0]) if "Gram matrices" in each]
    assert reading == wording.noise_reading(study)
    assert "repeated 2 times on the same windows" in reading
    assert reading in wording.map_reading(study)
    assert reading in build_report(run)
    assert "repeated with noise, 2 times" in wording.trials_size(study, run)
    frame = ranking_table(board.tables[0]).set_index("recipe")
    moved = frame.loc[SOFTMAX, ["noise moves it by, %", "noise moves that by, %"]].astype(float)
    assert moved.tolist() == pytest.approx([100 * (perplexity_of(0.06) - 1)] * 2, abs=1e-3)
    quiet: Any = contest_run()
    plain = read_board(quiet.request, quiet.result)
    assert wording.noise_reading(plain.study) == ""
    assert not [each for each in wording.ranking(plain.tables[0]) if "noise" in each]
    assert not [name for name in ranking_table(plain.tables[0]) if "noise" in name]


def test_a_comparison_counts_the_noise_of_both_and_says_so(judged):
    study = comparison(Plan(rounding=1, settings={"base": 0.0}), jitter=2, **judged)
    study = study.model_copy(update={"new_tokens": 0, "speed_rounds": 0})
    run = perform(study, opener=lambda _: tiny())
    result: Any = run.result
    assert [trial.jitter for trial in study.trials()] == [0, 0, 0, 1, 1, 2, 2]
    assert len(result.matched) == 3
    found = read_comparison(study, result)
    assert list(found.measured) == ["dense", "constant", "dynamic", "constant-matched"]
    plain = read_comparison(*_without_noise(study, result))
    for name, each in plain.measured.items():
        assert found.measured[name].evaluation == each.evaluation
    losses = [[np.mean(each.evaluation.nll) for each in result.measurements[first::2]] for first in (1, 2)]
    ranges = np.subtract(losses[1], losses[0])
    told = found.difference("constant", "dynamic")
    assert told.noise == pytest.approx(np.ptp(ranges), rel=1e-9)
    assert told.noise > 0  # type: ignore[operator]
    assert found.difference("dense", "dynamic").noise == pytest.approx(np.ptp(losses[1]))
    matched = [np.mean(each.evaluation.nll) for each in result.matched]
    expected = np.ptp(np.subtract(losses[1], matched))
    assert found.difference("constant-matched", "dynamic").noise == pytest.approx(expected)
    assert wording.noise_reading(study) in build_report(run)
    assert {each.noise for each in plain.differences} == {None}


def _without_noise(study: Study, result: Any) -> tuple[Study, Any]:
    """The same comparison as if nothing had been repeated."""
    quiet = study.model_copy(update={"jitter": 0})
    some = {"measurements": result.measurements[:3], "matched": result.matched[:1]}
    return quiet, result.model_copy(update=some)


# Files


def test_a_study_file_says_the_repetitions_and_is_read_back(judged):
    study = contest(fine("slice(constant)"), seeds=(0,), jitter=3, **judged)
    written = write_study(study)
    assert "jitter = 3\n" in written
    assert parse_study(written, "it").jitter == 3
    assert parse_study(written, "it") == study
    assert "jitter" not in write_study(study.model_copy(update={"jitter": 0}))


@pytest.mark.parametrize("said", ["-1", "101", "1.5", "true", '"two"'])
def test_repetitions_that_are_none_are_refused_by_name(said):
    with pytest.raises(PlanError, match=r"The key 'jitter' must be a whole number from 0 to 100"):
        parse_study(f'recipes = ["slice(constant)"]\njitter = {said}\n', "it")
