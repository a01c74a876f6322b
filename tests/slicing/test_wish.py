"""Wishes: how small, how long, how good, and where it must open; each fault is one sentence."""

from __future__ import annotations

import re

import pytest
from conftest import DEMO_SHAPE

from analysis.errors import PlanError
from slicing.wish import TOLERANCE, Wish


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"fewer": "20%"}, {"fewer": 0.2}),
        ({"fewer": " 0.2 "}, {"fewer": 0.2}),
        ({"memory": "5GB"}, {"memory": 5 * 10**9}),
        ({"memory": "4.5 GiB"}, {"memory": 4_831_838_208}),
        ({"memory": "600mb"}, {"memory": 6 * 10**8}),
        ({"memory": "123B"}, {"memory": 123}),
        ({"flops": "80%"}, {"flops": 0.8}),
        ({"fewer": "20%", "quality": "ppl<=1.3x"}, {"fewer": 0.2, "quality": 1.3}),
        (
            {"fewer": "20%", "quality": "PPL <= 2 x", "minutes": 5},
            {"fewer": 0.2, "quality": 2.0, "minutes": 5},
        ),
    ],
)
def test_what_a_person_writes_is_read(said, read):
    assert Wish.parse(**said) == Wish(**read)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({}, "A wish names one size, but got no size"),
        ({"fewer": "20%", "flops": "0.8"}, "got fewer and flops"),
        ({"fewer": "20"}, "such as 20% or 0.2; got '20'"),
        ({"fewer": "nonsense"}, "got 'nonsense'"),
        ({"fewer": "nan"}, "got 'nan'"),
        ({"fewer": "100%"}, "between 0 and 1; got 1"),
        ({"fewer": "-5%"}, "between 0 and 1; got -0.05"),
        ({"flops": "0"}, "between 0 and 1; got 0"),
        ({"memory": "5"}, "a number with its unit"),
        ({"memory": "5 apples"}, "got '5 apples'"),
        ({"memory": "1e30GB"}, "at most 2^60 bytes"),
        ({"memory": "0GB"}, "1 byte or more; got 0"),
        ({"fewer": "20%", "minutes": 0.0}, "above 0 and at most 10,080"),
        ({"fewer": "20%", "minutes": 1e9}, "which is a week; got 1e+09"),
        ({"fewer": "20%", "quality": "good"}, "such as 'ppl<=1.3x'; got 'good'"),
        ({"fewer": "20%", "quality": "ppl<=0.5x"}, "1 or more times the dense model's; got 0.5"),
    ],
)
def test_a_bad_wish_is_one_sentence(said, what):
    with pytest.raises(PlanError, match=re.escape(what)) as caught:
        Wish.parse(**said)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_share_is_the_usual_budget_and_memory_is_exact():
    assert [each.line for each in Wish(fewer=0.2).budgets(DEMO_SHAPE, 4)] == ["parameters=0.2"]
    exact, blocks = Wish(memory=430_000_000).budgets(DEMO_SHAPE, 4)
    assert (exact.measure, exact.amount) == ("size", 430_000_000 // 4)
    left = blocks.parameters(DEMO_SHAPE)
    each = DEMO_SHAPE.block_parameters(0)
    assert left is not None
    assert left <= 430_000_000 // 4 < left + each


def test_a_share_of_the_flops_is_met_by_whole_blocks_and_by_what_the_blocks_hold():
    wish = Wish(flops=0.8)
    exact, blocks = wish.budgets(DEMO_SHAPE, 4)
    each, compute = DEMO_SHAPE.block_parameters(0), DEMO_SHAPE.flops_per_token
    count = round((DEMO_SHAPE.parameters - (blocks.parameters(DEMO_SHAPE) or 0)) / each)
    fewer = DEMO_SHAPE.model_copy(update={"blocks": DEMO_SHAPE.blocks[count:]})
    assert fewer.flops_per_token <= 0.8 * compute < fewer.flops_per_token + compute / 30
    assert fewer.parameters <= exact.amount < fewer.parameters + each


@pytest.mark.parametrize(
    ("wish", "what"),
    [
        (Wish(memory=10**12), "is not less"),
        (Wish(memory=10**8), "leaves less than one of 30 blocks"),
        (Wish(flops=0.01), "leaves less than one of 30 blocks"),
        (Wish(fewer=0.99), "choose a share"),
    ],
)
def test_a_wish_that_no_model_of_this_shape_fulfils_is_one_sentence(wish, what):
    with pytest.raises(PlanError, match=what):
        wish.budgets(DEMO_SHAPE, 4)


def test_what_is_larger_than_the_wish_is_told_to_the_tolerance():
    wish, size = Wish(fewer=0.2), Wish(fewer=0.2).size(DEMO_SHAPE, 4)
    assert wish.missed_by(DEMO_SHAPE, 4, round(size * (1 + TOLERANCE)), 0) == ""
    assert wish.missed_by(DEMO_SHAPE, 4, round(size * 1.02), 0).startswith("it has ")
    many = DEMO_SHAPE.flops_per_token
    assert Wish(flops=0.8).missed_by(DEMO_SHAPE, 4, 10**12, round(0.805 * many)) == ""
    assert "0.900 of the FLOPs" in Wish(flops=0.8).missed_by(DEMO_SHAPE, 4, 1, round(0.9 * many))
