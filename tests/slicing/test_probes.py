"""Probes against their definitions: a block really left out or sliced, and the published exponent."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.anatomy import blocks
from analysis.bases import find_bases
from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import _has_a_head_of_its_own, perplexity
from analysis.probes import damage, heavy_tail, hill, leave_out
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape
from analysis.scores import SCORES
from slicing.inner.select import unit_scores
from slicing.plans import Plan
from slicing.probes import CURVES, FRACTIONS, PROBES, Probing
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut
from slicing.view import ModelView


@pytest.fixture(params=["llama", "gpt2", "phi", "falcon, sequential", "qwen2_moe"])
def model(request):
    return tiny_model(request.param)


def probing_of(model, windows) -> Probing:
    return Probing(model, windows, lambda: find_bases(model, windows))


def test_leaving_out_is_what_a_model_without_the_block_loses(model, windows):
    found = damage(model, windows, {"out": leave_out})["out"]
    dense = np.asarray(perplexity(model, windows).nll)

    class Nothing(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.__dict__["block"] = block

        def __getattr__(self, name):
            return getattr(self.__dict__["block"], name)

        def forward(self, states, *args, **kwargs):
            output = self.__dict__["block"](states, *args, **kwargs)
            return (states, *output[1:]) if isinstance(output, tuple) else states

    for block in range(3):
        less = copy.deepcopy(model)
        blocks(less)[block] = Nothing(blocks(less)[block])
        expected = np.asarray(perplexity(less, windows).nll) - dense
        assert found[:, block] == pytest.approx(expected, abs=1e-5)


def test_the_whole_model_runs_once_for_all_that_is_left_out(windows):
    """Its own loss comes of that pass, and logits are made of a few rows at a time all the same."""
    model, long = tiny_model("llama"), []
    norm = blocks(model)[0].input_layernorm
    norm.register_forward_hook(lambda _, args, __: long.append(args[0].shape[1] == windows.shape[1]))
    rises = damage(model, windows, {"out": leave_out}, among={"out": (1, 2)})["out"]
    assert sum(long) == 1
    assert _has_a_head_of_its_own(model)
    assert not rises[:, 0].any()
    assert rises[:, 1:].all()


@pytest.mark.parametrize("family", ["llama", "phi", "opt"])
def test_slicing_one_is_what_a_model_with_that_block_sliced_loses(family, windows):
    model = tiny_model(family)
    found = PROBES["slice-one"](probing_of(model, windows))
    bases, shape = find_bases(model, windows), read_shape(model)
    dense = np.asarray(perplexity(model, windows).nll)
    for block in range(3):
        widths = [32] * 4
        widths[block] = 24
        schedule = SlicingSchedule(
            hidden_size=32, widths=tuple(widths), embedding="shared" if shape.tied else "untied"
        )
        cut = recut(model, schedule, bases).model
        expected = np.asarray(perplexity(cut, windows).nll) - dense
        assert found[:, block] == pytest.approx(expected, abs=1e-4)


def test_curves_pass_through_the_scores_and_rise(windows):
    probing = probing_of(tiny_model("llama"), windows)
    for name, curve in CURVES.items():
        rows = curve(probing)
        assert rows.shape == (len(FRACTIONS), 3)
        assert rows[FRACTIONS.index(0.25)] == pytest.approx(PROBES[name](probing).mean(axis=0), abs=1e-6)
    energies = CURVES["discarded-energy"](probing)
    assert (np.diff(energies, axis=0) > 0).all()


def test_the_exponent_is_that_of_a_pareto_tail():
    # Density ~ x^-(1 + a), whose Hill estimate is 1 + a.
    draws = (1.0 - np.random.default_rng(0).random(200_000)) ** (-1 / 2.5)
    assert hill(draws) == pytest.approx(3.5, rel=0.02)


def test_the_exponent_needs_no_text_and_sees_the_scale_of_nothing():
    model = tiny_model("llama")
    found = heavy_tail(model)
    assert found.shape == (1, 3)
    with torch.no_grad():
        for parameter in blocks(model)[1].parameters():
            parameter.mul_(3.0)
    assert heavy_tail(model) == pytest.approx(found, rel=1e-4)


def test_a_profile_holds_what_was_probed_and_refuses_what_was_not(windows):
    model = tiny_model("llama")
    profile = profile_blocks(model, windows, model_label="tiny", text_label="noise")
    assert set(profile.scores()) == {name for name, score in SCORES.items() if score.measure}
    with pytest.raises(PlanError, match="--probe leave-one-out"):
        profile.redundancy("leave-one-out")
    values = PROBES["leave-one-out"](probing_of(model, windows))
    more = profile.with_probed("leave-one-out", values)
    assert more.values("leave-one-out") == pytest.approx(values.mean(axis=0))
    assert more.redundancy("leave-one-out") == pytest.approx((-values.mean(axis=0)).tolist())
    assert "leave-one-out" in more.to_frame()
    assert set(PROBES) == {name for name, score in SCORES.items() if not score.measure}


def test_a_plan_by_the_released_score_is_made_from_the_same_pass(windows):
    view = ModelView(tiny_model("llama"), windows)
    true, released = (view.redundancy(Plan(score=score)) for score in ("lr", "lr-published"))
    assert released == view.profile.redundancy("lr-published")
    assert released != true
    old = view.profile.model_copy(update={"measurements": {"cosine": view.profile.measurements["cosine"]}})
    with pytest.raises(PlanError, match="profile the model again"):
        ModelView(view.model, windows, old).redundancy(Plan(score="lr-published"))


# What is inside blocks, by scores of units

BY_UNITS = ("activation", "wanda", "leverage", "fisher", "taylor")


@pytest.mark.parametrize("name", BY_UNITS)
def test_the_worth_of_a_block_is_the_mean_over_the_columns_of_its_writers(name, windows):
    model = tiny_model("llama")
    scores = unit_scores(ModelView(model, windows), name, ("channels", "value_pairs"), relative=True)
    found = PROBES[name](probing_of(model, windows))
    # 48 channels; 4 query heads with 8 coordinates each, of which two share a pair
    expected = [
        (scores[place, 1, "channels"].sum() + scores[place, 0, "value_pairs"].sum()) / (48 + 4 * 8)
        for place in range(3)
    ]
    assert found[0].tolist() == pytest.approx(expected)
    assert len(set(expected)) == 3
    assert not SCORES[name].higher_is_redundant and not SCORES[name].quick


@pytest.mark.parametrize("name", BY_UNITS)
def test_the_worth_of_a_block_does_not_grow_with_the_stream(name, windows):
    """The same function with a stream twice as large throughout: every norm divides it away."""
    model, other = tiny_model("llama"), tiny_model("llama")
    other.model.embed_tokens.weight.mul_(2.0)
    for block in other.model.layers:
        block.self_attn.o_proj.weight.mul_(2.0)
        block.mlp.down_proj.weight.mul_(2.0)
    other.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    found, again = (PROBES[name](probing_of(each, windows))[0] for each in (model, other))
    ratio = again / found
    assert ratio == pytest.approx(np.full(3, ratio[0]), rel=1e-2)


@pytest.mark.parametrize("name", BY_UNITS)
def test_scores_of_units_are_there_wherever_a_score_is(name, windows):
    view = ModelView(tiny_model("phi"), windows)
    assert len(set(view.redundancy(Plan(score=name)))) == 3


def test_a_shared_expert_is_scored_and_a_stack_is_refused_by_name(windows):
    """One block of the three has a plain MLP, of 48 channels, in place of experts."""
    view = ModelView(tiny_model("qwen2_moe"), windows)
    found = unit_scores(view, "activation", ("channels",))
    assert {place: len(each) for (place, _, _), each in found.items()} == {0: 40, 1: 48, 2: 40}
    assert view.redundancy(Plan(score="activation"))
    with pytest.raises(UnsupportedError, match=r"'experts.down_proj' is a stack of experts"):
        unit_scores(view, "activation", ("expert_channels",))


def test_a_replacement_is_tried_at_the_blocks_that_are_named_alone(windows):
    model = tiny_model("llama")
    tried: list[int] = []

    def noted(block, entering, tokens):
        tried.append(block)
        return entering

    every = damage(model, windows, {"out": leave_out})["out"]
    found = damage(model, windows, {"out": noted, "again": leave_out}, among={"out": (2, 0), "again": ()})
    assert set(tried) == {0, 2}
    assert found["out"][:, [0, 2]] == pytest.approx(every[:, [0, 2]])
    assert not found["out"][:, 1].any() and not found["again"].any()
