"""Two stored runs side by side: the same windows are known again, and what cannot be paired says why."""

from __future__ import annotations

import pytest
from conftest import tiny_model

from analysis.errors import PlanError
from analysis.sources.model import ModelSource
from slicing.depth.layout import Layout
from slicing.depth.reduce import ReducedModel, reduce_model
from slicing.store import LAYOUT_FILE, layout_at, save_reduced
from slicing.studies.beside import (
    block_numbers,
    difference_of_models,
    difference_of_profiles,
    judged_models,
    profile_windows,
    why_not_paired,
)
from slicing.studies.results import Run
from slicing.studies.store import bundled_board, bundled_run, bundled_units, bundled_widths


def edited(run: Run, **result: object) -> Run:
    return run.model_copy(update={"result": run.result.model_copy(update=result)})


def test_the_same_windows_are_known_again_in_runs_of_other_kinds():
    study, profile = bundled_run(), bundled_units()
    assert profile_windows(study) == profile_windows(profile) is not None
    assert difference_of_profiles(study, profile, "lr").paired
    other = edited(profile, text=profile.result.text.model_copy(update={"digest": "0" * 16}))
    assert not difference_of_profiles(study, other, "lr").paired


def test_profiles_of_other_depths_are_held_side_by_side_by_the_layout_alone():
    dense = bundled_units()
    left = Layout.without(30, (14, 17))
    rows = {
        name: each.model_copy(
            update={
                part: tuple(tuple(row[top] for top in left.tops) for row in found)
                for part in ("rest", "first")
                if (found := getattr(each, part)) is not None
            }
        )
        for name, each in dense.result.profile.measurements.items()
    }
    smaller = dense.result.profile.model_copy(update={"blocks": 28, "measurements": rows})
    known = edited(dense, profile=smaller, layout=left)
    assert block_numbers(known) == (30, left.tops)
    found = difference_of_profiles(dense, known, "lr")
    assert found.blocks.tolist() == list(left.tops)
    assert not found.difference.any()  # it is the same row by row, so that a shift by one would show
    with pytest.raises(PlanError, match="models of 30 and 28 blocks, and nothing tells"):
        difference_of_profiles(dense, edited(dense, profile=smaller), "lr")


def test_a_kept_model_says_which_blocks_are_left(tmp_path, tokenizer):
    model = tiny_model("llama")
    count = model.config.num_hidden_layers
    left = Layout.without(count, (1,))
    about = {"made_from": "tiny", "method": "by hand", "dense_parameters": 10**6, "calibration": "none"}
    save_reduced(reduce_model(model, left), tokenizer, tmp_path / "fewer", **about)
    source = ModelSource(kind="folder", location=str(tmp_path / "fewer"))
    assert layout_at(source) == left
    save_reduced(ReducedModel(model, Layout.whole(count)), tokenizer, tmp_path / "all", **about)
    assert not (tmp_path / "all" / LAYOUT_FILE).exists()
    assert layout_at(ModelSource(kind="folder", location=str(tmp_path / "all"))) is None
    assert layout_at(ModelSource(kind="demo")) is None


def test_models_of_two_studies_on_the_same_windows_are_paired():
    first, second = bundled_widths(), bundled_board()
    assert why_not_paired(first, second) is None
    one, other = judged_models(first), judged_models(second)
    dense = difference_of_models(one[0], other[0])
    assert (dense.nats, dense.windows, dense.verdict) == (0.0, 16, "no clear difference")
    cut = difference_of_models(one[0], other[1])
    assert cut.nats > 0 and cut.verdict == "worse"
    assert len({each.title for each in other}) == len(other)


def test_what_cannot_be_paired_says_why():
    first = bundled_widths()
    used = first.result.evaluation
    other = edited(first, evaluation=used.model_copy(update={"digest": "0" * 16}))
    assert "not the same tokens" in why_not_paired(first, other)
    longer = edited(first, evaluation=used.model_copy(update={"window_length": 1024}))
    assert "512 and 1,024 tokens" in why_not_paired(first, longer)
    assert "judged no model" in why_not_paired(first, bundled_units())
    model = judged_models(first)[0]
    begun = model._replace(evaluation=model.evaluation.model_copy(update={"bos": not model.evaluation.bos}))
    with pytest.raises(PlanError, match="judged in different ways"):
        difference_of_models(model, begun)
