"""What every registered step must do, and that a new one is one new file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.errors import PlanError
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from slicing.allocation import ALLOCATIONS, MAX_FRACTION
from slicing.basis import BASES
from slicing.budget import Budget, whole_blocks
from slicing.plans import Slicing
from slicing.steps import STEPS, Step, find_step
from slicing.steps.base import Made, step
from slicing.studies.judge import count_parameters
from slicing.studies.recipe import Recipe
from slicing.studies.results import Run
from slicing.studies.run import check_recipe, make_smaller, perform
from slicing.studies.store import list_runs
from slicing.studies.study import BOARD, USUAL, leaderboard, recipes
from slicing.studies.verdicts import read_board
from slicing.view import ModelView

BLOCKS = 6
WINDOWS = torch.randint(3, 300, (16, 24), generator=torch.Generator().manual_seed(3))
SHARES = tuple(0.2 + 0.04 * place for place in range(BLOCKS))
TOKENS = 8000
"""To train on, here: few, because what a step gains is looked at where training is tested."""


def lines() -> Iterator[str]:
    """Every step in every variant; of slicing every allocation that needs nothing from the user."""
    for name, kind in STEPS.items():
        if kind.axis == "weights":
            yield f"shortgpt | {name}(tokens={TOKENS})"
        elif kind.axis == "stream":
            yield from (f"{name}({each}, rounding=1)" for each in ALLOCATIONS if each != "manual")
            yield from (f"{name}(constant, rounding=1, basis={each})" for each in BASES if each != "pca")
        else:
            yield from (f"{name}({each})" for each in getattr(kind, "variants", ("",)))


LINES = [Recipe.parse(each.replace("water-filling,", "water-filling, slice-one,")).line for each in lines()]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=BLOCKS)


def view_of(model: Any) -> ModelView:
    profile = profile_blocks(model, WINDOWS[:4], model_label="", text_label="")
    return ModelView(
        model,
        WINDOWS,
        profile,
        profile_windows=4,
        search=lambda plan: (SHARES, 0.0),
        healing_windows=lambda: WINDOWS,
    )


@pytest.fixture(scope="module")
def view(model) -> ModelView:
    return view_of(model)


def budget_of(recipe: Recipe) -> Budget:
    return Budget.parse("like_constant=0.3" if recipe.kind == "width" else "parameters=0.3")


# What it says of itself


@pytest.mark.parametrize("name", STEPS)
def test_a_step_says_what_it_is_and_whom_to_cite(name):
    from app.citations import ENTRIES  # here, so that slicing is tested without the app

    kind = find_step(name)
    made = kind()
    assert kind.name == name == made.name
    assert kind.__doc__
    assert kind.title and not kind.title.endswith(".")
    assert made.control or re.search(r"\b20\d\d\b", kind.source)
    assert not kind.known_issue or kind.known_issue.endswith(".")
    for cited in made.cites:
        entry = cited if cited.startswith("@") else ENTRIES[cited]
        assert re.match(r"@\w+\{\w+,", entry)
    assert made.cites or made.control
    own = [name for name in kind.model_fields if name not in Slicing.model_fields and name != "settings"]
    for field in own:
        assert kind.model_fields[field].title or field in Step.model_fields, f"'{field}' has no title"


def test_titles_are_given_once_and_names_are_taken():
    assert len({kind.title for kind in STEPS.values()}) == len(STEPS)
    (known, *_) = STEPS.values()
    with pytest.raises(ValueError, match=f"'{known.name}' is registered twice"):
        step(type("Another", (known,), {"__module__": __name__}))
    assert STEPS[known.name] is known


@pytest.mark.parametrize("line", [*LINES, *USUAL, *BOARD])
def test_a_line_and_json_say_the_same(line):
    recipe = Recipe.parse(line)
    assert recipe.line == line
    assert Recipe.from_json(recipe.to_json(), "it") == recipe
    assert Recipe.model_validate(line) == recipe
    assert recipe.title
    assert "\n" not in recipe.title
    assert hash(recipe) == hash(Recipe.parse(line))


def test_the_usual_recipes_are_everyone():
    found = [recipe for line in (*USUAL, *BOARD) for recipe in (Recipe.parse(line),)]
    shrinking = {name for name, kind in STEPS.items() if kind.axis != "weights"}
    assert {each.name for recipe in found for each in recipe.steps} == shrinking  # training is asked for
    allocations = {getattr(each, "allocation", "manual") for recipe in found for each in recipe.steps}
    assert allocations == set(ALLOCATIONS)
    assert len(set(USUAL)) == len(USUAL)
    assert len(set(BOARD)) == len(BOARD)


# What it does


@pytest.mark.parametrize("line", LINES)
def test_a_step_keeps_its_budget_and_makes_what_it_planned(line, model, view):
    recipe = Recipe.parse(line)
    (made_by, *healing), budget, shape = recipe.steps, budget_of(recipe), read_shape(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_recipe(recipe, budget, view)
    made, deciding = make_smaller(recipe, budget, view)
    assert deciding >= 0.0
    size = count_parameters(made.model)
    assert [told.step for told in made.healed] == [each.name for each in healing]
    if made_by.axis == "blocks":
        count, expected = whole_blocks(shape, budget.amount)
        assert made.layout is not None
        assert made.layout.count == count
        assert size == expected == made.layout.shape_after(shape).parameters
    elif made_by.axis == "inner":
        assert made.inner is not None
        assert size == made.inner.shape_after(shape).parameters
        asked = made_by.size(shape, budget)  # type: ignore[attr-defined]
        largest = max(each.parameters(shape.hidden_size) for each in shape.sublayers)
        assert size == pytest.approx(asked, abs=asked // 100 if made_by.fine else largest // 2 + 1)  # type: ignore[attr-defined]
    else:
        assert made.sliced is not None
        constant = (
            Recipe.parse("slice(constant, rounding=1)").steps[0].decide(view, budget, made_by_nothing(view))
        )
        wanted = constant.shape_after(shape).parameters  # type: ignore[call-arg]
        coarse = 2 * shape.parameters // (shape.block_count * shape.hidden_size)  # one width up, another down
        assert size == made.sliced.schedule.shape_after(shape).parameters
        assert size == pytest.approx(wanted, abs=max(coarse, wanted // 1000))
    assert made.model(WINDOWS[:2]).logits.isfinite().all()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def made_by_nothing(view: ModelView) -> Made:
    return Made(view.model)


@pytest.mark.parametrize("line", LINES)
def test_a_step_decides_the_same_twice(line, model, view):
    recipe = Recipe.parse(line)
    budget, (*_, made_by) = budget_of(recipe), recipe.steps
    decided = [made_by.decide(each, budget, made_by_nothing(each)) for each in (view, view_of(model))]
    assert as_values(decided[0]) == as_values(decided[1])


def as_values(plan: Any) -> Any:
    """A plan with lists for arrays and tensors, which cannot be compared as one."""
    if is_dataclass(plan):
        return {each.name: as_values(getattr(plan, each.name)) for each in fields(plan)}
    if isinstance(plan, np.ndarray | torch.Tensor):
        return plan.tolist()
    return [as_values(each) for each in plan] if isinstance(plan, list | tuple) else plan


@pytest.mark.parametrize("line", LINES)
def test_a_step_refuses_what_cannot_be_before_any_work(line, view):
    recipe = Recipe.parse(line)
    *_, made_by = recipe.steps
    if made_by.axis == "weights":
        with pytest.raises(PlanError, match="begin with a step that makes the model smaller"):
            Recipe.parse(made_by.name)
        with pytest.raises(PlanError, match="come last"):
            Recipe.parse(f"{recipe.line} | slice(dynamic)")
    elif made_by.axis == "blocks":
        with pytest.raises(PlanError, match=rf"can take away from 0 to \d of the {BLOCKS} blocks"):
            made_by.check(view, Budget.parse(f"blocks={BLOCKS}"))
        with pytest.raises(PlanError, match="removes whole blocks"):
            recipe.check_budget(Budget())
    elif made_by.axis == "inner":
        with pytest.raises(PlanError, match="cuts inside blocks, which the budget"):
            made_by.check(view, Budget())
        with pytest.raises(PlanError, match="cuts inside blocks, which the budget"):
            recipe.check_budget(Budget())
    else:
        with pytest.raises(PlanError):
            made_by.check(view, Budget(amount=(1 + MAX_FRACTION) / 2))
    with pytest.raises(PlanError, match=r"nknown setting of .* 'nothing'"):
        Recipe.parse(f"{made_by.name}(nothing=1)")


@pytest.mark.parametrize("line", LINES)
def test_a_step_tells_what_it_costs_and_has_a_quick_form(line):
    *_, made_by = Recipe.parse(line).steps
    cost = made_by.cost(1000, 100)
    assert cost
    assert all(phase and work >= 0 for phase, work in cost)
    quick = made_by.preview()
    if made_by.axis == "weights":
        assert quick is None  # what it heals is judged without it
        return
    assert quick is not None
    assert quick.name == made_by.name
    assert quick.preview() == quick
    form = made_by.in_form(Slicing(rounding=4), None, 3)
    assert form.in_form(Slicing(rounding=4), None, 3) == form


# One new file

FILE = '''
"""The first blocks go."""

from pydantic import Field

from slicing.depth.layout import Layout
from slicing.steps.base import Made, step
from slicing.steps.removal import Removal


@step
class FirstBlocks(Removal):
    """Remove the first blocks, but so many."""

    name = "first-blocks"
    title = "First blocks"
    source = "A test, 2026"
    cite = "@misc{test2026first, title = {First blocks}}"

    spared: int = Field(default=0, ge=0, title="Blocks in front that stay")

    def layout(self, view, count):
        return Layout.without(view.block_count, range(self.spared, self.spared + count))
'''


@pytest.fixture
def first_blocks(tmp_path: Path) -> Iterator[type[Step]]:
    (tmp_path / "first_blocks.py").write_text(FILE)
    spec = spec_from_file_location("slicing.steps.first_blocks", tmp_path / "first_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.FirstBlocks
    STEPS.pop("first-blocks", None)


def test_a_method_in_one_file_takes_part_in_studies(first_blocks, model, tmp_path):
    assert STEPS["first-blocks"] is first_blocks
    (tmp_path / "text.txt").write_text(
        "A method is one file, and everything else knows it by its name. " * 30
    )
    text = TextSource.parse(str(tmp_path / "text.txt"), "calibration")
    new = "first-blocks(windows=2, spared=1)"
    written = (
        "slice(constant, rounding=1)",
        new,
        "first-blocks(windows=2, share=0.5) | slice(rising, rounding=1)",
    )
    study = leaderboard(
        recipes(*written),
        (0.45,),
        model=ModelSource(kind="hub", location="slicescope/six"),
        calibration=text,
        evaluation=text,
        calibration_windows=4,
        profile_windows=2,
        evaluation_windows=3,
        window_length=24,
    )
    assert tuple(each.line for each in study.recipes) == written
    assert study.recipes[1].title == "First blocks, windows to decide on 2, blocks in front that stay 1"
    assert study.recipes[1].cites == (first_blocks.cite,)
    run = perform(study, opener=lambda _: OpenModel(model, byte_tokenizer()))
    assert run.result.kind == "study"
    removed = [each.layout and each.layout.removed for each in run.result.measurements]
    assert removed == [None, None, (1, 2, 3), (0, 1)]
    assert [each.name for each in run.result.measurements] == [
        "dense",
        "constant",
        "first-blocks",
        "first-blocks/rising",
    ]
    standing = read_board(study, run.result).tables[0].standing(new)
    assert standing is not None
    assert standing.recipe.kind == "depth"
    assert Run.from_json(run.to_json(), "it") == run
    assert len(list_runs()[0]) == 1 + len(study.trials())
    with pytest.raises(PlanError, match="Did you mean 'first-blocks'"):
        Recipe.parse("first-block")
