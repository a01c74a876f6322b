"""Models of our own forms are trained, resized and given adapters like any model of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from peft import IA3Config, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from analysis.anatomy import block_path, blocks, decoder
from analysis.read_shape import read_shape
from analysis.read_units import read_units
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import UnitCut, as_narrow_model, cut_model
from slicing.inner.select import branches_of
from slicing.modeling_bridged import BridgedConfig, BridgedForCausalLM
from slicing.modeling_decilm import DeciLMConfig, DeciLMForCausalLM
from slicing.modeling_narrow import NarrowLinear
from slicing.modeling_sliced import SlicedForCausalLM
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model

WINDOWS = torch.randint(3, 300, (6, 16), generator=torch.Generator().manual_seed(1))
pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")  # GPT-2 has both kinds
STILL = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
"""Without dropout, gradients can be compared."""


def sliced(dense: Any) -> Any:
    shared = read_shape(dense).tied
    schedule = SlicingSchedule(
        hidden_size=32, widths=(24, 16, 29, 32), embedding="shared" if shared else "untied"
    )
    return slice_model(dense, schedule, WINDOWS).model


def bridged(dense: Any) -> Any:
    reduced = reduce_blocks(dense, Layout.without(3, {1}))
    config = BridgedConfig(
        text_config=copy.deepcopy(reduced.config), blocks=block_path(reduced), bridges=[0], dtype=dense.dtype
    )
    with torch.device("meta"):
        made: Any = BridgedForCausalLM(config, inner=reduced)
    place: Any = blocks(made)[0]
    turned = torch.eye(32) + 0.1 * torch.randn(32, 32, generator=torch.Generator().manual_seed(2))
    place.bridge = torch.nn.Parameter(turned, requires_grad=False)
    return made.eval()


def narrow(dense: Any, kinds: tuple[str, ...] = ("channels", "kv_groups")) -> Any:
    made = reduce_blocks(dense, Layout.whole(3), check=False)
    cuts = [
        [[some(branch, kind) for kind in kinds if branch.of(kind)] for branch in block]
        for block in read_units(dense)
    ]
    assert len(branches_of(dense)) == len(cuts[0])
    cut_model(made, cuts)
    return as_narrow_model(made)


def some(branch: Any, kind: str) -> UnitCut:
    """All but the last unit of every part."""
    units = branch.of(kind)[0]
    each = units.count // units.parts
    places = np.arange(units.parts)[:, None] * each + np.arange(max(1, each - 1))
    return UnitCut(units.kind, places.ravel())


def padded(dense: Any) -> Any:
    """Cut inside its heads, which the family's code wants at full size."""
    made = narrow(dense, ("value_pairs",))
    maps = [each for each in made.modules() if isinstance(each, NarrowLinear)]
    assert any(each.rows is not None for each in maps)
    assert any(each.columns is not None for each in maps)
    return made


def decilm(dense: Any) -> Any:
    told = {"n_heads_in_group": 2, "no_op": False}
    nothing = {"n_heads_in_group": None, "no_op": True}
    ffn = [{"intermediate_size": width, "no_op": not width} for width in (40, 24, 0)]
    attention = (told, nothing, told)
    config = DeciLMConfig(
        **{name: value for name, value in dense.config.to_dict().items() if name != "model_type"},
        block_configs=[{"attention": a, "ffn": f} for a, f in zip(attention, ffn, strict=True)],
    )
    torch.manual_seed(0)
    return DeciLMForCausalLM(config).eval().requires_grad_(False)


FORMS: dict[str, Callable[[Any], Any]] = {each.__name__: each for each in (sliced, bridged, narrow, padded)}
FAMILIES = ["llama", "llama untied, biases, long heads", "gpt2", "falcon", "mixtral"]
MADE = [(form, family) for form in FORMS for family in FAMILIES] + [("decilm", "llama")]


