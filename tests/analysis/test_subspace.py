"""The leading subspace by products alone: against eigenvectors in fp64, and through whole slicings."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model

import analysis.products
import slicing.basis.pca
from analysis.bases import principal
from analysis.device import HOST
from analysis.products import pays
from analysis.subspace import eigenvectors, leading_subspace, nearly_orthogonal
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model

WIDTH = 160


def moment(tokens: int = 400, massive: float = 1.0, steep: float = 1.5) -> torch.Tensor:
    """The second moment of tokens of which one is ``massive``, in coordinates of no meaning."""
    drawn = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, WIDTH, dtype=torch.float64, generator=drawn)
    states *= torch.logspace(0, -steep, WIDTH, dtype=torch.float64)
    states[0] *= massive
    turn, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64, generator=drawn))
    return turn.T @ states.T @ states @ turn


def apart(basis: torch.Tensor, kept: torch.Tensor) -> float:
    """The sine of the largest angle between two subspaces, by bases (D, W)."""
    return float(torch.linalg.matrix_norm(basis - kept @ (kept.T @ basis), 2))


@pytest.mark.parametrize("massive", [1.0, 1e3, 3e4])
@pytest.mark.parametrize("width", [40, 96, 144])
def test_it_is_that_of_the_eigenvectors(massive: float, width: int) -> None:
    total = moment(massive=massive)
    values, vectors = torch.linalg.eigh(total)
    found = leading_subspace(total, width)
    assert found is not None
    turn, missed = found
    assert turn.dtype is torch.float32
    turn = turn.double()
    assert torch.allclose(turn.T @ turn, torch.eye(WIDTH, dtype=torch.float64), atol=5e-6)
    assert apart(turn[:, :width], vectors[:, -width:]) < 2e-4
    assert missed == pytest.approx(float(values[:-width].sum() / values.sum()), rel=1e-3)


def test_eigenvectors_in_fp32_lose_it_beside_a_massive_token() -> None:
    total = moment(massive=3e4)
    exact = torch.linalg.eigh(total)[1][:, -96:]
    assert apart(torch.linalg.eigh(total.float())[1][:, -96:].double(), exact) > 0.1


@pytest.mark.parametrize("width", [8, 32, WIDTH])
def test_a_narrow_one_is_left_to_eigenvectors(width: int) -> None:
    assert leading_subspace(moment(), width) is None


def test_one_that_the_moment_does_not_set_apart_is_left_to_eigenvectors() -> None:
    alike = torch.eye(WIDTH, dtype=torch.float64)
    assert leading_subspace(alike, 100) is None
    assert eigenvectors(alike) is None


def test_directions_that_no_token_has_are_all_alike() -> None:
    """With fewer tokens than directions, any of the others may fill a subspace."""
    total = moment(tokens=60)
    found = leading_subspace(total, 100)
    assert found is None or found[1] < 1e-9
    vectors, energies = principal(total)
    assert energies[60:].sum() < 1e-9 * energies.sum()
    assert apart(torch.linalg.eigh(total)[1][:, -60:], vectors[:, :60].double()) < 2e-4


@pytest.mark.parametrize("massive", [1.0, 1e3, 3e4])
@pytest.mark.parametrize("halves", [False, True])
def test_eigenvectors_by_products_are_those_of_an_eigenproblem(
    massive: float, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analysis.products, "in_halves", lambda device: halves)
    total = moment(massive=massive)
    exact, others = (each.flip(-1) for each in torch.linalg.eigh(total))
    found = eigenvectors(total)
    assert found is not None
    vectors, energies = found[0].double(), found[1]
    assert found[0].dtype is torch.float32 and energies.dtype is torch.float64
    assert torch.allclose(vectors.T @ vectors, torch.eye(WIDTH, dtype=torch.float64), atol=2e-6)
    assert torch.allclose(energies, exact, rtol=2e-4)
    assert (energies.diff() <= 0).all()
    # What fp32 leaves of the massive direction in the others is no error of theirs.
    others_alone = total - (exact[0] - exact[1]) * torch.outer(others[:, 0], others[:, 0])
    for width in (1, 5, 17, 40, 80, 96, 144, 150):
        assert apart(others[:, :width], vectors[:, :width]) < (2e-2 if halves else 2e-3)
        along = vectors[:, width:]
        missed = (along * (others_alone @ along)).sum() / exact[width:].sum()
        assert missed == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("size", [33, 35, 99])
def test_an_odd_width_is_left_to_an_eigenproblem(size: int) -> None:
    total = moment()[:size, :size]
    assert eigenvectors(total) is None
    vectors, _ = principal(total)
    assert vectors.dtype is torch.float64


@pytest.mark.parametrize("size", [34, 36, 66, 100, 112])
def test_halves_end_where_no_factor_of_two_is_left(size: int) -> None:
    total = moment()[:size, :size]
    found = eigenvectors(total)
    assert found is not None
    exact, others = torch.linalg.eigh(total)
    assert torch.allclose(found[1], exact.flip(-1), rtol=2e-4)
    assert apart(others[:, -9:], found[0][:, :9].double()) < 2e-3


def test_an_eigenvalue_below_zero_is_no_stumbling_block() -> None:
    total = moment()
    vectors = torch.linalg.eigh(total)[1]
    total -= 1e9 * torch.outer(vectors[:, 0], vectors[:, 0])
    assert leading_subspace(total, 96) is None


def test_a_step_of_newton_and_schulz_takes_rounding_out() -> None:
    turn = torch.linalg.eigh(moment())[1]
    rough = turn + 1e-4 * torch.randn(turn.shape, dtype=torch.float64, generator=torch.Generator())
    plain = torch.eye(WIDTH, dtype=torch.float64)
    assert (rough.T @ rough - plain).abs().max() > 1e-4
    better = nearly_orthogonal(rough)
    assert (better.T @ better - plain).abs().max() < 1e-5


def test_it_pays_on_wide_streams_of_a_gpu() -> None:
    assert pays(torch.device("cuda"), 4096) and pays(torch.device("cuda", 1), 1024)
    assert not pays(torch.device("cuda"), 576)
    assert not pays(torch.device("cpu"), 4096) and not pays(torch.device("mps"), 4096)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi", "gemma", "mixtral"])
def test_a_model_sliced_by_it_computes_the_same(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family, hidden_size=96)
    windows = torch.randint(0, model.config.vocab_size, (12, 32), generator=torch.Generator().manual_seed(1))
    blocks = model.config.num_hidden_layers
    schedule = SlicingSchedule(hidden_size=96, widths=(80, *(64,) * (blocks - 1), 96), embedding="untied")
    exact = slice_model(model, schedule, windows)
    asked: list[int] = []

    def here(device: torch.device, width: int) -> bool:
        asked.append(width)
        return device.type == HOST

    monkeypatch.setattr(slicing.basis.pca, "pays", here)
    by_products = slice_model(model, schedule, windows)
    assert asked
    assert by_products.discarded == pytest.approx(exact.discarded, rel=1e-2, abs=1e-6)
    one, other = (each.model(windows).logits for each in (exact, by_products))
    assert (one - other).abs().max() < 2e-3 * one.abs().max()
