"""MoDeGPT: leverage, Nyström, products of norms, and what its cuts do to a model."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.anatomy import blocks, core_of
from analysis.errors import PlanError, UnsupportedError
from analysis.read_units import read_units
from analysis.stream import BlockStream
from analysis.sublayers import sublayers
from slicing.allocation import ALLOCATIONS
from slicing.budget import Budget
from slicing.inner.cut import UnitCut, copy_sharing, cut_model
from slicing.inner.moments import writer_moments
from slicing.inner.nystroem import leverage, nystroem
from slicing.inner.pairs import pair_energies, pair_scores
from slicing.inner.select import best, branches_of
from slicing.inner.widths import InnerWidths, SublayerWidths
from slicing.steps.modegpt import MOST, Modegpt
from slicing.studies.judge import count_parameters
from slicing.studies.recipe import Recipe
from slicing.studies.run import make_smaller
from slicing.view import ModelView

WINDOWS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(5))
BLOCKS = 4


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama untied, biases, long heads", num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def view(model) -> ModelView:
    return ModelView(model, WINDOWS)


@pytest.fixture
def inputs() -> torch.Tensor:
    """What a writer reads of 200 tokens, (200, 20): correlated, with channels of very different size."""
    draw = torch.Generator().manual_seed(1)
    mixed = torch.randn(200, 12, generator=draw, dtype=torch.float64) @ torch.randn(
        12, 20, generator=draw, dtype=torch.float64
    )
    noise = torch.randn(200, 20, generator=draw, dtype=torch.float64)
    return (mixed + 0.3 * noise) * torch.logspace(-1, 1, 20, dtype=torch.float64)


def cut(model: Any, cuts: Any) -> Any:
    found = copy_sharing(model)
    cut_model(found, cuts)
    return found


def apart(first: Any, second: Any) -> float:
    with torch.inference_mode():
        found, expected = (each(WINDOWS[:2], use_cache=False).logits for each in (first, second))
    return float((found - expected).norm() / expected.norm())


# Type I


def test_leverage_adds_up_to_the_effective_dimension(inputs):
    moment = inputs.T @ inputs / len(inputs)
    for ridge in (1e-4, 1e-2, 1.0):
        added = ridge * moment.diagonal().mean()
        values = torch.linalg.eigvalsh(moment)
        scores = leverage(moment, ridge)
        assert float(scores.sum()) == pytest.approx(float((values / (values + added)).sum()))
        assert float(scores.min()) > 0.0
        assert float(scores.max()) < 1.0


def test_a_channel_that_copies_others_has_less_leverage_than_one_alone(inputs):
    copied = inputs.clone()
    copied[:, 11] = copied[:, 15]  # each of the two can be made of the other
    before, after = (leverage(each.T @ each / len(each), 1e-4) for each in (inputs, copied))
    assert float(after[11]) == pytest.approx(float(after[15]))
    assert float(after[15]) < 0.51 < 0.9 < float(before[15])


def test_nystroem_is_least_squares_and_errs_less_with_every_channel(inputs):
    moment = inputs.T @ inputs / len(inputs)
    errors = []
    for count in range(1, 21):
        kept = best(leverage(moment, 1e-4).numpy(), count)
        error = (inputs - inputs[:, kept] @ nystroem(moment, kept, 1e-12).T).norm()
        fitted = torch.linalg.lstsq(inputs[:, kept], inputs).solution
        assert float(error) == pytest.approx(float((inputs - inputs[:, kept] @ fitted).norm()), abs=1e-6)
        errors.append(float(error))
    assert all(more > less for more, less in pairwise(errors))
    assert errors[-1] == 0.0


def test_channels_that_stay_stand_for_themselves_whatever_the_ridge(inputs):
    moment = inputs.T @ inputs
    kept = np.array([1, 4, 9, 15])
    assert nystroem(moment, kept, 0.5)[kept].equal(torch.eye(4, dtype=torch.float64))
    assert nystroem(torch.zeros(20, 20), kept, 1e-4).isfinite().all()  # of what reads zeros alone


# Type II


def test_pairs_are_scored_by_what_the_projections_give(model):
    (units,) = read_units(model)[1][0].of("rotary_pairs")
    stream = BlockStream(model, WINDOWS)
    stream.through(blocks(model)[0], 0)
    block: Any = blocks(model)[1]
    normed = block.input_layernorm(torch.cat([stream.at(i) for i in range(len(stream))]))
    core: Any = block.self_attn
    size, half = 12, 6
    queries = core.q_proj(normed).unflatten(-1, (2, 2, size))  # groups, their query heads
    keys = core.k_proj(normed).unflatten(-1, (2, size))
    expected = []
    for group in range(2):
        for pair in range(half):
            both = [pair, pair + half]
            of_queries = queries[..., group, :, :][..., both].square().sum()
            expected.append(float((of_queries * keys[..., group, :][..., both].square().sum()).sqrt()))
    with pair_energies(model) as energies:
        writer_moments(model, WINDOWS, lambda *_: None)
    assert set(energies) == {(place, 0) for place in range(BLOCKS)}
    assert pair_scores(units, energies[1, 0]) == pytest.approx(np.array(expected), rel=1e-4)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("family", ["llama untied, biases, long heads", "phi3", "gptj", "falcon, two norms"])
def test_a_model_without_pairs_and_values_is_the_one_with_zeros_in_their_place(family):
    """Queries, keys and values may come from one weight, which is then cut twice."""
    dense = tiny_model(family)
    masked = copy.deepcopy(dense)
    cuts: list[Any] = []
    for block, row in zip(blocks(masked), read_units(dense), strict=True):
        own: list[Any] = []
        for (_, branch), units in zip(branches_of(dense), row, strict=True):
            found = [each for kind in ("value_pairs", "rotary_pairs") for each in units.of(kind)]
            own.append([])
            for each in found:
                gone = np.arange(each.count) % (each.count // each.parts) == 1
                own[-1].append(UnitCut(each.kind, np.flatnonzero(~gone)))
                for name, places in each.rows.items():
                    core_of(block, branch).get_parameter(name)[places[gone].ravel()] = 0.0
        cuts.append(own)
    assert all(len(each) == 2 for own in cuts for each in own if each)
    assert apart(cut(dense, cuts), masked) < 1e-5
    assert apart(masked, dense) > 1e-3


# The step


def test_all_units_leave_the_model_as_it_is(model, view):
    every = InnerWidths(
        blocks=(
            (
                SublayerWidths(kept={"value_pairs": 12, "rotary_pairs": 6}),
                SublayerWidths(kept={"channels": 48}),
            ),
        )
        * BLOCKS
    )
    assert apart(cut(model, Modegpt().cuts(view, every)), model) < 1e-4


def test_down_projections_are_fitted_to_what_the_dense_ones_write(model, view):
    """On the dense stream they come nearer to it than those of the channels that stay alone."""
    kept = (SublayerWidths(), SublayerWidths(kept={"channels": 30}))
    cuts = Modegpt(ridge=1e-9).cuts(view, InnerWidths(blocks=(kept,) * BLOCKS))
    plain = [[[UnitCut(e.kind, e.kept) for e in each or ()] for each in own] for own in cuts]
    stream = BlockStream(model, WINDOWS)
    for place in range(BLOCKS):
        attention, dense = sublayers(model)[place]
        states = torch.cat(
            [
                stream.at(i) + attention.added(stream.at(i), stream.context(i, place))
                for i in range(len(stream))
            ]
        )
        missed = []
        for each in (cuts, plain):
            mlp = sublayers(cut(model, each))[place][1]
            missed.append(float((mlp.added(states, {}) - dense.added(states, {})).square().sum()))
        assert missed[0] < 0.8 * missed[1]
        stream.through(blocks(model)[place], place)


def test_values_lose_what_is_read_least(model, view):
    """More coordinates bring the attention nearer to the dense one."""
    errors = []
    for rank in (3, 6, 9):
        kept = (SublayerWidths(kept={"value_pairs": rank}), SublayerWidths())
        errors.append(apart(cut(model, Modegpt().cuts(view, InnerWidths(blocks=(kept,) * BLOCKS))), model))
    assert errors[0] > errors[1] > errors[2] > 0.0


def test_blocks_lose_as_the_softmax_of_their_influence_says(view):
    step = Modegpt(temperature=0.2)
    plan = step.plan(view, step.size(view.shape, Budget.parse("parameters=0.2")))
    rule = step.rule()
    left = [row[1].kept.get("channels", 48) for row in plan.widths.blocks]
    redundancy = view.profile.redundancy("block-influence", False)
    order = np.argsort(redundancy)
    assert [left[at] for at in order] == sorted(left, reverse=True)
    assert len(set(left)) > 1
    targets = np.linspace(0.05, 0.75, 200)
    said = [
        [max(1, round(48 * (1 - share))) for share in rule(redundancy, each, MOST).values] for each in targets
    ]
    assert left in said


def test_families_without_rotary_pairs_lose_channels_and_values():
    dense = tiny_model("qwen3")
    view = ModelView(dense, WINDOWS)
    budget = Budget.parse("parameters=0.15")
    step = Modegpt(allocation="constant")
    step.check(view, budget)
    plan = step.plan(view, step.size(view.shape, budget))
    assert {kind for row in plan.widths.blocks for each in row for kind in each.kept} == {
        "channels",
        "value_pairs",
    }
    with pytest.raises(UnsupportedError, match="takes out channels"):
        step.check(ModelView(tiny_model("mixtral"), WINDOWS), budget)


@pytest.mark.parametrize("line", ["modegpt(allocation=constant)", "fasp(restore=false)", "dotresize"])
def test_channels_beside_experts_can_go(line):
    """The stack of experts writes the stream too, but is no linear map, and stays."""
    dense = tiny_model("qwen2_moe", shared_expert_intermediate_size=256, num_hidden_layers=BLOCKS)
    view, recipe = ModelView(dense, WINDOWS), Recipe.parse(line)
    made, _ = make_smaller(recipe, Budget.parse("size=120000"), view)
    assert count_parameters(made.model) == pytest.approx(120_000, rel=0.01)
    for block, cut_block in zip(blocks(dense), blocks(made.model), strict=True):
        whole, left = dict(block.named_parameters()), dict(cut_block.named_parameters())
        for name in (name for name in whole if "experts" in name):
            assert left[name].equal(whole[name])
        for name in (name for name in whole if name.endswith("shared_expert.down_proj.weight")):
            assert left[name].shape[1] < whole[name].shape[1]
    assert apart(made.model, dense) < 1.0


def test_settings_that_decide_nothing_are_as_usual_and_others_are_refused():
    assert (
        Recipe.parse("modegpt(allocation=constant, temperature=3, score=lr)").line
        == "modegpt(allocation=constant)"
    )
    assert Recipe.parse("modegpt(allocation=band, score=heavy-tail)").steps[0].cites[-1] != "lin2025modegpt"
    assert Recipe.parse("modegpt(uniform=true, allocation=rising)").line == "modegpt(uniform=true)"
    assert Modegpt(allocation="random").by_chance
    for name in (name for name, kind in ALLOCATIONS.items() if kind.made):
        with pytest.raises(PlanError, match="no shares that are measured or searched for"):
            Recipe.parse(f"modegpt(allocation={name})")
    with pytest.raises(PlanError, match="Did you mean 'softmax'"):
        Recipe.parse("modegpt(allocation=sofmax)")
