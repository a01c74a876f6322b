"""Fewer blocks: layouts, and the operator that makes a plain model of what they leave."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch
from conftest import FAMILIES, tiny_model
from every_family import tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

from analysis.anatomy import block_path, blocks
from analysis.errors import ModelError, PlanError, UnsupportedError
from slicing.depth.layout import Cut, Layout
from slicing.depth.operator import reduce_blocks, reduced_config, weighted_sum

REFUSED_BY_SLICING = ("gemma2", "olmo2", "bloom")
FULL, SLIDING = "full_attention", "sliding_attention"
LAYERS = [FULL, SLIDING, FULL, FULL, SLIDING]
MIXED = {
    "qwen2": {
        "layer_types": LAYERS,
        "use_sliding_window": True,
        "sliding_window": 4,
    },
    "smollm3": {
        "layer_types": LAYERS,
        "use_sliding_window": True,
        "sliding_window": 4,
        "no_rope_layers": [1, 0, 0, 1, 1],
    },
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 1], [["global"], 2]], "window_size": 4},
    "qwen2_moe": {"mlp_only_layers": [1, 3]},
}
"""Families whose blocks differ, each as its configuration says it, for five blocks."""


def five(family: str, dtype: torch.dtype = torch.float32):
    return tiny_model(family, dtype, num_hidden_layers=5, **MIXED.get(family, {}))


@contextmanager
def passing_by(model, places):
    """Every block of ``places`` gives what it was given."""

    def given(_, args, kwargs, output):
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    with ExitStack() as stack:
        for place in places:
            handle = blocks(model)[place].register_forward_hook(given, with_kwargs=True)
            stack.callback(handle.remove)
        yield


def logits_without(model, places, windows: Tensor) -> Tensor:
    with passing_by(model, places):
        return model(windows, use_cache=False).logits


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def generated(model, windows: Tensor, cached: bool) -> Tensor:
    prompt, options = windows[:2], {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    mask = torch.ones_like(prompt)
    return model.generate(prompt, attention_mask=mask, use_cache=cached, pad_token_id=0, **options)


@pytest.mark.parametrize(
    ("groups", "tops", "removed", "cuts", "seams", "label"),
    [
        (((0,), (1,), (2,), (3,)), (0, 1, 2, 3), (), (), (), "all blocks"),
        (((2,), (3,)), (2, 3), (0, 1), (Cut(-1, 2),), (), "without 0-1"),
        (((0,), (1,)), (0, 1), (2, 3), (Cut(1, 4),), (1,), "without 2-3"),
        (((0,), (3,)), (0, 3), (1, 2), (Cut(0, 3),), (0,), "without 1-2"),
        (((1,),), (1,), (0, 2, 3), (Cut(-1, 1), Cut(0, 4)), (0,), "without 0, 2-3"),
        (((0,), (1, 2), (3,)), (0, 2, 3), (1,), (), (1,), "1-2 as one"),
        (((1, 2),), (2,), (0, 1, 3), (Cut(-1, 1), Cut(0, 4)), (0,), "without 0, 3, 1-2 as one"),
        (((0, 1), (2, 3)), (1, 3), (0, 2), (), (0, 1), "0-1 as one, 2-3 as one"),
    ],
)
def test_a_layout_says_what_is_left_what_is_gone_and_where(groups, tops, removed, cuts, seams, label):
    layout = Layout(blocks=4, groups=groups)
    found = (layout.tops, layout.removed, layout.cuts, layout.seams, layout.label, layout.count)
    assert found == (tops, removed, cuts, seams, label, 4 - len(groups))
    if all(len(group) == 1 for group in groups):
        assert layout == Layout.without(4, removed)


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        ((), "needs one block at least"),
        (((0,), ()), "needs one block at least"),
        (((0,), (4,)), "from 0 to 3"),
        (((-1,), (0,)), "from 0 to 3"),
        (((1,), (0,)), "in order"),
        (((0,), (0,)), "each once"),
        (((0, 2),), "Only neighbouring"),
    ],
)
def test_a_layout_that_is_none_is_one_sentence(groups, told):
    with pytest.raises(PlanError, match=told) as raised:
        Layout(blocks=4, groups=groups)
    assert str(raised.value).count("\n") == 0


def test_only_blocks_that_are_there_can_go():
    with pytest.raises(PlanError, match=r"no block 4: they go from 0 to 3\.$"):
        Layout.without(4, {1, 4})
    with pytest.raises(PlanError, match="needs one block at least"):
        Layout.without(4, range(4))
    assert Layout.whole(4) == Layout.without(4, ())


@pytest.mark.parametrize("family", [*FAMILIES, "gpt_neo"])
def test_the_reduced_model_is_the_dense_one_with_blocks_passed_by(family, windows):
    model = five(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    said = model.config.to_dict()
    for removed in ((1, 2), (0, 4)):
        reduced = reduce_blocks(model, Layout.without(5, removed))
        assert type(reduced) is type(model)
        assert reduced.config.num_hidden_layers == len(blocks(reduced)) == 3
        places = [
            {each.layer_idx for each in block.modules() if hasattr(each, "layer_idx")}
            for block in blocks(reduced)
        ]
        assert all(found in ({place}, set()) for place, found in enumerate(places))
        expected = logits_without(model, removed, windows)
        assert off(reduced(windows, use_cache=False).logits, expected) < 1e-5
        assert torch.equal(generated(reduced, windows, True), generated(reduced, windows, False))
        # Nothing is copied: what is left are the dense model's own tensors.
        theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
        assert all(tensor.data_ptr() in theirs for tensor in reduced.state_dict().values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config.to_dict() == said


@pytest.mark.parametrize("family", REFUSED_BY_SLICING)
def test_families_that_slicing_refuses_lose_blocks_as_well(family, windows):
    model = tiny(family)
    for removed in ((1,), (0, 2)):
        reduced = reduce_blocks(model, Layout.without(3, removed))
        expected = logits_without(model, removed, windows)
        assert off(reduced(windows, use_cache=False).logits, expected) < 1e-5
        assert torch.equal(generated(reduced, windows, True), generated(reduced, windows, False))


@pytest.mark.parametrize("family", ["llama", "falcon", "gpt2", "smollm3"])
def test_where_nothing_is_removed_the_model_is_the_same(family, windows):
    model = five(family)
    whole = reduce_blocks(model, Layout.whole(5))
    assert torch.equal(whole(windows).logits, model(windows).logits)
    assert torch.equal(generated(whole, windows, True), generated(model, windows, True))


@pytest.mark.parametrize("family", MIXED)
def test_what_is_said_block_by_block_is_said_of_those_that_are_left(family, windows, tmp_path):
    model = five(family)
    layout = Layout.without(5, (0, 2))
    dense, made = model.config, reduced_config(model.config, layout)
    for name in ("layer_types", "no_rope_layers", "attention_layers"):
        if (said := getattr(dense, name, None)) is not None:
            assert getattr(made, name) == [said[place] for place in (1, 3, 4)], name
            assert len(set(getattr(made, name))) == len(set(said)), name  # else a shift would not be seen
    if family == "qwen2_moe":
        assert made.mlp_only_layers == [0, 1]
    if family == "gpt_neo":
        assert made.expand_attention_types_params(made.attention_types) == made.attention_layers
    reduced = reduce_blocks(model, layout)
    reduced.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).requires_grad_(False)
    assert torch.equal(again(windows).logits, reduced(windows).logits)
    assert off(again(windows, use_cache=False).logits, logits_without(model, (0, 2), windows)) < 1e-5


@pytest.mark.parametrize("family", ["dots3_note_text", "gemma4_unified_text"])
def test_blocks_with_configurations_of_their_own_keep_them(family, windows, tmp_path):
    model = tiny(family)
    said = model.config.to_dict()
    own = {int(place): each for place, each in said["per_layer_config"].items()}
    for removed, kept in ((1, (0, 2)), (0, (1, 2))):
        made = reduced_config(model.config, Layout.without(3, (removed,))).to_dict()["per_layer_config"]
        expected = {place: own[top] for place, top in enumerate(kept) if top in own}
        assert {int(place): each for place, each in made.items()} == expected
        reduced = reduce_blocks(model, Layout.without(3, (removed,)))
        found = reduced(windows, use_cache=False).logits
        assert off(found, logits_without(model, (removed,), windows)) < 1e-5
        reduced.save_pretrained(tmp_path / str(removed))
        again = AutoModelForCausalLM.from_pretrained(tmp_path / str(removed)).requires_grad_(False)
        assert torch.equal(again(windows, use_cache=False).logits, found)
    assert model.config.to_dict() == said


def test_counts_from_the_first_block_on_are_counts_of_those_left():
    config = tiny("deepseek_v3").config
    assert (config.num_hidden_layers, config.first_k_dense_replace) == (3, 1)
    assert reduced_config(config, Layout.without(3, (0,))).first_k_dense_replace == 0
    assert reduced_config(config, Layout.without(3, (1,))).first_k_dense_replace == 1


@pytest.mark.parametrize("family", ["diffllama", "jamba"])
def test_a_configuration_that_cannot_say_it_is_refused_in_one_sentence(family):
    with pytest.raises(UnsupportedError, match=r"does not say which of its blocks are left \(.*profiled\.$"):
        reduce_blocks(tiny(family), Layout.without(3, (1,)))


def test_a_model_of_another_depth_is_refused_in_one_sentence():
    with pytest.raises(UnsupportedError, match="for a model of 3 blocks, and this one has 5"):
        reduce_blocks(five("llama"), Layout.without(3, (1,)))


@pytest.mark.parametrize("merge", ["top", "sum", "mean"])
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_merged_blocks_are_what_the_rule_says_and_the_others_untouched(family, merge):
    model = five(family)
    layout = Layout(blocks=5, groups=((0,), (1, 2, 3), (4,)), merge=merge)
    reduced = reduce_blocks(model, layout)
    first, second, third = (dict(blocks(model)[place].named_parameters()) for place in (1, 2, 3))
    for name, found in blocks(reduced)[1].named_parameters():
        a, b, c = first[name], second[name], third[name]
        expected = {"top": c, "sum": a + (b - a) + (c - a), "mean": (a + b + c) / 3}[merge]
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6), name
    inside = block_path(model) + ".1."
    theirs = {tensor.data_ptr() for tensor in model.state_dict().values()}
    for name, tensor in reduced.named_parameters():
        assert (tensor.data_ptr() in theirs) == (merge == "top" or not name.startswith(inside)), name


@pytest.mark.parametrize("merge", ["top", "sum", "mean"])
def test_equal_blocks_become_that_block(merge, windows):
    model = five("llama")
    blocks(model)[2].load_state_dict(blocks(model)[1].state_dict())
    merged = reduce_blocks(model, Layout(blocks=5, groups=((0,), (1, 2), (3,), (4,)), merge=merge))
    assert off(merged(windows).logits, logits_without(model, (1,), windows)) < 1e-5
    one = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    weights = Layout(blocks=4, groups=((0, 1, 2, 3),), merge=merge, inner=((1, 2),)).weights(0)
    assert torch.allclose(weighted_sum([one] * 4, weights), one, atol=1e-6)


@pytest.mark.parametrize(
    ("merge", "inner", "weights"),
    [
        ("top", (), (0, 0, 0, 1)),
        ("sum", (), (-2, 1, 1, 1)),
        ("mean", (), (1 / 4, 1 / 4, 1 / 4, 1 / 4)),
        # c and d became d; then a + (b - a) + (d - a).
        ("sum", ((2, 3),), (-1, 1, 0, 1)),
        ("mean", ((2, 3),), (1 / 3, 1 / 3, 1 / 6, 1 / 6)),
        # Then b and that became c + d - b, which is -b + c + d of the first rule; a and it become it.
        ("sum", ((1, 3),), (0, -1, 1, 1)),
        ("sum", ((2, 3), (1, 3)), (0, 0, 0, 1)),
        ("mean", ((2, 3), (1, 3)), (1 / 2, 1 / 4, 1 / 8, 1 / 8)),
    ],
)
def test_a_part_that_became_one_before_its_group_is_one_block_to_the_rule(merge, inner, weights):
    layout = Layout(
        blocks=5, groups=((0,), (1, 2, 3, 4)), merge=merge, inner=[(a + 1, b + 1) for a, b in inner]
    )
    assert layout.weights(1) == pytest.approx(weights)
    assert layout.weights(0) == (1,)
    with pytest.raises(PlanError, match="must be part of it"):
        Layout(blocks=5, groups=((0,), (1, 2, 3, 4)), merge=merge, inner=((0, 1),))


def test_merging_leaves_the_dense_model_and_its_dtype_alone():
    model = five("llama", torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = reduce_blocks(model, Layout(blocks=5, groups=((0, 1, 2), (3,), (4,)), merge="sum"))
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_merge_that_overflows_or_of_different_shapes_is_one_sentence():
    model = five("llama", torch.float16)
    for place, value in ((0, -6e4), (1, 6e4), (2, 6e4)):
        blocks(model)[place].mlp.down_proj.weight.fill_(value)
    with pytest.raises(ModelError, match=r"Merging blocks 0 to 2 overflows: open the model in float32\.$"):
        layout = Layout(blocks=5, groups=((0, 1, 2), (3,), (4,)), merge="sum")
        reduce_blocks(model, layout, check=False)
    with pytest.raises(UnsupportedError, match="Blocks 1 to 2 differ in their shapes, and cannot be one"):
        layout = Layout(blocks=5, groups=((0,), (1, 2), (3,), (4,)), merge="mean")
        reduce_blocks(five("qwen2_moe"), layout)
