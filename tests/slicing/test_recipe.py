"""The line of a recipe: everything that it can say, and one sentence for what cannot be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from analysis.errors import PlanError
from slicing.budget import MEASURES, Budget
from slicing.steps import STEPS, Step
from slicing.studies.recipe import Recipe


@pytest.mark.parametrize(
    "line",
    [
        "sleb(share=search) | slice(constant, repair=writers)",
        "laco(merge=mean, threshold=0.65, width=2, interval=3, repair=linear)",
        "laco(merge=mean, threshold=0.123456789)",
        "slice(manual, shares=(0.1, 0.2, 0.30000000000000004,))",
        "slice(dynamic, base=0, first_token=true, max_fraction=0.5, rounding=4, embedding=untied)",
    ],
)
def test_a_line_is_read_and_written_as_it_is(line):
    assert Recipe.parse(line).line == line
    assert Recipe.parse(f"  {line} ") == Recipe.parse(line)
    assert Recipe.parse(line.replace("=", " = ").replace("(", "( ")) == Recipe.parse(line)


@pytest.mark.parametrize(
    ("line", "column", "told"),
    [
        ("slebb", 1, "Did you mean 'sleb'"),
        ("sleb | slic", 8, "Did you mean 'slice'"),
        ("laco(mean)", 6, "needs its name"),
        ("laco(merge=max)", 6, "'top', 'sum' or 'mean'"),
        ("laco(width=0)", 6, "greater than or equal to 1"),
        ("laco(threshold=1e999)", 16, "no finite number"),
        ("sleb(depth=3)", 6, "Unknown setting of 'sleb' 'depth'"),
        ("sleb(repair=glue)", 6, "Unknown repair 'glue'"),
        ("slice(repair=linear)", 7, "cannot be followed by the repair 'linear': choose from none, writers"),
        ("sleb(share=half) | slice", 6, "share"),
        ("sleb(share=0) | slice", 6, "above 0 and at most 1; got 0"),
        ("sleb(share=1.5) | slice", 6, "above 0 and at most 1; got 1.5"),
        ("sleb(share=0.5, repair=writers) | slice", 17, "give 'repair=writers' to 'slice' instead"),
        ("sleb(share=0.5) | slice(constent)", 25, "Did you mean 'constant'"),
        ("slice(share=0.5)", 7, "leave out its share"),
        ("slice(dynamic, lx)", 16, "nknown score 'lx'"),
        ("slice(dynamic, base=x)", 16, "must be a finite number; got 'x'"),
        ("slice(dynamic, base=0, base=0.1)", 24, "set twice"),
        ("slice(constant, base=0)", 17, "Unknown setting of 'slice(constant)' 'base'"),
        ("sleb(", 5, "this is no recipe"),
        ("sleb) | slice", 5, "this is no recipe"),
        ("sleb | 3", 8, "is no step"),
        ("sleb + slice", 1, "is no step"),
        ("sleb(windows=[1])", 14, "is no value"),
        ("sleb(*x)", 6, "needs its name"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_column(line, column, told):
    with pytest.raises(PlanError) as raised:
        Recipe.parse(line)
    sentence = str(raised.value)
    assert any(part in sentence for part in told.split("|"))
    assert f"in column {column}," in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("sleb(share=0.5)", "leaves a share to no other"),
        ("sleb | slice", "'sleb' leaves nothing to 'slice'"),
        ("slice | sleb", "'sleb' cannot follow 'slice'"),
        ("sleb(share=0.5) | shortgpt", "'shortgpt' cannot follow 'sleb'"),
    ],
)
def test_steps_that_do_not_follow_each_other_are_one_sentence(line, told):
    with pytest.raises(PlanError, match=told):
        Recipe.parse(line)


@given(some.text(max_size=60))
def test_no_text_is_worse_than_one_sentence(text):
    try:
        recipe = Recipe.parse(text)
    except PlanError as error:
        assert "\n" not in str(error).replace(text, "")
    else:
        assert Recipe.parse(recipe.line) == recipe


NUMBERS = some.floats(min_value=0.001, max_value=0.94).map(lambda value: round(value, 9))


@some.composite
def made(draw: some.DrawFn) -> tuple[Step, ...]:
    """Steps with any settings that go together."""
    sliced = {
        "settings": {"base": draw(NUMBERS)},
        "score": draw(some.sampled_from(["lr", "angular", "heavy-tail"])),
        "first_token": draw(some.booleans()),
        "rounding": draw(some.integers(1, 64)),
        "blocks_per_basis": draw(some.integers(0, 9)),
        "repair": draw(some.sampled_from(["none", "writers"])),
    }
    width = STEPS["slice"].read(sliced)
    name = draw(some.sampled_from([name for name, kind in STEPS.items() if kind.axis == "blocks"]))
    fields = {"windows": draw(some.integers(1, 99))}
    alone = draw(some.sampled_from(["width", "depth", "both"]))
    if alone == "width":
        return (width,)
    if alone == "depth":
        repair = draw(some.sampled_from(["none", *STEPS[name].repairs]))
        return (STEPS[name].read({**fields, "repair": repair}),)
    return (STEPS[name].read({**fields, "share": draw(NUMBERS | some.just("search"))}), width)


@given(made())
def test_line_json_and_value_are_one_thing(steps):
    recipe = Recipe(steps=steps)
    assert Recipe.parse(recipe.line) == recipe
    assert Recipe.parse(recipe.line).key == recipe.key
    assert Recipe.from_json(recipe.to_json(), "it") == recipe


@given(some.sampled_from(MEASURES), some.integers(1, 10**9), NUMBERS)
def test_a_budget_is_its_line(measure, whole, share):
    budget = Budget(measure=measure, amount=whole if measure in ("blocks", "size") else share)
    assert Budget.parse(budget.line) == budget
    assert Budget.parse(budget.line).key == budget.key
    assert budget.title


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("parameter=0.2", "Did you mean 'parameters'"),
        ("parameters", "needs a number"),
        ("parameters=x", "needs a number"),
        ("parameters=1", "between 0 and 1; got 1"),
        ("parameters=0", "between 0 and 1; got 0"),
        ("blocks=0", "whole number from 1 on; got 0"),
        ("blocks=1.5", "whole number from 1 on; got 1.5"),
        ("size=0", "parameters that stay"),
        ("mean-slice=1", "target"),
        ("mean-slice=nan", "number|finite"),
    ],
)
def test_a_budget_that_is_none_is_one_sentence(line, told):
    with pytest.raises(PlanError, match=told) as raised:
        Budget.parse(line)
    assert "\n" not in str(raised.value)
