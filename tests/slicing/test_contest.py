"""Contests: equal sizes, who is measured by whom, what is run again, and the table read from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from slicing.bench import phases
from slicing.contest import read_contest
from slicing.runs import (
    USUAL_ENTRIES,
    CompareRecipe,
    ContestRecipe,
    ContestResult,
    Evaluated,
    SearchRecipe,
    TrialRecipe,
)

from analysis.errors import Cancelled, PlanError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app.journal import Entry
from slicing import bench
from slicing.allocation import ALLOCATIONS
from slicing.plan import Plan
from slicing.study.run import perform
from slicing.study.store import list_runs

TEXT = "In a contest all run the same way, and the one who is first is told by the clock alone. "


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> ContestRecipe:
    texts = {"calibration": TEXT, "evaluation": TEXT[::-1], "other": TEXT.upper()}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text * 30)

    def source(name: str) -> TextSource:
        return TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")

    return ContestRecipe(
        model=ModelSource.parse(str(tiny_folder)),
        plan=Plan(target=0.3, rounding=1),
        entries=tuple(Entry.parse(text) for text in USUAL_ENTRIES),
        seeds=(0, 1),
        calibration=source("calibration"),
        calibration_windows=4,
        profile_windows=2,
        evaluation=source("evaluation"),
        evaluation_windows=9,
        other=source("other"),
        window_length=24,
    )


def test_the_usual_contest_has_all_allocations_and_every_entry_reads_back():
    entries = [Entry.parse(text) for text in USUAL_ENTRIES]
    assert tuple(entry.name for entry in entries) == USUAL_ENTRIES
    assert {entry.allocation for entry in entries} == set(ALLOCATIONS) - {"manual"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("dinamic", "Did you mean 'dynamic'"),
        ("dynamic:lx", "lr"),
        ("dynamic:lr:base=x", "needs a number"),
        ("constant+mend", r"and '\+repair' can be added"),
        ("constant+span=x", r"only '\+span=blocks'"),
    ],
)
def test_an_entry_that_is_none_is_one_sentence(text, told):
    with pytest.raises(Exception, match=told):
        Entry.parse(text)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"entries": (Entry(allocation="rising"),)}, "needs 'constant' among"),
        ({"entries": (Entry(allocation="constant"),) * 2}, "distinct entries"),
        ({"seeds": (1, 1)}, "distinct seeds"),
        (
            {"entries": tuple(Entry.parse(text) for text in ("constant", "dynamic:lr:base=0.5"))},
            "may not exceed the target",
        ),
    ],
)
def test_a_contest_that_makes_no_sense_is_one_sentence(recipe, changes, told):
    with pytest.raises(PlanError, match=told):
        ContestRecipe(**{**dict(recipe), **changes})


def test_everyone_runs_at_the_same_size_and_is_measured_by_constant_slicing(recipe):
    run = perform(recipe)
    assert isinstance(run.result, ContestResult)
    table = read_contest(recipe)
    assert table == read_contest(recipe, run.result)
    assert table.done == table.total == 1 + 2 * (len(USUAL_ENTRIES) - 7) + 7  # controls run once
    assert len(table.standings) == len(USUAL_ENTRIES)
    constant = table.standing("constant")
    assert constant is not None
    assert constant.share == 1.0
    assert constant.gain is None
    for each in table.standings:
        assert each.parameters == pytest.approx(
            constant.parameters, rel=0.02
        )  # a tiny model's steps are coarse
        assert len(each.runs) == (1 if each.entry.control else 2)
        assert all((contestant.repair is not None) == each.entry.repair for contestant in each.runs)
        assert each.other_share is not None
    assert list(table.standings) == sorted(table.standings, key=lambda each: each.nats)
    rising = table.standing("rising")
    assert rising is not None
    assert rising.gain is not None
    by_hand = np.mean([each.evaluation.nll for each in rising.runs]) - np.mean(
        [each.evaluation.nll for each in constant.runs]
    )
    assert rising.gain.nats == pytest.approx(by_hand)
    assert table.random is not None
    assert table.random[0] < table.random[1]
    # Scores that took passes of their own are in the profile, for the scatter of LR against damage.
    assert {"leave-one-out", "slice-one", "discarded-energy", "heavy-tail"} <= set(
        run.result.profile.scores()
    )
    searched = table.standing("searched")
    assert searched is not None
    assert searched.runs[0].deciding_seconds is not None


def test_a_control_is_measured_by_the_constant_slicing_of_its_own_seed(recipe):
    perform(recipe)
    table = read_contest(recipe)
    control, constant = table.standing("inverted:lr:base=0"), table.standing("constant")
    assert control is not None
    assert constant is not None
    assert control.gain is not None
    first = np.asarray(control.runs[0].evaluation.nll) - np.asarray(constant.runs[0].evaluation.nll)
    assert control.gain.nats == pytest.approx(float(first.mean()))


def test_what_is_stored_is_not_run_again(recipe):
    small = recipe.model_copy(
        update={"entries": tuple(Entry.parse(text) for text in ("constant", "searched", "rising+repair"))}
    )

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "Trials" and done == 3:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        perform(small, stop)
    assert read_contest(small).done == 3
    runs, _ = list_runs()
    assert sum(isinstance(run.recipe, SearchRecipe) for run in runs) == 1
    stamps = {run.key: (runs_folder() / run.key / "run.json").stat().st_mtime_ns for run in runs}
    perform(small)
    assert read_contest(small).done == read_contest(small).total
    for key, stamp in stamps.items():
        assert (runs_folder() / key / "run.json").stat().st_mtime_ns == stamp


def test_equal_mean_slice_is_the_published_protocol(recipe):
    entries = tuple(Entry.parse(text) for text in ("constant", "dynamic:lr:base=0.1"))
    published = recipe.model_copy(
        update={
            "equal": "slice",
            "entries": entries,
            "plan": Plan(target=0.25, rounding=1, embedding="untied"),
        }
    )
    perform(published)
    table = read_contest(published)
    assert {round(each.runs[0].mean_slice, 2) for each in table.standings} == {0.25}
    dynamic = table.standing("dynamic:lr:base=0.1")
    assert dynamic is not None
    shared = {name: getattr(published, name) for name in Evaluated.model_fields}
    compared = perform(
        CompareRecipe(
            **shared,
            plan=Plan(target=0.25, settings={"base": 0.1}, rounding=1, embedding="untied"),
            new_tokens=0,
            speed_rounds=0,
        )
    )
    expected = compared.result.contestant("dynamic")  # type: ignore[union-attr]
    assert dynamic.runs[0].schedule == expected.schedule
    assert dynamic.runs[0].evaluation.nll == pytest.approx(expected.evaluation.nll, rel=1e-5)


def test_a_trial_at_equal_parameters_has_them(recipe):
    trial = recipe.trial(Entry.parse("dynamic:lr:base=0"), 0)
    assert isinstance(trial, TrialRecipe)
    run = perform(trial)
    size = run.result.contestant.parameters  # type: ignore[union-attr]
    constant = trial.plan.constant(run.result.shape).shape_after(run.result.shape).parameters  # type: ignore[union-attr]
    assert size == pytest.approx(constant, rel=0.01)  # a tiny model has coarse steps


@pytest.mark.parametrize("equal", ["slice", "parameters"])
def test_constant_slicing_in_shared_bases_is_not_the_published_one(recipe, equal):
    entries = (Entry(), Entry.parse("constant+span=2"))
    found = perform(recipe.model_copy(update={"entries": entries, "seeds": (0,), "equal": equal})).result
    _, constant, span = (each.schedule for each in found.contestants)
    assert (constant.span, span.span) == (0, 2)


def test_a_search_serves_only_plans_like_its_own():
    plan = Plan(allocation="searched", settings={"draw": 0.0})
    found = plan.model_copy(update={"settings": {**plan.settings, "shares": (0.1, 0.2)}})
    assert bench._deciding(plan) == bench._deciding(found)
    for change in ({"span": 3}, {"target": 0.3}, {"settings": {"draw": 1.0}}):
        assert bench._deciding(plan.model_copy(update=change)) != bench._deciding(plan)


@pytest.mark.parametrize(
    ("entry", "told"),
    [("water-filling:lr", "score with curves"), ("dynamic:lr:base=1.5", "base")],
)
def test_what_cannot_be_is_told_before_any_trial_runs(recipe, entry, told):
    def executor(*_):
        raise AssertionError("work began")

    with pytest.raises(PlanError, match=told):
        perform(
            recipe.model_copy(update={"entries": (Entry(), Entry.parse(entry)), "seeds": (0,)}),
            executor=executor,
        )


def test_phases_tell_the_share_of_all_trials(recipe):
    told = dict(phases(recipe))
    assert told["Trials"] > 10 * told["Profiling"]
    assert dict(phases(recipe.trial(recipe.entries[1], 0)))["Slicing"] > 0


def test_repair_and_previews_do_not_go_together(recipe):
    trial = recipe.trial(recipe.entries[1], 0)
    with pytest.raises(PlanError, match="Repair follows faithful slicing"):
        TrialRecipe(**{**dict(trial), "repair": True, "method": "preview"})
