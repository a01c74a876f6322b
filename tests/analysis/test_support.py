"""Every type of causal language model that transformers has: what docs/models.md says of it is what works."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
import transformers
from conftest import byte_tokenizer
from every_family import NOT_TRIED, causal_types, tiny
from support_table import passes_guard, support_table, verdict, written_table
from torch.utils.flop_counter import FlopCounterMode

from analysis.anatomy import blocks, decoder, why_not_sliceable
from analysis.families import ANATOMIES
from analysis.read_shape import read_shape
from analysis.read_units import read_units
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.support import NEVER_SLICED, NOT_YET_PROFILED, NOT_YET_SLICED, reason_in
from analysis.units import Kind
from app.wording import inside_blocks
from slicing.inner.widths import KINDS
from slicing.schedule import SlicingSchedule
from slicing.slicer import slice_model
from slicing.store import load_sliced, save_sliced

MIXED = (24, 16, 29, 32)
LEFT_OUT = {
    "bitnet": "rounds its weights to three values as it runs",
    "phi4_multimodal": "reads images or sound too",
}
"""Families that would pass the guard and must not be sliced all the same; and why."""


@pytest.fixture(scope="module")
def verdicts():
    return [verdict(model_type) for model_type in causal_types()]


def test_the_page_says_what_works(verdicts):
    written = written_table()
    if f"transformers {'.'.join(transformers.__version__.split('.')[:2])}," not in written:
        pytest.skip("The page was written for another version of transformers")
    assert written == support_table(verdicts), "run: python tests/every_family.py --write"


def test_every_type_is_in_one_table_and_in_the_right_one(verdicts):
    listed = [
        model_type
        for table in (NEVER_SLICED, NOT_YET_SLICED, NOT_YET_PROFILED)
        for types in table.values()
        for model_type in types.split()
    ]
    assert len(set(listed)) == len(listed)
    assert not set(listed) & set(ANATOMIES)
    for model_type, sliced, profiled, *_ in verdicts:
        assert sliced == (model_type not in listed), model_type
        assert profiled == (reason_in(NOT_YET_PROFILED, model_type) is None), model_type


@pytest.mark.parametrize("model_type", sorted({*causal_types(), "never_heard_of"} - {*ANATOMIES, "gpt-sw3"}))
def test_refusals_are_one_sentence_with_the_reason(model_type):
    said = str(why_not_sliceable(SimpleNamespace(model_type=model_type)))
    assert re.fullmatch(rf"The architecture '{model_type}' cannot be sliced[^.]*: [^.]*\.", said)
    assert ("can still be profiled" in said) == (reason_in(NOT_YET_PROFILED, model_type) is None)
    assert (" yet" in said) == (reason_in(NEVER_SLICED, model_type) is None)


@pytest.mark.parametrize("model_type", sorted(ANATOMIES))
def test_a_card_says_which_units_there_are_and_why_others_are_not(model_type, tmp_path):
    """By its configuration alone, as the weights say it."""
    model = tiny(model_type)
    found = {each.kind for block in read_units(model) for branch in block for each in branch.units}
    model.config.save_pretrained(tmp_path)
    card = describe(ModelSource.parse(str(tmp_path), device="cpu"))
    assert set(card.units) == set(read_shape(model).kinds) == found
    assert set(card.no_units) == set(get_args(Kind)) - found
    assert all(why.endswith(".") and "This branch" not in why for why in card.no_units.values())
    told = inside_blocks(card)
    assert all(KINDS[kind] in told for kind in found)
    (row,) = [line for line in written_table().splitlines() if "yes" in line and f"`{model_type}`" in line]
    assert [mark.strip() == "yes" for mark in row.split("|")[1:-2]] == [
        kind in found for kind in get_args(Kind)
    ]


@pytest.mark.parametrize("model_type", sorted(ANATOMIES))
def test_sliceable_types_are_sliced_as_predicted_kept_and_run(model_type, tmp_path):
    model = tiny(model_type)
    windows = torch.randint(3, 300, (4, 16), generator=torch.Generator().manual_seed(1))
    assert passes_guard(model)
    shape = read_shape(model)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    for form in ("shared", "untied") if shape.tied else ("untied",):
        schedule = SlicingSchedule(hidden_size=32, widths=MIXED, embedding=form)
        sliced: Any = slice_model(model, schedule, windows)
        with FlopCounterMode(display=False) as counter:
            logits = sliced.model(windows).logits
        assert torch.isfinite(logits).all()
        assert schedule.shape_after(shape).parameters == sum(p.numel() for p in sliced.model.parameters())
        products = counter.get_flop_counts()["Global"]
        linear = sum(flops for op, flops in products.items() if str(op) in ("aten.mm", "aten.addmm"))
        assert schedule.shape_after(shape).flops_per_token * windows.numel() == linear

        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        options["attention_mask"] = torch.ones_like(windows[:2])
        cached, plain = (sliced.model.generate(windows[:2], use_cache=c, **options) for c in (True, False))
        assert cached.shape[1] > windows.shape[1]
        assert torch.equal(cached, plain)

        save_sliced(sliced, byte_tokenizer(), tmp_path / form, made_from="tiny", calibration="test")
        loaded = load_sliced(ModelSource.parse(str(tmp_path / form)))[0].model
        # Copied, since the last bit of a sum depends on where in memory a matrix starts.
        assert torch.equal(copy.deepcopy(loaded)(windows).logits, logits)


def test_no_type_that_would_pass_is_left_out_unnoticed(monkeypatch):
    passing = set()
    for model_type in sorted(set(causal_types()) - set(ANATOMIES) - set(NOT_TRIED)):
        model = tiny(model_type)
        if model.config.model_type in ANATOMIES:
            continue
        for family in ("llama", "jais2", "qwen2_moe", "gpt2", "cohere", "phi3"):
            with monkeypatch.context() as patch:
                patch.setitem(ANATOMIES, model.config.model_type, ANATOMIES[family])
                if _passes(model):
                    passing.add(model_type)
                    break
    assert passing == set(LEFT_OUT)
    for model_type, why in LEFT_OUT.items():
        assert why in str(why_not_sliceable(tiny(model_type).config))


def _passes(model) -> bool:
    try:
        return passes_guard(model)
    except Exception:  # the anatomy of another family can fail in any way
        return False


def test_modernbert_and_llama_4_are_not_mistaken_for_their_heads():
    for model_type in ("modernbert-decoder", "llama4_text"):
        model = tiny(model_type)
        assert decoder(model) is model.model
        assert blocks(model) is model.model.layers
