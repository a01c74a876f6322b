"""Blocks that share a basis: the same function where nothing is lost, no shortcut, and one joint basis."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import FAMILIES, tiny_model

from analysis.anatomy import anatomy_of, blocks
from analysis.bases import find_bases, joint_basis
from analysis.errors import PlanError
from analysis.hooks import watch_blocks
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from slicing import modeling_sliced, slicer
from slicing import repair as repairing
from slicing.plans import Plan
from slicing.repair import WriterFit
from slicing.schedule import SlicingSchedule, constant_at_parameters
from slicing.slicer import recut, slice_model
from slicing.store import load_sliced, save_sliced

PLAIN = [name for name in FAMILIES if "mixtral" not in name and "moe" not in name]
WIDTHS = (24, 16, 29, 32)
"""Narrower and wider again within one basis."""


def schedule_for(model, span, widths=WIDTHS) -> SlicingSchedule:
    form = "shared" if read_shape(model).tied else "untied"
    return SlicingSchedule(hidden_size=32, widths=widths, embedding=form, span=span)


def makers(windows):
    return (
        lambda model, schedule: slice_model(model, schedule, windows),
        lambda model, schedule: recut(model, schedule, find_bases(model, windows)),
    )


def turn_everywhere(monkeypatch) -> None:
    """Let the stream turn where nothing is cut, and so need not."""
    monkeypatch.setattr(SlicingSchedule, "cuts", lambda *_: True)

    def turns(block, count, config):
        return config.span == 0 or (block + 1) % config.span == 0 or block + 1 == count

    monkeypatch.setattr(modeling_sliced, "_turns", turns)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shared_basis_alone_changes_nothing(family, windows, monkeypatch):
    turn_everywhere(monkeypatch)
    model = tiny_model(family, torch.float64)
    for make, off in zip(makers(windows), (1e-6, 1e-4), strict=True):  # bases are kept in fp32
        found = make(model, schedule_for(model, 2, (32,) * 4)).model
        assert any(part.shortcut is None for block in blocks(found) for part in block.sublayers)
        logits, expected = found(windows).logits, model(windows).logits
        assert float((logits - expected).norm() / expected.norm()) < off


@pytest.mark.parametrize("span", [1, 2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_sizes_are_those_of_the_built_model(family, span, windows):
    model = tiny_model(family)
    shape, schedule = read_shape(model), schedule_for(tiny_model(family), span)
    for make in makers(windows):
        found = make(model, schedule)
        assert (
            sum(each.numel() for each in found.model.parameters()) == schedule.shape_after(shape).parameters
        )
        assert len(found.discarded) == len(shape.sublayers) + 1
        assert all(0.0 <= lost < 1.0 for lost in found.discarded)
        assert found.discarded[-1] == 0.0
        turns = [part.shortcut is not None for block in blocks(found.model) for part in block.sublayers]
        assert turns == [site.turns for site in schedule.sites(shape)]


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("repair", [False, True])
def test_the_stream_that_is_carried_is_that_of_the_model(family, repair, windows, monkeypatch):
    streams = []

    class Noted(slicer._Rotated):
        def __init__(self, *given):
            super().__init__(*given)
            streams.append(self)

    monkeypatch.setattr(slicer, "_Rotated", Noted)
    monkeypatch.setattr(slicer, "_loss", lambda model, windows: 0.0 if len(streams) % 2 else 1.0)
    model = tiny_model(family, torch.float64)
    found = slice_model(model, schedule_for(model, 2), windows, repair=repair)
    leaving = {}
    with watch_blocks(found.model, lambda block, _, states: leaving.update({block: states})):
        found.model(windows, use_cache=False)
    stream = streams[-1].stream  # of the plain model where both are made
    last = torch.cat([stream.at(index) for index in range(len(stream))])
    assert torch.allclose(last, leaving[2], rtol=1e-8, atol=1e-9)


def test_rounding_does_not_grow_with_the_number_of_turns(windows, monkeypatch):
    turn_everywhere(monkeypatch)
    model = tiny_model("llama", num_hidden_layers=30)
    found = slice_model(model, schedule_for(model, 1, (32,) * 31), windows).model
    logits, expected = found(windows).logits, model(windows).logits
    assert float((logits - expected).norm() / expected.norm()) < 1e-4


def test_a_saved_model_is_the_same(windows, tmp_path, tokenizer):
    model = tiny_model("llama")
    sliced = slice_model(model, schedule_for(model, 2), windows)
    save_sliced(sliced, tokenizer, tmp_path / "it", made_from="it", calibration="it")
    again, _ = load_sliced(ModelSource(kind="folder", location=str(tmp_path / "it"), dtype="float32"))
    assert again.schedule == sliced.schedule
    assert torch.equal(again.model(windows).logits, sliced.model(windows).logits)


def test_generation_with_cache_is_that_without(windows):
    model = tiny_model("llama")
    sliced = slice_model(model, schedule_for(model, 3), windows).model
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    first, second = (sliced.generate(windows[:2], use_cache=cached, **options) for cached in (True, False))
    assert torch.equal(first, second)


def test_the_joint_basis_weighs_every_site_alike(windows):
    bases = find_bases(tiny_model("llama"), windows)
    shared = bases.shared(range(2, 6))
    total = torch.zeros(32, 32, dtype=torch.float64)
    for site in range(2, 6):
        moment = (bases.vectors[site].double() * bases.energies[site]) @ bases.vectors[site].double().T
        total += moment / moment.trace()
    expected = joint_basis([1e6 * total])[0].float()
    # Each column up to its sign.
    assert torch.allclose((shared * expected).sum(0).abs(), torch.ones(32), atol=1e-4)
    own = bases.shared(range(3, 4))
    assert bases.missed(3, own[:, :20]) == pytest.approx(bases.discarded(3, 20), abs=1e-6)
    assert bases.missed(4, own[:, :20]) > bases.discarded(4, 20)


def test_repair_without_a_shortcut_solves_for_the_writers_alone(windows, monkeypatch):
    monkeypatch.setattr(repairing, "RIDGES", (1e-9,))
    model = tiny_model("llama", torch.float64)
    sliced = slice_model(model, schedule_for(model, 3), windows).model
    sublayer = blocks(sliced)[0].sublayers[0]
    branches = anatomy_of(model.config).sublayers[0]
    draw = torch.Generator().manual_seed(1)
    entering = torch.randn(4, 50, 24, generator=draw).double()
    fit = WriterFit(sublayer, branches, 32)
    read = torch.randn(4, 50, fit.writers[0].in_features, generator=draw).double()
    map_to = torch.randn(read.shape[-1], 32, generator=draw).double()
    target = read @ map_to + torch.randn(4, 50, 32, generator=draw).double()
    fit.read = [read]
    fit.add(entering, target, held=2)
    basis = torch.linalg.qr(torch.randn(32, 24, generator=draw).double())[0]
    assert fit.apply(basis).ridge is not None
    weights = target.square().mean(-1, keepdim=True).rsqrt()
    rows, wanted = ((weights * each)[:2].flatten(0, 1) for each in (read, target @ basis - entering))
    expected = torch.linalg.lstsq(rows, wanted).solution
    assert torch.allclose(fit.writers[0].weight.T, expected, atol=1e-4)
    assert sublayer.shortcut is None


def test_a_span_costs_no_parameters_and_leaves_constant_slicing_as_published(windows):
    shape = read_shape(tiny_model("llama"))
    plan = Plan(allocation="constant", rounding=1, blocks_per_basis=3)
    planned, constant = plan.schedule((0.0,) * 3, shape), plan.constant(shape)
    size = planned.shape_after(shape).parameters
    assert constant.span == constant_at_parameters(shape, size, 1, planned.embedding).span == 0
    saved = sum(site.shortcut for site in constant.sites(shape)) - sum(
        site.shortcut for site in planned.sites(shape)
    )
    assert saved == 5 * 24 * 24
    assert constant.shape_after(shape).parameters - planned.shape_after(shape).parameters == saved
    assert (
        constant.shape_after(shape).flops_per_token - planned.shape_after(shape).flops_per_token == 2 * saved
    )
    with pytest.raises(PlanError, match="0 or more blocks, but -1"):
        Plan(blocks_per_basis=-1)


def test_the_schedule_and_the_modelling_file_turn_alike():
    for count, span in itertools.product((2, 3, 5), range(7)):
        for widths in itertools.product((4, 8), repeat=count):
            schedule = SlicingSchedule(hidden_size=8, widths=(*widths, 8), embedding="untied", span=span)
            config = SimpleNamespace(span=span, widths=[*widths, 8])
            for block in range(count):
                assert schedule.turns(block, True) == modeling_sliced._turns(block, count, config)


def test_blocks_that_cut_nothing_stay_in_the_plain_basis(windows):
    model = tiny_model("llama")
    shape = read_shape(model)
    whole = schedule_for(model, 4, (32,) * 4)
    assert not any(site.turns for site in whole.sites(shape))
    found = slice_model(model, whole, windows).model
    logits, expected = found(windows).logits, model(windows).logits
    assert float((logits - expected).norm() / expected.norm()) < 1e-5


def test_symmetric_parameters_are_those_of_the_bases_that_can_be_turned():
    shape = read_shape(tiny_model("llama"))  # three blocks of two sub-layers
    own = schedule_for(tiny_model("llama"), 0, (24, 16, 29, 32))
    assert own.symmetric_parameters(shape) == 2 * (24 * 23 + 16 * 15 + 29 * 28) // 2
    shared = schedule_for(tiny_model("llama"), 2, (24, 16, 29, 32))
    # The first 16 dimensions are in both blocks, the 8 after them in one: neither mixes with the other.
    assert shared.symmetric_parameters(shape) == (16 * 15 + 8 * 7) // 2 + 29 * 28 // 2
    assert schedule_for(tiny_model("llama"), 3, (32,) * 4).symmetric_parameters(shape) == 0