@pytest.fixture(scope="module", params=MADE, ids=lambda each: ", ".join(each))
def both(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A dense model, and a smaller one that shares tensors with it."""
    form, family = request.param
    dense = tiny_model(family, **(STILL if family == "gpt2" else {}))
    return dense, {**FORMS, "decilm": decilm}[form](dense)


@pytest.fixture
def model(both) -> Any:
    """A smaller model of its own."""
    return copy.deepcopy(both[1])


def trainable(model: Any) -> Any:
    return model.train().requires_grad_(True)


def trained(model: Any, windows: torch.Tensor = WINDOWS) -> Any:
    """The model after one step, which must reach every parameter."""
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3)
    model(windows, labels=windows).loss.backward()
    assert [name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()] == []
    optimiser.step()
    assert [name for name, each in model.named_parameters() if each.equal(before[name])] == []
    model.zero_grad()
    return model.eval()


def reopened(model: Any, folder: Path) -> Any:
    model.save_pretrained(folder)
    opener = type(model) if isinstance(model, DeciLMForCausalLM) else AutoModelForCausalLM
    return opener.from_pretrained(folder)


# Steps


def test_a_step_in_memory_reaches_every_parameter_of_a_copy_alone(both, model):
    dense, made = both
    every = (*made.named_parameters(), *made.named_buffers())
    assert [name for name, each in every if each.is_inference()] == []
    assert not any(each.requires_grad for each in made.parameters())
    before = {name: each.clone() for name, each in dense.state_dict().items()}
    logits = made(WINDOWS).logits
    changed = trained(trainable(model))(WINDOWS).logits
    assert changed.isfinite().all()
    assert not changed.equal(logits)
    assert made(WINDOWS).logits.equal(logits)
    assert all(each.equal(before[name]) for name, each in dense.state_dict().items())


def test_a_reopened_model_is_trained_saved_and_opened_again(model, tmp_path):
    first = reopened(model, tmp_path / "first")
    assert all(each.requires_grad for each in first.parameters())
    changed = trained(first.train())
    again = reopened(changed, tmp_path / "again")
    assert type(again) is type(model)
    assert again(WINDOWS).logits.equal(changed(WINDOWS).logits)


def test_a_new_model_of_a_configuration_is_trainable_whole():
    for form in (sliced, bridged, padded):
        made = form(tiny_model("llama untied, biases, long heads"))
        assert all(each.requires_grad for each in type(made)(made.config).parameters())


def saved_bytes(model: Any) -> tuple[int, dict[str, torch.Tensor]]:
    """What a pass keeps for the way back, in bytes, and the gradients."""
    kept = 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = decoder(model)(WINDOWS)[0].square().mean()
    loss.backward()
    return kept, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def test_checkpointed_gradients_are_the_same_and_keep_less(model):
    plain, gradients = saved_bytes(trainable(model))
    model.zero_grad()
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    less, again = saved_bytes(model)
    assert less < 0.5 * plain
    assert gradients.keys() == again.keys()
    assert all(torch.allclose(gradients[name], each, atol=1e-6) for name, each in again.items())
    model.activation_checkpointing_disable()
    model.zero_grad()
    assert saved_bytes(model)[0] == plain


def test_the_older_name_of_checkpointing_works_too():
    model = copy.deepcopy(sliced(tiny_model("llama")))
    with pytest.warns(FutureWarning, match="activation_checkpointing_enable"):
        model.gradient_checkpointing_enable()
    assert model.is_activation_checkpointing


# Another vocabulary


@pytest.mark.parametrize("size", [310, 290])
def test_vocabulary_is_resized(both, model, size, tmp_path):
    dense, made = both
    fewer, tied = min(size, 300), read_shape(dense).tied
    before = made(WINDOWS % fewer).logits
    made_by_hand = model.resize_token_embeddings(size)
    assert made_by_hand is model.get_input_embeddings()
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight) == size
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) is tied
    assert torch.allclose(model(WINDOWS % fewer).logits[..., :fewer], before[..., :fewer], atol=1e-5)
    new = WINDOWS % fewer
    new[:, -2] = size - 1  # a token that was not there
    changed = trained(trainable(model), new)
    again = reopened(changed, tmp_path)
    assert again.config.get_text_config().vocab_size == size
    assert again(new).logits.equal(changed(new).logits)
    assert made(WINDOWS % fewer).logits.equal(before)


@pytest.mark.parametrize("form", [sliced, bridged, narrow])
def test_resizing_leaves_the_dense_model_alone_and_ties_again(form):
    dense = tiny_model("llama")
    made = form(dense)  # no copy: they share the table
    made.resize_token_embeddings()
    assert made.get_input_embeddings().weight is made.get_output_embeddings().weight
    logits = dense(WINDOWS).logits
    made.resize_token_embeddings(310)
    assert made.get_input_embeddings().weight is made.get_output_embeddings().weight
    assert len(dense.get_input_embeddings().weight) == 300
    assert dense(WINDOWS).logits.equal(logits)


def test_a_vocabulary_that_is_not_here_is_refused():
    made = sliced(tiny_model("llama"))
    with torch.device("meta"):
        away = SlicedForCausalLM(made.config)
    with pytest.raises(ValueError, match="open the model on one device, resize it there, and save it"):
        away.resize_token_embeddings(310)


# Adapters


def adapted(model: Any, **settings: Any) -> Any:
    """The model with adapters that do something."""
    torch.manual_seed(3)
    found = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", **settings))
    for name, each in found.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(each, std=0.3)
    return found


def test_adapters_are_trained_and_become_part_of_the_same_model(both, model, tmp_path):
    plain, kind = both[1](WINDOWS).logits, type(model)
    found = adapted(model)
    before = {name: each.detach().clone() for name, each in found.named_parameters()}
    found.train()
    optimiser = torch.optim.AdamW([each for each in found.parameters() if each.requires_grad], 1e-2)
    found(input_ids=WINDOWS, labels=WINDOWS).loss.backward()
    optimiser.step()
    changed = {name for name, each in found.named_parameters() if not each.equal(before[name])}
    assert changed == {name for name in before if "lora_" in name}
    expected = found.eval()(input_ids=WINDOWS).logits
    merged = found.merge_and_unload()
    assert type(merged) is kind
    logits = merged(WINDOWS).logits
    assert not torch.allclose(logits, plain, atol=1e-2)
    assert torch.allclose(logits, expected, atol=2e-3)
    assert reopened(merged, tmp_path)(WINDOWS).logits.equal(logits)


def test_adapter_of_a_padded_map_is_the_weight_it_becomes():
    """A map of 5 of 6 inputs and 3 of 4 outputs: by hand, and as ``peft`` computes it."""
    dense = tiny_model("gpt2", **STILL)
    found = adapted(padded(dense))
    found(input_ids=WINDOWS)  # places the adapters
    layer = next(
        each for each in found.modules() if hasattr(each, "lora_A") and each.base_layer.rows is not None
    )
    base, states = (
        layer.base_layer,
        torch.randn(2, 5, layer.base_layer.full_in or layer.base_layer.in_features),
    )
    weight = base.weight + layer.get_delta_weight("default")
    expected = base.write(torch.nn.functional.linear(base.read(states), weight, base.bias))
    assert torch.allclose(layer(states), expected, atol=1e-4)


def test_adapters_are_found_by_a_copy():
    found = adapted(padded(tiny_model("llama")))
    expected = found(input_ids=WINDOWS).logits
    again = copy.deepcopy(found)
    for each in found.parameters():
        each.data.zero_()
    assert again(input_ids=WINDOWS).logits.equal(expected)


@pytest.mark.parametrize(
    "config",
    [
        IA3Config(target_modules=["v_proj"], feedforward_modules=[]),
        LoraConfig(r=2, target_modules=["v_proj"], use_dora=True),
    ],
    ids=["IA3", "DoRA"],
)
def test_adapters_that_do_not_fit_padded_maps_are_refused(config):
    found = get_peft_model(padded(tiny_model("llama")), config)
    with pytest.raises(ValueError, match="use LoRA without variants, or name other target modules"):
        found(input_ids=WINDOWS)
