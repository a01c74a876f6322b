"""Sliced and bridged models return what models of transformers return, and take what they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import all_states, tiny_model

from analysis.anatomy import anatomy_of, blocks, decoder
from analysis.read_shape import read_shape
from slicing.depth.layout import Layout
from slicing.depth.reduce import reduce_model
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model

WIDTHS = (24, 16, 29, 32)


def sliced(family: str, windows: torch.Tensor, **changes: Any) -> Any:
    model = tiny_model(family, attn_implementation="eager", **changes)  # the one that tells its weights
    form: Any = "shared" if read_shape(model).tied else "untied"
    return slice_model(model, SlicingSchedule(hidden_size=32, widths=WIDTHS, embedding=form), windows).model


def bridged(family: str, windows: torch.Tensor) -> Any:
    model = tiny_model(family, num_hidden_layers=5, attn_implementation="eager")
    made: Any = reduce_model(model, Layout.without(5, {2, 4}), windows, "linear").model
    return made


@pytest.fixture(params=["sliced", "bridged"])
def made(request: pytest.FixtureRequest, windows: torch.Tensor) -> Any:
    return {"sliced": sliced, "bridged": bridged}[request.param]("llama", windows)


def by_hand(model: Any, windows: torch.Tensor) -> list[torch.Tensor]:
    """The stream in front of every block, and behind the last one, from hooks of this test."""
    seen: list[Any] = [None] * (len(blocks(model)) + 1)
    hooks = []
    for place, block in enumerate(blocks(model)):

        def keep(_: Any, given: Any, named: Any, output: Any, place: int = place) -> None:
            seen[place] = given[0] if given else named["hidden_states"]
            seen[place + 1] = output[0] if isinstance(output, tuple) else output

        hooks.append(block.register_forward_hook(keep, with_kwargs=True))
    model(windows)
    for hook in hooks:
        hook.remove()
    return seen


def test_hidden_states_of_a_sliced_model_have_the_widths_of_their_places(family, windows):
    model = sliced(family, windows)
    output = model(windows, output_hidden_states=True, output_attentions=True)
    assert [state.shape[-1] for state in output.hidden_states] == list(WIDTHS)
    states = by_hand(model, windows)
    for found, expected, width in zip(output.hidden_states[:-1], states, WIDTHS, strict=False):
        assert torch.equal(found, expected[..., :width])
    anatomy = anatomy_of(model.config.text_config)
    inner = model.get_decoder()
    assert torch.equal(output.hidden_states[-1], getattr(inner, anatomy.final_norm)(states[-1]))
    assert torch.equal(output.logits, model(windows).logits)
    assert len(output.attentions) == len(WIDTHS) - 1
    assert all(torch.allclose(each.sum(-1), torch.ones(6, 4, 16), atol=1e-5) for each in output.attentions)


@pytest.mark.parametrize("family", ["llama", "gpt2", "falcon", "gptj", "olmo2", "gemma3_text"])
def test_hidden_states_of_a_bridged_model_are_behind_the_bridges(family, windows):
    model = bridged(family, windows)
    output = model(windows, output_hidden_states=True, output_attentions=True)
    states = by_hand(model, windows)
    assert len(output.hidden_states) == len(states) == 4
    assert all(torch.equal(*pair) for pair in zip(output.hidden_states[:-1], states[:-1], strict=True))
    assert torch.equal(output.hidden_states[-1], decoder(model)(windows)[0])
    assert [tuple(each.shape) for each in output.attentions] == [(6, 4, 16, 16)] * 3


def test_hidden_states_are_the_dense_ones_where_nothing_is_cut(windows):
    model = tiny_model("llama")
    whole = SlicingSchedule(hidden_size=32, widths=(32,) * 4, embedding="shared", span=3)
    found = slice_model(model, whole, windows).model(windows, output_hidden_states=True).hidden_states
    for state, expected in zip(found[:-1], all_states(model, windows), strict=False):
        assert torch.allclose(state.norm(dim=-1).double(), expected.norm(dim=-1), rtol=1e-4)


def test_flag_of_the_configuration_and_places_are_heard(made, windows):
    every = made(windows, output_hidden_states=True).hidden_states
    some = made(windows, output_hidden_states=[0, -1]).hidden_states
    assert [each is None for each in some] == [False, *[True] * (len(every) - 2), False]
    assert torch.equal(some[-1], every[-1])
    assert made(windows).hidden_states is None
    made.config.output_hidden_states = True
    assert len(made(windows).hidden_states) == len(every)
    assert made(windows, output_hidden_states=False).hidden_states is None


def test_tuple_has_the_order_of_transformers(made, windows):
    options = {"output_hidden_states": True, "output_attentions": True, "labels": windows}
    output, plain = made(windows, **options), made(windows, **options, return_dict=False)
    assert isinstance(plain, tuple)
    assert torch.equal(plain[0], output.loss)
    assert torch.equal(plain[1], output.logits)
    assert [len(each) for each in plain[3:]] == [len(output.hidden_states), len(output.attentions)]
    assert isinstance(made(windows, return_dict=False), tuple)


def test_loss_is_that_of_the_tokens_that_follow(made, windows):
    output = made(windows, labels=windows)
    expected = torch.nn.functional.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten()
    )
    assert torch.allclose(output.loss, expected)


def test_embeddings_may_be_given_instead_of_tokens(made, windows):
    rows = made.get_input_embeddings()(windows)
    assert torch.equal(made(inputs_embeds=rows).logits, made(windows).logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"cache_implementation": "static"},
        {"repetition_penalty": 1.3},
        {"prompt_lookup_num_tokens": 3},
    ],
    ids=str,
)
def test_generation_is_that_of_the_logits(made, windows, options):
    known = {"attention_mask": torch.ones_like(windows[:1]), "pad_token_id": 0, "max_new_tokens": 8}
    tokens = made.generate(windows[:1], do_sample=False, **known, **options)
    assert tokens.shape[1] > 16
    if "num_beams" in options or "repetition_penalty" in options:
        return
    greedy = windows[:1]
    while greedy.shape[1] < tokens.shape[1]:
        greedy = torch.cat([greedy, made(greedy).logits[:, -1:].argmax(-1)], dim=1)
    assert tokens.tolist() == greedy.tolist()


def test_generation_returns_states_of_every_step(made, windows):
    known = {"attention_mask": torch.ones_like(windows[:1]), "pad_token_id": 0, "eos_token_id": -1}
    output = made.generate(
        windows[:1],
        max_new_tokens=3,
        do_sample=True,
        top_p=0.9,
        return_dict_in_generate=True,
        output_hidden_states=True,
        output_attentions=True,
        **known,
    )
    assert [len(step) for step in output.hidden_states] == [4] * 3
    assert [step[0].shape[1] for step in output.hidden_states] == [16, 1, 1]
    assert [len(step) for step in output.attentions] == [3] * 3
