"""Timing two models in turn: what is timed, in which order, and what the ratios mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerator import simulated
from conftest import tiny_model

from analysis import speed
from analysis.errors import TextError
from analysis.speed import AT_ONCE, NEW_TOKENS, Taken, compare_speed
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model


def test_ratios_are_medians_over_rounds_after_a_warm_up(windows, monkeypatch):
    base, other = tiny_model("llama"), tiny_model("gpt2")
    calls: list[Any] = []
    # Seconds (prompt, generation) as they will be handed out: the warm-up round is wild.
    taken = {
        id(base): [(99.0, 99.0), (2.0, 6.0), (3.0, 6.0), (8.0, 6.0)],
        id(other): [(1.0, 1.0), (1.0, 3.0), (1.0, 2.0), (1.0, 12.0)],
    }

    def seconds(model: Any, tokens: torch.Tensor, static: bool) -> Taken:
        calls.append(model)
        return Taken(*taken[id(model)].pop(0))

    monkeypatch.setattr(speed, "_seconds", seconds)
    steps: list[tuple[str, int, int]] = []
    found = compare_speed("dense", base, other, windows, 3, lambda *step: steps.append(step), "Timing other")
    assert calls == [base, other] * 4
    assert (found.prompt.median, found.prompt.low, found.prompt.high) == (3.0, 2.0, 8.0)
    assert (found.generation.median, found.generation.low, found.generation.high) == (2.0, 0.5, 3.0)
    assert found.rounds == 3
    assert found.baseline == "dense"
    assert steps[0] == ("Timing other", 0, 4)
    assert steps[-1] == ("Timing other", 4, 4)
    assert "16 tokens" in found.protocol


def test_every_family_reads_a_prompt_and_generates(family, windows):
    model = tiny_model(family)
    found = compare_speed("dense", model, model, windows, 1)
    assert found.prompt_tokens == 16
    assert found.new_tokens == NEW_TOKENS
    assert found.prompt.median > 0
    assert found.generation.median > 0


def test_a_sliced_model_is_timed_too(windows):
    model = tiny_model("llama")
    schedule = SlicingSchedule.from_fractions([0.25] * 3, 32, 1, "shared")
    sliced = slice_model(model, schedule, windows).model
    assert compare_speed("dense", model, sliced, windows, 1).generation.median > 0


def test_the_prompt_leaves_room_for_what_is_generated():
    model = tiny_model("gpt2", max_position_embeddings=20)
    windows = torch.randint(3, 300, (1, 18), generator=torch.Generator().manual_seed(0))
    assert compare_speed("dense", model, model, windows, 1).prompt_tokens == 20 - NEW_TOKENS
    with pytest.raises(TextError, match="context ends"):
        compare_speed("dense", model, model, windows.repeat(1, 2), 1)


def test_many_sequences_at_a_time_are_timed_apart(windows, monkeypatch):
    base, other = tiny_model("llama"), tiny_model("llama")
    sizes: list[int] = []

    def seconds(model: Any, tokens: torch.Tensor, static: bool) -> Taken:
        sizes.append(len(tokens))
        assert not static
        slow = 2.0 if model is base else 1.0
        return Taken(slow * len(tokens), slow, 1.0)

    monkeypatch.setattr(speed, "_seconds", seconds)
    found = compare_speed("dense", base, other, windows, 2, at_once=8)
    assert sizes == [1, 1, 8, 8] * 3
    assert found.at_once is not None and found.at_once.batch == 8
    assert found.at_once.prompt.median == found.at_once.generation.median == 2.0
    assert not found.launch_bound  # a CPU launches nothing
    assert compare_speed("dense", base, other, windows, 1).at_once is None


def test_a_cache_of_fixed_size_gives_the_same_tokens(windows, monkeypatch):
    model = tiny_model("llama")
    schedule = SlicingSchedule.from_fractions([0.25] * 3, 32, 1, "shared")
    sliced = slice_model(model, schedule, windows).model
    for each in (model, sliced):
        heard: list[torch.Tensor] = []
        handle = each.get_output_embeddings().register_forward_hook(
            lambda *given, heard=heard: heard.append(given[2])
        )
        for static in (False, True):
            speed._seconds(each, windows[:1], static)
        handle.remove()
        half = len(heard) // 2
        for one, same in zip(heard[:half], heard[half:], strict=True):
            torch.testing.assert_close(one, same, atol=1e-5, rtol=1e-4)


def test_an_accelerator_is_timed_with_a_batch_and_the_host_that_bounds_it_is_told(windows):
    with simulated("cuda") as accelerator:  # which has done everything when the host is through
        model = accelerator.put(tiny_model("llama"), "cuda")
        found = compare_speed("dense", model, model, windows, 1)
    assert found.at_once is not None and found.at_once.batch == AT_ONCE
    assert found.static_cache and found.launch_bound
    assert "a cache of fixed size" in found.protocol and "bounds generation" in found.protocol
