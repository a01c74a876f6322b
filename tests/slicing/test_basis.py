"""Bases of the stream: every rule gives directions that are orthonormal, and keeps those that it says."""

from __future__ import annotations

import pytest
import torch
from conftest import tiny_model
from torch import Tensor

from analysis.anatomy import blocks
from analysis.bases import Bases, Covariance, Moment, Seen, TokenSample, find_bases
from analysis.errors import PlanError
from analysis.read_shape import read_shape
from slicing.basis import BASES, find_basis, transport
from slicing.basis.base import basis
from slicing.basis.dense import bases_for
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.studies.recipe import Recipe
from slicing.transport import sinkhorn

WIDTHS = (24, 16, 29, 32)


def seen_of(tokens: Tensor, place: int = 0) -> Seen:
    return Seen(Moment(tokens.T @ tokens), tokens, place)


@pytest.fixture
def tokens() -> Tensor:
    """(50, 12), some coordinates larger than others and two nearly alike."""
    found = torch.randn(50, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found *= torch.linspace(0.2, 3.0, 12, dtype=torch.float64)[torch.randperm(12, generator=_drawn(1))]
    found[:, 3] = found[:, 8] * 1.05
    return found


def _drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", BASES)
def test_a_basis_says_what_it_is_and_is_orthonormal(name, tokens):
    found = find_basis(name)
    assert found.name == name
    assert found.title and found.source and found.__doc__
    assert not found.known_issue or found.known_issue.endswith(".")
    directions, energies = found.directions(seen_of(tokens), 7)
    assert torch.allclose(directions.T @ directions, torch.eye(12, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(energies, (tokens @ directions).square().sum(0))
    again, _ = found.directions(seen_of(tokens), 7)
    assert torch.equal(directions, again)


@pytest.mark.parametrize("name", BASES)
def test_a_turned_stream_leads_to_the_same_directions(name, tokens):
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=_drawn(3)))
    turned = seen_of(tokens @ rotation)
    turn, directions, lost = find_basis(name).turned(turned, 7, rotation)
    expected, _ = find_basis(name).directions(seen_of(tokens), 7)
    assert torch.allclose(rotation @ turn, directions, atol=1e-10)
    kept, wanted = directions[:, :7], expected[:, :7]
    assert torch.allclose(kept @ kept.T, wanted @ wanted.T, atol=1e-8)
    energies = (tokens @ directions).square().sum(0)
    assert lost == pytest.approx(float(energies[7:].sum() / energies.sum()), abs=1e-8)


def test_registering_a_name_twice_and_asking_for_an_unknown_one_are_told():
    with pytest.raises(ValueError, match="'pca' is registered twice"):
        basis(type("Another", (type(find_basis("pca")),), {}))
    with pytest.raises(PlanError, match="Did you mean 'random'"):
        find_basis("randm")
    with pytest.raises(PlanError, match="Did you mean 'transport'"):
        Recipe.parse("slice(constant, basis=transprt)")


def test_no_rule_keeps_more_energy_than_principal_components(tokens):
    kept = {name: float(each.directions(seen_of(tokens), 7)[1][:7].sum()) for name, each in BASES.items()}
    assert max(kept, key=kept.__getitem__) == "pca"
    assert kept["random"] < kept["magnitude"]


def test_magnitude_keeps_coordinates_as_they_are(tokens):
    directions, _ = find_basis("magnitude").directions(seen_of(tokens), 7)
    largest = tokens.square().mean(0).topk(7).indices
    assert torch.equal(tokens @ directions[:, :7], tokens[:, largest])


def test_random_directions_are_drawn_by_draw_and_place(tokens):
    found = [
        find_basis("random").directions(seen_of(tokens, place), 7, draw)[0]
        for place, draw in ((0, 0), (1, 0), (0, 1))
    ]
    assert not any(torch.allclose(found[0], other) for other in found[1:])


# Transport


@pytest.mark.parametrize("strength", [0.02, 0.1, 1.0])
def test_marginals_of_a_plan_are_uniform(strength):
    plan = sinkhorn(torch.rand(20, 13, dtype=torch.float64, generator=_drawn(2)), strength)
    assert (plan >= 0).all()
    assert torch.allclose(20 * plan.sum(1), torch.ones(20, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(13 * plan.sum(0), torch.ones(13, dtype=torch.float64), atol=1e-6)


def test_without_entropy_nothing_is_mixed_where_all_stay(tokens, monkeypatch):
    tokens[:, 3] = tokens[:, 3].flip(0)  # none are alike
    monkeypatch.setattr(transport, "STRENGTH", 1e-3)
    directions, _ = find_basis("transport").directions(seen_of(tokens), 12)
    order = tokens.square().mean(0).argsort(descending=True)
    assert torch.allclose(directions, torch.eye(12, dtype=torch.float64)[:, order], atol=1e-9)


def test_a_coordinate_that_goes_is_merged_into_the_one_that_acts_like_it(tokens):
    tokens[:, 3] = tokens[:, 8] * 0.98
    order = tokens.square().mean(0).argsort(descending=True).tolist()
    width = order.index(3)  # all in front of it stay, the one like it among them
    directions, _ = find_basis("transport").directions(seen_of(tokens), width)
    held = directions[3, :width].square().sum()
    others = [float(directions[place, :width].square().sum()) for place in order[width + 1 :]]
    assert held > max(others)
    assert directions[3, order.index(8)] > 0.3


# The sample of tokens


@pytest.mark.parametrize("most", [1, 7, 16, 100])
def test_a_sample_is_evenly_spaced_and_the_same_in_any_batches(most):
    stream = torch.arange(90.0).unsqueeze(1)
    samples = []
    for batches in (stream.split(90), stream.split(13), stream.split(1)):
        sample = TokenSample(most)
        for batch in batches:
            sample.add(batch)
        samples.append(sample.tokens().squeeze(1))
    assert all(torch.equal(each, samples[0]) for each in samples)
    steps = samples[0].diff().unique()
    assert len(steps) <= 1
    assert min(most, 90) / 2 <= len(samples[0]) <= most


def test_a_sample_of_nothing_keeps_nothing():
    sample = TokenSample(0)
    sample.add(torch.ones(3, 2))
    assert sample.kept is None


# In slicing


def schedule_for(model, span: int = 0) -> SlicingSchedule:
    form = "shared" if read_shape(model).tied else "untied"
    return SlicingSchedule(hidden_size=32, widths=WIDTHS, embedding=form, span=span)


@pytest.mark.parametrize("span", [0, 2])
@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_every_basis_serves_sequential_slicing_and_one_pass(name, span, family, windows):
    model = tiny_model(family)
    schedule = schedule_for(model, span)
    in_order = slice_model(model, schedule, windows, basis=find_basis(name))
    bases = bases_for(model, schedule, windows, find_basis(name))
    at_once = recut(model, schedule, bases, name)
    for each in (in_order, at_once):
        assert each.basis == name
        assert sum(p.numel() for p in each.model.parameters()) == schedule.shape_after(each.shape).parameters
        assert all(0.0 <= lost < 1.0 for lost in each.discarded)
        assert each.model(windows).logits.isfinite().all()
    # The first site sees the dense stream either way, unless its basis is that of other blocks too.
    if span == 0:
        assert in_order.discarded[0] == pytest.approx(at_once.discarded[0], rel=1e-4)


def test_principal_bases_found_for_a_schedule_are_those_kept_for_all(windows):
    model = tiny_model("llama", torch.float64)
    for span in (0, 2):
        schedule = schedule_for(model, span)
        found = recut(model, schedule, bases_for(model, schedule, windows, find_basis("pca")))
        usual = recut(model, schedule, find_bases(model, windows))
        assert found.discarded == pytest.approx(usual.discarded, rel=1e-4, abs=1e-7)
        off = found.model(windows).logits - usual.model(windows).logits
        assert float(off.norm() / usual.model(windows).logits.norm()) < 1e-4


def test_magnitude_cuts_coordinates_of_the_dense_stream_in_every_place(windows):
    model = tiny_model("llama", torch.float64)
    sliced = slice_model(model, schedule_for(model), windows, basis=find_basis("magnitude")).model
    for block in blocks(sliced):
        for sublayer in block.sublayers:  # type: ignore[union-attr]
            # From some coordinates to others, each is carried on or lost.
            assert set(sublayer.shortcut.unique().tolist()) <= {0.0, 1.0}


def test_bases_that_are_not_principal_are_taken_as_they_are():
    vectors = torch.eye(4)[:, [2, 0, 1, 3]]
    bases = Bases((vectors,) * 2, (torch.tensor([4.0, 3.0, 2.0, 1.0]).double(),) * 2, principal=False)
    assert torch.equal(bases.shared(range(2)), vectors)
    assert bases.missed(1, vectors[:, :2]) == pytest.approx(0.3)


def test_energy_is_the_trace():
    covariance = Covariance(3, torch.device("cpu"))
    covariance.add(torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]]))
    assert covariance.energy() == 15.0


