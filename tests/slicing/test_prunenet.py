"""PruneNet: spectra, the policy, and that it looks at weights alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.anatomy import blocks
from slicing.budget import Budget
from slicing.inner.cut import copy_sharing, cut_model
from slicing.inner.row_policy import Policy
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.steps.prunenet import Prunenet, kolmogorov_smirnov, singular_values
from slicing.studies.judge import count_parameters
from slicing.view import ModelView

WINDOWS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", intermediate_size=256)


@pytest.fixture(scope="module")
def view(model) -> ModelView:
    return ModelView(model, WINDOWS)


def drawn(*sizes: int) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(2))


def kept_of(plan: Any) -> list[list[int]]:
    return [each.kept.tolist() for own in plan.cuts for cuts in own for each in cuts or ()]


# Spectra


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (16, 16)])
def test_singular_values_are_those_of_the_weight(shape):
    weight = drawn(*shape)
    expected = torch.linalg.svdvals(weight.double()).flip(0)
    assert singular_values(weight).numpy() == pytest.approx(expected.numpy(), rel=1e-6)


def test_those_of_some_rows_interlace_and_are_told_apart():
    weight = drawn(40, 12)
    before = singular_values(weight)
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for count in (39, 30, 12):
        after = singular_values(weight[rows[:count]])
        assert bool((after <= before + 1e-9).all())
        assert bool((after[40 - count :] >= before[: max(0, 12 - (40 - count))] - 1e-9).all())
        assert 0.0 < kolmogorov_smirnov(before, after) <= 1.0
    assert kolmogorov_smirnov(before, before) == 0.0


def test_the_distance_is_the_largest_between_two_distributions():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert kolmogorov_smirnov(values, values + 10.0) == 1.0
    assert kolmogorov_smirnov(values, torch.tensor([1.0, 2.0])) == pytest.approx(0.5)
    assert kolmogorov_smirnov(values, values + 0.5) == pytest.approx(0.25)
    assert kolmogorov_smirnov(values.flip(0), values) == 0.0


# The policy


def test_it_draws_rows_once_each_and_the_ones_of_high_score_more_often():
    draw = torch.Generator().manual_seed(0)
    policy, weight = Policy(8, 4, draw), drawn(20, 4)
    torch.nn.init.normal_(policy.weigh, std=5.0, generator=draw)
    times = torch.zeros(20)
    for _ in range(300):
        found = policy.draw(weight, 10, draw)
        assert len(set(found.rows.tolist())) == 10
        times[found.rows] += 1
    with torch.no_grad():
        assert np.corrcoef(times, policy(weight).sigmoid())[0, 1] > 0.8


def test_a_reward_makes_what_was_drawn_likelier():
    draw = torch.Generator().manual_seed(0)
    policy, weight = Policy(8, 4, draw), drawn(20, 4)
    found = policy.draw(weight, 1, draw)
    (row,) = found.rows.tolist()
    before = float(policy(weight)[row].detach())
    (-found.chance).backward()
    with torch.no_grad():
        for each in policy.parameters():
            assert each.grad is not None
            each.sub_(1e-3 * each.grad)
    assert float(policy(weight)[row].detach()) > before


# The step


def test_a_share_of_zero_leaves_the_model_as_it_is(model, view):
    step = Prunenet(episodes=2)
    assert not step.scores(view, InnerWidths.whole(view.shape))
    found = copy_sharing(model)
    cut_model(found, step.plan(view, view.shape.parameters).cuts)
    assert count_parameters(found) == count_parameters(model)
    assert found(WINDOWS[:2]).logits.equal(model(WINDOWS[:2]).logits)


def test_the_same_seed_gives_the_same_plan_and_the_text_none(model, view):
    step = Prunenet(episodes=3)
    size = step.size(view.shape, Budget.parse("parameters=0.3"))
    torch.manual_seed(1)
    first = step.plan(view, size)
    torch.manual_seed(2)
    other_text = ModelView(model, torch.full((2, 24), 7))
    assert kept_of(step.plan(other_text, size)) == kept_of(first)
    assert kept_of(Prunenet(episodes=3, seed=1).plan(view, size)) != kept_of(first)
    assert not step.fits()
    assert not step.quick


def test_training_moves_the_policy_by_every_setting(view):
    size = Prunenet().size(view.shape, Budget.parse("parameters=0.3"))
    widths = Prunenet().plan(view, size).widths
    usual = {"episodes": 3, "learning_rate": 1e-2}

    def scores(**settings: Any) -> np.ndarray:
        return np.concatenate(list(Prunenet(**{**usual, **settings}).scores(view, widths).values()))

    expected = scores()
    assert np.array_equal(scores(), expected)
    for settings in ({"episodes": 0}, {"episodes": 4}, {"learning_rate": 1e-3}, {"gamma": 0.5}):
        assert not np.array_equal(scores(**settings), expected)


def test_it_tells_how_far_it_is(model):
    told: list[Any] = []
    view = ModelView(model, WINDOWS, progress=lambda *each: told.append(each))
    step = Prunenet(episodes=2)
    step.plan(view, step.size(view.shape, Budget.parse("parameters=0.2")))
    assert told == [("Training the policy", 1, 2), ("Training the policy", 2, 2)]
    assert [phase for phase, _ in step.cost(1000, 100)] == ["Training the policy"]
    assert [phase for phase, _ in Prunenet(restore=True).cost(1000, 100)][1:] == ["Restoring"]


READERS = {
    "llama": "mlp.gate_proj",
    "phi3": "mlp.gate_up_proj",
    "gpt2": "mlp.c_fc",
    "opt": "fc1",
    "falcon, two norms": "mlp.dense_h_to_4h",
}


@pytest.mark.parametrize(("family", "reader"), READERS.items())
def test_the_rows_of_the_first_reader_are_what_it_looks_at(family, reader):
    """Fused with the other half, transposed, in no MLP of its own, or beside the attention."""
    dense = tiny_model(family)
    view = ModelView(dense, WINDOWS)
    kept = tuple(SublayerWidths(kept={"channels": 20}) for _ in view.shape.blocks[0])
    widths = InnerWidths(blocks=(kept,) * 3)
    weight: Any = blocks(dense)[1].get_submodule(reader).weight
    rows = weight.T if family == "gpt2" else weight
    before = Prunenet(episodes=0).scores(view, widths)
    rows[3] *= 5.0
    after = Prunenet(episodes=0).scores(view, widths)
    assert {block for block, _, _ in before} == {0, 1, 2}
    for key, found in before.items():
        moved = np.flatnonzero(np.abs(after[key] - found) > 1e-4).tolist()
        assert moved == ([3] if key[0] == 1 else [])
