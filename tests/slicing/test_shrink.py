"""Shrinking: a wish becomes a model, by trials that are judged on search windows, within its minutes."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM

from analysis.errors import PlanError, TextError
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from analysis.values import Progress, no_progress
from app import wording
from app.report import build_report
from slicing.steps import STEPS
from slicing.studies import clock as clocks
from slicing.studies.judge import judged_windows, search_windows
from slicing.studies.options import known_options
from slicing.studies.recipe import Recipe
from slicing.studies.requests import ShrinkRequest, Trial
from slicing.studies.results import Finalist, Run, ShrinkResult, Tried
from slicing.studies.run import Trials, perform
from slicing.studies.store import MODEL_FOLDER, bundled_board, list_runs, parse_run
from slicing.wish import Wish

TEXT = "A whole is what has a beginning and middle and end; a window has at least the middle of one. "
METHODS: Any = STEPS
FEW = ("shortgpt", "last-blocks", "fasp", "slice")


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fields of a request on a tiny model, for which a few methods compete."""
    only(monkeypatch, *FEW)
    tiny_model("llama", num_hidden_layers=4).save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1]), ("other", TEXT.upper())):
        (tmp_path / f"{name}.txt").write_text(text * 30)
    texts = {
        name: TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")
        for name in ("calibration", "evaluation", "other")
    }
    return {
        "model": ModelSource.parse(str(tmp_path / "tiny")),
        **texts,
        "calibration_windows": 5,
        "profile_windows": 2,
        "preview_windows": 3,
        "speed_rounds": 0,
        "evaluation_windows": 8,
        "window_length": 24,
    }


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these methods compete alone."""
    monkeypatch.setattr("slicing.studies.candidates.STEPS", {name: STEPS[name] for name in names})


def shrunk(asked: dict[str, Any], progress: Progress = no_progress, **wish: Any) -> tuple[Any, Any]:
    run = perform(ShrinkRequest(**asked, wish=Wish(**{"minutes": 600.0, **wish})), progress)
    assert run.result.kind == "shrink"
    return run, run.result


def rung(result: ShrinkResult, number: int) -> list[Any]:
    return [each for each in result.tried if each.rung == number]


def test_a_wish_becomes_a_model_and_the_second_time_what_is_stored_is_used(asked, monkeypatch):
    run, result = shrunk(asked, fewer=0.3, opens="everywhere")
    winner = result.winner
    assert winner.measurement.parameters <= 1.01 * result.size < result.shape.parameters

    # The best previews go on, and of what went on the one that loses least on search windows wins.
    previews, full = rung(result, 1), rung(result, 2)
    went_on = [each.nats for each in previews if not each.dropped]
    stayed = [each.nats for each in previews if each.dropped == "others lose less"]
    assert went_on and stayed and max(went_on) <= min(stayed)
    assert all("repair=" in each.line for each in full)
    assert any("share=0.5" in each.line for each in full)
    losses = [np.mean(each.measurement.search.nll) for each in result.finalists]
    assert losses == sorted(losses) and len(losses) == 2

    # The model in the run's folder is the one that was measured.
    folder = runs_folder() / run.key / MODEL_FOLDER
    assert sorted(path.name for path in folder.parent.iterdir()) == [MODEL_FOLDER, "profile.json", "run.json"]
    assert result.plain
    left = AutoModelForCausalLM.from_pretrained(folder)
    assert left.num_parameters() == winner.measurement.parameters
    assert f"Perplexity {winner.measurement.other.perplexity:.2f}" in (folder / "README.md").read_text()

    # The run comes back as it went, and its report answers first.
    assert parse_run(run.to_json().encode(), "it", lambda _: run.result.profile) == run
    report = build_report(run)
    best = winner.measurement
    told = wording.cost_against(result.dense, best.parameters, best.evaluation.perplexity)
    cost = html.escape(told, quote=False)
    assert f"<p class=verdict>{cost}</p>" in report
    assert f"Take “{winner.recipe.title}”" in report
    assert "What was tried" in report and "slicescope shrink --fewer 30%" in report

    made: list[str] = []
    make = Trials.make

    def counted(self: Trials, trial: Trial, *more: Any) -> Run:
        made.append(trial.recipe.line)
        return make(self, trial, *more)

    monkeypatch.setattr(Trials, "make", counted)
    _, again = shrunk(asked, fewer=0.3, opens="everywhere", minutes=300.0)
    assert made == [winner.recipe.line]  # for its model alone
    assert again.winner.recipe == winner.recipe
    assert all(each.expected is None for each in again.tried)

    # And it is known before a third one begins.
    known = known_options(asked["model"], Wish(fewer=0.3), result.shape, 4)
    assert {each.recipe for each in known} == {each.recipe for each in result.finalists}
    assert [each.times for each in known] == sorted(each.times for each in known)
    assert known_options(asked["model"], Wish(fewer=0.6), result.shape, 4) == ()


def test_a_text_that_is_not_installed_is_told_before_any_work(asked, monkeypatch):
    monkeypatch.setattr("analysis.sources.demo_text.find_spec", lambda _: None)
    monkeypatch.setattr(Trials, "make", lambda *_: pytest.fail("a trial was made"))
    with pytest.raises(TextError, match=r"demo text is not installed: .* for every text"):
        shrunk({**asked, "other": TextSource.parse("demo:out-of-style", "evaluation")}, fewer=0.3)


def test_trials_choose_on_windows_that_nothing_is_calibrated_or_told_by(asked, tmp_path):
    (tmp_path / "calibration.txt").write_text(" ".join(map(str, range(2000))))  # no two windows are alike
    request = ShrinkRequest(**asked, wish=Wish(fewer=0.3))
    opened = open_dense(asked["model"])
    rungs: Any = ((1, 4), (2, 8))
    for number, count in rungs:
        trial = request.trial(Recipe(), None, number)
        assert (trial.evaluation_windows, trial.search, trial.other) == (count, "alone", None)
        seen = judged_windows(trial, opened.tokenizer)
        assert seen.equal(search_windows(trial, opened.tokenizer, count))
        drawn = (trial.window_length, trial.calibration_windows, trial.seed)
        calibration = token_windows(trial.calibration, opened.tokenizer, *drawn)
        assert not any(bool((each == seen).all(dim=1).any()) for each in calibration)
    final = request.trial(Recipe(), None, 3)
    assert (final.search, final.evaluation, final.other) == ("beside", asked["evaluation"], asked["other"])


def test_where_time_is_short_every_rung_tries_one_and_says_what_it_left_out(asked, monkeypatch):
    only(monkeypatch, "shortgpt", "fasp")
    monkeypatch.setattr("slicing.studies.shrinking.LATE", 1e12)
    said: list[str] = []
    run, result = shrunk(asked, lambda phase, *_: said.append(phase), fewer=0.3, minutes=1e-6)
    first = said.index(next(phase for phase in said if phase.startswith("Time for 1 of 2 previews")))
    assert said[first + 1].startswith("All take --minutes ")
    assert "Previews" in said[first:]  # it is told before any of them
    for number in (1, 2, 3):
        tried = rung(result, number)
        assert sum(each.seconds is not None for each in tried) == 1
        assert all("s were left for it" in each.dropped for each in tried if each.seconds is None)
    told = wording.shrunk(run.request, result)
    assert "give more minutes" in " ".join(told)
    assert "there was no time" in told[-1]


def test_what_takes_longer_than_was_left_is_given_up(asked, monkeypatch):
    only(monkeypatch, "shortgpt", "last-blocks", "fasp")
    monkeypatch.setattr("slicing.studies.shrinking.OVERTIME", -2.0)  # nothing is left once one has come
    _, result = shrunk(asked, fewer=0.3)
    first, *others = rung(result, 1)
    assert first.seconds is not None
    assert len(others) == 2
    for each in others:
        assert each.seconds is None
        assert "it took longer than was left for it" in each.dropped


def test_finalists_are_cut_once(asked, monkeypatch):
    only(monkeypatch, "fasp", "distil")
    monkeypatch.setattr("slicing.studies.shrinking.HEALING", (1e-4,))  # of 600 minutes
    cut, apply = [], METHODS["fasp"].apply

    def counted(step: Any, view: Any, plan: Any, made: Any) -> Any:
        cut.append(len(view.windows))
        return apply(step, view, plan, made)

    monkeypatch.setattr(METHODS["fasp"], "apply", counted)
    _, result = shrunk(asked, fewer=0.3)
    finals = [each for each in rung(result, 3) if each.line.startswith("fasp")]
    assert len(finals) == 2  # healed, and as it is
    assert cut == [3, 5]  # the preview, and the full form: none for the finalists
    plain = next(each for each in result.finalists if "|" not in each.recipe.line)
    assert plain.measurement.slicing_seconds


def test_a_wish_that_takes_longer_than_its_minutes_is_refused_in_one_sentence(asked):
    with pytest.raises(PlanError, match=r"Even the quickest method takes about .* but 1e-06 are wished for"):
        shrunk(asked, fewer=0.3, minutes=1e-6)


def test_what_fails_is_told_and_hinders_nobody(asked, monkeypatch):
    def fail(*_: Any) -> None:
        raise PlanError("This one cannot be made.")

    monkeypatch.setattr(STEPS["fasp"], "plan", fail)
    only(monkeypatch, "fasp", "shortgpt")
    _, result = shrunk(asked, fewer=0.3)
    assert [each.dropped for each in rung(result, 1) if each.line == "fasp"] == ["This one cannot be made"]
    assert result.winner.recipe.steps[0].name == "shortgpt"

    only(monkeypatch, "fasp")
    with pytest.raises(
        PlanError, match="No method fulfils the wish for 31\N{NO-BREAK SPACE}% fewer parameters here"
    ):
        shrunk(asked, fewer=0.31)


def test_memory_everywhere_and_the_same_model_once(asked, monkeypatch):
    only(monkeypatch, "shortgpt", "last-blocks", "fasp")
    monkeypatch.setattr(METHODS["shortgpt"], "layout", METHODS["last-blocks"].layout)
    bytes_wanted = 4 * 34_000
    _, result = shrunk(asked, memory=bytes_wanted, opens="everywhere")
    assert result.measurement.bytes <= 1.01 * bytes_wanted
    assert result.plain
    lines = [each.line for each in rung(result, 1)]
    assert "fasp(uniform=true)" in lines
    twins = [each for each in result.tried if each.dropped.startswith("it is the same model as that of ")]
    assert {each.rung for each in twins} == {1}


def test_what_is_left_of_the_minutes_heals(asked, monkeypatch):
    only(monkeypatch, "shortgpt", "distil")
    monkeypatch.setattr("slicing.studies.shrinking.HEALING", (1e-4,))  # of 600 minutes
    run, result = shrunk(asked, fewer=0.3)
    healed = max(result.finalists, key=lambda each: len(each.recipe.steps))
    assert healed.recipe.line.endswith("| distil(minutes=0.06)")
    assert [told.step for told in healed.measurement.healed] == ["distil"]
    assert [each.line for each in rung(result, 3)] == [
        healed.recipe.line,
        healed.recipe.line.split(" | ")[0],  # the same as it is, beside it
    ]
    assert parse_run(run.to_json().encode(), "it", lambda _: run.result.profile) == run


def test_a_clock_learns_what_trials_take(asked, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now[0])
    request = ShrinkRequest(**asked, wish=Wish(fewer=0.3))
    trials = [
        request.trial(Recipe.parse(line), Wish(fewer=0.3).budgets(SHAPE, 4)[0], 2)
        for line in ("fasp", "shortgpt", "mixed")
    ]
    work = [sum(work for _, work in trial.own_phases()) for trial in trials]
    clock = clocks.Clock(60.0, pace=1000.0)
    assert clock.expect(trials[0]) == pytest.approx(work[0] / 1000)
    clock.learn(trials[0], 7.0 + work[0] / 1000)  # seven seconds beside the work
    clock.learn(trials[1], 7.0 + 3 * work[1] / 1000)
    assert clock.expect(trials[0]) == pytest.approx(7.0 + work[0] / 1000)
    assert clock.expect(trials[1]) == pytest.approx(7.0 + 3 * work[1] / 1000)
    assert clock.expect(trials[2]) == pytest.approx(7.0 + 2 * work[2] / 1000)  # the median of the others
    now[0] += 10.0
    clock.count(20.0)
    assert (clock.spent, clock.left) == (30.0, 30.0)


BOARD: Any = bundled_board()
SHAPE = BOARD.result.shape
DEMO = ModelSource(kind="demo")


def test_the_shipped_board_answers_for_the_demo_before_anything_runs():
    assert list_runs()[0] == []
    known = known_options(DEMO, Wish(fewer=0.2), SHAPE, 4)
    line = known[0].recipe.line
    draws = [
        measured
        for trial, measured in zip(BOARD.request.trials(), BOARD.result.measurements, strict=True)
        if trial.recipe.line == line and trial.budget.amount == 0.2
    ]
    perplexities = sorted(each.evaluation.perplexity for each in draws)
    assert len(perplexities) == known[0].draws == 3
    mean = math.exp(np.mean(np.log(perplexities)))
    assert known[0].measured.evaluation.perplexity == pytest.approx(mean)  # the best of three would flatter
    assert known[0].times == pytest.approx(mean / known[0].dense.evaluation.perplexity)
    assert known[0].measured.parameters in {each.parameters for each in draws}
    assert [each.times for each in known] == sorted(each.times for each in known)
    assert len({each.recipe for each in known}) == len(known) > 10
    plain = known_options(DEMO, Wish(fewer=0.2, opens="everywhere"), SHAPE, 4)
    assert plain and {each.recipe for each in plain} < {each.recipe for each in known}
    assert all(each.recipe.opens_everywhere for each in plain)


def test_a_wish_has_a_key_of_what_it_says(asked):
    one = ShrinkRequest(**asked, wish=Wish(fewer=0.3))
    assert one.key == ShrinkRequest(**asked, wish=Wish.parse("30%")).key
    assert one.key != ShrinkRequest(**asked, wish=Wish(fewer=0.3, minutes=31)).key


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (0.0, "There is no clear difference between it and"),
        (0.1, "is clearly worse"),
        (-0.1, "is clearly better here, but the search windows"),
    ],
)
def test_the_answer_says_how_far_behind_the_next_one_is(shift, said):
    """On the shipped board's numbers: the runner-up is the winner with every window shifted."""
    told = " ".join(
        wording.shrunk(ShrinkRequest(**SHIPPED, wish=Wish(fewer=0.2, quality=9)), stand_in(shift))
    )
    assert said in told
    assert "That is within the 9 times that were hoped for, on every text." in told
    hoped = wording.shrunk(ShrinkRequest(**SHIPPED, wish=Wish(fewer=0.2, quality=1.0)), stand_in(shift))
    assert "The 1 times that were hoped for are not reached" in " ".join(hoped)


SHIPPED: dict[str, Any] = {
    name: getattr(BOARD.request, name) for name in ("model", "calibration", "evaluation", "other")
}


def stand_in(shift: float) -> ShrinkResult:
    """A result of two finalists, one of which loses so much more in every window of both texts."""
    study, found = BOARD.request, BOARD.result
    dense, one = found.measurements[:2]
    trial = study.trials()[1]
    ripple = 0.01 * np.cos(np.arange(len(one.evaluation.nll)))

    def moved(each: Any) -> Any:
        return each.model_copy(
            update={"nll": tuple((np.array(each.nll) + shift + ripple - ripple.mean()).tolist())}
        )

    other = one.model_copy(update={"evaluation": moved(one.evaluation), "other": moved(one.other)})
    finalists = [
        Finalist(recipe=trial.recipe, budget=trial.budget, measurement=each) for each in (one, other)
    ]
    return ShrinkResult(
        profile=found.profile,
        shape=found.shape,
        size=one.parameters,
        tokens_per_second=1000.0,
        tried=(Tried(rung=1, line="fasp", nats=3.0, seconds=2.0),),
        dense=dense,
        finalists=tuple(finalists),
        plain=True,
        calibration=found.calibration,
        evaluation=found.evaluation,
    )
