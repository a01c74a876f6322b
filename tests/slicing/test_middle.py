"""A width of its own between attention and MLP, against a dense model whose stream is projected there."""

from __future__ import annotations

import pytest
import torch
from conftest import FAMILIES, tiny_model
from pydantic import ValidationError

from analysis.anatomy import anatomy_of, blocks
from analysis.bases import find_bases
from analysis.errors import PlanError
from analysis.hooks import entering_states
from analysis.read_shape import read_shape
from analysis.source import ModelSource
from analysis.texts import TextSource
from slicing.plan import Plan
from slicing.runs import ContestRecipe, Entry
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.store import load_sliced, save_sliced

SEQUENTIAL = [name for name in FAMILIES if len(anatomy_of(tiny_model(name).config).sublayers) == 2]
PARALLEL = sorted({*FAMILIES} - {*SEQUENTIAL})
MIDDLES = (12, 30, 21)


def schedule_for(model, widths=(24, 16, 29, 32), middles=MIDDLES) -> SlicingSchedule:
    form = "shared" if read_shape(model).tied else "untied"
    return SlicingSchedule(hidden_size=32, widths=widths, embedding=form, middles=middles)


@torch.no_grad()
def test_the_stream_is_projected_between_attention_and_mlp(windows):
    model = tiny_model("llama", torch.float64)
    bases = find_bases(model, windows)
    sliced = recut(model, schedule_for(model, widths=(32,) * 4), bases).model
    states, contexts = entering_states(model, windows)
    for place, (block, context) in enumerate(zip(blocks(model), contexts, strict=True)):
        states = states + block.self_attn(block.input_layernorm(states), **context)[0]
        kept = bases.vectors[2 * place + 1][:, : MIDDLES[place]].to(states)
        states = states @ kept @ kept.T
        states = states + block.mlp(block.post_attention_layernorm(states))
    expected = model.lm_head(model.model.norm(states))
    found = sliced(windows).logits
    assert float((found - expected).norm() / expected.norm()) < 1e-4  # bases are kept in fp32
    assert float((found - model(windows).logits).norm() / expected.norm()) > 0.01


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_predicted_sizes_are_those_of_the_built_model_and_folders_come_back(
    family, windows, tmp_path, tokenizer
):
    model = tiny_model(family)
    shape, schedule = read_shape(model), schedule_for(model)
    found = [
        slice_model(model, schedule, windows),
        recut(model, schedule, find_bases(model, windows)),
    ]
    for each in found:
        assert sum(part.numel() for part in each.model.parameters()) == schedule.shape_after(shape).parameters
        inside = [block.sublayers[1].entering for block in blocks(each.model)]
        assert tuple(inside) == MIDDLES
    save_sliced(found[0], tokenizer, tmp_path / "made", made_from="tiny", calibration="words")
    loaded, _ = load_sliced(ModelSource(kind="folder", location=str(tmp_path / "made")))
    assert loaded.schedule == schedule
    assert torch.equal(loaded.model(windows).logits, found[0].model(windows).logits)
    assert "Between attention and MLP: 12, 30, 21." in (tmp_path / "made" / "README.md").read_text()


def test_repair_fits_it_too(windows):
    model = tiny_model("llama")
    shape, schedule = read_shape(model), schedule_for(model)
    repaired = slice_model(model, schedule, windows, repair=True)
    assert sum(part.numel() for part in repaired.model.parameters()) == schedule.shape_after(shape).parameters
    assert all(row.after <= row.before for row in repaired.repair.sublayers)
    assert any(row.after < row.before for row in repaired.repair.sublayers)


def test_a_plan_cuts_it_in_multiples_of_the_block():
    shape = read_shape(tiny_model("llama"))
    plan = Plan(target=0.25, allocation="constant", settings={}, rounding=1, middle=1.5)
    schedule = plan.schedule((0.0,) * 3, shape)
    assert (schedule.widths, schedule.middles) == ((24, 24, 24, 32), (20, 20, 20))
    assert plan.constant(shape).middles == ()  # stays as published
    usual = plan.model_copy(update={"middle": 1.0}).schedule((0.0,) * 3, shape)
    assert usual.middles == ()
    at_size = plan.at_parameters(usual.shape_after(shape).parameters, (0.0,) * 3, shape)
    assert at_size.widths[0] > usual.widths[0] > at_size.middles[0]


@pytest.mark.parametrize("family", PARALLEL)
def test_it_is_refused_where_attention_and_mlp_are_side_by_side(family):
    model = tiny_model(family)
    with pytest.raises(PlanError, match=r"side by side: leave the middle at 1\.$"):
        schedule_for(model).check_fits(read_shape(model))


def test_what_makes_no_sense_is_refused():
    with pytest.raises(PlanError, match="multiple from 0 to 10 of what a block loses, but is -1"):
        Plan(middle=-1.0)
    with pytest.raises(PlanError, match=r"share a basis .* leave it at 1, or the span at 0"):
        Plan(middle=0.5, span=3)
    with pytest.raises(PlanError, match="slice fraction of a block"):
        Plan(target=0.5, middle=2.0).schedule((1.0,) * 3, read_shape(tiny_model("llama")))
    with pytest.raises((PlanError, ValidationError), match="a width inside of every block, or of none"):
        SlicingSchedule(hidden_size=32, widths=(24, 24, 32), embedding="untied", middles=(12,))


def test_an_entry_says_it():
    entry = Entry.parse("dynamic:lr:base=0+middle=1.25+repair")
    assert (entry.middle, entry.repair, entry.name) == (1.25, True, "dynamic:lr:base=0+middle=1.25+repair")
    texts = {each: TextSource(kind="demo", split=each) for each in ("calibration", "evaluation")}
    recipe = ContestRecipe(model=ModelSource(kind="demo"), **texts, entries=(Entry(), entry), seeds=(0,))
    assert recipe.trial(entry, 0).plan.middle == 1.25
    assert recipe.trial(Entry(), 0).plan.middle == 1.0
    with pytest.raises(PlanError, match=r"only '\+span=blocks'"):
        Entry.parse("constant+middle=x")
