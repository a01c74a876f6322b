"""Products in fp32 made of products in bf16: how near they come, where they are made, and what follows."""

from __future__ import annotations

import pytest
import torch
from accelerator import simulated
from conftest import tiny_model

from analysis import products
from analysis.bases import Covariance
from slicing import repair as repairing
from slicing.schedule import SlicingSchedule
from slicing.slicer import SlicedModel, slice_model


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the host multiply as a card for data centres does."""
    monkeypatch.setattr(products, "in_halves", lambda device: True)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(shape[0]))


def off(found: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest error of a product, over the product of the lengths of its row and its column."""
    exact, size = first.double() @ second.double(), first.norm(dim=-1)[..., None] * second.norm(dim=0)
    return float(((found - exact).abs() / size).max())


@pytest.mark.usefixtures("halves")
def test_two_halves_are_a_matrix_to_sixteen_binary_digits() -> None:
    matrix = drawn(50, 40) * torch.logspace(-3, 3, 40)
    high, low = products.parts(matrix)
    assert high.dtype is low.dtype is torch.bfloat16
    assert ((high.float() + low.float() - matrix).abs() <= 2**-17 * matrix.abs()).all()
    assert products.parts(high) == (high,)  # exact already
    assert products.parts(matrix.double())[0].dtype is torch.float64


@pytest.mark.usefixtures("halves")
def test_their_product_is_a_hundred_times_nearer_than_that_of_bf16() -> None:
    first, second = drawn(6, 30, 200), drawn(200, 90)
    assert off(products.product(first, second), first, second) < 2**-17
    assert off((first.bfloat16() @ second.bfloat16()).float(), first, second) > 100 * 2**-17
    found = products.product(first.double(), second.double())
    assert torch.equal(found, first.double() @ second.double())
    exact = products.multiplied(products.parts(second.T.bfloat16()), products.parts(second.bfloat16()))
    assert torch.equal(exact, second.bfloat16().float().T @ second.bfloat16().float())


@pytest.mark.usefixtures("halves")
def test_a_square_is_the_product_of_a_symmetric_matrix_with_itself() -> None:
    matrix = drawn(80, 80)
    matrix = matrix + matrix.T
    found = products.square(matrix)
    assert off(found, matrix, matrix) < 2**-17
    assert torch.equal(found, found.T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_long_sum_is_in_fp64(dtype: torch.dtype) -> None:
    first, second = drawn(3, 9000).abs().to(dtype), drawn(9000, 4).abs().to(dtype)
    found = products.summed(first, second)
    assert found.dtype is torch.float64
    assert off(found, first, second) < (1e-15 if dtype is torch.float64 else 5e-7)


@pytest.mark.usefixtures("halves")
def test_a_second_moment_of_many_tokens_is_no_smaller_by_halves() -> None:
    states = drawn(8192, 96) @ drawn(96, 96) * torch.logspace(0, -2, 96)
    exact = states.double().T @ states.double()
    total = Covariance(96, states.device)
    total.add(states)
    size = exact.diagonal().sqrt()
    error = (total.moment() - exact) / size / size[:, None]
    assert error.abs().max() < 1e-6
    assert error.diagonal().mean().abs() < 5e-7
    halves = products.parts(states)
    lower = products.multiplied(tuple(each.T for each in halves), halves)
    assert ((lower - exact).diagonal() / exact.diagonal()).mean() < -2e-6  # why squares are taken whole


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((8, 0), True), ((9, 0), True), ((10, 0), True), ((8, 9), False), ((12, 0), False), ((7, 0), False)],
)
def test_cards_for_data_centres_multiply_in_halves_and_others_do_not(
    capability: tuple[int, int], expected: bool
) -> None:
    with simulated("cuda") as accelerator:
        accelerator.capability = capability
        assert products.in_halves(torch.device("cuda", 0)) == expected
        matrix = torch.ones(40, 40, device="cuda")
        assert torch.equal(products.square(matrix).cpu(), torch.full((40, 40), 40.0))
        assert (torch.bfloat16 in accelerator.flops) == expected
    assert not products.in_halves(torch.device("cpu")) and not products.in_halves(torch.device("mps"))


def sliced(family: str, repair: bool) -> tuple[SlicedModel, torch.Tensor]:
    """A tiny model, sliced, and its logits on windows of few kinds of tokens, where repair pays."""
    model = tiny_model(family, hidden_size=96)
    windows = torch.randint(3, 20, (64, 32), generator=torch.Generator().manual_seed(5))
    blocks = model.config.num_hidden_layers
    schedule = SlicingSchedule(hidden_size=96, widths=(80, *(64,) * (blocks - 1), 96), embedding="untied")
    made = slice_model(model, schedule, windows, repair=repair)
    return made, made.model(windows).logits


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma"])
def test_a_model_sliced_by_halves_computes_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact = sliced(family, repair=False)
    monkeypatch.setattr(products, "in_halves", lambda device: True)
    _, found = sliced(family, repair=False)
    assert not torch.equal(found, exact)
    assert (found - exact).abs().max() < 2e-3 * exact.abs().max()


@pytest.mark.parametrize("by_halves", [False, True])
def test_a_repair_that_is_solved_in_fp32_is_that_of_fp64(
    by_halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, exact = sliced("llama", repair=True)
    widths: list[int] = []
    monkeypatch.setattr(repairing, "pays", lambda device, width: widths.append(width) or True)
    monkeypatch.setattr(products, "in_halves", lambda device: by_halves)
    other, found = sliced("llama", repair=True)
    assert max(widths) > 100  # features of the stream and of what the writers read
    assert one.repair is not None and other.repair is not None
    assert one.repair.kept and other.repair.kept
    for wide, narrow in zip(one.repair.sublayers, other.repair.sublayers, strict=True):
        assert narrow.before == pytest.approx(wide.before, rel=1e-3, abs=1e-6)
        assert narrow.after == pytest.approx(wide.after, rel=1e-3, abs=1e-6)
        assert narrow.ridge == wide.ridge or wide.before < 1e-6  # a sub-layer that nothing was cut before
    assert not torch.equal(found, exact)
    assert (found - exact).abs().max() < 2e-3 * exact.abs().max()
