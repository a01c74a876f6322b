"""Previews: re-cuts in the bases of the dense stream, without calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_model

from analysis.bases import find_bases
from analysis.errors import Cancelled, PlanError, StorageError
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from slicing.plans import Plan
from slicing.preview import Previewer, PreviewRequest
from slicing.schedule import SlicingSchedule
from slicing.slicer import recut, slice_model
from slicing.store import open_model
from slicing.studies.requests import ProfileRequest
from slicing.studies.run import perform
from slicing.studies.store import BASES_FILE
from slicing.studies.study import comparison

TEXT = "It is a truth universally acknowledged, that a tensor in possession of many rows must want a basis. "


def schedule_for(model, widths: tuple[int, ...]) -> SlicingSchedule:
    form = "shared" if read_shape(model).tied else "untied"
    return SlicingSchedule(hidden_size=32, widths=widths, embedding=form)


def nll(model, windows: torch.Tensor) -> float:
    logits = model(windows).logits[:, :-1].flatten(0, 1)
    return float(torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten()))


def test_recut_at_full_width_is_the_dense_model(family, windows):
    model = tiny_model(family, torch.float64)
    sliced = recut(model, schedule_for(model, (32,) * 4), find_bases(model, windows))
    assert sliced.method == "preview"
    error = (sliced.model(windows).logits - model(windows).logits).norm() / model(windows).logits.norm()
    assert float(error) < 1e-9


def test_recut_has_the_parts_that_faithful_slicing_has(family, windows):
    model = tiny_model(family)
    schedule = schedule_for(model, (24, 16, 29, 32))
    preview = recut(model, schedule, find_bases(model, windows))
    faithful = slice_model(model, schedule, windows)
    shapes = ({n: p.shape for n, p in each.model.state_dict().items()} for each in (preview, faithful))
    assert next(shapes) == next(shapes)
    assert len(preview.discarded) == len(faithful.discarded)
    # Nothing is cut before the first site, so there the two look at the same stream.
    assert preview.discarded[0] == pytest.approx(faithful.discarded[0], rel=1e-3)


def test_only_where_nothing_was_cut_before_do_preview_and_faithful_agree(windows):
    model = tiny_model("llama", torch.float64)
    bases = find_bases(model, windows)

    def apart(*widths: int) -> float:
        schedule = schedule_for(model, (*widths, 32))
        one, other = recut(model, schedule, bases).model, slice_model(model, schedule, windows).model
        return abs(nll(one, windows) - nll(other, windows))

    assert apart(32, 32, 32) < 1e-6
    assert apart(16, 16, 16) > 1e-3


def test_bases_of_another_model_are_refused(windows):
    bases = find_bases(tiny_model("llama", num_hidden_layers=2), windows)
    with pytest.raises(PlanError, match="bases are those of another model"):
        recut(tiny_model("llama"), schedule_for(tiny_model("llama"), (24, 16, 29, 32)), bases)


@pytest.fixture
def profiled(tiny_folder: Path, tmp_path: Path) -> ProfileRequest:
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 30)
    return ProfileRequest(
        model=ModelSource.parse(str(tiny_folder)),
        text=TextSource.parse(str(text), "calibration"),
        windows=4,
        window_length=32,
        bases=True,
    )


def request_for(key: str, profiled: ProfileRequest, **changes: object) -> PreviewRequest:
    plan = Plan(rounding=1, **changes)  # type: ignore[arg-type]
    return PreviewRequest(run=key, plan=plan, evaluation=profiled.text, windows=8, window_length=16)


def test_preview_measures_what_a_preview_comparison_measures(profiled):
    run = perform(profiled)
    request = request_for(run.key, profiled)
    found = Previewer().preview(request)
    compared: Any = perform(
        comparison(
            request.plan,
            model=profiled.model,
            calibration=profiled.text,
            calibration_windows=4,
            profile_windows=4,
            evaluation=profiled.text,
            evaluation_windows=8,
            window_length=32,
            one_shot=True,
            new_tokens=0,
        )
    ).result
    assert found.gain.contender == "dynamic"
    assert found.dense.perplexity < found.planned.perplexity
    assert compared.measurements[2].schedule is not None
    assert found.planned.window_length == 16


def test_plans_share_what_was_measured_before(profiled, monkeypatch):
    key = perform(profiled).key
    previewer, phases = Previewer(), []

    def listen(phase: str, done: int, total: int) -> None:
        phases.append(phase)

    previewer.preview(request_for(key, profiled, target=0.25), listen)
    first = len(phases)
    previewer.preview(request_for(key, profiled, target=0.25), listen)
    assert len(phases) == first  # nothing was measured twice
    previewer.preview(request_for(key, profiled, target=0.25, settings={"base": 0.0}), listen)
    assert 0 < len(phases) - first < first  # dense and constant were known


def test_preview_can_be_stopped(profiled):
    key = perform(profiled).key

    def stop(phase: str, done: int, total: int) -> None:
        raise Cancelled("Something newer is wanted.")

    previewer = Previewer()
    with pytest.raises(Cancelled):
        previewer.preview(request_for(key, profiled), stop)
    assert previewer.preview(request_for(key, profiled)).planned.perplexity > 1


def test_run_without_bases_is_refused(profiled):
    key = perform(profiled.model_copy(update={"bases": False})).key
    with pytest.raises(StorageError, match="kept no bases"):
        Previewer().preview(request_for(key, profiled))


def test_damaged_bases_are_one_sentence(profiled):
    key = perform(profiled).key
    (runs_folder() / key / BASES_FILE).write_bytes(b"nonsense")
    with pytest.raises(StorageError, match="profile the model again"):
        Previewer().preview(request_for(key, profiled))


def test_family_that_cannot_be_sliced_keeps_no_bases(tmp_path, profiled):
    from conftest import byte_tokenizer

    tiny_model("olmo2").save_pretrained(tmp_path / "olmo2")
    byte_tokenizer().save_pretrained(tmp_path / "olmo2")
    other = profiled.model_copy(update={"model": ModelSource.parse(str(tmp_path / "olmo2"))})
    run = perform(other)
    assert run.result.kind == "profile"
    assert not run.result.bases
    assert not (runs_folder() / run.key / BASES_FILE).exists()
    assert open_model(other.model).model is not None
