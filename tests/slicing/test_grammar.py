"""Recipes and studies written down: line, JSON, TOML and value say the same, and an error names its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drawn import recipes, studies
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.errors import ModelError, PlanError, StorageError, TextError
from slicing.budget import Budget
from slicing.steps import STEPS
from slicing.studies import files
from slicing.studies.files import find_study, parse_study, read_study, ready_studies, write_study
from slicing.studies.recipe import Recipe
from slicing.studies.store import (
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
)
from slicing.studies.study import BOARD, USUAL, Study


@pytest.mark.parametrize("name", sorted(STEPS))
@settings(max_examples=25)
@given(data=st.data())
def test_a_recipe_is_one_thing_as_a_line_as_json_and_as_a_value(name: str, data: st.DataObject) -> None:
    recipe = data.draw(recipes((name,)))
    assert Recipe.parse(recipe.line) == recipe
    assert Recipe.parse(recipe.line).line == recipe.line
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert Recipe.model_validate_json(json.dumps(recipe.line)) == recipe
    assert Recipe.parse(recipe.line).key == recipe.key


@pytest.mark.parametrize("line", [*USUAL, *BOARD])
def test_every_usual_recipe_is_written_as_it_is_read(line: str) -> None:
    assert Recipe.parse(line).line == line


def test_every_registered_step_has_a_line_of_its_name() -> None:
    for name, kind in STEPS.items():
        heals = kind.axis == "weights"
        *_, step = Recipe.parse(f"shortgpt | {name}" if heals else name).steps
        assert step.name == name


# Errors of lines


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        ("slice(dynamc)", 7, "Did you mean 'dynamic'"),
        ("slice(dynamic, lrr)", 16, "Did you mean 'lr'"),
        ("  slice(dynamic, bas=0)", 18, "Did you mean 'base'"),
        ("slice(dynamic, base=0, roundng=8)", 24, "Did you mean 'rounding'"),
        ("sleb | slebb", 8, "Did you mean 'sleb'"),
        ("sleb(repair=writer)", 6, "'writer'"),
        ("sleb(share=0.5, windows=0)", 17, "greater than or equal to 1"),
        ("slice(temperature=0.1, allocation=softmx)", 24, "Did you mean 'softmax'"),
        ("slice(dynamic, base=0, base=1)", 24, "name it once"),
        ("slice(dynamic, base=1e999)", 21, "no finite number"),
        ("slice(constant, lr, 3)", 21, "needs its name"),
        ("sleb(**x)", 6, "write its name and its value"),
        ("sleb(\n  windows=0)", 9, "greater than or equal to 1"),
        ("grün(windows=0)", 1, "Unknown step"),
        ("slice(dynamic) slice", 16, "this is no recipe"),
        ("sleb(windows=", 5, "this is no recipe"),
        ("constant,dynamic", 1, "write its name"),
        ("slice | greedy(windows=3)", 9, "'greedy' is called 'sleb' now"),
        ("random:draw=0", 7, "this is no recipe"),
        ("2ssp(windows=0)", 6, "greater than or equal to 1"),
        ("sleb(share=0.5) | 2ssp(widows=3)", 24, "Did you mean 'windows'"),
        ("sleb |  2sspp", 9, "Did you mean '2ssp'"),
        ("  2ssp(windows=3, uniform=1_0)", 27, "no finite number"),
        ("2-nd(windows=3)", 1, "Unknown step '2-nd'"),
        ("2ssp(windows=", 5, "this is no recipe"),
        ("1e5", 1, "Unknown step '1e5'"),
        ("22", 1, "this is no step"),
        ("sleb(2ssp)", 6, "this is no recipe"),
    ],
)
def test_an_error_names_its_column_and_what_is_meant(line: str, column: int, said: str) -> None:
    with pytest.raises(PlanError) as told:
        Recipe.parse(line)
    assert f"in column {column}, " in str(told.value)
    assert said in str(told.value)
    assert str(told.value).count("\n") == 0


def test_the_name_of_a_step_may_begin_with_a_digit() -> None:
    for line in ("2ssp", " 2ssp", "sleb(share=0.5) |2ssp", "sleb(share=0.5)|  2ssp(windows=3)"):
        recipe = Recipe.parse(line)
        assert recipe.steps[-1].name == "2ssp"
        assert Recipe.parse(recipe.line) == recipe
    settings = {"windows": 3, "repair": "writers"}
    assert Recipe.parse("2ssp(windows=3, repair=writers)").steps == (STEPS["2ssp"](**settings),)


@settings(max_examples=40)
@given(st.text(max_size=60))
def test_whatever_is_written_is_a_recipe_or_one_sentence(line: str) -> None:
    try:
        recipe = Recipe.parse(line)
    except PlanError:
        return
    assert Recipe.parse(recipe.line) == recipe


# Studies


@settings(max_examples=60)
@given(studies())
def test_a_study_is_one_thing_as_toml_as_json_and_as_a_value(study: Study) -> None:
    written = write_study(study)
    assert parse_study(written, "it") == study
    assert write_study(parse_study(written, "it")) == written
    assert Study.model_validate_json(study.model_dump_json()) == study
    assert parse_study(written, "it").key == study.key


def test_what_is_as_usual_is_left_out() -> None:
    text = 'recipes = ["slice(constant)"]\n'
    study = parse_study(text, "it")
    assert (study.model.kind, study.seeds, study.budgets) == ("demo", (0,), (Budget(),))
    assert write_study(study).splitlines() == [
        'model = "demo"',
        'calibration = "demo"',
        'evaluation = "demo"',
        'recipes = ["slice(constant)"]',
        "budgets = { mean_slice = [0.25] }",
    ]


@pytest.mark.parametrize("run", [bundled_run, bundled_energy, bundled_sweep, bundled_contest, bundled_board])
def test_the_shipped_studies_have_a_file(run: Callable[[], Any]) -> None:
    study = run().request
    assert parse_study(write_study(study), "it") == study


def test_ready_files_say_what_the_shipped_runs_were_asked_for() -> None:
    assert set(ready_studies()) >= {"families", "map", "quick", "ranking", "removal"}
    for name, run in (("map", bundled_sweep), ("ranking", bundled_contest), ("families", bundled_board)):
        assert read_study(find_study(name)) == run().request
    assert len(read_study(find_study("quick")).recipes) == 4


def test_a_file_of_ones_own_is_taken_before_a_ready_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quick.toml").write_text('recipes = ["slice(constant)"]')
    assert len(read_study(find_study("quick.toml")).recipes) == 1
    with pytest.raises(StorageError, match=r"'other\.toml'.*quick"):
        find_study("other.toml")


GOOD = 'recipes = ["slice(constant)"]\n'


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("model = ", StorageError, "no TOML (Invalid value"),
        ("a = 1\nb = = 2", StorageError, "line 2, column 5"),
        ("x = " + "[" * 4000, StorageError, "no TOML"),
        ("model = 'demo'", PlanError, "names no recipes"),
        (GOOD + "evalution = 'demo'", PlanError, "Unknown key 'evalution'. Did you mean 'evaluation'"),
        (
            GOOD + "calibration_windows = 0",
            PlanError,
            "must be a whole number from 1 on, but is 0",
        ),
        (GOOD + "calibration_windows = '16'", PlanError, 'but is "16"'),
        (GOOD + "speed_rounds = 2000", PlanError, "from 0 to 1000, but is 2000"),
        (GOOD + "view = 'chart'", PlanError, "'view' cannot be \"chart\""),
        (GOOD + "matched = 'yes'", PlanError, "'matched' cannot be"),
        (GOOD + "lens = 2020-01-01", PlanError, "'lens' cannot be"),
        (GOOD + "seeds = 0", PlanError, "whole numbers, as in [0, 1]"),
        (GOOD + "seeds = [0, 0]", PlanError, "distinct seeds"),
        (GOOD + f"seeds = [{10**40}]", PlanError, "A seed must be"),
        (GOOD + "model = 3", PlanError, "a text in quotes"),
        (GOOD + "model = './missing'", ModelError, "does not exist"),
        (GOOD + "device = 'gpu'", ModelError, "Unknown device"),
        (GOOD + "evaluation = 'no-such'", TextError, "'evaluation': Unknown text"),
        (GOOD + "other = { kind = 'hub', location = 'a/b', splt = 'x' }", PlanError, "'other.splt'"),
        (GOOD + "budgets = { parametrs = 0.2 }", PlanError, "Did you mean 'parameters'"),
        (GOOD + "budgets = { parameters = ['a'] }", PlanError, "needs numbers"),
        (GOOD + "budgets = { mean_slice = [nan] }", PlanError, "needs numbers"),
        (GOOD + "budgets = { mean_slice = [1.5] }", PlanError, "got 1.5"),
        (GOOD + "budgets = 0.2", PlanError, "write a table such as"),
        ("recipes = 'sleb'", PlanError, "lines in quotes"),
        ("recipes = ['sleb', 'slebb']", PlanError, "Recipe 2, 'slebb'"),
        ("recipes = ['sleb']", PlanError, "which the budget 'mean_slice=0.25' does not count"),
        ("recipes = ['dense']", PlanError, "leave 'dense' out"),
        (GOOD + "seed = 3", PlanError, "Unknown key 'seed'. Did you mean 'seeds'"),
    ],
)
def test_an_error_of_a_file_names_it_and_the_key(text: str, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind) as told:
        parse_study(text, "it.toml")
    assert "'it.toml'" in str(told.value) and said in str(told.value)
    assert str(told.value).count("it.toml") == 1 and "\n" not in str(told.value)


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    for content, said in ((b"#" * (files.LARGEST + 1), "more than 1,000,000 bytes"), (b"\xff\xfe", "UTF-8")):
        (tmp_path / "it.toml").write_bytes(content)
        with pytest.raises(StorageError, match=said):
            read_study(tmp_path / "it.toml")
    with pytest.raises(StorageError, match="is no file"):
        read_study(tmp_path)
