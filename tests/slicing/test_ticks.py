"""Every phase of every kind of request tells its steps, so that no bar stands still for long."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import byte_tokenizer, tiny_model

from analysis import batches
from analysis.errors import Cancelled
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.ticks import bars_told, part_of
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.steps import STEPS
from slicing.store import open_model, open_telling
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, ShrinkRequest, Trial
from slicing.studies.run import perform
from slicing.studies.study import Study, comparison
from slicing.wish import Wish

BLOCKS = 6
AT_ONCE = {"Reading text"}
"""Phases without steps: a text becomes tokens in one call of the tokenizer."""
BY_TRIALS = {"Trials", "Previews", "Full forms", "Finalists"}
"""Phases whose steps are trials, which may be few."""
TEXT = "Whoever waits wants to see that something moves, and how far it has come by now. "
TASK = """
task: ticking
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{options}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""


class Recorder:
    """Notes what every phase tells, in order."""

    def __init__(self) -> None:
        self.told: dict[str, list[tuple[int, int]]] = {}

    def __call__(self, phase: str, done: int, total: int) -> None:
        self.told.setdefault(phase, []).append((done, total))

    def steps(self, phase: str) -> int:
        """How often a phase went on."""
        return len({done for done, _ in self.told[phase] if done})

    def standing(self) -> dict[str, list[tuple[int, int]]]:
        """The phases that went on no more than twice, and what they told."""
        few = {phase for phase in self.told if self.steps(phase) <= 2}
        named = {phase for phase in few if not phase.startswith(tuple(AT_ONCE | BY_TRIALS))}
        return {phase: self.told[phase] for phase in named}


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The fields that requests share, on a tiny model of six blocks; windows pass one at a time."""
    monkeypatch.setattr(batches, "batch_tokens", lambda *_: 1)
    tiny_model("llama", num_hidden_layers=BLOCKS).save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    (tmp_path / "text.txt").write_text(TEXT * 60)
    (tmp_path / "other.txt").write_text(TEXT.upper() * 60)
    return {
        "model": ModelSource.parse(str(tmp_path / "tiny")),
        "calibration": TextSource.parse(str(tmp_path / "text.txt"), "calibration"),
        "calibration_windows": 6,
        "profile_windows": 4,
        "window_length": 24,
    }


@pytest.fixture
def judged(asked: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    other = TextSource.parse(str(tmp_path / "other.txt"), "evaluation")
    return {**asked, "evaluation": other, "evaluation_windows": 8}


@pytest.fixture
def tasks(tmp_path: Path) -> dict[str, Any]:
    """A task of the harness."""
    pytest.importorskip("lm_eval")
    rows = [{"question": f"Is {n} even?", "options": ["yes", "no"], "answer": n % 2} for n in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "ticking.yaml").write_text(TASK.format(data=tmp_path / "rows.jsonl"))
    return {"tasks": ("ticking",), "task_folder": folder}


def test_a_profile_with_everything(asked: dict[str, Any]) -> None:
    seen = Recorder()
    named = ("model", "window_length")
    request = ProfileRequest(
        **{name: asked[name] for name in named},
        text=asked["calibration"],
        windows=6,
        bases=True,
        probes=("leave-one-out", "slice-one"),
        lens=True,
        units=True,
        units_measured=True,
    )
    perform(request, seen)
    assert seen.standing() == {}
    assert seen.steps("Finding bases") == 2 * BLOCKS
    assert {"Opening", "Profiling", "Finding bases"} <= set(seen.told)


@pytest.mark.parametrize(
    "line",
    [
        "slice(dynamic)",
        "slice(dynamic,one_shot=true)",
        "slice(dynamic,repair=writers)",
        "slice(plain=true)",
        "laco",
        "sliding-merge",
        "shortgpt",
        "sleb",
        "fasp",
        "modegpt",
    ],
)
def test_making_a_model_by(asked: dict[str, Any], tmp_path: Path, line: str) -> None:
    seen = Recorder()
    recipe = Recipe.parse(line)
    blocks = any(step.axis == "depth" for step in recipe.steps)
    budget = Budget.parse("blocks=2") if blocks else Budget.parse("parameters=0.2")
    other = TextSource.parse(str(tmp_path / "other.txt"), "evaluation")
    request = CompressRequest(**asked, recipe=recipe, budget=budget, evaluation=other, evaluation_windows=6)
    perform(request, seen)
    assert seen.standing() == {}
    assert seen.told["Saving"] == [(done, 4) for done in range(5)]


def test_a_search_for_shares(asked: dict[str, Any]) -> None:
    seen = Recorder()
    plan = Plan(allocation="searched", rounding=1)
    perform(SearchRequest(**asked, plan=plan, windows=2), seen)
    assert seen.standing() == {}


def test_a_trial_with_tasks(judged: dict[str, Any], tasks: dict[str, Any]) -> None:
    seen = Recorder()
    trial = Trial(**judged, **tasks, recipe=Recipe.parse("shortgpt"), budget=Budget.parse("blocks=2"))
    perform(trial, seen)
    assert seen.standing() == {}
    assert seen.told["Tasks"][0] == (0, 10)  # two options of each question
    assert seen.told["Tasks"][-1] == (10, 10)


def test_a_comparison(judged: dict[str, Any]) -> None:
    seen = Recorder()
    study = comparison(Plan(rounding=1), **judged, speed_rounds=3, new_tokens=0)
    perform(study, seen)
    assert seen.standing() == {}


def test_a_study_of_many_trials_goes_on_with_each(judged: dict[str, Any]) -> None:
    seen = Recorder()
    recipes = tuple(Recipe.parse(line) for line in ("shortgpt", "last-blocks", "laco"))
    budgets = tuple(Budget.parse(f"blocks={count}") for count in (1, 2, 3))
    study = Study(**judged, recipes=recipes, budgets=budgets)
    assert not study.told_singly
    perform(study, seen)
    assert seen.standing() == {}
    assert seen.steps("Trials") >= 9


def test_a_wish(judged: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Recorder()
    few = ("shortgpt", "last-blocks", "fasp", "slice")
    monkeypatch.setattr("slicing.studies.candidates.STEPS", {name: STEPS[name] for name in few})
    wish = Wish(minutes=600.0, fewer=0.3)
    perform(ShrinkRequest(**judged, wish=wish, speed_rounds=0, preview_windows=3), seen)
    assert seen.standing() == {}
    assert set(seen.told) >= {"Previews", "Full forms", "Finalists"}


def test_opening_goes_on_tensor_by_tensor(asked: dict[str, Any]) -> None:
    seen = Recorder()
    opened = open_telling(asked["model"], seen)
    assert seen.steps("Opening") >= 9 * BLOCKS  # the tensors of each block
    assert seen.told["Opening"][-1] == (seen.told["Opening"][-1][1],) * 2
    assert sum(1 for _ in opened.model.parameters()) >= 9 * BLOCKS


@pytest.mark.parametrize("error", [Cancelled("stopped"), RuntimeError("broken")])
def test_whoever_listens_can_stop_the_opening(asked: dict[str, Any], error: Exception) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if done == 3:
            raise error

    with pytest.raises(type(error)) as raised:
        open_telling(asked["model"], stop)
    assert raised.value is error
    assert open_model(asked["model"]).model is not None  # and nobody listens any more


def test_bars_inside_are_told_and_others_are_left_as_they_were() -> None:
    from transformers.utils import logging

    told: list[tuple[int, int]] = []
    with bars_told(lambda done, total: told.append((done, total))):
        assert list(logging.tqdm([1, 2, 3], desc="x", disable=True)) == [1, 2, 3]
        with logging.tqdm(total=2, disable=True) as bar:
            bar.update()
            bar.update(1)
    list(logging.tqdm([1, 2], disable=True))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3), (0, 2), (1, 2), (2, 2)]


def test_parts_count_behind_one_another() -> None:
    seen = Recorder()
    part_of(seen, 4, 10)("Working", 3, 6)
    assert seen.told == {"Working": [(7, 10)]}
