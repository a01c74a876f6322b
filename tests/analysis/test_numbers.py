"""Numbers as people write them: finite, whole to the last digit, and seeds that something can be drawn by."""

from __future__ import annotations

import pytest

from analysis.errors import PlanError
from analysis.numbers import LARGEST_SEED, LEAST_SEED, read_number, read_whole
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.requests import ProfileRequest
from slicing.studies.study import contest, leaderboard, recipes, sweep

ENDLESS = "9" * 5000
TEXT = TextSource(kind="demo", split="calibration")
MODEL = ModelSource(kind="demo")


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0.0), (" .25 ", 0.25), ("-1e-3", -0.001), ("5.", 5.0), ("1E3", 1000.0), ("+2", 2.0)],
)
def test_a_number_is_read(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1e400", ENDLESS, "1_0", "٣", "0x1", "1,2", "."]
)
def test_what_is_no_finite_number_is_none(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("-7", -7), (" 1e3 ", 1000), ("2.0", 2), ("9007199254740993", 2**53 + 1), ("1.5", None)],
)
def test_a_whole_number_is_read_to_its_last_digit(text, number):
    assert read_whole(text) == number


@pytest.mark.parametrize("text", ["", "²", "1e30", "nan", ENDLESS])
def test_what_is_no_whole_number_is_none(text):
    assert read_whole(text) is None


@pytest.mark.parametrize("seed", [LEAST_SEED, -1, 0, LARGEST_SEED])
def test_a_seed_may_be_what_torch_takes(seed):
    assert ProfileRequest(model=MODEL, text=TEXT, seed=seed).seed == seed


@pytest.mark.parametrize("seed", [LEAST_SEED - 1, LARGEST_SEED + 1, int("9" * 400)])
def test_another_seed_is_one_sentence_for_every_request(seed):
    with pytest.raises(PlanError, match=r"A seed must be a whole number from .* choose a smaller one\."):
        ProfileRequest(model=MODEL, text=TEXT, seed=seed)
    searched = recipes("slice(constant)", "slice(searched)")
    with pytest.raises(PlanError, match="A seed must be"):
        contest(searched, seeds=(seed,), model=MODEL, calibration=TEXT, evaluation=TEXT)


@pytest.mark.parametrize("value", [ENDLESS, "9" * 400, "1e400", "1_0", "٣", ""])
@pytest.mark.parametrize(
    "line", ["laco(width={})", "slice(random, draw={})", "slice(constant, blocks_per_basis={})"]
)
def test_a_setting_that_is_no_number_is_one_sentence(line, value):
    with pytest.raises(PlanError):
        Recipe.parse(line.format(value))


@pytest.mark.parametrize(
    ("make", "given", "fields"),
    [
        (sweep, Plan(), {name: tuple(each / 1000 for each in range(101)) for name in ("bases", "targets")}),
        (contest, recipes("slice(constant)"), {"seeds": tuple(range(10_001))}),
        (leaderboard, recipes("slice(constant)"), {"seeds": tuple(range(10_001)), "sizes": (0.1,)}),
    ],
)
def test_a_study_of_too_many_trials_is_refused_before_they_are_made(make, given, fields):
    with pytest.raises(PlanError, match=r"asks for 10,[0-9]+ trials, but 10,000 are the most"):
        make(given, model=MODEL, calibration=TEXT, evaluation=TEXT, **fields)
