"""Shapes are read off the modules themselves, and what does not fit the table is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model
from torch import nn

from analysis.anatomy import ANATOMIES, embedding_scale, norm_epsilon, read_shape, why_not_sliceable
from analysis.errors import UnsupportedError


def test_every_family_in_the_table_is_among_the_tested_ones():
    tested = {settings.get("model_type", family) for family, settings in FAMILIES.items()}
    assert tested == set(ANATOMIES)


def test_shape_counts_heads_and_widths_as_the_configuration_does(family):
    model = tiny_model(family)
    config = model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention, mlp = read_shape(model).blocks[0]
    assert attention.reader_rows == head * (config.num_attention_heads + 2 * config.num_key_value_heads)
    assert attention.writer_columns == head * config.num_attention_heads
    assert (mlp.reader_rows, mlp.writer_columns) == (2 * config.intermediate_size, config.intermediate_size)
    assert read_shape(model).parameters == sum(parameter.numel() for parameter in model.parameters())


def test_shape_needs_no_weights(family):
    with torch.device("meta"):
        skeleton = type(tiny_model(family))(tiny_model(family).config)
    assert read_shape(skeleton) == read_shape(tiny_model(family))


def test_linear_of_another_kind_is_refused():
    class Quantised(nn.Linear):
        pass

    model = tiny_model("llama")
    model.model.layers[2].mlp.up_proj = Quantised(32, 48)
    with pytest.raises(UnsupportedError, match=r"'mlp\.up_proj' is a Quantised, not a plain linear layer"):
        read_shape(model)


def test_norm_without_an_epsilon_is_refused():
    with pytest.raises(UnsupportedError, match="norm Identity has no epsilon"):
        norm_epsilon(nn.Identity())


def test_gemma_scales_its_embedding_and_nobody_else_does(family):
    embedding = tiny_model(family).model.embed_tokens
    assert embedding_scale(embedding) == pytest.approx(32**0.5 if family == "gemma" else 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sliced": True}, "is sliced already"),
        ({"model_type": "bloom"}, "'bloom' cannot be sliced yet"),
    ],
)
def test_reason_is_given_before_anything_is_done(change, reason):
    config = tiny_model("llama").config
    assert why_not_sliceable(config) is None
    for name, value in change.items():
        setattr(config, name, value)
    assert reason in str(why_not_sliceable(config))
