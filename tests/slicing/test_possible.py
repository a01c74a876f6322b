"""What a shape alone tells to be impossible is what the open model refuses, in the same words."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import DEMO_SHAPE, tiny_model

from analysis.errors import PlanError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.studies.possible import check_recipe, check_study
from slicing.studies.recipe import Recipe
from slicing.studies.run import check_recipe as check_on_model
from slicing.studies.study import BOARD, Study, leaderboard, recipes
from slicing.view import ModelView

BLOCKS = 10
BOTH = "sleb(share=0.5) | slice(dynamic, base=0, blocks_per_basis=3, repair=writers)"
NEVER = ("parameters=0.99",)
SOMETIMES = (
    "parameters=0.01",
    "parameters=0.1",
    "parameters=0.3",
    "blocks=1",
    "blocks=9",
    "blocks=10",
    "like_constant=0.25",
)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=BLOCKS)


def refusal(check: Any, *asked: Any) -> str:
    try:
        check(*asked)
    except PlanError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("windows", [1, 4])
@pytest.mark.parametrize("line", NEVER + SOMETIMES)
def test_the_shape_and_the_open_model_refuse_the_same(line: str, windows: int, model: Any) -> None:
    view = ModelView(model, torch.randint(3, 300, (windows, 16)))
    budget = Budget.parse(line)
    told = {}
    for recipe in recipes(*BOARD, "slice(constant, repair=writers)"):
        if refusal(recipe.check_budget, budget):  # no study holds it
            continue
        told[recipe.line] = refusal(check_recipe, recipe, budget, view.shape, windows)
        assert told[recipe.line] == refusal(check_on_model, recipe, budget, view), recipe.line
    assert told
    if line in NEVER:
        assert all(told.values())


def board(judged: ModelSource, *sizes: float) -> Study:
    text = TextSource.parse("demo", "calibration")
    return leaderboard(
        recipes("slice(constant)", BOTH), sizes, model=judged, calibration=text, evaluation=text
    )


def test_a_study_is_refused_by_the_name_of_the_recipe_and_the_size(model: Any) -> None:
    shape = ModelView(model, torch.randint(3, 300, (1, 16))).shape
    check_study(board(ModelSource(kind="demo"), 0.2, 0.3), shape)
    check_study(board(ModelSource(kind="demo"), 0.1, 0.2), DEMO_SHAPE)
    with pytest.raises(PlanError) as refused:
        check_study(board(ModelSource(kind="demo"), 0.2, 0.1), shape)
    told = str(refused.value)
    assert Recipe.parse(BOTH).title in told and Budget.parse("parameters=0.1").title in told
    assert "two blocks' worth" in told
