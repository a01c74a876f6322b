"""Fits inside blocks, the order of removal and the shared-out budget, beside what they are by definition."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from hypothesis import given
from hypothesis import strategies as some

from analysis.anatomy import anatomy_of, blocks
from analysis.curvature import curvature
from analysis.errors import PlanError
from analysis.evaluate import perplexity
from analysis.sublayers import out_in, rms, set_out_in, sublayers
from slicing.dense_states import DenseStates
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import UnitCut, cut_model
from slicing.inner.fit import _Fit, fit_inside
from slicing.inner.moments import writer_moments
from slicing.inner.obs import DAMPING, order_of_removal, root, value_ranks
from slicing.inner.share_out import Option, hull, share_out

WINDOWS = torch.randint(3, 300, (16, 24), generator=torch.Generator().manual_seed(3))


def moment_of(width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, dtype=torch.float64, generator=generator)
    return mixed @ mixed.T / width


# The order of removal


def removal_cost(scaled: torch.Tensor, moment: torch.Tensor, gone: list[int]) -> float:
    """Half the error that is left when the other columns are refitted from scratch."""
    damped = moment + torch.diag(DAMPING * moment.diagonal() + 1e-9 * moment.diagonal().max())
    stay = [place for place in range(len(moment)) if place not in gone]
    cross = damped[gone][:, stay]
    left = damped[gone][:, gone] - cross @ torch.linalg.inv(damped[stay][:, stay]) @ cross.T
    return float((scaled[:, gone] @ left * scaled[:, gone]).sum() / 2)


@pytest.mark.parametrize("each", [1, 3])
def test_every_step_of_the_order_costs_what_a_refit_from_scratch_leaves(each, monkeypatch):
    monkeypatch.setattr("slicing.inner.obs.AT_A_TIME", 1)
    moment = moment_of(12)
    scaled = torch.randn(5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    units = np.arange(12).reshape(-1, each)
    order = order_of_removal(scaled, moment, units)
    assert sorted(order.units.tolist()) == list(range(len(units)))
    gone: list[int] = []
    for unit, cost in zip(order.units[:-1], order.costs[:-1], strict=True):
        rest = [other for other in range(len(units)) if not set(units[other]) & set(gone)]
        tried = {other: removal_cost(scaled, moment, [*gone, *units[other]]) for other in rest}
        assert unit == min(tried, key=lambda other: tried[other])  # greedy, by brute force
        gone += units[unit].tolist()
        assert cost == pytest.approx(removal_cost(scaled, moment, gone), rel=1e-6)


def test_several_at_a_time_cost_what_they_cost_together(monkeypatch):
    monkeypatch.setattr("slicing.inner.obs.AT_A_TIME", 4)
    moment, scaled = moment_of(12), torch.randn(5, 12, dtype=torch.float64)
    order = order_of_removal(scaled, moment, np.arange(12)[:, None])
    expected = removal_cost(scaled, moment, order.units[:4].tolist())
    assert order.costs[3] == pytest.approx(expected, rel=1e-6)
    assert (np.diff(order.costs) >= 0).all()


def test_the_rank_of_values_costs_the_singular_values_behind_it():
    moment = moment_of(8)
    scaled = torch.randn(6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    heads = np.arange(8).reshape(2, 4)
    found = value_ranks(scaled, moment, heads)
    mean = (moment[:4, :4] + moment[4:, 4:]) / 2
    for rank in range(5):
        kept = found.columns[:, :rank] @ found.rows[:, :rank].T  # (4, 4), the best projection of that rank
        missed = torch.eye(4, dtype=torch.float64) - kept.T
        cost = sum(
            float(((scaled[:, own] @ missed.T @ mean @ missed) * scaled[:, own]).sum() / 2)
            for own in (slice(0, 4), slice(4, 8))
        )
        assert found.costs[rank] == pytest.approx(cost, abs=1e-9)
    assert torch.allclose(found.columns @ found.rows.T, torch.eye(4, dtype=torch.float64), atol=1e-9)


def test_the_root_is_that_of_the_moment():
    moment = moment_of(7)
    assert torch.allclose(root(moment) @ root(moment), moment)


# The curvature


@pytest.mark.parametrize("massive", [False, True])
def test_the_curvature_is_the_second_moment_of_the_gradient_at_every_output(massive):
    model = tiny_model("llama", torch.float64, tie_word_embeddings=False)
    windows = WINDOWS[:3].clone()
    if massive:  # the first token, and it alone
        windows[windows == 3] = 4
        windows[:, 0] = 3
        model.get_input_embeddings().weight.data[3] *= 1000.0
    found = curvature(model, windows, seed=5)
    generator = torch.Generator().manual_seed(5)
    expected, left_out = torch.zeros(32, 32, dtype=torch.float64), 0.0
    for window in windows.split(1):
        held: list[Any] = []

        def keep(module: Any, args: Any, output: torch.Tensor, held: list[Any] = held) -> torch.Tensor:
            output = output.detach().requires_grad_(True)
            held.append(output)
            return output

        handles = [blocks(model)[1].mlp.register_forward_hook(keep)]
        streams: list[torch.Tensor] = []

        def behind(_: Any, __: Any, output: torch.Tensor, streams: list[torch.Tensor] = streams) -> None:
            streams.append(output.detach())

        handles.append(blocks(model)[1].register_forward_hook(behind))
        logits = model(window, use_cache=False).logits.float()[0]
        wanted = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, held)
        for handle in handles:
            handle.remove()
        first, scaled = (gradient * rms(streams[0]))[0].split([int(massive), len(gradient[0]) - massive])
        expected += scaled.T @ scaled / windows.numel()
        left_out += float(first.square().sum()) / windows.numel()
    assert torch.allclose(found.moments[1][1].double(), expected, rtol=1e-4, atol=1e-8)
    share = left_out / (left_out + float(expected.trace()))
    assert bool(share) == massive and found.massive[1][1] == pytest.approx(share, rel=1e-4)
    assert not any(each.grad is not None for each in model.parameters())


def test_moments_are_those_of_what_the_writers_read():
    model = tiny_model("llama", torch.float64)
    found: dict[tuple[int, int], torch.Tensor] = {}
    writer_moments(model, WINDOWS, lambda place, row, _, moments: found.update({(place, row): moments[0]}))
    read, behind = [], []
    handles = [
        blocks(model)[2].mlp.down_proj.register_forward_pre_hook(lambda _, args: read.append(args[0])),
        blocks(model)[2].register_forward_hook(lambda _, __, out: behind.append(out)),
    ]
    with torch.no_grad():
        model(WINDOWS, use_cache=False)
    for handle in handles:
        handle.remove()
    inputs = (read[0] / rms(behind[0])).flatten(0, 1)
    assert torch.allclose(found[2, 1], inputs.T @ inputs / WINDOWS.numel(), rtol=1e-8)


# Fits


def cut(model: Any, place: int = 1) -> Any:
    made = reduce_blocks(model, Layout.whole(len(blocks(model))), check=False)
    cuts: Any = [[(), ()] for _ in blocks(model)]
    cuts[place][1] = [UnitCut("channels", np.arange(0, 48, 2))]
    cut_model(made, cuts)
    return made


def cut_alone(model: Any, layout: Layout) -> Any:
    """A model without some blocks whose modules, and what is hooked to them, are its own."""
    made = copy.deepcopy(reduce_blocks(model, layout))
    for module in made.modules():
        module._forward_hooks.clear()
    return made


def missed(model: Any, made: Any, place: int = 1) -> float:
    """Mean square by which the cut MLP misses the dense one, on the dense stream and relative to it."""
    error: list[float] = []
    dense_rows, rows = sublayers(model)[place], sublayers(made)[place]

    def look(block: Any, args: Any, kwargs: dict[str, Any], output: torch.Tensor) -> None:
        states = args[0]
        context = {name: value for name, value in kwargs.items() if name != "hidden_states"}
        states = states + dense_rows[0].added(states, context)
        added = dense_rows[1].added(states, context)
        far = (rows[1].added(states, context) - added) / rms(states + added)
        error.append(float(far[:14].square().mean()))

    handle = blocks(model)[place].register_forward_hook(look, with_kwargs=True)
    with torch.no_grad():
        model(WINDOWS, use_cache=False)
    handle.remove()
    return error[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "phi", "llama untied, biases, long heads"])
def test_restoration_is_never_worse_on_what_it_is_fitted_to(family):
    model = tiny_model(family, torch.float64)
    layout = Layout.whole(len(blocks(model)))
    if len(sublayers(model)[0]) == 2:
        made = cut(model)
        before = missed(model, made)
        fit_inside(model, made, layout, WINDOWS, 2, ("local",), lambda place, row: (place, row) == (1, 1))
        assert missed(model, made) < before
    else:
        made = cut(model)
        told = fit_inside(model, made, layout, WINDOWS, 2, ("local",), lambda place, row: place == 1)
        assert told[0].after <= told[0].before


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "qwen2_moe"])
def test_fitted_projections_follow_the_dense_stream_better(family):
    model = tiny_model(family, num_hidden_layers=4)
    layout = Layout.without(4, (1,))
    made = reduce_blocks(model, layout)
    told = fit_inside(model, made, layout, WINDOWS, 4, ("readers", "writers"), lambda place, row: False)
    assert told
    assert all(each.after <= each.before for each in told)
    assert any(each.ridge is not None for each in told)
    assert blocks(model)[0] is not blocks(made)[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "granite", "phi", "llama untied, biases, long heads"])
def test_what_writers_read_is_kept_where_there_is_room_and_changes_nothing(family):
    model = tiny_model(family, torch.float64, num_hidden_layers=4)
    layout = Layout.without(4, (1,))
    passes, made = [], []
    for budget in (None, (0, 0)):
        each = reduce_blocks(model, layout)
        count = Counter[str]()
        norm = getattr(blocks(each)[1], anatomy_of(model.config).sublayers[0][0].norm)
        norm.register_forward_hook(lambda *_, count=count: count.update(["block 1"]))
        told = fit_inside(
            model, each, layout, WINDOWS, 4, ("readers", "writers"), lambda *_: False, budget=budget
        )
        passes.append(count["block 1"])
        made.append((told, each.state_dict()))
    assert made[0][0] == made[1][0]
    assert all(tensor.equal(made[1][1][name]) for name, tensor in made[0][1].items())
    norms = len(anatomy_of(model.config).sublayers[0])  # parallel branches read through one norm
    assert passes[0] == passes[1] - norms  # it ran once less, of one batch


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi"])
def test_restoration_reads_off_the_dense_sublayer_what_the_cut_one_would(family, monkeypatch):
    """Channels and heads that are chosen: only the first batch passes through what is left of them."""
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda *_: 4 * WINDOWS.shape[1])
    model = tiny_model(family, torch.float64)
    layout, found = Layout.whole(3), []
    for shown in (True, False):
        if not shown:
            monkeypatch.setattr(_Fit, "_chosen", lambda *_: None)
        made, count = cut(model), Counter[str]()
        last = len(sublayers(made)[1]) - 1
        writer = sublayers(made)[1][last].writers[-1]
        writer.register_forward_hook(lambda *_, count=count: count.update(["writer"]))
        told = fit_inside(
            model,
            made,
            layout,
            WINDOWS,
            2,
            changed=lambda *place, last=last: place == (1, last),
        )
        found.append((count["writer"], told, out_in(writer)))
    (few, told, weight), (all_of_them, other, same) = found
    assert (few, all_of_them) == (1, 4)
    assert [each.ridge for each in told] == [each.ridge for each in other]
    assert torch.allclose(weight, same, rtol=1e-9, atol=1e-12)
    assert not torch.equal(weight, out_in(sublayers(cut(model))[1][-1].writers[-1]))  # it was fitted


def test_restoration_reads_for_itself_where_units_are_mixed(monkeypatch):
    """Merged channels are no longer among the dense ones."""
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda *_: 4 * WINDOWS.shape[1])
    model = tiny_model("llama", torch.float64)
    for way in ("writers", "readers"):
        made, count = cut(model), Counter[str]()
        (writer,) = sublayers(made)[1][1].writers
        changed = writer if way == "writers" else sublayers(made)[1][1].readers[0]
        set_out_in(changed, 0.5 * out_in(changed))
        writer.register_forward_hook(lambda *_, count=count: count.update(["writer"]))
        fit_inside(model, made, Layout.whole(3), WINDOWS, 2, changed=lambda *place: place == (1, 1))
        assert count["writer"] == 4


def test_where_the_dense_stream_is_kept_it_passes_once_and_nothing_else_changes():
    """For other blocks that go, too; seconds of a pass that was saved are told once."""
    model = tiny_model("llama", torch.float64, num_hidden_layers=4)
    passes = Counter[int]()
    for place, block in enumerate(blocks(model)):
        block.mlp.gate_proj.register_forward_hook(lambda *_, place=place: passes.update([place]))
    kept, made = DenseStates(), []
    for layout in (Layout.without(4, (1,)), Layout.without(4, (2, 3))):
        for states in (None, kept):
            each = cut_alone(model, layout)
            passes.clear()
            told = fit_inside(
                model, each, layout, WINDOWS, 4, ("readers", "writers"), lambda *_: False, kept=states
            )
            made.append((told, each.state_dict(), dict(passes)))
        (told, weights, long), (other, same, short) = made[-2:]
        assert told == other
        assert all(tensor.equal(same[name]) for name, tensor in weights.items())
        assert long == {0: 1, 1: 1, 2: 1, 3: 1}
        assert short == (long if len(made) == 2 else {})
    assert kept.claim() > 0.0
    assert kept.claim() == 0.0


def test_where_nothing_is_cut_nothing_changes():
    model = tiny_model("llama")
    made = reduce_blocks(model, Layout.whole(3), check=False)
    told = fit_inside(
        model, made, Layout.whole(3), WINDOWS, 2, ("local", "readers", "writers"), lambda place, row: False
    )
    assert told == ()
    assert perplexity(made, WINDOWS).nll == perplexity(model, WINDOWS).nll


def test_the_dense_model_stays_as_it_is():
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = cut(model)
    fit_inside(model, made, Layout.whole(3), WINDOWS, 2, ("local", "readers", "writers"))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not out_in(sublayers(made)[1][1].writers[0]).equal(before["model.layers.1.mlp.down_proj.weight"])


# The budget

curves = some.lists(
    some.lists(
        some.tuples(some.integers(1, 40), some.floats(0.001, 5.0)),
        min_size=1,
        max_size=4,
        unique_by=lambda each: each[0],
    ),
    min_size=1,
    max_size=4,
)


def parts_of(curves: list[list[tuple[int, float]]]) -> list[list[Option]]:
    return [[Option(0, 0.0), *(Option(saved, cost) for saved, cost in curve)] for curve in curves]


@given(curves=curves, share=some.floats(0.0, 1.0))
def test_a_shared_out_budget_is_met(curves, share):
    parts = parts_of(curves)
    most = sum(max(each.saved for each in hull(options)) for options in parts)
    wanted = int(share * most)
    chosen = share_out(parts, wanted)
    assert sum(each.saved for each in chosen) >= wanted
    assert all(each in options for each, options in zip(chosen, parts, strict=True))
    with pytest.raises(PlanError, match="All that can go inside the blocks"):
        share_out(parts, most + 1)


@given(curves=curves, steps=some.integers(0, 12))
def test_where_the_greedy_stops_by_itself_nothing_cheaper_saves_as_much(curves, steps):
    parts = parts_of(curves)
    hulls = [hull(options) for options in parts]
    segments = sorted(
        (then.cost - first.cost) / (then.saved - first.saved)
        for each in hulls
        for first, then in itertools.pairwise(each)
    )
    slope = segments[min(steps, len(segments) - 1)]
    best = [min(each, key=lambda option: option.cost - slope * option.saved) for each in hulls]
    wanted = sum(each.saved for each in best)
    chosen = share_out(parts, wanted)
    cheapest = min(
        sum(each.cost for each in mix)
        for mix in itertools.product(*parts)
        if sum(each.saved for each in mix) >= wanted
    )
    if sum(each.saved for each in chosen) == wanted:
        assert sum(each.cost for each in chosen) == pytest.approx(cheapest, rel=1e-9, abs=1e-9)
