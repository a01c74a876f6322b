"""Methods of removal: each beside what its definition says when it is done the long way."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import all_states, tiny_model
from torch import Tensor
from torch.nn import functional

from analysis.anatomy import blocks
from analysis.errors import PlanError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.steps import STEPS, find_step
from slicing.steps.removal import Removal
from slicing.view import ModelView

BLOCKS = 6
MERGING = ("laco", "sliding-merge")
METHODS = tuple(name for name, kind in STEPS.items() if issubclass(kind, Removal))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", num_hidden_layers=BLOCKS)


def said_by(model) -> Tensor:
    """(12, 24) token ids that the model says itself, so that it misses every block that does something."""
    torch.manual_seed(2)
    start = torch.randint(3, 300, (12, 4))
    options = {"min_new_tokens": 20, "max_new_tokens": 20, "do_sample": True, "top_k": 0}
    return model.generate(start, attention_mask=torch.ones_like(start), pad_token_id=0, **options)


@pytest.fixture(scope="module")
def spoken(model) -> Tensor:
    return said_by(model)


def view_of(model, windows: Tensor) -> ModelView:
    return ModelView(model, windows, profile_blocks(model, windows, model_label="", text_label=""))


@pytest.fixture(scope="module")
def view(model, spoken) -> ModelView:
    return view_of(model, spoken)


def make(name: str, **settings: Any) -> Any:
    """The method, which decides on all windows."""
    return find_step(name).read({"windows": 12, **settings})


def idle(*places: int):
    """A model in which the blocks at ``places`` do nothing."""
    model = tiny_model("llama", num_hidden_layers=BLOCKS)
    for place in places:
        blocks(model)[place].self_attn.o_proj.weight.zero_()
        blocks(model)[place].mlp.down_proj.weight.zero_()
    return model


def loss(model, windows: Tensor) -> float:
    return float(np.mean(perplexity(model, windows).nll))


@pytest.mark.parametrize("name", ["shortgpt", "sleb", "leave-one-out", "gromov", "llm-streamline"])
@pytest.mark.parametrize("place", [0, 2, 5])
def test_a_block_that_does_nothing_goes_first(name, place):
    model = idle(place)
    view = view_of(model, said_by(model))
    assert make(name).without(view, 1).removed == (place,)
    if name in ("shortgpt", "sleb", "leave-one-out"):
        assert place in make(name).without(view, 3).removed


def test_shortgpt_takes_the_blocks_of_least_influence(model, spoken, view):
    states = all_states(model, spoken)
    influence = [
        float(1 - functional.cosine_similarity(a, b, dim=-1)[:, 1:].mean()) for a, b in pairwise(states)
    ]
    for count in range(1, BLOCKS):
        least = np.argsort(influence)[:count]
        assert make("shortgpt").without(view, count).removed == tuple(sorted(least))


@pytest.mark.parametrize("name", ["gromov", "llm-streamline"])
@pytest.mark.parametrize("count", range(1, BLOCKS))
def test_the_span_is_the_best_of_all_spans(name, count, model, spoken, view):
    states = all_states(model, spoken)

    def turned(first: int) -> float:
        found = functional.cosine_similarity(states[first], states[first + count], dim=-1)
        return float(found[:, -1].arccos().mean()) if name == "gromov" else -float(found.mean())

    best = min(range(BLOCKS - count + 1), key=turned)
    assert make(name).without(view, count) == Layout.without(BLOCKS, range(best, best + count))


def test_top_and_below_last_take_the_last_ones_and_those_below(view):
    assert make("last-blocks").without(view, 2).removed == (4, 5)
    assert make("gromov-simple").without(view, 2).removed == (3, 4)
    assert make("gromov-simple").without(view, 5).tops == (5,)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_the_top_cut_loses_what_the_head_says_after_the_block_it_is_cut_at(count, model, spoken, view):
    reduced = reduce_blocks(model, make("last-blocks").without(view, count))
    states = all_states(model, spoken)[BLOCKS - count].float()
    logits = model.lm_head(model.model.norm(states))[:, :-1]
    expected = functional.cross_entropy(logits.flatten(0, 1), spoken[:, 1:].flatten())
    assert loss(reduced, spoken) == pytest.approx(float(expected), rel=1e-5)


def test_greedy_takes_what_the_perplexity_of_every_candidate_says(model, spoken, view):
    gone: set[int] = set()
    for count in range(1, BLOCKS - 1):
        candidates = {
            place: loss(reduce_blocks(model, Layout.without(BLOCKS, {*gone, place})), spoken)
            for place in range(BLOCKS)
            if place not in gone
        }
        if count == 1:
            once = sorted(candidates, key=candidates.__getitem__)
        gone.add(min(candidates, key=candidates.__getitem__))
        assert make("sleb").without(view, count).removed == tuple(sorted(gone))
        assert make("leave-one-out").without(view, count).removed == tuple(sorted(once[:count]))


def test_rises_of_the_loss_are_those_of_models_without_the_block(model, spoken, view):
    layout = Layout.without(BLOCKS, (1, 4))
    base = loss(reduce_blocks(model, layout), spoken)
    for place, rise in zip(layout.tops, view.losses_without(layout, 12), strict=True):
        less = reduce_blocks(model, Layout.without(BLOCKS, (1, 4, place)))
        assert rise == pytest.approx(loss(less, spoken) - base, abs=1e-5)


@pytest.mark.parametrize(
    "layout",
    [
        Layout.without(BLOCKS, (2,)),
        Layout.without(BLOCKS, (0, 3)),
        Layout.without(BLOCKS, (4, 5)),
        Layout(blocks=BLOCKS, groups=((0,), (1,), (2, 3, 4), (5,)), merge="mean"),
    ],
    ids=lambda layout: layout.label,
)
def test_likeness_is_the_cosine_of_what_the_decoders_give(layout, model, spoken, view):
    dense, short = (
        each.model(spoken[:10]).last_hidden_state for each in (model, reduce_blocks(model, layout))
    )
    expected = functional.cosine_similarity(dense.flatten(1), short.flatten(1), dim=1).mean()
    assert view.similarity(layout, 12) == pytest.approx(float(expected), abs=1e-6)
    assert view.similarity(Layout.whole(BLOCKS), 12) == pytest.approx(1.0, abs=1e-6)


def test_likeness_is_found_where_the_precision_is_measured_first(model, spoken):
    def measured() -> Any:
        model(spoken[:1, :2])  # one of another shape, which is no part of the answer
        return "exact"

    first, again = (ModelView(model, spoken, find_precision=each) for each in (measured, lambda: "exact"))
    layout = Layout.without(BLOCKS, (2,))
    assert first.similarity(layout, 12) == again.similarity(layout, 12)


@pytest.mark.parametrize("rule", ["top", "sum", "mean"])
@pytest.mark.parametrize("name", MERGING)
def test_without_a_threshold_exactly_so_many_blocks_go(name, rule, view):
    for count in range(1, BLOCKS - 1):
        layout = make(name, merge=rule).without(view, count)
        assert (layout.count, layout.merge) == (count, rule)
        assert [place for group in layout.groups for place in group] == list(range(BLOCKS))


@pytest.mark.parametrize("name", MERGING)
def test_what_no_threshold_can_take_away_is_refused_in_one_sentence(name, view):
    settings = {"interval": 4.0} if name == "laco" else {}
    with pytest.raises(PlanError, match=rf"'{name}' can take away from 0 to \d of .* but 5 are.*\.$"):
        make(name, **settings).without(view, BLOCKS - 1)


@pytest.mark.parametrize("name", MERGING)
def test_a_threshold_above_all_likeness_merges_nothing(name, view):
    for count in (1, 4):
        layout = make(name).merged(view, 1.01, count)
        assert layout.groups == Layout.whole(BLOCKS).groups
        with pytest.raises(
            PlanError, match=rf"^At a threshold of 1\.01 '{name}' merges away 0 of the 6 .*\.$"
        ):
            make(name, threshold=1.01).without(view, count)


def test_a_threshold_below_all_likeness_merges_what_the_windows_reach(view):
    unlimited = BLOCKS - 1

    def groups(name: str, **settings: float) -> tuple[tuple[int, ...], ...]:
        return make(name, **settings).merged(view, -1.01, unlimited).groups

    # One window from below the last block down to block 0.
    assert groups("sliding-merge") == (tuple(range(BLOCKS - 1)), (BLOCKS - 1,))
    # From the last two on, each merge takes in the block below.
    assert groups("laco", width=1, interval=1) == (tuple(range(BLOCKS)),)
    # 3 takes in 4 and 5; two below, 1 takes in 2 and that; two below there is nothing.
    assert groups("laco", width=2, interval=2) == ((0,), tuple(range(1, BLOCKS)))
    # 4 takes in 5; three below, 1 takes in 2 alone; three below there is nothing.
    assert groups("laco", width=1, interval=3) == ((0,), (1, 2), (3,), (4, 5))


def test_a_merged_block_is_one_block_to_the_next_merge(view):
    """By the published loop, which goes on with the model it has merged."""
    layout = make("laco", width=2, interval=2, merge="mean").merged(view, -1.01, BLOCKS - 1)
    assert layout.inner == ((3, 5),)
    assert layout.weights(1) == pytest.approx([1 / 3, 1 / 3, 1 / 9, 1 / 9, 1 / 9])
    top = make("laco", width=2, interval=2, merge="top").merged(view, -1.01, BLOCKS - 1)
    assert (top.inner, top.weights(1)) == ((), (0, 0, 0, 0, 1))


@pytest.mark.parametrize("name", MERGING)
@pytest.mark.parametrize("threshold", [-1.01, 0.2, 0.6, 0.9])
def test_a_merged_layout_holds_all_blocks_and_never_lacks_more_than_asked_for(name, threshold, view):
    for count in range(1, BLOCKS):
        layout = make(name, merge="mean").merged(view, threshold, count)
        assert [place for group in layout.groups for place in group] == list(range(BLOCKS))
        assert 0 <= layout.count <= count
        if layout.count:  # every merge left the output alike enough, the last one too
            assert view.similarity(layout, 12) > threshold


@pytest.mark.parametrize(("name", "settings"), [("laco", {"width": 1.0}), ("sliding-merge", {})])
def test_layers_that_do_nothing_become_one_with_the_next_and_the_output_stays(name, settings, spoken):
    view = view_of(idle(1, 2), spoken)
    chosen = make(name, merge="top", **settings).merged(view, 0.9999, BLOCKS - 1)
    assert chosen.groups == ((0,), (1, 2, 3), (4,), (5,))
    assert view.similarity(chosen, 12) == pytest.approx(1.0, abs=1e-5)
    highest = make(name, merge="top", **settings).without(view, 2)
    assert highest.groups == chosen.groups


def test_random_blocks_are_the_same_for_the_same_draw(view):
    for count in range(1, BLOCKS):
        drawn = [make("random-blocks", draw=draw).without(view, count) for draw in (0, 0, 1, 2, 3)]
        assert drawn[0] == drawn[1]
        assert len(set(drawn)) > 2
        assert {layout.count for layout in drawn} == {count}


def test_random_blocks_are_each_as_likely_as_the_others(view):
    taken = np.zeros(BLOCKS)
    for draw in range(300):
        taken[list(make("random-blocks", draw=draw).without(view, 2).removed)] += 1
    assert taken == pytest.approx(np.full(BLOCKS, 100), abs=30)  # within four standard deviations


@pytest.mark.parametrize("name", METHODS)
def test_nothing_removed_is_the_whole_model_and_all_is_refused(name, view):
    chosen = make(name)
    assert chosen.without(view, 0) == Layout.whole(BLOCKS)
    for count in (-1, BLOCKS, BLOCKS + 1):
        with pytest.raises(PlanError, match=rf"'{name}' can take away from 0 to \d of .* but {count} are"):
            chosen.without(view, count)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("laco", {"width": 0.0}, "greater than or equal to 1"),
        ("laco", {"width": 1.5}, "fractional part"),
        ("laco", {"interval": "x"}, "valid integer"),
        ("laco", {"merge": "max"}, "'top', 'sum' or 'mean'"),
        ("sliding-merge", {"width": 3.0}, "its settings are: windows, merge, threshold"),
        ("sliding-merge", {"threshold": float("nan")}, "finite"),
        ("random-blocks", {"draw": -1.0}, "its settings are: windows, draw"),
        ("sleb", {"draw": 1.0}, "its settings are: windows, only_likely, share, repair"),
        ("sleb", {"windows": 0}, "windows: .* greater than or equal to 1"),
        ("slebb", {}, "Did you mean 'sleb'"),
    ],
)
def test_settings_that_a_method_does_not_take_are_one_sentence(name, settings, told):
    with pytest.raises(PlanError, match=told) as raised:
        find_step(name).read(settings)
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)
