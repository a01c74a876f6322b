"""The command of a request makes it again, and so does the study file, for requests of every kind."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from drawn import MODELS, budgets, made, recipes, studies, texts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from app.cli import main
from app.repeat import STUDY_FILE, command, study_file
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, ShrinkRequest, Trial
from slicing.studies.searching import search_request
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
    bundled_units,
)
from slicing.wish import Wish

DEMO: dict[str, Any] = {
    "model": ModelSource(kind="demo"),
    "calibration": TextSource(kind="demo", split="calibration"),
    "evaluation": TextSource(kind="demo", split="out-of-style"),
}


class Asked(Exception):
    """The request that a command would have carried out."""


@pytest.fixture(autouse=True)
def _caught(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def caught(request: Any, *_: Any, **__: Any) -> Any:
        raise Asked(request)

    monkeypatch.setattr("app.cli.looking.carry_out", caught)
    monkeypatch.setattr("app.cli.making.carry_out", caught)
    monkeypatch.setattr("app.cli.studies.carry_out", caught)
    monkeypatch.setattr("app.cli.shrinking.carry_out", caught)
    monkeypatch.setattr("app.cli.shrinking._tell_known", lambda _: None)
    monkeypatch.chdir(tmp_path)


def asked(words: str) -> Any:
    """What the command line makes of a command."""
    sys.argv = shlex.split(words)
    with pytest.raises(Asked) as found:
        main()
    return found.value.args[0]


def again(request: Any) -> Any:
    """What the command of a request makes, with its study file where it has one."""
    if request.kind not in ("profile", "compress", "shrink"):
        Path(STUDY_FILE).write_text(study_file(request), encoding="utf-8")
    return asked(command(request))


def line_texts() -> st.SearchStrategy[TextSource]:
    """Texts that one argument can name."""
    return texts().filter(lambda text: text.column in (None, "sentence") or text.location != "owner/name")


@st.composite
def profiles(draw: st.DrawFn) -> ProfileRequest:
    windows = draw(st.integers(1, 30))
    return ProfileRequest(
        model=draw(MODELS),
        text=draw(line_texts()),
        windows=windows,
        window_length=draw(st.sampled_from([16, 512])),
        seed=draw(st.integers(-(2**63), 2**64 - 1)),
        bases=draw(st.booleans()),
        lens=draw(st.booleans()),
        probes=tuple(draw(st.lists(st.sampled_from(["depth", "leave-one-out"]), unique=True))),
        drawn=draw(st.one_of(st.none(), st.integers(windows + 1, 40))),
    )


@st.composite
def compressions(draw: st.DrawFn) -> CompressRequest:
    windows = draw(st.integers(1, 30))
    evaluation = draw(st.one_of(st.none(), line_texts()))
    recipe = draw(recipes())
    fields: dict[str, Any] = {
        "model": draw(MODELS),
        "calibration": draw(line_texts()),
        "calibration_windows": windows,
        "profile_windows": draw(st.sampled_from([1, min(8, windows)])),
        "search_text": draw(st.one_of(st.none(), line_texts())),
        "healing_text": draw(st.one_of(st.none(), line_texts())),
        "calibration_precision": draw(st.sampled_from(["exact", "fast"])),
        "seed": draw(st.integers(0, 9)),
        "recipe": recipe,
        "budget": draw(budgets(recipe)),
        "evaluation": evaluation,
        "evaluation_windows": draw(st.sampled_from([3, 8])) if evaluation else 8,
    }
    return made(lambda: CompressRequest(**fields))


BUSY = settings(suppress_health_check=[*HealthCheck], max_examples=40)


@BUSY
@given(st.one_of(profiles(), compressions(), studies()))
def test_what_is_copied_makes_the_same_request(request: Any) -> None:
    assert again(request) == request


@pytest.mark.parametrize("name", ["search_text", "healing_text"])
def test_a_text_that_has_no_usual_one_is_always_named(name: str) -> None:
    """Name the demo text too, which other texts are where no flag names one."""
    demo = TextSource.parse("demo", "calibration")
    plain = {
        "model": ModelSource(kind="demo"),
        "recipe": Recipe.parse("slice"),
        "budget": Budget.parse("parameters=0.2"),
    }
    request = CompressRequest(
        **plain, calibration=TextSource.parse("demo:search", "calibration"), **{name: demo}
    )
    assert again(request) == request


@pytest.mark.parametrize(
    "run", [bundled_run, bundled_energy, bundled_units, bundled_sweep, bundled_contest, bundled_board]
)
def test_the_shipped_runs_can_be_repeated(run: Any) -> None:
    assert again(run().request) == run().request


@pytest.mark.parametrize(
    "line", ["slice(constant)", "slice(softmax, temperature=0.1)", "sleb(repair=writers)"]
)
@pytest.mark.parametrize("other", [None, DEMO["evaluation"]])
def test_a_trial_is_repeated_by_a_study_of_its_recipe(line: str, other: Any) -> None:
    budget = Budget(measure="parameters" if line.startswith("sleb") else "like_constant", amount=0.2)
    trial = Trial(**DEMO, recipe=Recipe.parse(line), budget=budget, seed=7, other=other)
    assert trial in again(trial).trials()
    noisy = trial.model_copy(update={"jitter": 2})
    assert noisy in again(noisy).trials()
    dense = Trial(**DEMO, seed=7, other=other)
    assert dense in again(dense).trials()


def test_a_search_is_repeated_by_the_study_that_needs_it() -> None:
    plan = Plan(allocation="searched", target=0.2, settings={"rounds": 3, "draw": 5})
    search = search_request(Trial(**DEMO), plan)
    study = again(search)
    (recipe,) = study.recipes
    (step,) = recipe.steps
    assert search_request(study.trials()[1], step.plan_at(study.budgets[0])) == search


@pytest.mark.parametrize(
    "wish",
    [
        Wish(fewer=0.2),
        Wish(fewer=0.123456789, quality=1.25, minutes=7.5),
        Wish(memory=5 * 10**9, opens="everywhere"),
        Wish(memory=4_831_838_209),
        Wish(flops=0.8, minutes=120),
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "other": TextSource(kind="demo", split="out-of-style"),
            "speed_rounds": 0,
            "seed": 3,
            "calibration_precision": "fast",
        },
        {"tasks": ("sums",), "task_limit": 5, "preview_windows": 4, "search_windows": 16},
        {"search_text": TextSource(kind="demo", split="out-of-style"), "calibration_windows": 12},
    ],
)
def test_a_shrink_is_repeated_by_its_wish(wish: Wish, more: dict[str, Any]) -> None:
    request = ShrinkRequest(**DEMO, **more, wish=wish)
    assert again(request) == request
    assert command(request).startswith("slicescope shrink --")


def test_a_command_is_for_the_shell_and_says_no_more_than_it_must() -> None:
    recipe = Recipe.parse("sleb(share=0.5) | slice(dynamic, base=0)")
    request = CompressRequest(
        **{**DEMO, "evaluation": None}, recipe=recipe, budget=Budget.parse("parameters=0.2")
    )
    assert command(request) == (
        "slicescope compress 'sleb(share=0.5) | slice(dynamic, base=0)' --model demo --budget parameters=0.2 "
        "--evaluation-windows 0 --out smaller-model"
    )
    assert command(bundled_run().request) == "slicescope study study.toml"
