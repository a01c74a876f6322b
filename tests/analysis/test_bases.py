"""Second moments in mixed precision, and the bases found from them."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from conftest import tiny_model

from analysis.anatomy import anatomy_of
from analysis.bases import JITTER, Bases, BasesCollector, Covariance, find_bases, jittered
from analysis.errors import ModelError, StorageError
from analysis.hooks import entering_states
from analysis.profile import profile_blocks
from analysis.read_shape import read_shape


def full(covariance: Covariance) -> torch.Tensor:
    upper = covariance.upper.triu()
    return upper + upper.triu(1).T


def stream(tokens: int, width: int, massive: float) -> torch.Tensor:
    """A stream whose energies fall off, with a massive first token in each of four windows."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(0, -3, width)
    states = torch.randn(4, tokens // 4, width, generator=generator) * scale
    states[:, 0] += massive * torch.nn.functional.normalize(torch.randn(width, generator=generator), dim=0)
    return states


@pytest.mark.parametrize("width", [1, 2, 3, 31, 64, 100])
def test_sum_is_that_of_fp64(width):
    states = stream(800, width, massive=0.0)
    covariance = Covariance(width, states.device)
    for window in states:
        covariance.add(window)
    flat = states.reshape(-1, width).double()
    assert torch.allclose(full(covariance), flat.T @ flat, rtol=1e-5, atol=1e-6 * float(flat.square().sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("massive", [0.0, 1000.0])
def test_of_columns_that_stand_alone_their_squares_are_summed_up(dtype, massive):
    states = stream(800, 48, massive).to(dtype)
    whole, some = Covariance(48, states.device), Covariance(48, states.device, alone=20)
    for window in states:
        whole.add(window)
        some.add(window)
    expected = full(whole)
    expected[28:, 28:] = expected[28:, 28:].diagonal().diag()
    assert torch.allclose(full(some), expected, rtol=1e-5, atol=1e-7 * float(expected.max()))
    assert some.energy() == pytest.approx(whole.energy(), rel=1e-6)


def test_noise_is_relative_symmetric_and_the_same_for_a_draw():
    states = stream(800, 48, massive=0.0)
    covariance = Covariance(48, states.device)
    covariance.add(states)
    plain = covariance.moment()
    with jittered(1):
        first, again, (vectors, energies) = (
            covariance.moment(),
            covariance.moment(),
            covariance.principal_basis(),
        )
    with jittered(2):
        second = covariance.moment()
    assert torch.equal(first, first.T)
    assert torch.equal(first, again)
    assert torch.allclose((vectors * energies) @ vectors.T, first, rtol=0, atol=1e-12 * float(plain.max()))
    moved = ((first - plain) / plain)[torch.triu(torch.ones(48, 48)) > 0] / JITTER
    assert abs(float(moved.mean())) < 0.1
    assert float(moved.std()) == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(first, second)
    assert torch.allclose(first, second, rtol=20 * JITTER)
    assert torch.equal(full(covariance), plain)  # the sum itself stays as it is


def test_noise_ends_with_its_with_whatever_happens_inside():
    states = stream(80, 8, massive=0.0)
    covariance = Covariance(8, states.device)
    covariance.add(states)
    plain = covariance.moment()
    with jittered(3):
        noisy = covariance.moment()
        with jittered(0):
            assert torch.equal(covariance.moment(), plain)
        assert torch.equal(covariance.moment(), noisy)
        with pytest.raises(KeyError), jittered(4):
            raise KeyError
        assert torch.equal(covariance.moment(), noisy)
    assert torch.equal(covariance.moment(), plain)
    other: list[torch.Tensor] = []
    with jittered(3):
        thread = threading.Thread(target=lambda: other.append(covariance.moment()))
        thread.start()
        thread.join()
    assert torch.equal(other[0], plain)


def test_massive_token_does_not_drown_the_others():
    states = stream(4096, 96, massive=1e4)
    covariance = Covariance(96, states.device)
    covariance.add(states)
    flat = states.reshape(-1, 96).double()
    exact = flat.T @ flat
    rest = flat[flat.square().sum(1) < 1e6]
    # What is wrong, beside what the tokens other than the massive ones contribute.
    error = float((full(covariance) - exact).norm() / (rest.T @ rest).norm())
    plain = states.reshape(-1, 96).T @ states.reshape(-1, 96)
    plain_error = float((plain.double() - exact).norm() / (rest.T @ rest).norm())
    assert error < 1e-6
    assert plain_error > 1e-3  # fp32 throughout, which this is there to avoid


def test_basis_keeps_as_much_of_the_energy_as_in_fp64():
    states = stream(4096, 96, massive=1e4)
    covariance = Covariance(96, states.device)
    covariance.add(states)
    vectors, energies = covariance.principal_basis()
    flat = states.reshape(-1, 96).double()
    _, exact = torch.linalg.eigh(flat.T @ flat)
    rest = flat[flat.square().sum(1) < 1e6]
    for width in (24, 48, 72):
        kept = float((rest @ vectors[:, :width]).square().sum())
        best = float((rest @ exact.flip(-1)[:, :width]).square().sum())
        assert kept == pytest.approx(best, rel=1e-6)
    assert torch.allclose(vectors.T @ vectors, torch.eye(96).double(), atol=1e-10)
    assert (energies.diff() <= 0).all()


def test_products_stay_exact_under_autocast():
    states = stream(800, 64, massive=0.0)
    plain, cast = (Covariance(64, states.device) for _ in range(2))
    plain.add(states)
    with torch.autocast("cpu", torch.bfloat16):
        cast.add(states)
    assert torch.equal(plain.upper, cast.upper)


def test_stream_that_is_not_finite_is_refused():
    covariance = Covariance(8, torch.device("cpu"))
    covariance.add(torch.full((4, 8), float("inf")).double())
    with pytest.raises(ModelError, match="not finite"):
        covariance.principal_basis()


def test_one_pass_gives_scores_and_every_basis(family, windows):
    model = tiny_model(family)
    shape, centred = read_shape(model), anatomy_of(model.config).centred
    collector = BasesCollector(model)
    labels = {"model_label": "", "text_label": ""}
    profile = profile_blocks(model, windows, **labels, bases=collector)
    bases = collector.bases()
    assert len(bases.vectors) == len(shape.sublayers)
    assert np.array_equal(profile.values("lr"), profile_blocks(model, windows, **labels).values("lr"))
    states, _ = entering_states(model, windows, anatomy_of(model.config).returns_tuple)
    flat = states.reshape(-1, 32).double()
    flat = flat - flat.mean(1, keepdim=True) if centred else flat
    energies = torch.linalg.eigvalsh(flat.T @ flat).flip(-1)
    assert torch.allclose(bases.energies[0], energies, rtol=1e-4, atol=1e-5 * float(energies[0]))
    assert bases.discarded(0, 32) == 0.0
    assert 0.0 < bases.discarded(0, 8) < 1.0


def test_bases_go_to_a_file_and_back(windows, tmp_path):
    bases = find_bases(tiny_model("llama"), windows)
    bases.save(tmp_path / "bases.safetensors")
    again = Bases.load(tmp_path / "bases.safetensors", torch.device("cpu"))
    for before, after in zip(
        (*bases.vectors, *bases.energies), (*again.vectors, *again.energies), strict=True
    ):
        assert torch.equal(before, after)
    assert (tmp_path / "bases.safetensors").stat().st_size == pytest.approx(bases.bytes, rel=0.1)


@pytest.mark.parametrize("content", [b"", b"nonsense" * 10])
def test_damaged_bases_are_one_sentence(tmp_path, content):
    (tmp_path / "bases.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match="cannot be read: profile the model again"):
        Bases.load(tmp_path / "bases.safetensors", torch.device("cpu"))
    with pytest.raises(StorageError, match="cannot be read: profile the model again"):
        Bases.load(tmp_path / "missing.safetensors", torch.device("cpu"))
