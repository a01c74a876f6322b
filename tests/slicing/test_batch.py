"""All of a job passes as many windows at a time, and its result says how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import analysis.batches
from analysis.evaluate import Perplexity
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest
from slicing.studies.results import Run, TextUsed
from slicing.studies.run import perform
from slicing.studies.study import comparison

LENGTH = 24


def shared(folder: Path) -> dict[str, Any]:
    text = folder / "text.txt"
    text.write_text("A whole is what has a beginning and middle and end. " * 40)
    source = TextSource.parse(str(text), "calibration")
    return {
        "model": ModelSource(kind="demo"),
        "calibration": source,
        "evaluation": source,
        "calibration_windows": 5,
        "profile_windows": 3,
        "evaluation_windows": 9,
        "window_length": LENGTH,
    }


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The numbers of windows that any model was given at a time."""
    monkeypatch.setattr(analysis.batches, "batch_tokens", lambda device: 2 * LENGTH)
    found: set[int] = set()

    def look(module: nn.Module, args: Any) -> None:
        if isinstance(module, nn.Embedding) and args and args[0].shape[1:] == (LENGTH,):
            found.add(len(args[0]))

    handle = register_module_forward_pre_hook(look)
    yield found
    handle.remove()


def made(request: Any) -> Run:
    return perform(request, opener=lambda source: OpenModel(tiny_model("llama"), byte_tokenizer()))


def test_all_of_a_comparison_passes_alike(tmp_path, passed):
    plan = Plan(rounding=1, blocks_per_basis=2)
    study = comparison(plan, **shared(tmp_path), repair="writers", lens=True, new_tokens=0)
    result: Any = made(study).result
    assert passed == {1, 2}  # one is what is left of an odd number
    assert result.calibration.batch == result.evaluation.batch == 2
    for each in (*result.measurements, *result.matched):
        assert each.evaluation.batch == 2
        assert each.evaluation.protocol.endswith("likelihood, 2 windows at a time")


@pytest.mark.parametrize("repair", ["linear", "writers"])
def test_all_of_a_removal_passes_alike(tmp_path, passed, repair):
    recipe = Recipe.parse(f"sleb(repair={repair})")
    request = CompressRequest(**shared(tmp_path), recipe=recipe, budget=Budget.parse("blocks=1"))
    result: Any = made(request).result
    assert passed == {1, 2}
    assert result.calibration.batch == result.dense.batch == result.smaller.batch == 2


def test_a_profile_says_it_too(tmp_path, passed):
    common = shared(tmp_path)
    request = ProfileRequest(
        model=common["model"], text=common["calibration"], windows=1, window_length=LENGTH
    )
    result: Any = made(request).result
    assert result.text.batch == result.profile.batch == 1
    assert passed == {1}


def test_results_of_earlier_versions_say_nothing_of_it():
    used = TextUsed(label="", windows=1, window_length=8, digest="")
    earlier = Perplexity(
        perplexity=2.0, nll=(0.7,), window_length=8, tokens_per_second=1.0, seconds=1.0, peak_memory=1
    )
    assert used.batch is earlier.batch is None
    assert "at a time" not in earlier.protocol
