"""What the trials of a study share: the results are those of trials that share nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.steps import inner
from slicing.studies.cuts import Cuts
from slicing.studies.recipe import Recipe
from slicing.studies.run import Trials
from slicing.studies.study import Study
from slicing.view import ModelView

TEXT = "What is shared is measured once, and whoever asks for it again finds what the first one found. "


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "tiny"
    tiny_model("llama", num_hidden_layers=6).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (tmp_path / "text.txt").write_text(TEXT * 40)
    text = TextSource(kind="file", location=str(tmp_path / "text.txt"))
    lines = (
        "slice(constant)",
        "fasp",
        "fasp(repair=projections)",
        "shortgpt(share=0.5) | mixed",
        "shortgpt(share=0.5) | mixed(repair=writers)",
        "fasp(uniform=true)",
        "fasp(uniform=true, repair=writers)",
    )
    return Study(
        model=ModelSource.parse(str(folder), device="cpu"),
        calibration=text,
        calibration_windows=6,
        profile_windows=2,
        window_length=24,
        evaluation=text,
        evaluation_windows=4,
        recipes=tuple(map(Recipe.parse, lines)),
        budgets=(Budget.parse("parameters=0.35"),),
    )


def test_what_is_repaired_goes_on_from_what_was_cut_without_repair(study, monkeypatch):
    opened = open_dense(study.model)
    trials = [each for each in study.trials() if each.budget]
    alone = [Trials(opened).make(each).result for each in trials]
    restored: list[str] = []
    fit_inside = inner.fit_inside

    def counted(*args: Any) -> Any:
        restored.extend(args[5])
        return fit_inside(*args)

    monkeypatch.setattr(inner, "fit_inside", counted)
    together, found = Trials(opened, cuts=Cuts()), []
    for place, trial in enumerate(trials):
        together.keep_cuts_of(trials[place:])
        found.append(together.make(trial).result)
    for trial, one, other in zip(trials, alone, found, strict=True):
        assert one.kind == other.kind == "trial"
        before, after = one.measurement, other.measurement
        assert after.evaluation.nll == before.evaluation.nll, trial.recipe.line
        assert after.inner == before.inner
        assert after.repair == before.repair
        assert after.sink == before.sink
        assert (after.deciding_seconds is None) == (before.deciding_seconds is None)
    # Equal widths are those of an ordinary checkpoint, in which nothing can be fitted afterwards.
    assert restored.count("local") == 4
    assert restored.count("writers") == 3


def test_cut_models_go_once_nothing_begins_with_them(study):
    trials, cuts = [each for each in study.trials() if each.budget], Cuts()
    plain, repaired = trials[1:3]
    together = Trials(open_dense(study.model), cuts=cuts)
    together.make(plain)
    together.keep_cuts_of([repaired])
    assert cuts.find_unrepaired(repaired) is cuts.find(plain) is not None
    together.keep_cuts_of(trials[3:])
    assert cuts.find_unrepaired(repaired) is None
    assert cuts.find_unrepaired(trials[0]) is None


def test_deciding_takes_as_long_whoever_has_asked_before():
    view = ModelView(tiny_model("llama"), torch.randint(3, 300, (2, 8)))
    seconds = iter((0.0, 1.0, 3.0, 7.0))

    def whole() -> str:
        return view.once("part", lambda: "part") + "s"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("slicing.view.time.perf_counter", lambda: next(seconds))
        with view.timing() as told:
            assert view.once("whole", whole) == "parts"
            first = told()
    with view.timing() as told:
        assert view.once("whole", whole) == "parts"
    assert first == told() == 7.0


def test_an_answer_that_fails_counts_for_nobody():
    view = ModelView(tiny_model("llama"), torch.randint(3, 300, (2, 8)))

    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError), view.timing() as seconds:
        view.once("fails", fails)
    assert seconds() == 0.0
    with view.timing() as seconds:
        view.once("works", lambda: None)
    assert 0.0 <= seconds() < 1.0
