"""Calibration in a stated precision: who multiplies in bfloat16, who does not, and where that is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.anatomy import blocks
from analysis.bases import find_bases
from analysis.curvature import curvature
from analysis.errors import ModelError
from analysis.evaluate import perplexity
from analysis.precision import calibrating, calibration, check_calibration
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.stream import BlockStream
from app import wording
from app.wording.titles import title
from slicing.budget import Budget
from slicing.studies.files import parse_study, write_study
from slicing.studies.recipe import Recipe
from slicing.studies.requests import Trial
from slicing.studies.run import Trials
from slicing.studies.study import contest

TEXT = "What is said of a number is part of the number, and what is left unsaid is part of it too. "
WINDOWS = torch.arange(192).reshape(4, 48) % 64
RECIPES = (
    "slice(constant, rounding=1)",
    "slice(constant, rounding=1, repair=writers)",
    "slice(dynamic, base=0.1, rounding=1, blocks_per_basis=2, repair=writers)",
    "slice(constant, rounding=1, one_shot=true)",
    "shortgpt(repair=linear)",
    "shortgpt(repair=projections)",
    "fasp",
    "mixed(repair=projections)",
    "modegpt",
    "2ssp",
    "llm-pruner",
)


@pytest.fixture(autouse=True)
def with_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})


@pytest.fixture
def judged(tmp_path: Path) -> dict[str, Any]:
    def source(name: str, text: str) -> TextSource:
        (tmp_path / f"{name}.txt").write_text(text * 30)
        return TextSource.parse(str(tmp_path / f"{name}.txt"), "evaluation")

    return {
        "model": ModelSource(kind="hub", location="slicescope/tiny", dtype="float32"),
        "calibration": source("calibration", TEXT),
        "calibration_windows": 4,
        "profile_windows": 2,
        "evaluation": source("evaluation", TEXT[::-1]),
        "evaluation_windows": 9,
        "window_length": 24,
    }


def products_of(model: Any) -> list[torch.dtype]:
    """Note the dtypes in which the maps of the first block multiply from now on."""
    seen: list[torch.dtype] = []
    blocks(model)[0].mlp.gate_proj.register_forward_hook(lambda _, args, made: seen.append(made.dtype))
    return seen


def test_streams_and_bases_multiply_in_the_precision_of_calibration_and_stay_in_float32():
    model = tiny_model("llama")
    seen = products_of(model)
    exact = BlockStream(model, WINDOWS)
    exact.through(blocks(model)[0], 0)
    with calibrating("fast"):
        assert calibration() == "fast"
        fast = BlockStream(model, WINDOWS)
        fast.through(blocks(model)[0], 0)
        found = find_bases(model, WINDOWS)
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert fast.at(0).dtype is torch.float32
    moved = float((fast.at(0) - exact.at(0)).norm() / exact.at(0).norm())
    assert 0.0 < moved < 0.02
    assert all(each.dtype is torch.float32 for each in found.vectors)
    assert calibration() == "exact"


def test_gradients_multiply_in_the_precision_of_calibration_and_add_up_in_float32():
    model = tiny_model("llama")
    seen = products_of(model)
    exact = curvature(model, WINDOWS, changes=True)
    with calibrating("fast"):
        fast = curvature(model, WINDOWS, changes=True)
    half = len(seen) // 2
    assert {*seen[:half]} == {torch.float32}
    assert {*seen[half:]} == {torch.bfloat16}
    for one, other in zip(exact.moments[0], fast.moments[0], strict=True):
        assert other.dtype is torch.float32
        assert not torch.equal(one, other)
    np.testing.assert_allclose(fast.changes[0], exact.changes[0], rtol=0.2)


def test_profiles_and_losses_are_exact_however_calibration_multiplies():
    model = tiny_model("llama")
    seen = products_of(model)
    exact = perplexity(model, WINDOWS).nll
    with calibrating("fast"):
        assert perplexity(model, WINDOWS).nll == exact
        profile_blocks(model, WINDOWS, model_label="", text_label="")
    assert {*seen} == {torch.float32}


def test_a_processor_without_instructions_for_bfloat16_refuses(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    model = tiny_model("llama")
    check_calibration("exact", model)
    check_calibration("fast", model.to(torch.bfloat16))  # which multiplies so whatever is asked for
    with pytest.raises(ModelError, match=r"\(fast\), for which this CPU has no instructions: calibrate with"):
        check_calibration("fast", model.float())


def test_a_model_that_would_not_multiply_in_bfloat16_refuses():
    model = tiny_model("llama").to(torch.float16)
    with pytest.raises(ModelError, match="this one is in float16: calibrate with exact products, or open it"):
        check_calibration("fast", model)


def test_what_a_stream_passes_is_never_made_less_precise():
    """A student in float32 may follow a model in bfloat16."""
    model = tiny_model("llama").to(torch.bfloat16)
    stream = BlockStream(model, WINDOWS)
    assert stream.at(0).dtype is torch.bfloat16
    stream.through(tiny_model("llama").model.layers[0], 0)
    assert stream.at(0).dtype is torch.float32


def test_training_is_exact_however_calibration_multiplies(judged, monkeypatch):
    made: list[str] = []

    class Noted(BlockStream):
        def __init__(self, *given: Any, **settings: Any) -> None:
            super().__init__(*given, **settings)
            made.append(self.precision)

    monkeypatch.setattr("slicing.steps.reconstruct.BlockStream", Noted)
    recipe = Recipe.parse("shortgpt | reconstruct(tokens=96)")
    trial = Trial(**judged, calibration_precision="fast", recipe=recipe, budget=Budget.parse("blocks=1"))
    result: Any = Trials(OpenModel(tiny_model("llama"), byte_tokenizer())).make(trial).result
    assert made == ["exact"]
    assert len(result.measurement.healed) == 1
    assert title(trial).endswith(", calibrated in bfloat16")


def test_a_trial_is_refused_before_any_work(judged, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    trial = Trial(**judged, calibration_precision="fast", recipe=Recipe.parse(RECIPES[0]), budget=Budget())
    opened = OpenModel(tiny_model("llama"), byte_tokenizer())
    seen = products_of(opened.model)
    with pytest.raises(ModelError, match="calibrate with exact products"):
        Trials(opened).make(trial)
    assert not seen


@pytest.mark.parametrize("line", RECIPES)
def test_what_is_made_differs_a_little_and_says_so(line, judged):
    """The two are runs of their own, and evaluation is exact in both."""
    opened, budget = (
        OpenModel(tiny_model("llama"), byte_tokenizer()),
        Budget(measure="parameters", amount=0.2),
    )
    exact, fast = (
        Trial(**judged, recipe=Recipe.parse(line), budget=budget, calibration_precision=each)
        for each in ("exact", "fast")
    )
    assert exact.key == Trial(**judged, recipe=exact.recipe, budget=budget).key
    assert len({exact.key, fast.key}) == 2
    assert len({exact.view_key, fast.view_key}) == 2
    losses = []
    for trial in (exact, fast):
        result: Any = Trials(opened).make(trial).result
        assert result.calibration.precision == trial.calibration_precision
        assert ("bfloat16" in result.calibration.told) == (trial is fast)
        assert result.measurement.evaluation.precision == "exact"
        losses.append(np.mean(result.measurement.evaluation.nll))
    assert losses[0] == pytest.approx(losses[1], abs=0.03)


def test_calibration_changes_the_model_that_is_made(judged):
    """Else the test above could not fail."""
    opened, recipe = OpenModel(tiny_model("llama"), byte_tokenizer()), Recipe.parse(RECIPES[0])
    found = []
    for precision in ("exact", "fast"):
        trial = Trial(**judged, recipe=recipe, budget=Budget(), calibration_precision=precision)
        result: Any = Trials(opened).make(trial).result
        found.append(result.measurement.evaluation.nll)
    assert found[0] != found[1]


def test_a_study_has_one_precision_for_all_and_its_file_says_it(judged):
    study = contest(
        (Recipe.parse(RECIPES[0]), Recipe.parse("slice(rising, rounding=1)")),
        seeds=(0,),
        **judged,
        calibration_precision="fast",
    )
    assert {trial.calibration_precision for trial in study.trials()} == {"fast"}
    written = write_study(study)
    assert 'calibration_precision = "fast"\n' in written
    assert parse_study(written, "it") == study
    assert "bfloat16" in wording.study_reading(study)[0]
    exact = study.model_copy(update={"calibration_precision": "exact"})
    assert "calibration_precision" not in write_study(exact)
    assert wording.study_reading(exact) == []
