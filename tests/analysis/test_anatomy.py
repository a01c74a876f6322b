"""Shapes are read off the modules themselves, and what does not fit the table is refused with the reason."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model
from torch import nn

from analysis.anatomy import anatomy_of, embedding_scale, norm_epsilon, why_not_sliceable
from analysis.errors import UnsupportedError
from analysis.families import ANATOMIES
from analysis.read_shape import read_shape

LLAMA = (("attention", 64, 32), ("mlp", 96, 48))
GPT = (("attention", 96, 32), ("mlp", 48, 48))
SHAPES = {
    "llama untied, biases, long heads": (("attention", 96, 48), ("mlp", 96, 48)),
    "starcoder2": (("attention", 64, 32), ("mlp", 48, 48)),
    "opt": GPT,
    "gpt2": GPT,
    "gpt_neox, sequential": GPT,
    "gpt_neox": (("parallel", 96 + 48, 32 + 48),),
    "gptj": (("parallel", 96 + 48, 32 + 48),),
    "phi": (("parallel", 64 + 48, 32 + 48),),
    "cohere": (("parallel", 64 + 96, 32 + 48),),
    "stablelm, parallel": (("parallel", 64 + 96, 32 + 48),),
    "falcon": (("parallel", 48 + 128, 32 + 128),),
    "falcon, two norms": (("parallel", 64 + 128, 32 + 128),),
    "falcon, sequential": (("attention", 96, 32), ("mlp", 128, 128)),
    "mixtral": (("attention", 64, 32), ("mlp", 4 + 4 * 96, 4 * 48)),
    "olmoe": (("attention", 64, 32), ("mlp", 4 + 4 * 96, 4 * 48)),
    "qwen3_moe": (("attention", 64, 32), ("mlp", 4 + 4 * 48, 4 * 24)),
    "qwen2_moe": (("attention", 64, 32), ("mlp", 4 + 4 * 48 + 1 + 80, 4 * 24 + 40)),
}
"""Kind, rows that read and columns that write of the first block's sub-layers, by hand, where not Llama's.

The stream is 32 wide, there are 4 heads of 8, 2 of them for keys and values, and MLPs are 48 wide inside.
"""


def test_tested_families_are_those_of_the_table():
    # The table's others, and these once more, are tried in test_support.py.
    assert {settings.get("model_type", family) for family, settings in FAMILIES.items()} <= set(ANATOMIES)


def test_table_is_sorted():
    assert list(ANATOMIES) == sorted(ANATOMIES)


def test_shape_is_what_one_counts_by_hand(family):
    model = tiny_model(family)
    shape = read_shape(model)
    found = tuple((s.kind, s.reader_rows, s.writer_columns) for s in shape.blocks[0])
    assert found == SHAPES.get(family, LLAMA)
    assert (shape.block_count, shape.hidden_size, shape.vocab_size) == (3, 32, 300)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_experts_that_a_token_leaves_alone_are_counted():
    mixture = read_shape(tiny_model("mixtral")).blocks[0][1]
    assert (mixture.idle_reader_rows, mixture.idle_writer_columns) == (2 * 96, 2 * 48)


def test_shape_needs_no_weights(family):
    with torch.device("meta"):
        skeleton = type(tiny_model(family))(tiny_model(family).config)
    assert read_shape(skeleton) == read_shape(tiny_model(family))


@pytest.mark.parametrize("weight", [None, torch.int8, torch.float8_e4m3fn])
def test_quantised_linear_map_is_refused(weight):
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            if weight is not None:
                self.weight = nn.Parameter(torch.zeros(48, 32).to(weight), requires_grad=False)

    model = tiny_model("llama")
    model.model.layers[2].mlp.up_proj = Quantised()
    with pytest.raises(UnsupportedError, match="'up_proj' is a Quantised, not a plain linear layer"):
        read_shape(model)


def test_block_without_the_parts_of_its_family_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp = nn.Identity()
    with pytest.raises(UnsupportedError, match="'llama' block without the expected parts in 'mlp'"):
        read_shape(model)


def test_norm_without_an_epsilon_is_refused():
    with pytest.raises(UnsupportedError, match="norm Identity has no epsilon"):
        norm_epsilon(nn.Identity(), anatomy_of(tiny_model("llama").config))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"do_layer_norm_before": False}, "norms the stream after each sub-layer"),
        ({"word_embed_proj_dim": 16}, "projects its embeddings to another width"),
    ],
)
def test_members_of_opt_that_cannot_be_sliced_are_refused(changes, reason):
    said = str(why_not_sliceable(tiny_model("opt", **changes).config))
    assert reason in said
    assert said.endswith("its redundancy can still be profiled.")


def test_gemma_scales_its_embedding_and_nobody_else_does(family):
    embedding = tiny_model(family).get_input_embeddings()
    assert embedding_scale(embedding) == pytest.approx(32**0.5 if family == "gemma" else 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "sliced"}, "is sliced already"),
        ({"model_type": "bloom"}, "'bloom' cannot be sliced yet: it norms the stream between"),
        ({"model_type": "olmo2"}, "'olmo2' cannot be sliced: it norms what its sub-layers write"),
        ({"model_type": "never_heard_of"}, "cannot be sliced yet: slicescope does not know which parts"),
    ],
)
def test_reason_is_given_before_anything_is_done(change, reason):
    config = tiny_model("llama").config
    assert why_not_sliceable(config) is None
    for name, value in change.items():
        setattr(config, name, value)
    assert reason in str(why_not_sliceable(config))
