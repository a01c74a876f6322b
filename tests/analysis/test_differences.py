"""Two profiles held side by side: paired where the windows are the same, and blocks by their numbers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from analysis.differences import can_be_relative, profile_difference
from analysis.errors import PlanError
from analysis.profile import BlockValues, LayerProfile

BLOCKS = 6


def profile_of(change: np.ndarray) -> LayerProfile:
    """A profile whose blocks change their inputs so, (N, L)."""
    rows = tuple(map(tuple, (1.0 - change).tolist()))
    return LayerProfile(
        model="tiny",
        text="a text",
        block_path="model.layers",
        blocks=change.shape[1],
        windows=len(change),
        window_length=32,
        measurements={"cosine": BlockValues(rest=rows, first=rows)},
        seconds=1.0,
    )


@pytest.fixture
def sides() -> tuple[np.ndarray, np.ndarray]:
    """Windows that differ much, and a block 2 that changes a little more in each of them."""
    random = np.random.default_rng(0)
    first = random.uniform(0.02, 0.2, (12, 1)) * random.uniform(0.9, 1.1, (12, BLOCKS))
    second = first * random.normal(1.0, 0.002, (12, BLOCKS))
    second[:, 2] *= 1.05
    return first, second


def test_pairing_finds_what_unpaired_windows_hide(sides):
    one, other = map(profile_of, sides)
    paired = profile_difference(one, other, "lr", same_windows=True)
    assert paired.paired and paired.blocks[paired.clear].tolist() == [2]
    expected = stats.ttest_1samp(sides[1][:, 2] - sides[0][:, 2], 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(paired.interval[2], expected)
    apart = profile_difference(one, other, "lr", same_windows=False)
    assert not apart.paired and not apart.clear.any()
    np.testing.assert_allclose(apart.difference, paired.difference, atol=1e-12)
    widths = [np.ptp(each.interval[2]) for each in (apart, paired)]
    assert widths[0] > 10 * widths[1]


def test_in_percent_it_is_the_ratio_of_geometric_means(sides):
    found = profile_difference(*map(profile_of, sides), "lr", same_windows=True, relative=True)
    ratio = np.exp(np.log(sides[1][:, 2]).mean() - np.log(sides[0][:, 2]).mean())
    assert found.difference[2] == pytest.approx(100 * (ratio - 1))
    assert found.interval[2, 0] < 5.0 < found.interval[2, 1]
    turned = profile_difference(*map(profile_of, sides[::-1]), "lr", same_windows=True, relative=True)
    np.testing.assert_allclose(1 + turned.difference / 100, 1 / (1 + found.difference / 100))


def test_blocks_belong_together_by_their_numbers_when_dense(sides):
    first, second = sides
    left = [0, 2, 5]
    found = profile_difference(
        profile_of(first),
        profile_of(second[:, left]),
        "lr",
        same_windows=True,
        numbers=(range(BLOCKS), left),
    )
    assert found.blocks.tolist() == left
    assert found.blocks[found.clear].tolist() == [2]
    np.testing.assert_allclose(found.first, first[:, left].mean(axis=0))
    assert found.to_frame()["block"].tolist() == left
    with pytest.raises(PlanError, match="no block in common"):
        profile_difference(*map(profile_of, sides), "lr", same_windows=True, numbers=(range(6), range(6, 12)))


def test_few_windows_have_a_difference_and_no_interval(sides):
    few = [profile_of(each[:7]) for each in sides]
    found = profile_difference(*few, "lr", same_windows=True)
    assert found.interval is None and found.p_values is None and not found.clear.any()
    assert "95 % from" not in found.to_frame()


def test_many_blocks_without_a_difference_are_rarely_called_different():
    random = np.random.default_rng(5)
    called = 0
    for _ in range(200):
        first, second = (profile_of(random.normal(0.2, 0.02, (8, 20))) for _ in range(2))
        called += bool(profile_difference(first, second, "lr", same_windows=True).clear.any())
    assert called <= 20  # one in twenty studies, where it would be most of them without the correction


def test_percent_needs_values_above_zero(sides):
    none = np.array(sides[0])
    none[0, 0] = 0.0
    one, other = profile_of(none), profile_of(sides[1])
    assert not can_be_relative([one, other], "lr") and can_be_relative([other], "lr")
    with pytest.raises(PlanError, match="values above 0"):
        profile_difference(one, other, "lr", same_windows=True, relative=True)
