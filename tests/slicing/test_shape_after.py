"""The price list: what `shape_after` tells is what the models that are really built have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import DEMO_SHAPE, tiny_model
from every_family import tiny
from torch import nn

from analysis.anatomy import block_path
from analysis.errors import PlanError, UnsupportedError
from analysis.families import ANATOMIES
from analysis.read_shape import read_shape
from analysis.shape import ModelShape
from slicing.assembly import blank
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.schedule import SlicingSchedule

PRICES = {
    ("demo", "shared", 0): (153_127_841, 306_254_530),
    ("demo", "shared", 2): (138_522_290, 277_043_428),
    ("demo", "untied", 0): (181_009_889, 305_593_282),
    ("demo", "untied", 2): (166_404_338, 276_382_180),
    ("llama", "shared", 0): (34_559, 69_054),
    ("llama", "shared", 2): (31_544, 63_024),
    ("llama", "untied", 0): (42_567, 67_134),
    ("llama", "untied", 2): (39_552, 61_104),
    ("gpt2", "shared", 0): (37_731, 66_462),
    ("gpt2", "shared", 2): (34_716, 60_432),
    ("gpt2", "untied", 0): (46_007, 64_542),
    ("gpt2", "untied", 2): (42_992, 58_512),
    ("gpt_neox", "untied", 0): (40_028, 60_260),
    ("gpt_neox", "untied", 2): (39_218, 58_640),
    ("mixtral", "untied", 0): (78_171, 91_302),
    ("mixtral", "untied", 2): (75_156, 85_272),
    ("qwen2_moe", "untied", 0): (57_725, 81_034),
    ("qwen2_moe", "untied", 2): (54_710, 75_004),
    ("opt", "shared", 0): (37_791, 66_462),
    ("opt", "shared", 2): (34_776, 60_432),
    ("opt", "untied", 0): (46_067, 64_542),
    ("opt", "untied", 2): (43_052, 58_512),
}
"""Parameters and FLOPs per token as slicescope 0.1 computed them, by model, form and blocks per basis."""


def schedule_for(shape: ModelShape, form: Any, span: int) -> SlicingSchedule:
    width, count = shape.hidden_size, shape.block_count
    return SlicingSchedule(
        hidden_size=width,
        widths=(*(width - 3 * (place % 4) - 2 for place in range(count)), width),
        embedding=form,
        span=span,
    )


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("case", "price"), PRICES.items())
def test_prices_are_those_of_the_first_release(case, price):
    name, form, span = case
    shape = DEMO_SHAPE if name == "demo" else read_shape(tiny_model(name))
    after = schedule_for(shape, form, span).shape_after(shape)
    assert (after.parameters, after.flops_per_token) == price
    assert after.weight_bytes(2) == 2 * after.parameters


@pytest.mark.parametrize("model_type", sorted(ANATOMIES))
def test_sliced_models_have_the_predicted_size(model_type):
    model = tiny(model_type)
    shape = read_shape(model)
    for form in ("shared", "untied") if shape.tied else ("untied",):
        for span in (0, 2):
            schedule = schedule_for(shape, form, span)
            assert schedule.shape_after(shape).parameters == size(blank(model, schedule))


@pytest.mark.parametrize("model_type", sorted(ANATOMIES))
def test_models_with_fewer_blocks_have_the_predicted_size(model_type):
    model = tiny(model_type)
    shape = read_shape(model)
    for layout in (Layout.without(3, {1}), Layout(blocks=3, groups=((0,), (1, 2)), merge="mean")):
        try:
            reduced = reduce_blocks(model, layout)
        except UnsupportedError:  # blocks that depend on their number, or differ
            continue
        after = layout.shape_after(shape)
        assert after == read_shape(reduced)
        assert after.parameters == size(reduced)
        places = list(layout.seams)
        config = BridgedConfig(text_config=reduced.config, blocks=block_path(reduced), bridges=places)
        with torch.device("meta"):
            bridged: Any = BridgedForCausalLM(config, inner=reduced)
        after = layout.shape_after(shape, places)
        assert after.parameters == size(bridged)
        extra = 2 * len(places) * shape.hidden_size**2
        assert after.flops_per_token == layout.shape_after(shape).flops_per_token + extra


def test_removal_and_slicing_follow_one_another():
    model = tiny_model("llama")
    layout = Layout.without(3, {1})
    shorter = layout.shape_after(read_shape(model))
    schedule = schedule_for(shorter, "shared", 0)
    assert schedule.shape_after(shorter).parameters == size(blank(reduce_blocks(model, layout), schedule))


def test_layouts_of_other_models_are_refused():
    with pytest.raises(PlanError, match="is for a model of 4 blocks, and this one has 30: make a layout"):
        Layout.without(4, {1}).shape_after(DEMO_SHAPE)