# In recipes


def test_the_usual_basis_changes_no_key_and_another_one_does():
    usual, named, other = (
        Recipe.parse(f"slice(constant{rest})") for rest in ("", ", basis=pca", ", basis=magnitude")
    )
    assert usual == named
    assert usual.key == named.key != other.key
    assert named.line == "slice(constant)"
    assert other.title == "Slicing, constant (SliceGPT), coordinates of largest mean square"
    assert other.short == "constant+magnitude"
    assert other.control
    drawn = Recipe.parse("slice(constant, basis=random, basis_draw=3)")
    assert drawn.by_chance
    assert drawn.title.endswith("draw 3 of the basis")
    assert Recipe.parse("slice(constant, basis_draw=3)") == usual  # nothing is drawn


def test_a_new_version_of_a_basis_changes_the_keys_of_those_who_use_it(monkeypatch):
    before = [Recipe.parse(line).key for line in ("slice(constant)", "slice(constant, basis=transport)")]
    monkeypatch.setattr(type(find_basis("transport")), "version", 2)
    after = [Recipe.parse(line).key for line in ("slice(constant)", "slice(constant, basis=transport)")]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_what_is_known_against_a_basis_is_told_of_its_recipes():
    transported, usual = (Recipe.parse(f"slice(constant{rest})") for rest in (", basis=transport", ""))
    assert "not checked" in transported.steps[0].issue
    assert not usual.steps[0].issue
    assert any("2507.04517" in each for each in transported.cites)
    assert not transported.quick
