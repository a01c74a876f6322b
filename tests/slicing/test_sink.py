"""The attention sink: whether a cut that takes it out is told of, and one that leaves it is not."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.anatomy import blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app.report import build_report
from app.wording import typeset
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.operator import reduce_blocks
from slicing.inner.cut import BranchCuts, UnitCut, cut_model
from slicing.inner.sink import FIRST, LostSink, first_tokens, lost_sink
from slicing.steps import find_step
from slicing.steps.base import Made
from slicing.steps.fasp import Fasp
from slicing.steps.inner import Inner, InnerPlan
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest
from slicing.studies.results import warnings
from slicing.studies.run import perform
from slicing.studies.sound import CHECKS
from slicing.studies.store import MODEL_FOLDER, load_run
from slicing.studies.study import Study
from slicing.view import ModelView

CHANNELS, SINK = 48, 7
"""The channel of block 1 that makes the sink."""
WINDOWS = torch.randint(3, 300, (8, 24), generator=torch.Generator().manual_seed(3))
DENSE = Layout.whole(3)


@pytest.fixture
def model() -> Any:
    """A model with a sink made by hand: the first position fires one channel, which writes a lot."""
    made = tiny_model("gpt2")
    made.transformer.wpe.weight[0, 0] += 40.0
    mlp: Any = blocks(made)[1].mlp
    norm: Any = blocks(made)[1].ln_2
    norm.weight.fill_(1.0)
    norm.bias.zero_()
    mlp.c_fc.weight[:, SINK] = 0.0
    mlp.c_fc.weight[0, SINK] = 10.0
    mlp.c_fc.bias[SINK] = -45.0  # the normed coordinate is 5.4 at the first position, and about 1 elsewhere
    mlp.c_proj.weight[SINK] = 0.0
    mlp.c_proj.weight[SINK, 5] = 500.0
    return made


def without(channels: list[int]) -> list[list[BranchCuts]]:
    """The cuts that take these channels out of block 1."""
    kept = np.setdiff1d(np.arange(CHANNELS), channels)
    return [[(), [UnitCut("channels", kept)] if place == 1 else ()] for place in range(3)]


def cut(model: Any, channels: list[int]) -> Any:
    made = reduce_blocks(model, DENSE, check=False)
    cut_model(made, without(channels))
    return made


def sizes(model: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    """The norms behind every block, by transformers' own hidden states; the last is after the final norm."""
    found = model(tokens, output_hidden_states=True).hidden_states
    return [each.norm(dim=-1) for each in found[1:-1]]


def test_the_model_has_a_sink_and_the_cut_takes_it_out(model):
    """What the other tests stand on."""
    behind = sizes(model, WINDOWS)[1]
    assert (behind[:, 0] > 20 * behind[:, 1:].median()).all()
    assert (sizes(cut(model, [SINK]), WINDOWS)[1][:, 0] < 0.1 * behind[:, 0]).all()


def test_a_sink_that_is_cut_out_is_lost_and_another_cut_loses_none(model):
    found = lost_sink(model, cut(model, [SINK]), DENSE, WINDOWS)
    assert found is not None
    assert found.block == 1
    assert found.tokens == FIRST
    tokens = first_tokens(WINDOWS, 300)
    there, left = (sizes(each, tokens)[1][:, 0] for each in (model, cut(model, [SINK])))
    assert found.ratio == pytest.approx(float((left / there).median()), rel=1e-4)
    assert "behind block 1 the state of the median of 64 first tokens has" in found.told
    for others in ([], [0], [SINK + 1, SINK + 2]):
        assert lost_sink(model, cut(model, others), DENSE, WINDOWS) is None


def test_a_model_without_a_sink_loses_none(model):
    plain = tiny_model("gpt2")
    assert lost_sink(plain, cut(plain, list(range(1, CHANNELS))), DENSE, WINDOWS) is None


def test_blocks_that_are_gone_are_passed_over(model):
    """Block 0 is gone; the sink behind the dense block 1 is compared to that behind the first one left."""
    layout = Layout.without(3, [0])
    reduced = reduce_blocks(model, layout, check=False)
    assert lost_sink(model, reduced, layout, WINDOWS) is None
    cut_model(reduced, without([SINK])[1:])
    found = lost_sink(model, reduced, layout, WINDOWS)
    assert found is not None and found.block == 1


def test_first_tokens_are_those_of_the_windows_and_others_unless_all_begin_alike():
    tokens = first_tokens(WINDOWS, 300)
    assert tokens.shape == (FIRST, 1)
    assert len(tokens.unique()) == FIRST
    assert set(WINDOWS[:, 0].tolist()) <= set(tokens[:, 0].tolist())
    assert int(tokens.min()) >= 0 and int(tokens.max()) < 300
    alike = torch.cat([torch.ones(8, 1, dtype=torch.long), WINDOWS], dim=1)
    assert first_tokens(alike, 300).tolist() == [[1]]
    assert len(first_tokens(WINDOWS, 5)) < FIRST  # a vocabulary may be smaller


def test_a_step_tells_of_a_lost_sink(model):
    view, step = ModelView(model, WINDOWS), find_step("fasp")(restore=False)
    assert isinstance(step, Inner)
    budget = Budget(measure="size", amount=view.shape.parameters - 64)
    plan = step.decide(view, budget, Made(model))
    made = step.apply(view, plan, Made(model))
    assert made.sink is None and made.warnings == ()
    made = step.apply(view, InnerPlan(plan.widths, without([SINK])), Made(model))
    assert made.sink is not None
    assert made.warnings == (made.sink.told,)


def test_a_run_a_study_a_report_and_a_model_card_tell_of_it(model, tmp_path, monkeypatch):
    """The step is made to take the sink out, whatever its scores say."""
    real = Fasp.plan
    monkeypatch.setattr(Fasp, "plan", lambda *asked: InnerPlan(real(*asked).widths, without([SINK])))
    (tmp_path / "text.txt").write_text("A sink is where attention goes that has nowhere else to go. " * 40)
    text = TextSource(kind="file", location=str(tmp_path / "text.txt"))
    asked: dict[str, Any] = {
        "model": ModelSource(kind="hub", location="slicescope/tiny"),
        "calibration": text,
        "calibration_windows": 4,
        "profile_windows": 2,
        "window_length": 24,
        "evaluation": text,
        "evaluation_windows": 2,
    }
    recipe, budget = Recipe.parse("fasp(restore=false)"), Budget.parse("parameters=0.01")
    opened = OpenModel(model, byte_tokenizer())
    run = perform(CompressRequest(**asked, recipe=recipe, budget=budget), opener=lambda _: opened)
    result: Any = run.result
    assert isinstance(result.sink, LostSink)
    told = result.sink.told
    assert warnings(result) == (*result.profile.warnings(), told)
    again = load_run(runs_folder() / run.key)
    assert warnings(again.result) == warnings(result)
    assert told in (runs_folder() / run.key / MODEL_FOLDER / "README.md").read_text()
    assert html.escape(typeset(told)) in build_report(run)
    impossible = result.model_copy(update={"sink": result.sink.model_copy(update={"block": 3})})
    assert any("got block 3" in each for each in CHECKS["compress"](run.request, impossible))
    study = Study(**asked, recipes=(recipe,), budgets=(budget,))
    found = perform(study, opener=lambda _: opened).result
    assert warnings(found) == (*found.profile.warnings(), f"{recipe.short_title}. {told}")
