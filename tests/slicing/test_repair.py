"""Repair: exact where nothing is cut, the solution of its equations, never worse where it is judged."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import FAMILIES, tiny_model
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor

from analysis.errors import PlanError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.read_shape import read_shape
from analysis.sublayers import sublayers
from slicing import repair as repairing
from slicing.dense_states import DenseStates
from slicing.guard import refuse_unless_invariant
from slicing.repair import HELD_OUT, RidgeFit, WriterFit, held_out, lowest
from slicing.schedule import SlicingSchedule
from slicing.slicer import _Rotated, slice_model

PLAIN = [name for name in FAMILIES if "mixtral" not in name and "moe" not in name]


def schedule_for(model, widths=(24, 16, 29, 32)) -> SlicingSchedule:
    shape = read_shape(model)
    return SlicingSchedule(hidden_size=32, widths=widths, embedding="shared" if shape.tied else "untied")


@pytest.fixture
def many() -> Tensor:
    """(64, 32) token ids, of few kinds: enough of each for the fits of tiny models to be worth something."""
    return torch.randint(3, 20, (64, 32), generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("family", PLAIN)
def test_where_nothing_is_cut_repair_changes_nothing(family, windows):
    model = tiny_model(family, torch.float64)
    whole = schedule_for(model, (32,) * 4)
    found = slice_model(model, whole, windows, repair=True)
    assert torch.allclose(found.model(windows).logits, model(windows).logits, rtol=1e-6, atol=1e-8)
    assert found.repair is not None
    # Up to rounding there is nothing to miss.
    assert all(each.before < 1e-10 and each.after <= each.before for each in found.repair.sublayers)


@pytest.mark.parametrize("family", PLAIN)
def test_every_fit_loses_no_more_on_what_it_is_judged_by(family, windows):
    model = tiny_model(family)
    found = slice_model(model, schedule_for(model), windows, repair=True)
    told = found.repair
    assert told is not None
    assert len(told.sublayers) == len(read_shape(model).sublayers)
    assert told.windows == 1
    assert all(each.after <= each.before for each in told.sublayers)
    assert all((each.ridge is None) == (each.after == each.before) for each in told.sublayers)


def test_the_held_out_loss_decides_what_is_kept(many, monkeypatch):
    model = tiny_model("llama")
    schedule = schedule_for(model)
    held = many[-held_out(len(many)) :]
    plain = slice_model(model, schedule, many)
    found = slice_model(model, schedule, many, repair=True)
    assert found.repair is not None

    def loss(each) -> float:
        return sum(perplexity(each.model, held).nll) / len(held)

    assert found.repair.unrepaired == pytest.approx(loss(plain), rel=1e-6)
    assert loss(found) == pytest.approx(min(found.repair.repaired, found.repair.unrepaired), rel=1e-6)
    # A repair that ruins the model is told about, and not kept.
    monkeypatch.setattr(WriterFit, "_set", lambda self, maps: None)
    original = WriterFit.apply

    def spoil(self, basis):
        told = original(self, basis)
        self.sublayer.shortcut.mul_(-3.0)
        return told

    monkeypatch.setattr(WriterFit, "apply", spoil)
    spoilt = slice_model(model, schedule, many, repair=True)
    assert spoilt.repair is not None
    assert not spoilt.repair.kept
    assert torch.equal(spoilt.model(held).logits, plain.model(held).logits)


@pytest.mark.parametrize("family", ["llama untied, biases, long heads", "phi", "opt"])
def test_the_fit_solves_the_weighted_equations_and_lowers_the_residual(family, many, monkeypatch):
    """Against a direct solve of the stacked, weighted, ridged rows, for every sub-layer of a model."""
    monkeypatch.setattr(repairing, "RIDGES", (1e-2,))
    seen = []

    class Spying(WriterFit):
        def add(self, entering, target, held, *keep):
            parts = [entering, *self.read, *([torch.ones_like(entering[..., :1])] if self.biased else [])]
            features = torch.cat(parts, dim=-1)
            fitted = len(features) - held
            self.rows = [*getattr(self, "rows", []), (features[:fitted], target[:fitted])]
            super().add(entering, target, held, *keep)

        def apply(self, basis):
            before = self._maps().clone()
            told = super().apply(basis)
            features = torch.cat([f.flatten(0, 1) for f, _ in self.rows])
            target = torch.cat([t.flatten(0, 1) for _, t in self.rows])
            weight = target.square().mean(-1, keepdim=True).rsqrt()
            features, wanted = features * weight, (target * weight) @ basis
            energies = features.square().sum(0)
            ridge = (1e-2 * energies.clamp_min(1e-9 * energies.max())).sqrt().diag()  # some never fire
            stacked = torch.cat([features, ridge])
            aim = torch.cat([wanted - features @ before, torch.zeros_like(before)])
            direct = before + torch.linalg.lstsq(stacked, aim).solution
            after = (features @ direct - wanted).norm()
            assert after <= (features @ before - wanted).norm() * (1 + 1e-9)
            if told.ridge is not None:
                assert torch.allclose(self._maps(), direct, rtol=1e-6, atol=1e-8)
            seen.append(told)
            return told

    monkeypatch.setattr("slicing.slicer.WriterFit", Spying)
    model = tiny_model(family, torch.float64)
    slice_model(model, schedule_for(model), many, repair=True)
    assert len(seen) == len(read_shape(model).sublayers)
    assert any(each.ridge is not None for each in seen)


@pytest.mark.parametrize("turned", [False, True])
def test_the_errors_told_are_those_of_the_rows(turned):
    generator = torch.Generator().manual_seed(2)
    features, mixed, noise = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((4, 50, 7), (7, 5), (4, 50, 5))
    )
    target = features @ mixed + noise
    basis = (
        torch.linalg.qr(torch.randn(5, 3, generator=generator, dtype=torch.float64))[0] if turned else None
    )
    fit = RidgeFit(5, turned=turned)
    fit.add(features, target, 1)
    there = torch.zeros(7, 3 if turned else 5, dtype=torch.float64)
    maps, told = fit.solve(there, basis)
    weight = repairing.token_weights(target)[3]
    wanted = weight * target[3] if basis is None else weight * target[3] @ basis
    for error, tried in ((told.before, there), (told.after, maps)):
        left = (weight * features[3] @ tried - wanted).square().sum()
        assert error == pytest.approx(float(left / wanted.square().sum()), rel=1e-5)
    assert told.after < told.before


def test_the_ridge_is_that_of_trying_all_and_the_map_is_solved_in_fp64(many, monkeypatch):
    """Beside a search through all strengths, each compared in fp64."""
    model = tiny_model("llama")
    found = slice_model(model, schedule_for(model), many, repair=True)
    tried: list[float] = []

    def every(strengths, error, before):
        tried.extend(strengths)
        errors = [error(each) for each in strengths]
        return strengths[int(np.argmin(errors))], min(errors)

    monkeypatch.setattr(repairing, "lowest", every)
    exhaustive = slice_model(model, schedule_for(model), many, repair=True)
    assert len(tried) == len(repairing.RIDGES) * len(read_shape(model).sublayers)
    assert found.repair == exhaustive.repair
    assert all(
        a.equal(b) for a, b in zip(found.model.parameters(), exhaustive.model.parameters(), strict=True)
    )
    assert len({each.ridge for each in found.repair.sublayers}) > 1


@given(
    fall=some.lists(some.floats(0.01, 1.0), max_size=5),
    rise=some.lists(some.floats(0.01, 1.0), max_size=5),
)
def test_downhill_finds_the_least_of_what_falls_and_then_rises(fall, rise):
    errors = [*np.cumsum(fall)[::-1], 0.0, *np.cumsum(rise)]
    strengths = [10.0 ** (place - 3) for place in range(len(errors))]
    asked = []

    def error(strength):
        asked.append(strength)
        return errors[strengths.index(strength)]

    assert lowest(strengths, error, errors[0] + 1.0) == (strengths[len(fall)], 0.0)
    assert len(asked) == len(set(asked))  # each is solved once


def test_where_downhill_nothing_is_gained_all_strengths_are_tried():
    errors = {0.1: 0.9, 0.3: 1.2, 1.0: 1.1, 3.0: 1.15, 10.0: 1.2}
    assert lowest(list(errors), errors.__getitem__, 1.0) == (0.1, 0.9)
    assert lowest(list(errors), errors.__getitem__, 1.3) == (1.0, 1.1)


def test_of_few_strengths_all_are_tried():
    errors = {0.1: 0.9, 0.3: 1.2, 1.0: 1.1, 3.0: 1.05}
    assert lowest(list(errors), errors.__getitem__, 1.3) == (0.1, 0.9)


@pytest.mark.parametrize("family", ["llama", "llama untied, biases, long heads", "phi", "opt"])
def test_what_writers_read_is_kept_where_there_is_room_and_changes_nothing(family, many, monkeypatch):
    model = tiny_model(family, torch.float64)
    added, passes, made = _Rotated.added, [], []
    for budget in (None, (0, 0)):
        count = Counter[str]()

        def counting(*args, count=count):
            count.update(["pass"])
            return added(*args)

        monkeypatch.setattr(_Rotated, "added", counting)
        made.append(slice_model(model, schedule_for(model), many, repair=True, budget=budget))
        passes.append(count["pass"])
    first, other = (dict(each.model.named_parameters()) for each in made)
    assert made[0].repair == made[1].repair
    assert all(tensor.equal(other[name]) for name, tensor in first.items())
    assert passes[1] - passes[0] == len(read_shape(model).sublayers)  # of one batch


def test_repair_is_the_same_every_time(many):
    model = tiny_model("qwen2")
    first, again = (slice_model(model, schedule_for(model), many, repair=True) for _ in range(2))
    assert first.repair == again.repair
    assert torch.equal(first.model(many).logits, again.model(many).logits)


def test_repair_neither_adds_a_parameter_nor_changes_the_dense_model(many):
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain, repaired = (
        slice_model(model, schedule_for(model), many, repair=repair).model for repair in (False, True)
    )
    shapes = [{name: p.shape for name, p in each.named_parameters()} for each in (plain, repaired)]
    assert shapes[0] == shapes[1]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_states_on_disk_are_repaired_to_the_same(many):
    model = tiny_model("llama")
    in_memory, on_disk = (
        slice_model(model, schedule_for(model), many, repair=True, budget=budget) for budget in (None, (0, 0))
    )
    assert in_memory.repair == on_disk.repair


def test_what_is_held_out_is_never_nothing():
    assert [held_out(count) for count in (2, 8, 16, 64)] == [1, 1, 2, 64 // HELD_OUT]
    with pytest.raises(PlanError, match="use 2 or more"):
        held_out(1)


def test_a_mixture_of_experts_is_refused_in_one_sentence(windows):
    model = tiny_model("mixtral")
    with pytest.raises(UnsupportedError, match=r"'experts\.down_proj' is one for every expert: slice"):
        slice_model(model, schedule_for(model), windows, repair=True)


@pytest.mark.parametrize("span", [0, 2])
@pytest.mark.parametrize("family", ["llama", "phi", "opt", "gemma"])
def test_where_the_dense_stream_is_kept_it_passes_once_and_nothing_else_changes(family, span, many):
    """Of three slicings, the first of those that keep it passes the dense stream, and the second none."""
    model = tiny_model(family, torch.float64)
    schedule = schedule_for(model).model_copy(update={"span": span})
    passes, made, kept = Counter[int](), [], DenseStates()
    refuse_unless_invariant(model)  # once for each model
    writer = sublayers(model)[0][-1].writers[-1]
    writer.register_forward_hook(lambda *_: passes.update([len(made)]))
    for states in (None, kept, kept):
        made.append(slice_model(model, schedule, many, repair=True, kept=states))
    first, *others = (dict(each.model.named_parameters()) for each in made)
    for other in others:
        assert all(torch.allclose(each, other[name], rtol=1e-7, atol=1e-10) for name, each in first.items())
    assert {place: passes[place] - passes[2] for place in (0, 1)} == {0: 1 + (span > 0), 1: 1}
    assert kept.claim() > 0.0
