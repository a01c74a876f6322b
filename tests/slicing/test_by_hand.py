"""A block's share set by hand: the others give way, and the target holds exactly, in the mean or in size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from analysis.errors import PlanError
from slicing.by_hand import PARTS, by_hand, give_way, give_way_at_size
from slicing.plans import Plan
from slicing.studies.store import bundled_run

SHARES = some.lists(some.floats(0, 0.9), min_size=2, max_size=40)


@example([0.0, 2.225073858507203e-309], 0, 0.0, 0.5)
@given(SHARES, some.integers(0, 39), some.floats(-0.5, 1.5), some.floats(0.0, 0.9))
def test_the_mean_is_the_target_to_the_last_part_and_no_share_leaves_its_bounds(shares, block, share, target):
    block %= len(shares)
    found = give_way(shares, block, share, target, 0.9)
    parts = np.asarray(found) * PARTS
    np.testing.assert_allclose(parts, parts.round(), atol=1e-9)
    assert parts.round().sum() == round(target * len(shares) * PARTS)
    assert min(found) >= 0 and max(found) <= 0.9
    least = target * len(shares) - 0.9 * (len(shares) - 1)
    if max(least, 0) <= share <= min(0.9, target * len(shares)):
        assert found[block] == pytest.approx(share, abs=1 / PARTS)


def test_the_others_keep_their_proportions_and_what_was_spared_stays_so():
    found = give_way((0.0, 0.2, 0.4, 0.2), 3, 0.1, 0.2, 0.9)
    assert found == pytest.approx((0.0, 0.233, 0.467, 0.1), abs=1e-9)
    full = give_way((0.0, 0.0, 0.4, 0.4), 2, 0.0, 0.3, 0.9)  # more than the last can take alone
    assert full[3] == pytest.approx(0.9, abs=0.02) and full[0] > 0.1
    with pytest.raises(PlanError, match="no block 4"):
        give_way((0.1,) * 4, 4, 0.2, 0.1, 0.9)


def test_the_plan_that_comes_of_it_cuts_just_that():
    shape, profile = bundled_run().result.shape, bundled_run().result.profile
    plan, scores = Plan(rounding=1), profile.redundancy("lr")
    bars = plan.schedule(scores, shape).block_fractions
    made = by_hand(plan, give_way(bars, 5, 0.6, plan.target, plan.max_fraction))
    assert made.target == pytest.approx(plan.target, abs=1e-4)
    cut = made.schedule(scores, shape)
    assert cut.block_fractions[5] == pytest.approx(0.6, abs=1 / shape.hidden_size)
    assert cut.mean_slice == pytest.approx(plan.target, abs=1 / shape.hidden_size)


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_the_size_can_be_what_holds(share):
    shape, profile = bundled_run().result.shape, bundled_run().result.profile
    plan, scores = Plan(), profile.redundancy("lr")
    dense = plan.schedule(scores, shape)
    found = give_way_at_size(plan, dense.block_fractions, 5, share, scores, shape)
    assert found[5] == pytest.approx(share, abs=1e-3)
    sizes = [
        each.schedule(scores, shape).shape_after(shape).parameters
        for each in (
            plan,
            by_hand(plan, found),
            by_hand(plan, give_way(dense.block_fractions, 5, share, plan.target, 0.9)),
        )
    ]
    assert abs(sizes[1] - sizes[0]) <= abs(sizes[2] - sizes[0])
    assert sizes[1] == pytest.approx(sizes[0], rel=2e-3)
