"""Scores by their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from analysis.errors import SlicescopeError
from analysis.scores import SCORES, angular_distance, cosine, find_score

MEASURED = {name: score for name, score in SCORES.items() if score.measure}

EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])


@pytest.mark.parametrize(
    ("a", "b", "same", "angle"),
    [(EAST, EAST * 7, 1.0, 0.0), (EAST, NORTH, 0.0, 0.5), (EAST, -EAST, -1.0, 1.0)],
)
def test_cosine_and_angle_of_plain_vectors(a, b, same, angle):
    assert float(cosine(a, b)) == pytest.approx(same)
    assert float(angular_distance(a, b)) == pytest.approx(angle)


@pytest.mark.parametrize("score", MEASURED.values(), ids=list(MEASURED))
def test_every_measure_is_finite_on_zeros_and_shaped_by_token(score):
    states = torch.zeros(2, 3, 4)
    values = score.measure(states, torch.ones(2, 3, 4))
    assert values.shape == (2, 3)
    assert values.isfinite().all()


@pytest.mark.parametrize("score", MEASURED.values(), ids=list(MEASURED))
def test_block_that_changes_nothing_is_the_most_redundant(score):
    still = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(0))
    moved = still + torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1))
    means = np.array([float(score.measure(still, after).mean()) for after in (still, moved)])
    sign = 1 if score.higher_is_redundant else -1
    assert np.argmax(sign * score.derive(means, means)) == 0


def test_lr_does_not_depend_on_scale_or_shift():
    derive, means = SCORES["lr"].derive, np.array([0.1, 0.7, 0.95])
    np.testing.assert_allclose(derive(means, means), [0, 0.6 / 0.85, 1])
    np.testing.assert_allclose(derive(3 * means - 2, 3 * means - 2), derive(means, means))
    assert derive(np.full(4, 0.9), np.full(4, 0.9)).tolist() == [1.0] * 4


def test_unknown_score_suggests_the_nearest():
    with pytest.raises(SlicescopeError, match=r"Did you mean 'angular'\?"):
        find_score("angulr")
