"""A card that holds the dense model and the work on it, and not a sliced model beside: what is made, where
it rests, and what stays the same number. The card is simulated.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerator import simulated
from conftest import tiny_model

from analysis.bases import Bases, find_bases, sums_fit
from analysis.device import batch_tokens
from analysis.errors import OutOfMemoryError
from analysis.evaluate import perplexity
from analysis.needs import MemoryNeed, engine_room, fits
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model

WIDTH, BLOCKS = 96, 24
SCHEDULE = SlicingSchedule(hidden_size=WIDTH, widths=(80,) * BLOCKS + (WIDTH,), embedding="shared")


@pytest.fixture(scope="module")
def model() -> Any:
    """Its blocks weigh twice what work on it takes."""
    return tiny_model(
        "llama", hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=BLOCKS, vocab_size=200
    )


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(3, 200, (3, 24), generator=torch.Generator().manual_seed(0))


def size_of(model: Any) -> int:
    return sum(each.nbytes for each in model.parameters())


def room_of(model: Any) -> int:
    with simulated("cuda", memory=0):
        return engine_room(model, 4, batch_tokens(torch.device("cuda")))


def test_what_is_sliced_rests_on_the_host_and_is_the_same(model, tokens):
    expected = perplexity(slice_model(model, SCHEDULE, tokens).model, tokens).perplexity
    own = tiny_model("llama", **{key: getattr(model.config, key) for key in SHAPE})
    memory = size_of(model) + room_of(model) + size_of(model) // 4
    with simulated("cuda", memory=memory) as accelerator:
        accelerator.put(own, "cuda")
        made = slice_model(own, SCHEDULE, tokens, budget=(0, 2**30)).model
        assert {str(each.device) for each in made.parameters()} == {"cuda:0", "meta"}  # some visit
        assert perplexity(made, tokens).perplexity == pytest.approx(expected, rel=1e-5)
        assert {str(each.device) for each in own.parameters()} == {"cuda:0"}
        assert max(accelerator.peaks.values()) <= memory


SHAPE = ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")


def test_with_room_nothing_rests_on_the_host(model, tokens):
    own = tiny_model("llama", **{key: getattr(model.config, key) for key in SHAPE})
    with simulated("cuda", memory=2 * size_of(model) + 2 * room_of(model)) as accelerator:
        accelerator.put(own, "cuda")
        made = slice_model(own, SCHEDULE, tokens).model
        assert {str(each.device) for each in made.parameters()} == {"cuda:0"}
        assert accelerator.copies["cpu", "cuda"] < size_of(model)


def test_bases_are_found_block_by_block_where_all_sums_do_not_fit(model, tokens, tmp_path):
    expected = find_bases(model, tokens)
    preview = perplexity(recut(model, SCHEDULE, expected).model, tokens).perplexity
    own = tiny_model("llama", **{key: getattr(model.config, key) for key in SHAPE})
    sums = 2 * BLOCKS * WIDTH * WIDTH * 8
    memory = size_of(model) + sums // 2
    with simulated("cuda", memory=memory) as accelerator:
        accelerator.put(own, "cuda")
        assert not sums_fit(own, tokens)
        before = accelerator.peak
        found = find_bases(own, tokens)
        assert accelerator.peak - before < sums // 2
        assert {each.device.type for each in (*found.vectors, *found.energies)} == {"cpu"}
        for site in range(2 * BLOCKS):
            assert found.discarded(site, 80) == pytest.approx(expected.discarded(site, 80), rel=1e-3)
        found.save(tmp_path / "bases.safetensors")
        bases = Bases.load(tmp_path / "bases.safetensors", own.device)
        assert bases.vectors[0].device.type == "cpu"  # a quarter of what is free holds them not
        made = recut(own, SCHEDULE, bases).model
        assert perplexity(made, tokens).perplexity == pytest.approx(preview, rel=1e-3)


def test_the_same_bases_come_of_both_ways_to_find_them(model, tokens, monkeypatch):
    at_once = find_bases(model, tokens)
    monkeypatch.setattr("analysis.bases.sums_fit", lambda *_: False)
    in_turn = find_bases(model, tokens)
    for one, other in zip(at_once.energies, in_turn.energies, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=0)
    for one, other in zip(at_once.vectors, in_turn.vectors, strict=True):
        torch.testing.assert_close(one.abs(), other.abs(), rtol=1e-3, atol=1e-4)


def test_a_card_without_room_for_the_work_itself_is_refused_with_the_levers(model, tokens):
    own = tiny_model("llama", **{key: getattr(model.config, key) for key in SHAPE})
    with simulated("cuda", memory=size_of(model) + 1000) as accelerator:
        accelerator.put(own, "cuda")
        for doing, work in (
            ("Slicing", lambda: slice_model(own, SCHEDULE, tokens)),
            ("Finding bases", lambda: find_bases(own, tokens)),
        ):
            with pytest.raises(OutOfMemoryError) as told:
                work()
            assert f"{doing} does not fit on cuda:0" in str(told.value)
            assert "let weights rest on the host (device cuda+cpu)" in str(told.value)
    assert not accelerator.flops


@pytest.mark.parametrize(
    ("sliced", "resting", "host", "expected"),
    [(500, 0, 10**9, False), (500, 500, 10**9, True), (500, 500, 100, False), (300, 0, 0, True)],
)
def test_what_may_rest_on_the_host_fits_where_that_has_room(
    sliced, resting, host, expected, model, monkeypatch
):
    free = {"cpu": (host, host), "cuda:0": (400, 1000)}
    monkeypatch.setattr("analysis.needs.memory_of", lambda device: free[str(device)])
    need = MemoryNeed(dense=600, sliced=sliced, working=100, resting=resting)
    open_one = SimpleNamespace(device=torch.device("cuda:0"), dtype=torch.float32)
    assert fits(open_one, need) == expected
