"""The int8 form of a model: its rounding, its bytes by hand, and what it leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import tiny_model

from analysis.errors import UnsupportedError
from analysis.evaluate import perplexity
from analysis.int8 import evaluate_int8, in_int8
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_channels_are_rounded_to_steps_of_their_own(dtype):
    model = tiny_model("llama", dtype)
    weight = model.get_submodule("model.layers.1.mlp.down_proj").weight
    weight[3] = 0.0
    made = in_int8(model)[0].get_submodule("model.layers.1.mlp.down_proj").weight
    assert made.dtype is dtype
    assert made[3].eq(0).all()
    step = weight.float().abs().amax(1) / 127
    for row in (0, 17):
        whole = weight[row].float().div(step[row]).round()
        assert whole.abs().max() == 127
        assert torch.equal(made[row], (whole * step[row]).to(dtype))


def test_bytes_are_counted_by_hand_and_a_tied_table_once(windows):
    model: Any = tiny_model("llama", num_hidden_layers=1)
    found = evaluate_int8(model, windows)
    maps = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]  # attention, MLP
    matrices = [(300, 32), *maps]
    vectors = 3 * 32
    assert found.bytes == sum(rows * columns + 4 * rows for rows, columns in matrices) + 4 * vectors
    made, _ = in_int8(model)
    assert made.lm_head.weight is made.model.embed_tokens.weight
    assert made.model.norm.weight is model.model.norm.weight


def test_columns_are_channels_where_states_stand_on_the_left(windows):
    conv = in_int8(tiny_model("gpt2"))[0].get_submodule("transformer.h.0.mlp.c_fc").weight
    schedule = SlicingSchedule(hidden_size=32, widths=(24, 16, 29, 32), embedding="shared")
    model: Any = slice_model(tiny_model("llama"), schedule, windows).model
    made: Any = in_int8(model)[0]
    first = made.get_decoder().layers[0].sublayers[0]
    for matrix in (conv, first.shortcut, made.get_input_embeddings().rotation):
        for column in (0, 5):
            steps = matrix[:, column] / (matrix[:, column].abs().max() / 127)
            assert torch.allclose(steps, steps.round(), atol=1e-3)
    rows = conv[0] / (conv[0].abs().max() / 127)
    assert not torch.allclose(rows, rows.round(), atol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "falcon", "mixtral"])
def test_form_loses_little_and_the_model_stays(family, windows):
    model = tiny_model(family)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    dense, found = perplexity(model, windows), evaluate_int8(model, windows)
    assert 0 < abs(found.evaluation.perplexity / dense.perplexity - 1) < 0.01
    assert all(each.equal(before[name]) for name, each in model.state_dict().items())
    assert perplexity(model, windows).nll == dense.nll
    assert 0.25 < found.bytes / sum(each.nbytes for each in model.parameters()) < 0.35


def test_a_model_that_is_spread_is_refused():
    model: Any = copy.copy(tiny_model("llama"))
    model.hf_device_map = {"model": 0, "lm_head": "cpu"}
    with pytest.raises(UnsupportedError, match="open it on one device that holds it"):
        in_int8(model)
