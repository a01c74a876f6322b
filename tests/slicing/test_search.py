"""The search: it finds the bottom of a bowl, keeps to its budget, and goes on where it was stopped."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.errors import Cancelled, PlanError
from slicing.search import LARGEST, STRIDES, SearchLog, scaled, search

BEST = np.array([0.05, 0.2, 0.3, 0.45, 0.25])


def bowl(shares: tuple[float, ...]) -> float:
    return float(np.square(np.asarray(shares) - BEST).sum())


def test_it_goes_down_and_says_by_how_much():
    found = search(bowl, 5, 0.25, rounds=6)
    assert found.losses[0] == pytest.approx(bowl((0.25,) * 5))
    assert all(after <= before for before, after in zip(found.losses, found.losses[1:], strict=False))
    assert found.losses[-1] < 0.15 * found.losses[0]
    assert bowl(found.shares) == pytest.approx(found.losses[-1], abs=1e-6)
    assert np.mean(found.shares) == pytest.approx(0.25, abs=1e-5)
    assert found.evaluations <= 6 * (5 + len(STRIDES)) + 1


def test_where_nothing_is_better_it_stays():
    found = search(lambda shares: -bowl((0.25,) * 5) if len(set(shares)) == 1 else 0.0, 5, 0.25, rounds=3)
    assert found.shares == pytest.approx((0.25,) * 5)
    assert search(lambda shares: 1.0, 5, 0.25, rounds=3).shares == pytest.approx((0.25,) * 5)


def test_a_search_that_was_stopped_asks_nothing_twice(tmp_path):
    asked: list[tuple[float, ...]] = []

    def stops(shares: tuple[float, ...]) -> float:
        if len(asked) == 7:
            raise Cancelled("enough")
        asked.append(shares)
        return bowl(shares)

    with pytest.raises(Cancelled), SearchLog("abc") as journal:
        search(stops, 5, 0.25, 2, journal)
    assert journal.path.exists()
    with journal.path.open("a") as file:
        file.write('{"shares": [0.1, 0.')  # what was being written when the lights went out
    before, again = list(asked), []

    def goes_on(shares: tuple[float, ...]) -> float:
        again.append(shares)
        return bowl(shares)

    with SearchLog("abc") as journal:
        found = search(goes_on, 5, 0.25, 2, journal)
    assert not set(before) & set(again)
    assert found == search(bowl, 5, 0.25, 2)
    assert not journal.path.exists()


@given(
    shares=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=30),
    target=st.floats(0.05, 0.7),
)
def test_shares_are_brought_to_the_target_within_their_bounds(shares, target):
    found = scaled(np.asarray(shares), target)
    assert found.mean() == pytest.approx(target, abs=1e-9)
    assert found.min() >= -1e-12
    assert found.max() <= LARGEST + 1e-12


@pytest.mark.parametrize("target", [0.0, 0.01, 0.78])
def test_a_target_without_room_is_one_sentence(target):
    with pytest.raises(PlanError, match="leaves no room: choose one between"):
        search(bowl, 5, target, 1)
