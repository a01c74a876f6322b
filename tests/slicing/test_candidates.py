"""Candidates for a wish: every registered method in the forms that it names, and what opens where."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import tiny_model

from analysis.errors import PlanError
from slicing.budget import Budget
from slicing.repairs import REPAIRS
from slicing.steps import STEPS
from slicing.studies.candidates import candidates, fitting, full_forms, halves, preview_of
from slicing.studies.recipe import Recipe
from slicing.studies.run import check_recipe, make_smaller
from slicing.view import ModelView

SHARE = Budget(measure="parameters", amount=0.25)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=6)


def anything(recipe: Recipe, budget: Budget) -> None:
    """A model that everything fits."""


def test_every_method_takes_part_but_those_to_be_beaten():
    found = candidates("transformers", (SHARE,), anything)
    known = {step.name for each in found for step in each.recipe.steps}
    by_chance = {name for name, kind in STEPS.items() if kind().by_chance}
    assert known == {name for name, kind in STEPS.items() if kind.axis != "weights"} - by_chance
    assert len({each.recipe for each in found}) == len(found)
    assert all(each.recipe.repaired == "none" for each in found)


def test_what_opens_everywhere_is_plain_in_fact(model, windows):
    """Each form that says so is made, and is a checkpoint of the dense model's own class."""
    view = ModelView(model, windows)
    found = candidates("everywhere", (SHARE,), lambda recipe, budget: check_recipe(recipe, budget, view))
    kept = [each for each in found if each.budget]
    assert {step.axis for each in kept for step in each.recipe.steps} == {"stream", "blocks", "inner"}
    for each in kept:
        made, _ = make_smaller(each.recipe, SHARE, view)
        assert type(made.model) is type(model) or (made.sliced and made.sliced.plain), each.recipe.line
        assert each.recipe.opens_everywhere


def test_repairs_come_strongest_first_and_those_with_a_matrix_do_not_open_everywhere():
    recipe = Recipe.parse("shortgpt")
    forms = full_forms(recipe, "transformers")
    strengths = [REPAIRS[each.repaired].strength for each in forms[:-1]]
    assert strengths == sorted(strengths, reverse=True)
    assert forms[-1] == recipe
    plain = full_forms(recipe, "everywhere")
    assert {each.repaired for each in forms} - {each.repaired for each in plain} == {"linear"}


def test_half_by_blocks_and_half_by_the_best_of_the_rest():
    ranked = [Recipe.parse(line) for line in ("fasp", "sleb", "mixed", "shortgpt")]
    assert halves(ranked) == Recipe.parse("sleb(share=0.5) | fasp")
    assert halves(ranked[1:2]) is None


def test_a_preview_has_no_repair_and_one_shot_bases():
    line = "slice(dynamic, base=0, repair=writers)"
    assert preview_of(Recipe.parse(line)) == Recipe.parse("slice(dynamic, base=0, one_shot=true)")


def test_a_recipe_keeps_the_first_budget_that_it_can():
    exact = Budget(measure="size", amount=1000)
    assert fitting(Recipe.parse("fasp"), (exact, SHARE), anything).budget == exact
    assert fitting(Recipe.parse("sleb"), (exact, SHARE), anything).budget == SHARE
    alone = fitting(Recipe.parse("sleb"), (exact,), anything)
    assert alone.budget is None
    assert "removes whole blocks" in alone.problem

    def refuse(recipe: Recipe, budget: Budget) -> None:
        raise PlanError("This model has no such units.")

    assert fitting(Recipe.parse("fasp"), (SHARE,), refuse).problem == "This model has no such units."
