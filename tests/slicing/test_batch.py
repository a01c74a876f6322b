"""All of a job passes as many windows at a time, and its result says how many."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model
from slicing.runs import CompareRecipe, ProfileRecipe, RemoveRecipe
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import analysis.evaluate
from analysis.evaluate import Perplexity
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from slicing.plan import Plan
from slicing.steps.removal import Removal
from slicing.study.results import Run, TextUsed
from slicing.study.run import perform

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
    monkeypatch.setattr(analysis.evaluate, "batch_tokens", lambda device: 2 * LENGTH)
    found: set[int] = set()

    def look(module: nn.Module, args: Any) -> None:
        if isinstance(module, nn.Embedding) and args and args[0].shape[1:] == (LENGTH,):
            found.add(len(args[0]))

    handle = register_module_forward_pre_hook(look)
    yield found
    handle.remove()


def made(recipe: Any) -> Run:
    return perform(recipe, opener=lambda source: OpenModel(tiny_model("llama"), byte_tokenizer()))


def test_all_of_a_comparison_passes_alike(tmp_path, passed):
    plan = Plan(rounding=1, span=2)
    recipe = CompareRecipe(**shared(tmp_path), plan=plan, repair=True, lens=True, new_tokens=0)
    result: Any = made(recipe).result
    assert passed == {1, 2}  # one is what is left of an odd number
    assert result.calibration.batch == result.evaluation.batch == 2
    for each in result.contestants:
        assert each.evaluation.batch == 2
        assert each.evaluation.protocol.endswith("likelihood, 2 windows at a time")


@pytest.mark.parametrize("closing", ["matrix", "writers"])
def test_all_of_a_removal_passes_alike(tmp_path, passed, closing):
    recipe = RemoveRecipe(**shared(tmp_path), removal=Removal(closing=closing), blocks=1)
    result: Any = made(recipe).result
    assert passed == {1, 2}
    assert result.calibration.batch == result.dense.batch == result.reduced.batch == 2


def test_a_profile_says_it_too(tmp_path, passed):
    common = shared(tmp_path)
    recipe = ProfileRecipe(model=common["model"], text=common["calibration"], windows=1, window_length=LENGTH)
    result: Any = made(recipe).result
    assert result.text.batch == result.profile.batch == 1
    assert passed == {1}


def test_results_of_earlier_versions_say_nothing_of_it():
    used = TextUsed(label="", windows=1, window_length=8, digest="")
    earlier = Perplexity(
        perplexity=2.0, nll=(0.7,), window_length=8, tokens_per_second=1.0, seconds=1.0, peak_memory=1
    )
    assert used.batch is earlier.batch is None
    assert "at a time" not in earlier.protocol
