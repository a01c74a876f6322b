"""What every method that cuts inside blocks must do, and what each of them is by definition."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.read_shape import read_shape
from analysis.shape import ModelShape, SublayerShape
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import UnitCut, cut_model
from slicing.inner.select import unit_scores
from slicing.inner.widths import FORMS, InnerWidths
from slicing.inner.without import cuts_without
from slicing.modeling_narrow import Absent, NarrowLinear
from slicing.steps import STEPS, find_step
from slicing.steps.base import Made
from slicing.steps.inner import Inner, InnerPlan, Selective
from slicing.steps.llm_pruner import LlmPruner
from slicing.steps.two_stage import attentions_gone
from slicing.view import ModelView

BLOCKS = 6
WINDOWS = torch.randint(3, 300, (16, 24), generator=torch.Generator().manual_seed(3))
INNER = [name for name, kind in STEPS.items() if kind.axis == "inner"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model("llama", num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def view(model) -> ModelView:
    return ModelView(model, WINDOWS)


def made_by(name: str, **settings: Any) -> Inner:
    made = find_step(name)(**settings)
    assert isinstance(made, Inner)
    return made


def without(model: Any, share: float) -> Budget:
    """The budget at which this share of the parameters goes, to the parameter."""
    return Budget(measure="size", amount=round((1 - share) * read_shape(model).parameters))


def settings_of(name: str) -> Iterator[dict[str, Any]]:
    """The settings that all steps share, one by one, as far as a step takes them."""
    usual: Any = find_step(name)()
    for settings in ({}, {"uniform": True}, {"restore": not usual.restore}, {"repair": "projections"}):
        try:
            made_by(name, **settings)
        except PlanError:  # which has tests of its own
            continue
        yield settings


def parameters_of(model: Any) -> int:
    return sum(each.numel() for each in {id(each): each for each in model.parameters()}.values())


def plain(plan: InnerPlan) -> tuple[InnerWidths, list[Any]]:
    """What was decided, as values that can be compared."""
    cuts = [
        [
            own
            if own is None
            else [(cut.kind, cut.kept.tolist(), listed(cut.rows), listed(cut.columns)) for cut in own]
            for own in block
        ]
        for block in plan.cuts
    ]
    return plan.widths, cuts


def listed(mix: torch.Tensor | None) -> Any:
    return None if mix is None else mix.tolist()


def rounding(step: Inner, shape: ModelShape) -> float:
    """How far a size may be from the one asked for."""
    if not step.fine:  # half of the largest sub-layer
        return max(each.parameters(shape.hidden_size) for each in shape.blocks[0]) / 2
    kinds = step.kinds_cut(shape)
    units = [each for sublayer in shape.blocks[0] for each in sublayer.units if each.kind in kinds]
    rows = max(each.reader_rows + each.writer_columns + each.inner / shape.hidden_size for each in units)
    return BLOCKS * rows * shape.hidden_size  # every block rounds alike


# The contract


@pytest.mark.parametrize("share", [0.1, 0.25])
@pytest.mark.parametrize(("name", "settings"), [(name, some) for name in INNER for some in settings_of(name)])
def test_what_is_made_has_the_size_that_was_planned_and_asked_for(name, settings, share, model, view):
    step, budget, shape = made_by(name, **settings), without(model, share), read_shape(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    step.check(view, budget)
    plan = step.decide(view, budget, Made(model))
    made = step.apply(view, plan, Made(model))
    size, asked = parameters_of(made.model), step.size(shape, budget)
    assert size == plan.widths.shape_after(shape).parameters
    assert made.inner == plan.widths
    ours = [each for each in made.model.modules() if isinstance(each, NarrowLinear | Absent)]
    assert bool(ours) != step.uniform
    assert abs(size - asked) <= rounding(step, shape)
    assert size < shape.parameters
    assert made.model(WINDOWS[:2]).logits.isfinite().all()
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in INNER if STEPS[name].fine])  # type: ignore[attr-defined]
def test_a_shallow_model_loses_less_than_a_block(name):
    """Two blocks are 31 % of this model each; a share is nearest to none of them."""
    shallow = tiny_model("llama", num_hidden_layers=2, intermediate_size=256, vocab_size=1000)
    view, step, budget = ModelView(shallow, WINDOWS), made_by(name), Budget.parse("parameters=0.05")
    step.check(view, budget)
    made = step.apply(view, step.decide(view, budget, Made(shallow)), Made(shallow))
    assert parameters_of(made.model) == pytest.approx(0.95 * parameters_of(shallow), rel=0.01)


def test_no_step_takes_more_than_blocks_hold(view):
    with pytest.raises(PlanError, match=r"97% of the .* parameters is 7 of the 6 blocks"):
        made_by("fasp").check(view, Budget.parse("parameters=0.97"))


@pytest.mark.parametrize("form", ["gguf", "deci"])
@pytest.mark.parametrize("name", [name for name in INNER if issubclass(STEPS[name], Selective)])
def test_what_is_meant_for_export_loses_only_what_the_form_can_say(name, form, model, view):
    step, budget, shape = made_by(name, export=form), without(model, 0.25), read_shape(model)
    widths = step.decide(view, budget, Made(model)).widths
    cut = {kind for block in widths.blocks for each in block for kind in each.kept}
    assert "channels" in cut <= set(FORMS[form].kinds)
    assert abs(widths.shape_after(shape).parameters - step.size(shape, budget)) <= rounding(step, shape)


def test_a_method_that_cuts_no_more_than_channels_does_not_ask_what_for():
    for name in INNER:
        assert issubclass(STEPS[name], Selective) == (
            not set(made_by(name).kinds) <= set(FORMS["deci"].kinds)
        )


@pytest.mark.parametrize("name", INNER)
def test_the_same_is_decided_twice(name, model, view):
    budget = without(model, 0.2)
    first, again = (
        made_by(name).decide(each, budget, Made(model)) for each in (view, ModelView(model, WINDOWS))
    )
    assert plain(first) == plain(again)


@pytest.mark.parametrize("name", INNER)
def test_next_to_nothing_leaves_the_model_as_it_is(name, model, view):
    budget = without(model, 1e-6)
    step = made_by(name)
    made = step.apply(view, step.decide(view, budget, Made(model)), Made(model))
    expected, found = (each(WINDOWS[:2], use_cache=False).logits for each in (model, made.model))
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", INNER)
def test_what_is_left_of_blocks_can_be_cut_too(name, model, view):
    """After whole blocks went, the step decides on what is left of the model."""
    layout = Layout.without(BLOCKS, [2])
    reduced = Made(reduce_blocks(model, layout), layout)
    step, budget = made_by(name), without(model, 0.3)
    plan = step.decide(view, budget, reduced)
    made = step.apply(view, plan, reduced)
    assert len(plan.widths.blocks) == BLOCKS - 1
    assert parameters_of(made.model) == plan.widths.shape_after(read_shape(reduced.model)).parameters


@pytest.mark.parametrize("name", INNER)
def test_a_repair_is_kept_where_it_helps(name, model, view):
    step, budget = made_by(name, repair="writers"), without(model, 0.2)
    made = step.apply(view, step.decide(view, budget, Made(model)), Made(model))
    assert made.repair is not None
    assert made.repair.windows == 2
    assert {"writers"} == step.fits()


# Routed experts


TAKE_UNITS = [name for name, kind in STEPS.items() if kind.axis == "inner" and kind.kinds]  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("name", TAKE_UNITS)
def test_a_model_whose_channels_are_all_of_routed_experts_is_refused_by_that_reason(name, family):
    other = tiny_model(family)
    with pytest.raises(UnsupportedError, match="has any but those of routed experts, which no method scores"):
        made_by(name).check(ModelView(other, WINDOWS), without(other, 0.2))


@pytest.mark.parametrize("name", TAKE_UNITS)
def test_routed_experts_that_stay_whole_are_told_of_and_the_size_is_met(name):
    other = tiny_model("qwen2_moe")
    shape, step, budget = read_shape(other), made_by(name), without(other, 0.1)
    experts = sum(each.numel() for name, each in other.named_parameters() if ".experts." in name)
    (told,) = step.warnings(shape)
    assert f"which hold {experts / shape.parameters:.0%} of the parameters" in told
    view = ModelView(other, WINDOWS)
    made = step.apply(view, step.decide(view, budget, Made(other)), Made(other))
    assert parameters_of(made.model) == pytest.approx(budget.amount, rel=0.01)
    left = sum(each.numel() for name, each in made.model.named_parameters() if ".experts." in name)
    assert left == experts
    with pytest.raises(PlanError, match=r"routed experts that stay whole|All that can go inside the blocks"):
        step.decide(view, without(other, 0.6), Made(other))


def test_dense_models_are_not_told_of_experts(view):
    assert not any(made_by(name).warnings(view.shape) for name in INNER)
    assert not made_by("sublayers").warnings(read_shape(tiny_model("qwen2_moe")))


# Sub-layers


def loss_without(model: Any, gone: Any, windows: torch.Tensor, others: Any = None) -> float:
    """The loss with these sub-layers taken out, beside other cuts, run from the first block to the last."""
    cut = reduce_blocks(model, Layout.whole(BLOCKS), check=False)
    cut_model(cut, cuts_without(model, gone, others))
    return float(np.mean(perplexity(cut, windows).nll))


def gone_from(plan: InnerPlan) -> set[tuple[int, int]]:
    return {
        (place, row)
        for place, block in enumerate(plan.widths.blocks)
        for row, each in enumerate(block)
        if each.gone
    }


def test_sublayers_go_as_a_search_over_all_of_them_says(model, view):
    """Brute force: every candidate is run as a model of its own."""
    every = [(place, row) for place in range(BLOCKS) for row in range(2)]
    gone: list[tuple[int, int]] = []
    for share in (0.05, 0.15, 0.25):
        plan = made_by("sublayers", windows=3).decide(view, without(model, share), Made(model))
        found = gone_from(plan)
        while len(gone) < len(found):
            left = [each for each in every if each not in gone]
            gone.append(min(left, key=lambda each: loss_without(model, [*gone, each], WINDOWS[:3])))
        assert found == set(gone)
    assert len(gone) > 2


def test_sublayers_stop_at_the_nearest_number(model, view):
    shape, step = read_shape(model), made_by("sublayers")
    plans = [step.plan(view, size) for size in range(shape.parameters, shape.parameters // 2, -1500)]
    sizes = [plan.widths.shape_after(shape).parameters for plan in plans]
    reached = sorted(set(sizes), reverse=True)
    assert len(reached) > 3
    assert all(first > then for first, then in pairwise(reached))
    order = [gone_from(plan) for plan in plans]
    assert all(
        first <= then for first, then in pairwise(order)
    )  # a smaller model loses the same ones, and more
    for size, found in zip(range(shape.parameters, shape.parameters // 2, -1500), sizes, strict=True):
        assert abs(found - size) == min(abs(each - size) for each in reached)


def test_sublayers_of_parallel_blocks_are_refused():
    other = tiny_model("phi")
    with pytest.raises(UnsupportedError, match="'sublayers' takes attention and MLP out one by one"):
        made_by("sublayers").check(ModelView(other, WINDOWS), without(other, 0.2))


def test_sublayers_leave_no_model_smaller_than_nothing_inside(model, view):
    with pytest.raises(PlanError, match="even where every sub-layer goes"):
        made_by("sublayers").check(view, Budget(measure="size", amount=5000))


@pytest.mark.parametrize("settings", [{"uniform": True}, {"restore": True}])
def test_sublayers_refuse_what_has_no_meaning(settings):
    with pytest.raises(PlanError, match="leave out"):
        find_step("sublayers").from_said(settings)


# 2SSP


@pytest.mark.parametrize(
    ("attention", "mlp", "blocks", "share", "gone"),
    [
        (4, 8, 32, 0.25, 5),  # 32 * .25^(2 / 1.5) = 5.04
        (4, 8, 32, 0.5, 13),  # 12.70
        (2, 7, 28, 0.375, 3),  # 28 * .375^(3.5 / 1.5) = 2.84
        (8, 4, 32, 0.1, 4),  # 14.85, but 4.8 attentions are all that is to go
    ],
)
def test_so_many_attentions_go_as_equation_5_says(attention, mlp, blocks, share, gone):
    """Sub-layers of plain sizes, with the embedding beside them counted for nothing."""
    row = (
        SublayerShape(kind="attention", reader_rows=attention, writer_columns=0, norm=0),
        SublayerShape(kind="mlp", reader_rows=mlp, writer_columns=0, norm=0),
    )
    shape = ModelShape(
        architecture="llama", hidden_size=100, vocab_size=50, tied=True, blocks=(row,) * blocks
    )
    inside = 100 * blocks * (attention + mlp)
    assert attentions_gone(shape, round(shape.parameters - share * inside)) == gone


def test_2ssp_takes_channels_first_and_attentions_as_a_search_says(model, view):
    """Brute force: every attention is run without, on the model that the first stage has left."""
    shape, step = read_shape(model), made_by("2ssp", windows=3)
    inside = sum(shape.block_parameters(block) for block in range(BLOCKS))
    plan = step.plan(view, round(shape.parameters - 0.7 * inside))
    gone = gone_from(plan)
    assert len(gone) == attentions_gone(shape, round(shape.parameters - 0.7 * inside)) > 1
    assert {row for _, row in gone} == {0}
    (kept,) = {block[1].kept["channels"] for block in plan.widths.blocks}
    scores = unit_scores(view, "activation", ("channels",))
    narrow: list[list[Any]] = []
    for place in range(BLOCKS):
        best = np.sort(np.argsort(-scores[place, 1, "channels"])[:kept])
        narrow.append([(), [UnitCut("channels", best)]])
        assert [(cut.kind, cut.kept.tolist()) for cut in plan.cuts[place][1] or ()] == [
            ("channels", best.tolist())
        ]
    found: list[tuple[int, int]] = []
    while len(found) < len(gone):
        left = [(place, 0) for place in range(BLOCKS) if (place, 0) not in found]
        found.append(min(left, key=lambda each: loss_without(model, [*found, each], WINDOWS[:3], narrow)))
    assert gone == set(found)


def test_2ssp_of_parallel_blocks_and_of_impossible_sizes_is_refused(model, view):
    other = tiny_model("phi")
    with pytest.raises(UnsupportedError, match="they are one sub-layer"):
        made_by("2ssp").check(ModelView(other, WINDOWS), without(other, 0.2))
    with pytest.raises(PlanError, match="'2ssp' reaches no size near"):
        made_by("2ssp").check(view, Budget(measure="size", amount=5000))


# LLM-Pruner


def pruner(**settings: Any) -> LlmPruner:
    return LlmPruner(**settings)


def weights_times_gradients(model: Any, texts: torch.Tensor) -> dict[str, torch.Tensor]:
    """The product of every weight and the gradient of the mean loss, from automatic differentiation."""
    copy = tiny_model("llama", num_hidden_layers=BLOCKS).requires_grad_(True)
    copy.load_state_dict(model.state_dict())
    copy(texts, labels=texts, use_cache=False).loss.backward()
    return {
        name: (each * each.grad).detach() for name, each in copy.named_parameters() if each.grad is not None
    }


@pytest.mark.parametrize("form", ["element-1", "vector"])
def test_llm_pruner_takes_the_groups_whose_weights_are_worth_least(form, model, view):
    step = made_by("llm-pruner", form=form, windows=5, spare_first=1, spare_last=1)
    shape = read_shape(model)
    plan = step.plan(view, round(0.62 * shape.parameters))  # enough that one of two heads goes
    products = weights_times_gradients(model, WINDOWS[:5])

    def counted(place: int, name: str, units: int, turned: bool = False) -> torch.Tensor:
        found = products[f"model.layers.{place}.{name}.weight"]
        found = (found.T if turned else found).reshape(units, -1)
        return found.abs().sum(1) if form == "element-1" else found.sum(1).abs()

    for place in range(BLOCKS):
        if place in (0, BLOCKS - 1):
            assert all(each.whole for each in plan.widths.blocks[place])
            continue
        heads = sum(counted(place, f"self_attn.{name}_proj", 2) for name in "qkv")
        heads = heads + counted(place, "self_attn.o_proj", 2, turned=True)
        channels = sum(counted(place, f"mlp.{name}_proj", 48) for name in ("gate", "up"))
        channels = channels + counted(place, "mlp.down_proj", 48, turned=True)
        for row, worth in ((0, heads), (1, channels)):
            own = plan.cuts[place][row]
            assert own is not None and len(own) == 1
            (cut,) = own
            best = worth.argsort(descending=True)[: len(cut.kept)].sort().values
            assert cut.kept.tolist() == best.tolist()
    middle = plan.widths.blocks[1:-1]
    assert len({(heads.kept["kv_groups"], channels.kept["channels"]) for heads, channels in middle}) == 1


@pytest.mark.parametrize(
    ("blocks", "settings", "pruned"),
    [
        (32, {}, range(4, 30)),
        (13, {}, range(4, 11)),
        (12, {}, range(3, 10)),
        (6, {}, range(1, 5)),
        (3, {}, range(3)),
        (32, {"spare_first": 0, "spare_last": 0}, range(32)),
        (6, {"spare_first": 0, "spare_last": 1}, range(5)),
    ],
)
def test_llm_pruner_spares_less_of_shallow_models(blocks, settings, pruned):
    assert pruner(**settings).pruned(blocks) == pruned


def test_llm_pruner_refuses_to_spare_all_blocks_and_to_spare_some_of_equal_widths():
    with pytest.raises(PlanError, match="spares 20 blocks in front and 2 at the end, and the model has 16"):
        pruner(spare_first=20).pruned(16)
    with pytest.raises(PlanError, match="spare_first=0"):
        find_step("llm-pruner").from_said({"uniform": True})


def test_llm_pruner_takes_the_published_calibration():
    windows = torch.arange(16 * 100).reshape(16, 100)
    published = pruner(published_calibration=True, windows=3)
    assert torch.equal(published.texts(windows), windows[:10, :64])
    assert torch.equal(pruner().texts(windows), windows[:8])


def test_llm_pruner_of_equal_widths_makes_an_ordinary_checkpoint(model, view):
    step = made_by("llm-pruner", uniform=True, spare_first=0, spare_last=0)
    made = step.apply(view, step.plan(view, round(0.7 * parameters_of(model))), Made(model))
    assert type(made.model) is type(model)
    again = type(model)(made.model.config)
    again.load_state_dict(made.model.state_dict())
    found, expected = (each.eval()(WINDOWS[:2], use_cache=False).logits for each in (again, made.model))
    assert torch.allclose(found, expected, atol=1e-6)
