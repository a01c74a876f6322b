"""Methods inside blocks carried out: what lies in the run's folder, what a study tells, what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import tiny

from analysis.anatomy import why_not_sliceable
from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from slicing.budget import Budget
from slicing.steps.base import Made
from slicing.store import open_model
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest
from slicing.studies.run import check_recipe, perform
from slicing.studies.sound import CHECKS
from slicing.studies.store import MODEL_FOLDER, load_run
from slicing.studies.study import Study
from slicing.studies.verdicts import read_board
from slicing.view import ModelView

TEXT = "What is taken away from the middle is missed less than what is taken away from either end. "
TOKENS = torch.arange(10, 34).view(2, 12)
WINDOWS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "tiny"
    tiny_model("llama", num_hidden_layers=6).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (tmp_path / "text.txt").write_text(TEXT * 40)
    text = TextSource(kind="file", location=str(tmp_path / "text.txt"))
    return {
        "model": ModelSource.parse(str(folder), device="cpu"),
        "calibration": text,
        "calibration_windows": 6,
        "profile_windows": 2,
        "window_length": 24,
        "evaluation": text,
        "evaluation_windows": 4,
    }


@pytest.mark.parametrize(
    "line",
    [
        "fasp",
        "fasp(uniform=true)",
        "modegpt",
        "mixed(repair=projections)",
        "mixed(uniform=true)",
        "sleb(share=0.5) | fasp(repair=writers)",
    ],
)
def test_what_is_made_is_stored_and_opens(asked, line):
    budget = Budget.parse("parameters=0.35")
    request = CompressRequest(**asked, recipe=Recipe.parse(line), budget=budget)
    run = perform(request)
    result: Any = run.result
    assert result.inner is not None
    assert not list(CHECKS["compress"](request, result))
    assert (result.layout is None) == ("sleb" not in line)
    assert result.plain == ("uniform" in line)
    left = result.layout.shape_after(result.shape) if result.layout else result.shape
    assert result.parameters == result.inner.shape_after(left).parameters < result.dense_parameters
    again = load_run(runs_folder() / run.key)
    assert again.result == result
    folder = runs_folder() / run.key / MODEL_FOLDER
    source = ModelSource.parse(str(folder), device="cpu", dtype="float32")
    opened = open_model(source)
    evaluated = token_windows(request.evaluation, byte_tokenizer(), 24, 4)
    assert perplexity(opened.model, evaluated).nll == pytest.approx(result.smaller.nll, abs=1e-5)
    assert sum(each.numel() for each in opened.model.parameters()) == result.parameters
    assert opened.model(TOKENS).logits.isfinite().all()
    if result.plain:
        assert type(opened.model).__name__ == "LlamaForCausalLM"
    else:
        assert "cut inside its blocks already" in str(why_not_sliceable(opened.model.config))
        profile = profile_blocks(opened.model, WINDOWS, model_label="", text_label="")
        assert profile.blocks == len(again.result.inner.blocks)  # it can be looked at


def test_a_study_tells_who_is_best_of_all_families(asked):
    lines = ("slice(constant, rounding=1)", "shortgpt", "fasp", "mixed")
    recipes = tuple(map(Recipe.parse, lines))
    study = Study(**asked, recipes=recipes, budgets=(Budget.parse("parameters=0.35"),))
    run = perform(study)
    result: Any = run.result
    assert not list(CHECKS["study"](study, result))
    sizes = [each.parameters for each in result.measurements[1:]]
    assert max(sizes) - min(sizes) < 0.02 * max(sizes)
    board = read_board(study, result)
    (table,) = board.tables
    assert {standing.recipe.kind for standing in table.standings} >= {"depth", "inner"}
    assert [each.inner is not None for each in result.measurements] == [False, False, False, True, True]


def test_a_view_of_what_is_left_knows_nothing_of_the_dense_model():
    model = tiny_model("llama", num_hidden_layers=4)
    view = ModelView(model, WINDOWS, profile_windows=2)
    assert view.shape.block_count == 4
    other = view.of(tiny_model("llama", num_hidden_layers=2))
    assert other.shape.block_count == 2
    assert other.profile.blocks == 2
    assert other.windows is view.windows


@pytest.mark.parametrize(
    ("line", "budget", "told"),
    [
        ("fasp", "mean_slice=0.25", "does not count: choose a share of the parameters"),
        ("fasp(share=0.5)", "parameters=0.3", "last step that makes a model smaller"),
        ("fasp | slice(constant)", "parameters=0.3", "cannot follow 'fasp'"),
        ("fasp(repair=linear)", "parameters=0.3", "cannot be followed by the repair 'linear'"),
        ("fasp(restore=0.3)", "parameters=0.3", "restore"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(line, budget, told):
    with pytest.raises(PlanError, match=told):
        Recipe.parse(line).check_budget(Budget.parse(budget))


def test_families_without_such_units_are_refused_before_any_work():
    model = tiny("olmoe")
    view = ModelView(model, WINDOWS, profile_windows=2)
    recipe, budget = Recipe.parse("fasp"), Budget.parse("parameters=0.4")
    with pytest.raises(UnsupportedError, match="takes out channels, and no block"):
        check_recipe(recipe, budget, view)


def test_a_plan_is_a_frozen_value(asked):
    opened = open_dense(asked["model"])
    view = ModelView(opened.model, WINDOWS, profile_windows=2)
    (step,) = Recipe.parse("fasp").steps
    plan = step.decide(view, Budget.parse("parameters=0.35"), Made(opened.model))
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.widths = plan.widths
