"""DOTResize for channels: plans of transport, and what merging does to a model."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.anatomy import blocks
from slicing.budget import Budget
from slicing.inner.cut import UnitCut, copy_sharing, cut_model
from slicing.inner.moments import writer_moments
from slicing.inner.reads import writer_reads
from slicing.steps.dotresize import Dotresize, merging
from slicing.transport import as_mixes, sinkhorn
from slicing.view import ModelView

WINDOWS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(5))
CHANNELS = 48


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama untied, biases, long heads")


@pytest.fixture(scope="module")
def view(model) -> ModelView:
    return ModelView(model, WINDOWS)


def transport(cost: torch.Tensor, temperature: float) -> torch.Tensor:
    """A plan whose temperature is relative to the mean cost, as the step has it."""
    return sinkhorn(cost / cost.mean().clamp_min(1e-30), temperature)


def drawn(*sizes: int) -> torch.Tensor:
    return torch.rand(*sizes, generator=torch.Generator().manual_seed(2))


def cut(model: Any, each: UnitCut) -> Any:
    found = copy_sharing(model)
    cut_model(found, [[(), (each,)]] * len(blocks(model)))
    return found


def apart(first: Any, second: Any) -> float:
    with torch.inference_mode():
        found, expected = (each(WINDOWS[:2], use_cache=False).logits for each in (first, second))
    return float((found - expected).norm() / expected.norm())


def reads_of(model: Any, place: int, tokens: int = 64) -> torch.Tensor:
    found = {}
    writer_reads(model, WINDOWS, tokens, lambda block, row, _, reads: found.update({(block, row): reads[0]}))
    return found[place, 1]


# Transport


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0])
def test_every_row_gives_and_every_column_gets_the_same(temperature):
    plan = transport(drawn(30, 12), temperature)
    assert plan.sum(dim=1).numpy() == pytest.approx(np.full(30, 1 / 30), rel=1e-3)
    assert plan.sum(dim=0).numpy() == pytest.approx(np.full(12, 1 / 12), rel=1e-3)
    assert float(plan.min()) >= 0.0


def test_a_lower_temperature_costs_less_and_spreads_less():
    cost = drawn(30, 12)
    plans = [transport(cost, each) for each in (0.01, 0.1, 1.0, 100.0)]
    costs = [float((plan * cost).sum()) for plan in plans]
    assert costs == sorted(costs)
    entropies = [float(-torch.special.xlogy(plan, plan).sum()) for plan in plans]
    assert entropies == sorted(entropies)
    assert plans[-1].numpy() == pytest.approx(np.full((30, 12), 1 / 360), rel=0.05)


def test_the_plan_is_that_of_the_optimality_conditions():
    """Any plan of the form a_i b_j exp(-c_ij / t) with the right margins is the only optimum."""
    cost = drawn(9, 5)
    plan = transport(cost, 0.2)
    left = plan.log() + cost / (0.2 * cost.mean())
    mixed = left - left.mean(dim=0) - left.mean(dim=1, keepdim=True) + left.mean()
    assert float(mixed.abs().max()) < 1e-4


def test_at_zero_temperature_as_many_as_before_are_a_permutation():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    points = drawn(20, 6)
    rows, columns = as_mixes(transport(torch.cdist(points, points[order], p=1.0), 1e-3))
    expected = torch.eye(20)[:, order]
    assert rows.numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert columns.numpy() == pytest.approx(expected.numpy(), abs=1e-6)


def test_costs_that_are_all_zero_share_alike():
    assert transport(torch.zeros(4, 2), 0.1).numpy() == pytest.approx(np.full((4, 2), 1 / 8))


# What is looked at


def test_the_tokens_drawn_are_the_same_for_all_and_those_of_the_model(model):
    found: dict[Any, torch.Tensor] = {}
    writer_reads(model, WINDOWS, 10_000, lambda b, r, _, reads: found.update({(b, r): reads[0]}))
    moments: dict[Any, torch.Tensor] = {}
    writer_moments(model, WINDOWS, lambda b, r, _, m: moments.update({(b, r): m[0]}), relative=False)
    assert set(found) == set(moments)
    for key, reads in found.items():  # all tokens, where there are no more
        assert len(reads) == WINDOWS.numel()
        assert (reads.T @ reads / len(reads)).numpy() == pytest.approx(
            moments[key].numpy(), rel=1e-3, abs=1e-5
        )
    some = reads_of(model, 2, 7)
    where = torch.cdist(some, found[2, 1]).argmin(dim=1)
    assert some.equal(found[2, 1][where])
    assert len(set(where.tolist())) == 7


# What merging does


def test_as_many_channels_as_before_leave_the_model_as_it_is(model):
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(0))
    permuted = torch.eye(CHANNELS)[:, order]
    assert apart(cut(model, UnitCut("channels", np.arange(CHANNELS), permuted, permuted)), model) < 1e-5
    each = merging(reads_of(model, 1), np.arange(CHANNELS), 1e-3)
    assert apart(cut(model, each), model) < 1e-5


def test_channels_that_are_alike_merge_without_loss(model):
    twins = copy.deepcopy(model)
    half = CHANNELS // 2
    for block in blocks(twins):
        mlp: Any = block.mlp
        for each in (mlp.gate_proj, mlp.up_proj):
            each.weight[half:] = each.weight[:half]
            each.bias[half:] = each.bias[:half]
    each = merging(reads_of(twins, 1), np.arange(half), 1e-3)
    assert apart(cut(twins, each), twins) < 1e-5
    selected = cut(twins, UnitCut("channels", np.arange(half)))
    assert apart(selected, twins) > 1e-2


def test_the_largest_channels_are_the_targets_and_the_mass_is_all_moved(model, view):
    step = Dotresize(tokens=10_000)
    plan = step.plan(view, step.size(view.shape, Budget.parse("parameters=0.1")))
    moments: dict[Any, torch.Tensor] = {}
    writer_moments(model, WINDOWS, lambda b, r, _, m: moments.update({(b, r): m[0]}), relative=False)
    for place, own in enumerate(plan.cuts):
        assert own[1]
        each = own[1][0]
        assert each.columns is not None
        assert each.rows is not None
        count = len(each.kept)
        assert set(each.kept) == set(np.argsort(-moments[place, 1].diagonal().numpy())[:count])
        assert each.rows.shape == each.columns.shape == (CHANNELS, count)
        assert each.rows.sum(dim=0).numpy() == pytest.approx(np.ones(count), rel=1e-4)
        assert each.columns.sum(dim=1).numpy() == pytest.approx(np.ones(CHANNELS), rel=1e-4)
        loads = each.columns.sum(dim=0).numpy()  # every target takes up equally much
        assert loads == pytest.approx(np.full(count, CHANNELS / count), rel=0.01)


def test_the_draw_is_part_of_the_settings(view):
    size = Dotresize().size(view.shape, Budget.parse("parameters=0.1"))
    plans = [Dotresize(tokens=20, seed=seed).plan(view, size) for seed in (0, 0, 1)]
    mixes: list[list[Any]] = [[own[1][0].rows for own in plan.cuts if own[1]] for plan in plans]
    assert all(first.equal(second) for first, second in zip(*mixes[:2], strict=True))
    assert any(
        first.shape != other.shape or not first.equal(other)
        for first, other in zip(mixes[0], mixes[2], strict=True)
    )
