"""The logit lens, and the spans that a view finds, against models that are really made smaller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from every_family import tiny

from analysis.anatomy import blocks
from analysis.errors import ModelError, TextError
from analysis.evaluate import perplexity, window_nll
from analysis.lens import logit_lens
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.steps import find_step
from slicing.studies.requests import ProfileRequest
from slicing.studies.run import perform
from slicing.studies.store import find_details
from slicing.view import ModelView

OTHERS = ("gemma2", "olmo2", "bloom")
"""Families that cannot be sliced; they can be looked through all the same."""


def view_of(model, windows) -> ModelView:
    profile = profile_blocks(model, windows, model_label="tiny", text_label="random")
    return ModelView(model, windows, profile)


def test_the_lens_after_a_block_is_the_loss_of_the_model_cut_off_there(family, windows):
    model = tiny_model(family)
    found = logit_lens(model, windows)
    assert found.shape == (6, 3)
    for block in range(3):
        cut = reduce_blocks(model, Layout.without(3, range(block + 1, 3)))
        np.testing.assert_allclose(found[:, block], perplexity(cut, windows).nll, rtol=1e-5)
    np.testing.assert_array_equal(found[:, -1], perplexity(model, windows).nll)


@pytest.mark.parametrize("name", OTHERS)
def test_families_that_cannot_be_sliced_are_looked_through(name, windows):
    model = tiny(name)
    found = logit_lens(model, windows)
    for block in range(len(blocks(model))):
        cut = reduce_blocks(model, Layout.without(found.shape[1], range(block + 1, found.shape[1])))
        np.testing.assert_allclose(found[:, block], window_nll(cut, windows), rtol=1e-5)


def test_batches_do_not_matter_and_progress_is_told(windows, monkeypatch):
    model, steps = tiny_model("llama"), []
    together = logit_lens(model, windows, lambda *step: steps.append(step))
    assert steps == [("Looking through the head", done, 3) for done in (1, 2, 3)]
    monkeypatch.setattr("analysis.batches.batch_tokens", lambda device: 4 * windows.shape[1])
    np.testing.assert_allclose(logit_lens(model, windows), together, rtol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_looked_through_is_one_sentence(windows):
    model = tiny_model("llama")
    with pytest.raises(TextError, match="at least 2 tokens"):
        logit_lens(model, windows[:, :1])
    with pytest.raises(TextError, match="context ends at 128"):
        logit_lens(model, torch.ones(1, 129, dtype=torch.long))
    model.model.norm.weight[0] = float("nan")
    with pytest.raises(ModelError, match=r"not finite: open the model in float32\.$"):
        logit_lens(model, windows)


def test_a_profile_keeps_the_lens_where_it_was_asked_for(tiny_folder: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text("what is said after every block is not yet what is meant " * 20)
    plain = ProfileRequest(
        model=ModelSource.parse(str(tiny_folder)),
        text=TextSource.parse(str(tmp_path / "text.txt"), "calibration"),
        windows=2,
        window_length=24,
    )
    asked = plain.model_copy(update={"lens": True})
    assert plain.key != asked.key
    details = [find_details(perform(request)) for request in (plain, asked)]
    assert details[0] is not None
    assert details[1] is not None
    assert details[0].lens is None
    assert details[1].lens is not None
    assert details[1].lens.shape == (2, 3)
    assert details[1].lens.dtype == np.float32
    np.testing.assert_array_equal(details[0].similarity, details[1].similarity)
    assert dict(asked.phases())["Looking through the head"] > 0.0
    assert "Looking through the head" not in dict(plain.phases())


@pytest.mark.parametrize("count", [1, 2])
def test_spans_are_picked_by_their_ends(count, windows):
    model = tiny_model("llama", num_hidden_layers=5)
    view = view_of(model, windows)
    spans = view.spans(len(windows))
    assert set(spans) == {"similarity", "angular", "cka"}
    for method, name, pick in (("gromov", "angular", np.argmin), ("llm-streamline", "similarity", np.argmax)):
        ends = [spans[name][first, first + count] for first in range(6 - count)]
        first = int(pick(ends))
        expected = Layout.without(5, range(first, first + count))
        found: Any = find_step(method).read({"windows": len(windows)})
        assert found.layout(view, count) == expected


def test_spans_are_compared_in_one_pass_once(windows):
    steps = []
    view = view_of(tiny_model("llama"), windows)
    view.listener = lambda *step: steps.append(step)
    with view.timing() as seconds:
        assert view.spans(6) is view.spans(6)
        assert seconds() > 0.0
    assert steps == [("Comparing spans", 6, 6)]
