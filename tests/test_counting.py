"""What is counted on meta tensors: that it is exact, and that large models stay within bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from counting import JOBS, MODELS, Model, count, count_resting, count_whole, schedule_for
from meta_cards import WINDOW, Numbers, counted, seconds

from analysis import evaluate
from analysis.bases import BasesCollector, find_bases
from analysis.batches import tokens_at_a_time
from analysis.evaluate import perplexity
from analysis.needs import MemoryNeed, passing_need
from analysis.profile import states_compared
from analysis.read_shape import read_shape
from slicing.guard import refuse_unless_invariant
from slicing.memory import preview_need, slicing_need
from slicing.slicer import recut, slice_model

SMALL = Model(width=64, inner=128, blocks=4, vocabulary=300, heads=4, key_value_heads=2)


def test_operations_are_counted_by_dtype_device_and_size():
    with counted() as counting:
        one = torch.ones(2, 3, dtype=torch.bfloat16, device="cuda")
        counting.begin()
        product = torch.nn.functional.linear(one, torch.ones(5, 3, dtype=torch.bfloat16, device="cuda"))
        (product.double() @ torch.ones(5, 7, dtype=torch.float64, device="cuda")).cpu()
        torch.linalg.eigh(torch.ones(6, 6, dtype=torch.float64, device="cuda"))
        torch.mm(torch.ones(4, 4), torch.ones(4, 4))
        float(product.sum())
        found = counting.done()
    assert found["flops bfloat16"] == 2 * 2 * 3 * 5
    assert found["flops float64"] == 2 * 2 * 5 * 7
    assert found["host flops float32"] == 2 * 4 * 4 * 4
    assert found["cubes linalg_eigh 6"] == 1
    assert found["copies cuda cpu"] == 2 * 7 * 8
    assert found["waits"] == 2


def test_the_peak_is_what_is_held_at_one_moment():
    with counted() as counting:
        held = torch.ones(1000, device="cuda")
        counting.begin()
        for _ in range(3):
            torch.ones(500, device="cuda")
        assert counting.done()["peak cuda:0"] == 4000 + 2000
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(10**11, device="cuda")
        del held


@pytest.mark.parametrize("job", ["profile", "slicing"])
def test_a_few_blocks_and_windows_say_what_all_take(job):
    direct, followed = count(SMALL, job, 4, 24), count_whole(SMALL, job, windows=24, counted_windows=(8, 16))
    for name in direct:
        if not name.startswith("peak"):
            assert followed[name] == pytest.approx(direct[name], rel=5e-3), name


@pytest.fixture(scope="module")
def whole() -> dict[str, Numbers]:
    """Llama-3-8B with 128 windows of 2,048 tokens, each job in about two seconds."""
    jobs = ("forward", "profile", "slicing")
    return {job: count_whole(MODELS["Llama-3-8B"], job, counted_windows=(8, 16)) for job in jobs}


def ratio(whole: dict[str, Numbers], job: str, card: str) -> float:
    return seconds(whole[job], card) / seconds(whole["forward"], card)


def test_a_forward_pass_of_8b_is_what_the_shapes_say(whole):
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    tokens = 128 * 2048
    attention = 2 * 2048 * 4096 * 32  # half of (T, T), twice, two FLOPs each
    assert whole["forward"]["flops bfloat16"] == pytest.approx(tokens * (2 * weights + attention), rel=1e-6)


def test_a_profile_adds_little_to_a_forward_pass(whole):
    """Of a block the states entering and leaving are read once or twice, and the host waits once a batch."""
    states = 128 * 2048 * 4096 * 32
    extra = whole["profile"]["bytes"] - whole["forward"]["bytes"]
    assert extra / states < 64
    assert whole["profile"]["waits"] <= 12 * 16
    for card, bound in {"H100": 1.13, "RTX 4090": 1.07, "A100": 1.11}.items():
        assert ratio(whole, "profile", card) < bound


def test_cards_for_data_centres_multiply_in_halves(whole):
    """Nearly all products in fp32 become four or fewer in bf16, and nothing else is more."""
    consumer = whole["slicing"]
    found = count_whole(MODELS["Llama-3-8B"], "slicing", counted_windows=(8, 16), kind="H100")
    assert found["flops float32"] < 0.15 * consumer["flops float32"]
    assert found["flops bfloat16"] < consumer["flops bfloat16"] + 4 * consumer["flops float32"]
    assert found["flops float64"] < 1.01 * consumer["flops float64"]
    assert found["peak cuda:0"] < 1.01 * consumer["peak cuda:0"]
    for card, bound in {"H100": 3.1, "A100": 3.1}.items():
        assert seconds(found, card) / seconds(whole["forward"], card) < bound


def test_what_slicing_takes_beside_its_forward_pass(whole):
    """The sliced blocks do less than the dense; turns and second moments are in fp32, the sums in fp64."""
    found, forward = whole["slicing"], whole["forward"]
    assert found["flops bfloat16"] < 0.85 * forward["flops bfloat16"]
    assert found["flops float32"] < 0.38 * forward["flops bfloat16"]  # a third of it finds subspaces
    assert found["flops float64"] < 0.003 * forward["flops bfloat16"]
    assert found["cubes linalg_eigh 4096"] == 0
    for card, bound in {"H100": 5.8, "RTX 4090": 1.8, "A100": 6.5}.items():
        assert ratio(whole, "slicing", card) < bound
    assert found["bytes"] < 2.35 * forward["bytes"]
    assert found["bytes float64"] < 0.2 * forward["bytes"]
    assert found["copies cpu cuda"] + found["copies cuda cpu"] < 2e8
    assert found["waits"] < 3.5 * 64 * 16


@pytest.mark.parametrize("job", ["evaluation", "a step of healing"])
def test_other_jobs_take_what_they_should(job):
    """With two blocks and one batch, in products of each dtype over those of a forward pass."""
    shape = MODELS["Llama-3-8B"]
    forward, found = (count(shape, each, 2, 8) for each in ("forward", job))
    narrow, single, wide = (
        found[f"flops {name}"] / forward["flops bfloat16"] for name in ("bfloat16", "float32", "float64")
    )
    head = 2 * 4096 * 128256 * 8 * 2048 / forward["flops bfloat16"]
    assert narrow < {"evaluation": 1.01 + head, "a step of healing": 6.5 + 6.5 * head}[job]
    assert single < {"evaluation": 0.01, "a step of healing": 0.05}[job]
    assert wide < 0.001


def test_bases_are_found_by_products():
    """With one block and one batch: exact products of bf16, and no eigenproblem that is wide."""
    shape = MODELS["Llama-3-8B"]
    forward, found = (count(shape, each, 1, 8) for each in ("forward", "bases"))
    solved = {int(name.split()[-1]): n for name, n in found.items() if name.startswith("cubes linalg_eigh")}
    assert solved == {32: 2 * (4096 / 32 + 1)}
    assert found["flops bfloat16"] < 1.1 * forward["flops bfloat16"]
    assert found["flops float32"] < 75 * 2 * (2 * 4096**3)


WIDE = Model(2048, 8192, 4, 128256, 16)
"""Larger than what a card of 3.3 GB has room for beside the work."""


@pytest.mark.parametrize("job", ["profile", "evaluation", "slicing"])
def test_a_card_smaller_than_the_model_fetches_its_blocks_once_for_all_batches(job):
    """Slicing fetches a block for each of its two sub-layers, and the whole of them once to be guarded."""
    memory = 3.3e9
    found = count_resting(WIDE, job, memory, 4)
    weights = 2 * WIDE.blocks * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 8192)
    stream = 4 * WINDOW * 2048 * 4
    assert found["peak cuda:0"] < memory
    times = 3.6 if job == "slicing" else 1.0
    assert 0.9 * weights < found["copies cpu cuda"] < times * weights + 4 * stream
    assert found["copies cuda cpu"] < weights + 4 * stream


def test_the_streams_of_a_repair_take_no_more_of_a_card_than_the_work_leaves():
    model, windows = Model(512, 2048, 2, 1000, 4, 4), torch.ones(24, WINDOW, dtype=torch.long)
    with torch.device("meta"):
        dense = model.on(2)
    shape, schedule = read_shape(dense), schedule_for(dense)
    need = slicing_need(shape, schedule, windows.numel(), WINDOW, 2, repair=True)
    with counted(1, need.dense + need.working + need.resting) as counting:
        slice_model(model.made(counting, 2), schedule, windows, repair=True)


def test_a_stream_leaves_room_for_the_tables_of_the_model_that_is_made():
    model, windows = Model(512, 2048, 2, 60_000, 4, 4), torch.ones(24, WINDOW, dtype=torch.long)
    with torch.device("meta"):
        dense = model.on(2)
    shape, schedule = read_shape(dense), schedule_for(dense)
    need = slicing_need(shape, schedule, windows.numel(), WINDOW, 2)
    with counted(1, need.least + 2**25) as counting:
        slice_model(model.made(counting, 2), schedule, windows)


BOUNDED = {
    "evaluation": perplexity,
    "profile": JOBS["profile"],
    "bases": find_bases,
    "slicing": JOBS["slicing"],
    "slicing with repair": JOBS["slicing with repair"],
}


@pytest.mark.parametrize("job", BOUNDED)
def test_the_memory_formula_is_a_bound_and_not_half_as_large_again(job):
    """In the bytes of tensors, for a model in bfloat16 with the blocks of one of a billion parameters."""
    with counted() as counting:
        model = Model(2048, 5632, 4, 32000, 16).made(counting, 4)
        windows = torch.ones(24, WINDOW, dtype=torch.long)
        shape, schedule = read_shape(model), schedule_for(model)
        batch, tokens = tokens_at_a_time(windows, model.device), windows.numel()
        needs = {
            "bases": lambda: BasesCollector(model).need(windows),
            "profile": lambda: passing_need(model, batch, states_compared(model)),
            "slicing": lambda: slicing_need(shape, schedule, tokens, batch, 2),
            "slicing with repair": lambda: slicing_need(shape, schedule, tokens, batch, 2, repair=True),
        }
        need = needs.get(job, lambda: passing_need(model, batch))()
        refuse_unless_invariant(model)
        # Logits without numbers cannot be compared; this head is one of its own.
        evaluate._SEPARABLE[model] = True

        def how_large(need: MemoryNeed, work: Callable[[], Any]) -> tuple[Any, float]:
            """Do the work; give its outcome, and how many times what it takes the formula tells."""
            counting.begin()
            before = counting.done()["peak cuda:0"]
            made = work()
            return made, (need.total - need.dense) / (counting.done()["peak cuda:0"] - before)

        made, times = how_large(need, lambda: BOUNDED[job](model, windows))
        assert 1.0 < times < 1.5
        if job == "bases":  # a preview takes those
            need = preview_need(shape, schedule, 2, held=True)
            assert 1.0 < how_large(need, lambda: recut(model, schedule, made))[1] < 1.5, "a preview"


def test_on_several_cards_the_same_is_computed_and_the_stream_passes_each_once():
    shape = MODELS["Llama-3-70B"]
    one = count(shape, "slicing", 4, 8, 1, 10**13)
    stream = 8 * 2048 * 8192 * 4
    for cards in (2, 4):
        several = count(shape, "slicing", 4, 8, cards, 10**13)
        for name in ("flops bfloat16", "flops float32", "flops float64", "cubes linalg_eigh 8192"):
            assert several[name] == one[name], (cards, name)
        assert several["copies cuda cuda"] < 3 * cards * stream, cards
        assert max(several[f"peak cuda:{card}"] for card in range(cards)) < one["peak cuda:0"], cards
