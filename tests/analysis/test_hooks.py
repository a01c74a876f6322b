"""What is seen of the stream is what really flows, and the model is as it was afterwards."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from analysis.anatomy import anatomy_of, block_path, blocks, decoder
from analysis.errors import ModelError
from analysis.hooks import entering_states, watch_blocks


def watched(model: Any, windows: Tensor) -> list[tuple[Tensor, Tensor]]:
    """(entering, leaving) of every block in one forward pass."""
    seen: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad(), watch_blocks(model, lambda _, *states: seen.append(states)):
        model(windows)
    return seen


def hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_what_leaves_a_block_enters_the_next(family, windows):
    seen = watched(tiny_model(family), windows)
    assert len(seen) == 3
    for (_, leaving), (entering, _) in itertools.pairwise(seen):
        assert torch.equal(leaving, entering)


def test_states_are_those_that_transformers_reports_but_for_the_last_one(family, windows):
    model = tiny_model(family)
    seen = watched(model, windows)
    reported = model(windows, output_hidden_states=True).hidden_states
    for (entering, _), state in zip(seen, reported, strict=False):
        assert torch.equal(entering, state)
    last = seen[-1][1]
    assert not torch.allclose(last, reported[-1])  # that one went through the final norm
    assert torch.allclose(getattr(decoder(model), anatomy_of(model.config).final_norm)(last), reported[-1])


def test_blocks_called_one_by_one_with_what_was_recorded_give_the_same_stream(family, windows):
    model = tiny_model(family)
    seen = watched(model, windows)
    returns_tuple = anatomy_of(model.config).returns_tuple
    states, contexts = entering_states(model, windows, returns_tuple)
    for block, context, (entering, leaving) in zip(blocks(model), contexts, seen, strict=True):
        assert torch.equal(states, entering)
        with torch.no_grad():
            states = block(states, **context)
        assert isinstance(states, tuple) == returns_tuple
        states = states[0] if returns_tuple else states
        assert torch.equal(states, leaving)


def test_recording_computes_no_block(windows, monkeypatch):
    model = tiny_model("llama")
    for block in blocks(model):
        monkeypatch.setattr(block, "forward", lambda *_, **__: pytest.fail("a block was computed"))
    entering_states(model, windows)


@pytest.mark.parametrize("model_type", ["gpt2", "openai-gpt"])
def test_blocks_that_answer_in_a_tuple_or_list_are_understood(model_type, windows):
    model = tiny_model(model_type)
    for entering, leaving in watched(model, windows):
        assert entering.shape == leaving.shape == (6, 16, 32)


def test_hooks_are_gone_when_looking_fails(windows):
    model = tiny_model("llama")

    def look(block: int, entering: Tensor, leaving: Tensor) -> None:
        assert hooks(model) == 3
        raise RuntimeError("seen enough")

    with pytest.raises(RuntimeError, match="seen enough"), watch_blocks(model, look):
        model(windows)
    assert hooks(model) == 0


def test_hooks_of_others_stay(windows):
    model, calls = tiny_model("llama"), []
    blocks(model)[0].register_forward_hook(lambda *_: calls.append("theirs"))
    with watch_blocks(model, lambda *_: None):
        model(windows)
    model(windows)
    assert calls == ["theirs", "theirs"]


def test_model_without_a_list_of_its_blocks_is_refused():
    model = tiny_model("llama")
    assert block_path(model) == "model.layers"
    model.config.num_hidden_layers = 7
    with pytest.raises(ModelError, match="No list of 7 blocks was found in a model of type 'llama'"):
        blocks(model)
