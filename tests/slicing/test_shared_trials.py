"""What the trials of a study share: the results are those of trials that share nothing."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.cluster import _Crew, _Member
from slicing.inner import moments
from slicing.search import FALLS_TO, least_missed
from slicing.steps import inner, modegpt
from slicing.steps.base import Made
from slicing.studies.cuts import Cuts, kin
from slicing.studies.recipe import Recipe
from slicing.studies.run import Trials
from slicing.studies.study import Study
from slicing.view import ModelView

TEXT = "What is shared is measured once, and whoever asks for it again finds what the first one found. "
WINDOWS = torch.randint(3, 300, (4, 24), generator=torch.Generator().manual_seed(5))


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

    def counted(*args: Any, kept: Any) -> Any:
        restored.extend(args[5])
        saved = kept.saved
        found = fit_inside(*args, kept=kept)
        if "local" not in args[5]:  # of a repair, the dense stream has passed before
            assert kept.saved > saved
            assert len(kept.known) == len(opened.model.model.layers) * 2
        return found

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


def test_a_worker_takes_what_shares_most_with_its_last_trial(study):
    crew: Any = _Crew.__new__(_Crew)
    both = study.model_copy(
        update={"budgets": (*study.budgets, Budget.parse("parameters=0.2"))},
    )
    crew.waiting = [each for each in both.trials() if each.budget]
    first, _ = crew.members = [_Member(None), _Member(None)]
    given: dict[int, list[str]] = {0: [], 1: []}
    for turn in (0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1):
        member = crew.members[turn]
        trial = crew._next(member)
        crew.waiting.remove(trial)
        member.view, member.kin = trial.view_key, kin(trial)
        given[turn].append(f"{trial.recipe.line} {trial.budget.amount}")
    assert given[0] == [  # those of most steps first
        "shortgpt(share=0.5) | mixed 0.35",
        "shortgpt(share=0.5) | mixed(repair=writers) 0.35",
        "shortgpt(share=0.5) | mixed 0.2",
        "shortgpt(share=0.5) | mixed(repair=writers) 0.2",
        "fasp(uniform=true) 0.35",
        "fasp(uniform=true, repair=writers) 0.35",
        "fasp(uniform=true) 0.2",
    ]
    assert given[1][:5] == [
        "slice(constant) 0.35",
        "slice(constant) 0.2",
        "fasp 0.35",
        "fasp(repair=projections) 0.35",
        "fasp 0.2",
    ]
    crew.waiting = [*both.trials()]
    assert not crew._next(_Member(None)).recipe.steps  # the dense model, before all others
    crew.waiting = []
    assert not crew.waiting
    assert crew._next(first) is None


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


# Only the likely candidates


def test_what_may_be_missed_least_is_tried_again_and_the_rest_is_not():
    tried: list[tuple[str, ...]] = []

    def rises(now: dict[str, float]) -> Any:
        def measured(some: Any) -> dict[str, float]:
            tried.append(tuple(some))
            return {each: now[each] for each in some}

        return measured

    first = {"a": 5.0, "b": 1.0, "c": 3.0, "d": 8.0, "e": 2.0, "f": 2.9}
    chosen, known = least_missed([*first], rises(first), {})
    assert (chosen, known, len(tried)) == ("b", first, 1)
    del first["b"]
    # All have grown but one, which has fallen to more than half of itself.
    now = {"a": 6.0, "c": 1.6, "d": 9.0, "e": 3.0, "f": 3.5}
    chosen, known = least_missed([*now], rises(now), first)
    assert chosen == "c"
    assert tried[1:] == [("e", "f", "c")], "the others cannot have fallen below what was found"
    assert known == {**now, "a": 5.0, "d": 8.0}
    # Of gains too the largest is found, and of equals the first.
    assert least_missed("xyz", rises({"x": 1.0, "y": -2.0, "z": -2.0}), {"x": -1.0, "z": -1.0})[0] == "y"


@given(st.data())
def test_the_choice_is_that_of_trying_all_while_no_rise_more_than_halves(data):
    size = data.draw(st.integers(2, 12))
    before = data.draw(st.lists(st.floats(0.01, 1.0), min_size=size, max_size=size))
    factors = data.draw(st.lists(st.floats(FALLS_TO, 3.0), min_size=size, max_size=size))
    now = [rise * factor for rise, factor in zip(before, factors, strict=True)]
    chosen, _ = least_missed(
        range(size), lambda some: {each: now[each] for each in some}, dict(enumerate(before))
    )
    assert now[chosen] == min(now)


def test_sleb_chooses_the_same_where_it_tries_only_the_likely(monkeypatch):
    view = ModelView(tiny_model("llama", num_hidden_layers=6), WINDOWS)
    budget, made = Budget.parse("parameters=0.4"), Made(view.model)
    step, likely = (Recipe.parse(f"sleb(windows=2{more})").steps[0] for more in ("", ", only_likely=true"))
    monkeypatch.setattr("slicing.search.FALLS_TO", -1e9)  # then nothing is too unlikely
    assert likely.decide(view, budget, made) == step.decide(view, budget, made)
    assert likely.cost(1, 1)[0][1] < step.cost(1, 1)[0][1]


def test_one_pass_of_moments_serves_all_methods_and_sizes(monkeypatch):
    model = tiny_model("llama", num_hidden_layers=3)
    steps = [Recipe.parse(line).steps[0] for line in ("2ssp", "modegpt", "fasp", "mixed(measured=0)")]
    budgets = [Budget.parse("parameters=0.2"), Budget.parse("parameters=0.3")]
    passes: list[bool] = []
    carry = moments.writer_moments

    def counted(*args: Any, **named: Any) -> None:
        passes.append(args[2] is not None)
        carry(*args, **named)

    for module in (moments, modegpt):
        monkeypatch.setattr(module, "writer_moments", counted)

    def made(view: ModelView) -> list[torch.Tensor]:
        begun, found = Made(view.model), []
        for budget, step in product(budgets, steps):
            model = step.apply(view, step.decide(view, budget, begun), begun).model
            found.append(model(WINDOWS).logits)
        return found

    apart, shared = ModelView(model, WINDOWS), ModelView(model, WINDOWS)
    shared.shares = True
    expected = made(apart)
    assert passes == [True] * 5
    passes.clear()
    assert all(torch.equal(one, other) for one, other in zip(expected, made(shared), strict=True))
    # As they are, without a look at the moments for the rotary pairs, and relative to the stream.
    assert passes == [True, False, True]
    monkeypatch.setattr(moments, "memory_of", lambda _: (0, 0))
    assert not moments._has_room(model)
