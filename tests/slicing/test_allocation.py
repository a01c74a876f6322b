"""Every registered allocation keeps the mean, the bounds and the order; the paper's rule, by its figures."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import PlanError
from slicing.allocation import (
    ALLOCATIONS,
    Allocation,
    Band,
    Constant,
    Dynamic,
    Falling,
    Inverted,
    Manual,
    Random,
    Rising,
    Softmax,
    WaterFilling,
    find_allocation,
)

SCORES = st.lists(st.floats(-5, 5, allow_nan=False).map(lambda x: round(x, 4)), min_size=1, max_size=40)
TARGETS = st.floats(0.0, 0.6)
NAMES = sorted(name for name, kind in ALLOCATIONS.items() if not kind.made)
BASED = [name for name in NAMES if "base" in ALLOCATIONS[name].model_fields]
FOLLOWING = ["band", "constant", "dynamic", "manual", "softmax"]
"""Those that cut what is more redundant no less; without settings of their own they are constant."""


def reachable(rule: Allocation, scores: list[float], target: float, ceiling: float):
    """The fractions, or ``None`` where the bound makes the target unreachable."""
    try:
        return rule(scores, target, ceiling)
    except PlanError as error:
        assert "cannot be reached" in str(error)
        return None


@pytest.mark.parametrize("name", NAMES)
@given(scores=SCORES, target=TARGETS, ceiling=st.floats(0.3, 0.95))
def test_mean_is_exact_and_bounds_hold(name, scores, target, ceiling):
    base = {"base": target / 2} if name in BASED else {}
    fractions = reachable(ALLOCATIONS[name](**base), scores, target, ceiling)
    if fractions is not None:
        assert fractions.mean == pytest.approx(target, abs=1e-9)
        assert min(fractions.values) >= base.get("base", 0.0) - 1e-12
        assert max(fractions.values) <= ceiling + 1e-12
        held = [value for value, capped in zip(fractions.values, fractions.capped, strict=True) if capped]
        assert all(value == ceiling for value in held)


@pytest.mark.parametrize("name", FOLLOWING)
@given(scores=SCORES, target=TARGETS, order=st.randoms(use_true_random=False))
def test_more_redundant_is_cut_no_less_and_order_does_not_matter(name, scores, target, order):
    base = {"base": 0.0} if name in BASED else {}
    fractions = reachable(ALLOCATIONS[name](**base), scores, target, 0.9)
    if fractions is None:
        return
    by_score = [value for _, value in sorted(zip(scores, fractions.values, strict=True))]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(by_score))
    blocks = list(range(len(scores)))
    order.shuffle(blocks)
    shuffled = ALLOCATIONS[name](**base)([scores[b] for b in blocks], target, 0.9)
    assert shuffled.values == pytest.approx([fractions.values[b] for b in blocks], abs=1e-9)


@pytest.mark.parametrize("name", [*FOLLOWING, "inverted"])
@pytest.mark.parametrize("count", [1, 2, 30])
def test_equal_scores_are_constant_slicing(name, count):
    fractions = ALLOCATIONS[name]()([0.7] * count, 0.25)
    assert fractions.values == pytest.approx([0.25] * count)
    assert not any(fractions.capped)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "softmax"])
@given(scores=SCORES, scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
def test_scores_matter_only_up_to_scale_and_shift(name, scores, scale, shift):
    spread = np.ptp(scores)
    if spread > 1e-3:  # below, the shift itself loses digits
        moved = [scale * score + shift for score in scores]
        before = reachable(ALLOCATIONS[name](), scores, 0.2, 0.9)
        after = reachable(ALLOCATIONS[name](), moved, 0.2, 0.9)
        if before is not None and after is not None:
            assert after.values == pytest.approx(before.values, abs=1e-6)


@given(scores=SCORES, target=TARGETS)
def test_base_equal_to_target_is_constant(scores, target):
    assert Dynamic(base=target)(scores, target).values == pytest.approx([target] * len(scores))


@pytest.mark.parametrize(
    ("scores", "target", "base", "expected"),
    [
        ((0, 0.5, 1), 0.3, 0.1, (0.1, 0.3, 0.5)),
        ((0, 1, 1, 1), 0.4, 0.0, (0, 1.6 / 3, 1.6 / 3, 1.6 / 3)),
    ],
)
def test_papers_rule_gives_the_papers_figures(scores, target, base, expected):
    assert Dynamic(base=base)(scores, target).values == pytest.approx(expected, abs=1e-12)


def flow_over(scores: list[float], target: float, base: float, ceiling: float) -> list[float]:
    """Water-filling as one would do it by hand: pass on what does not fit, in proportion, until it does."""
    r = (np.array(scores) - min(scores)) / np.ptp(scores)
    values = base + (target - base) * r / r.mean()
    for _ in range(10_000):
        excess = np.clip(values - ceiling, 0, None).sum()
        values = np.minimum(values, ceiling)
        open_weights = np.where(values < ceiling, r, 0.0)
        if excess < 1e-13 or not open_weights.any():
            break
        values = values + excess * open_weights / open_weights.sum()
    return values.tolist()


def test_bound_passes_the_excess_on_in_proportion():
    scores = [0.0, 0.1, 0.2, 0.4, 0.9, 1.0, 1.0]
    fractions = Dynamic(base=0.05)(scores, 0.3, 0.45)
    assert fractions.values == pytest.approx(flow_over(scores, 0.3, 0.05, 0.45), abs=1e-9)
    assert fractions.capped == (False, False, False, False, True, True, True)


@given(scores=SCORES, target=st.floats(0.1, 0.6), ceiling=st.floats(0.3, 0.9))
def test_water_filling_is_that_of_a_patient_hand(scores, target, ceiling):
    base = target / 2
    fractions = reachable(Dynamic(base=base), scores, target, ceiling)
    if fractions is not None and np.ptp(scores) > 0:
        assert fractions.values == pytest.approx(flow_over(scores, target, base, ceiling), abs=1e-7)


def test_unreachable_target_names_the_largest_mean_that_is_reachable():
    scores = [0.0, 1.0, 1.0, 1.0]
    with pytest.raises(PlanError, match=r"largest reachable here: 33\.7%"):  # 33.75 %, rounded down
        Dynamic(base=0.0)(scores, 0.4, 0.45)
    assert Dynamic(base=0.0)(scores, 0.3375, 0.45).mean == pytest.approx(0.3375)


@pytest.mark.parametrize("name", NAMES)
@given(scores=SCORES, target=TARGETS, ceiling=st.floats(0.05, 0.95))
def test_largest_mean_that_is_named_can_be_asked_for(name, scores, target, ceiling):
    rule = ALLOCATIONS[name](**{"base": 0.0} if name in BASED else {})
    try:
        rule(scores, target, ceiling)
    except PlanError as error:
        named = re.search(r"largest reachable here: ([\d.]+)%", str(error))
        assert named
        largest = float(named[1]) / 100
        assert rule(scores, largest, ceiling).mean == pytest.approx(largest, abs=1e-9)
        assert reachable(rule, scores, min(largest + 0.0011, 0.99), ceiling) is None


def test_target_a_hair_above_the_bound_is_told_apart_from_it():
    with pytest.raises(PlanError, match=r"slice of 45\.004% cannot .* more than 45% .* here: 45\.0%"):
        Constant()([1.0, 1.0], 0.45004, 0.45)


@pytest.mark.parametrize("target", [1.0, 1.5, -0.1, float("nan"), float("inf")])
def test_target_that_is_no_fraction_is_one_sentence(target):
    with pytest.raises(PlanError, match=r"The target \(SP\) must be a fraction"):
        Constant()([1.0, 2.0], target)


@pytest.mark.parametrize("base", [-0.1, 1.0, float("nan")])
def test_base_that_is_no_fraction_is_one_sentence(base):
    with pytest.raises(PlanError, match=r"The base \(SB\) must be a fraction"):
        Dynamic(base=base)([1.0, 2.0], 0.25)


def test_base_above_the_target_is_one_sentence():
    with pytest.raises(PlanError, match=r"is 0\.3, but may not exceed the target \(SP\) of 0\.2"):
        Dynamic(base=0.3)([1.0, 2.0], 0.2)


@pytest.mark.parametrize("scores", [[], [0.1, float("nan")], [0.1, float("inf")]])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(PlanError, match="redundancy"):
        Dynamic()(scores, 0.25)


@pytest.mark.parametrize("ceiling", [0.0, 1.0, float("nan")])
def test_bound_that_is_no_fraction_is_refused(ceiling):
    with pytest.raises(PlanError, match="largest fraction"):
        Constant()([1.0], 0.1, ceiling)


def test_unknown_allocation_suggests_the_nearest():
    with pytest.raises(PlanError, match=r"Did you mean 'dynamic'\?"):
        find_allocation("dinamic")


def test_manual_shares_are_scaled_to_the_target_whatever_the_scores():
    rule = Manual(shares=(0.1, 0.2, 0.0, 0.1))
    for scores in ([1.0, 2.0, 3.0, 4.0], [0.0] * 4):
        assert rule(scores, 0.2).values == pytest.approx((0.2, 0.4, 0.0, 0.2))
    assert rule([0.0] * 4, 0.1).values == pytest.approx((0.1, 0.2, 0.0, 0.1))


def test_manual_shares_give_what_a_capped_block_cannot_take_to_the_others():
    fractions = Manual(shares=(0.1, 0.8, 0.1))([0.0] * 3, 0.4, max_fraction=0.6)
    assert fractions.values == pytest.approx((0.3, 0.6, 0.3))
    assert fractions.capped == (False, True, False)


@pytest.mark.parametrize(
    ("shares", "target", "part"),
    [
        ((0.1, 0.2), 0.2, "2 shares were given, but the model has 3 blocks"),
        ((0.0, 0.0, 0.0), 0.2, "All shares are 0"),
        ((0.1, -0.1, 0.3), 0.2, "share of block 1"),
        ((0.1, 1.0, 0.3), 0.2, "share of block 1"),
        ((0.1, math.nan, 0.3), 0.2, "share of block 1"),
    ],
)
def test_impossible_shares_are_one_sentence(shares, target, part):
    with pytest.raises(PlanError, match=part):
        Manual.model_construct(shares=shares)([1.0, 2.0, 3.0], target)


def test_no_shares_or_no_target_cut_alike():
    assert Manual()([1.0, 2.0], 0.3).values == pytest.approx((0.3, 0.3))
    assert Manual(shares=(0.0, 0.0))([1.0, 2.0], 0.0).values == (0.0, 0.0)


def test_softmax_gives_the_published_arithmetic():
    # phi = L phi_avg softmax(-s / eps), with s the block influence
    found = Softmax(temperature=0.1)([-0.0, -0.1], 0.3).values
    assert found == pytest.approx((0.4386, 0.1614), abs=1e-4)
    assert Softmax(temperature=1e6)([-0.0, -0.1], 0.3).values == pytest.approx((0.3, 0.3), abs=1e-6)


def test_band_gives_the_published_arithmetic():
    assert Band(spread=0.3)([2.0, 4.0], 0.5).values == pytest.approx((0.35, 0.65))
    assert Band(spread=0.0)([2.0, 4.0, 9.0], 0.5).values == pytest.approx((0.5,) * 3)


def test_rising_is_the_published_progression_and_falling_its_mirror():
    # p_l = S - beta (L - 1) / 2 + beta l, with S = .7, L = 32, beta = .01
    slope = 0.01 * 31 / (2 * 0.7)
    rising = Rising(slope=slope)([0.0] * 32, 0.7).values
    assert rising == pytest.approx([0.7 - 0.01 * 31 / 2 + 0.01 * block for block in range(32)])
    assert Falling(slope=slope)([0.0] * 32, 0.7).values == pytest.approx(rising[::-1])
    assert Rising(slope=1.0)([0.0] * 5, 0.4).values[0] == 0.0


@given(scores=SCORES, target=TARGETS)
def test_inverted_is_the_papers_rule_of_the_opposite(scores, target):
    inverted = reachable(Inverted(base=0.0), scores, target, 0.9)
    opposite = reachable(Dynamic(base=0.0), [-score for score in scores], target, 0.9)
    assert inverted == opposite


def test_random_is_drawn_by_its_number_alone():
    first, again = (Random(draw=3)(scores, 0.2).values for scores in ([0.0] * 9, list(range(9))))
    assert first == again
    assert first != Random(draw=4)([0.0] * 9, 0.2).values
    assert np.std(first) > 0.02


@given(
    seed=st.integers(0, 10_000),
    target=st.sampled_from([0.1, 0.2, 0.25, 0.4]),
    ceiling=st.sampled_from([0.5, 0.75, 0.9]),
)
def test_filling_by_curves_finds_what_brute_force_finds(seed, target, ceiling):
    rng = np.random.default_rng(seed)
    at = (0.25, 0.5, 0.75)
    # Convex curves, whose best allocation on a grid of whole pieces is a vertex of the exact problem.
    curves = np.cumsum(np.sort(rng.uniform(0, 1, (3, 3)), axis=1), axis=1)
    rule = WaterFilling(at=at, damage=tuple(curves.ravel().tolist()))
    found = rule([0.0] * 3, target, ceiling)
    assert found.mean == pytest.approx(target)
    assert max(found.values) <= ceiling + 1e-12

    def cost(values) -> float:
        grid = (0.0, *at, 1.0)
        rows = [(0.0, *row, 2 * row[2] - row[1]) for row in curves]
        return sum(float(np.interp(value, grid, row)) for value, row in zip(values, rows, strict=True))

    steps = np.arange(0, ceiling + 1e-9, 0.05)
    others = [
        (a, b, 3 * target - a - b)
        for a, b in itertools.product(steps, steps)
        if -1e-9 <= 3 * target - a - b <= ceiling + 1e-9
    ]
    assert cost(found.values) <= min(cost(values) for values in others) + 1e-9


@pytest.mark.parametrize("name", sorted(ALLOCATIONS))
def test_uniform_is_what_cuts_all_blocks_alike_whatever_the_scores(name):
    kind = ALLOCATIONS[name]
    if kind.made:
        assert not kind().uniform
        return
    fractions = kind()([0.1, 0.9, 0.5, 0.2], 0.3).values
    assert kind().uniform == (max(fractions) - min(fractions) < 1e-12)


def test_an_allocation_may_be_uniform_by_its_settings():
    assert Manual(shares=(0.3, 0.3, 0.3)).uniform
    assert not Manual(shares=(0.3, 0.3, 0.4)).uniform
    assert Rising(slope=0.0).uniform
    assert not Rising(slope=0.1).uniform


def test_filling_by_curves_that_bend_down_takes_their_hull():
    # The first block's first piece is dear and its second cheap: together they are dearer than the other's.
    rule = WaterFilling(at=(0.25, 0.5), damage=(1.0, 1.1, 0.2, 0.4))
    assert rule([0.0, 0.0], 0.2, 0.9).values == pytest.approx((0.0, 0.4))


@pytest.mark.parametrize("kind", [kind for kind in ALLOCATIONS.values() if kind.made])
def test_what_was_not_measured_yet_is_no_constant_slicing(kind):
    with pytest.raises(PlanError, match="contest"):
        kind()([1.0, 2.0, 3.0], 0.2)


@pytest.mark.parametrize(
    ("at", "damage", "told"),
    [
        ((0.5, 0.25), (1.0, 2.0), "fractions that rise"),
        ((0.0,), (1.0,), "fractions that rise"),
        ((0.5,), (), "a damage at each"),
        ((1.5,), (1.0,), "fraction of a curve"),
        ((0.25,), (1.0, 2.0, 3.0), "2 blocks at 1 fractions need 2"),
    ],
)
def test_curves_that_make_no_sense_are_one_sentence(at, damage, told):
    with pytest.raises(PlanError, match=told):
        WaterFilling(at=at, damage=damage)([0.0, 0.0], 0.2)
