"""Recipes give the numbers that they gave before they were made of steps: what was stored, to 1e-7.

``tests/data/recipes.json`` was made by commit bd1a211, the last one with entries, plans and removals, on each
of the tiny models and the texts below. ``bench.Trials.make`` made every trial of a ``ContestRecipe`` of
``USUAL_ENTRIES`` at a target of 0.3, of one at equal slice, and of the contest of a ``LeaderboardRecipe`` of
``BOARD_ENTRIES`` and searched shares, with 3 windows to decide on; some too with the method "preview".
``bench.perform`` made the comparisons, the removals of 2 blocks, a slicing, a search and a profile. Entries
are stored by the lines that their recipes have now. Models are in fp64 and losses in fp32, which processors
with other instructions round otherwise.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model

from analysis.evaluate import Perplexity
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from slicing.budget import Budget
from slicing.plans import Plan
from slicing.studies import run
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, Trial
from slicing.studies.results import Measurement
from slicing.studies.run import Trials, perform
from slicing.studies.study import BOARD, USUAL, Study, comparison, recipes
from slicing.studies.verdicts import read_comparison

STORED: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data" / "recipes.json").read_text())
MODELS = {"llama": ("llama", 6, 1), "untied": ("llama untied, biases, long heads", 5, 4)}
"""Family, blocks, rounding."""
ROUNDING = 1e-12
"""Errors relative to the energy: those of dense streams are below 1e-15 here, others from 1e-5 on."""
SAID = "the state of our union is strong and a window of words has a beginning and an end"
GROUPS = [
    (model, budget, seed)
    for model in MODELS
    for budget, seeds in STORED[model]["trials"].items()
    for seed in seeds
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "free_memory", lambda: None)  # looking for garbage takes longer than a trial


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, TextSource]:
    found = {}
    for name in ("calibration", "evaluation", "other"):
        path = tmp_path / f"{name}.txt"
        path.write_text(" ".join(random.Random(name).choices(SAID.split(), k=500)))
        found[name] = TextSource(kind="file", location=str(path), split=name)
    return found


@pytest.fixture
def calibrated(texts) -> dict[str, Any]:
    source = ModelSource(kind="hub", location="slicescope/tiny")
    return {
        "model": source,
        "calibration": texts["calibration"],
        "calibration_windows": 8,
        "profile_windows": 2,
        "window_length": 32,
    }


@pytest.fixture
def judged(calibrated, texts) -> dict[str, Any]:
    return {**calibrated, "evaluation": texts["evaluation"], "other": texts["other"], "evaluation_windows": 4}


def open_tiny(model: str) -> OpenModel:
    family, blocks, _ = MODELS[model]
    return OpenModel(tiny_model(family, torch.float64, num_hidden_layers=blocks), byte_tokenizer())


def numbers(measured: Measurement) -> dict[str, Any]:
    layout, schedule, repair = measured.layout, measured.schedule, measured.repair
    return {
        "nll": list(measured.evaluation.nll),
        "other": list(measured.other.nll) if measured.other else None,
        "parameters": measured.parameters,
        "flops": measured.flops_per_token,
        "widths": list(schedule.widths) if schedule else None,
        "groups": list(map(list, layout.groups)) if layout else None,
        "merge": layout.merge if layout else None,
        "ridges": [(each.ridge, each.before) for each in repair.sublayers] if repair else None,
    }


def check(found: dict[str, Any], stored: dict[str, Any], about: str) -> None:
    """Whole numbers are equal, losses within what fp32 tells, in which they are summed up."""
    assert found.keys() == stored.keys(), about
    for name, value in stored.items():
        if name == "ridges" and value is not None:
            assert len(found[name]) == len(value), (about, name)
            # Where nothing is missed but by rounding, which ridge does best is chance.
            assert all(
                ridge == before
                for (ridge, missed), before in zip(found[name], value, strict=True)
                if missed > ROUNDING
            ), (about, name)
        elif name in ("nll", "other", "dense") and value is not None:
            assert near(found[name], value), (about, name)
        else:
            assert found[name] == value, (about, name)


def near(found: Any, stored: Any) -> bool:
    """Whether all numbers in two plain values are within 1e-7, and all else is equal."""
    if isinstance(stored, dict):
        return found.keys() == stored.keys() and all(near(found[name], stored[name]) for name in stored)
    if isinstance(stored, list):
        return len(found) == len(stored) and all(map(near, found, stored))
    return found == (pytest.approx(stored, rel=1e-7, abs=1e-7) if isinstance(stored, float) else stored)


@pytest.mark.parametrize(("model", "budget", "seed"), GROUPS)
def test_trials_are_those_of_before(model, budget, seed, judged):
    trials = Trials(open_tiny(model))
    for line, stored in STORED[model]["trials"][budget][seed].items():
        amount = Budget.parse(budget) if line != "dense" else None
        trial = Trial(**judged, seed=int(seed), recipe=Recipe.parse(line), budget=amount)
        result = trials.make(trial).result
        assert result.kind == "trial"
        check(numbers(result.measurement), stored, line)


@pytest.mark.parametrize(("model", "place"), [(m, p) for m in MODELS for p in range(7)])
def test_comparisons_are_those_of_before(model, place, judged):
    line, target, stored = STORED[model]["compared"][place]
    (step,) = Recipe.parse(line).steps
    plan: Plan = step.plan_at(Budget(amount=target))  # type: ignore[attr-defined]
    form: dict[str, Any] = {"one_shot": getattr(step, "one_shot", False), "repair": step.repair}
    study = comparison(plan, **form, **{**judged, "other": None}, new_tokens=3, speed_rounds=0)
    result = perform(study, opener=lambda _: open_tiny(model)).result
    assert result.kind == "study"
    found = read_comparison(study, result).measured
    assert list(found) == list(stored)
    for name, measured in found.items():
        check(numbers(measured), stored[name], f"{line}: {name}")


@pytest.mark.parametrize("model", MODELS)
def test_models_that_are_kept_are_those_of_before(model, calibrated, texts):
    def nll(judged: Perplexity | None) -> list[float]:
        assert judged
        return list(judged.nll)

    for line, budget, stored in STORED[model]["compressed"]:
        request = CompressRequest(
            **calibrated,
            recipe=Recipe.parse(line),
            budget=Budget.parse(budget),
            evaluation=texts["evaluation"],
            evaluation_windows=4,
        )
        result = perform(request, opener=lambda _: open_tiny(model)).result
        assert result.kind == "compress"
        found = {
            "nll": nll(result.smaller),
            "dense": nll(result.dense),
            "parameters": result.parameters,
            "widths": list(result.schedule.widths) if result.schedule else None,
            "groups": list(map(list, result.layout.groups)) if result.layout else None,
        }
        check(found, stored, line)


@pytest.mark.parametrize("model", MODELS)
def test_a_search_finds_the_shares_of_before(model, calibrated):
    plan = Plan(rounding=MODELS[model][2], target=0.3, allocation="searched", settings={"draw": 1})
    result = perform(SearchRequest(**calibrated, plan=plan, seed=1), opener=lambda _: open_tiny(model)).result
    assert result.kind == "search"
    assert result.shares == pytest.approx(
        STORED[model]["shares"], abs=1e-5
    )  # rounded to 1e-6, and to one sum


def test_a_profile_is_that_of_before(calibrated):
    asked = {name: calibrated[name] for name in ("model", "window_length")}
    probes = ("leave-one-out", "slice-one", "discarded-energy")
    request = ProfileRequest(**asked, text=calibrated["calibration"], windows=2, drawn=8, probes=probes)
    found = json.loads(perform(request, opener=lambda _: open_tiny("llama")).result.profile.to_json())
    stored = STORED["llama"]["profile"]
    assert found.keys() == stored.keys()
    for name, value in stored.items():
        if name == "measurements":  # of which there may be more by now
            assert near({measured: found[name][measured] for measured in value}, value)
        elif name not in ("model", "text", "seconds"):
            assert near(found[name], value), name


def of_then(line: str) -> bool:
    """Tell whether the code before knew all of a recipe: it cut nothing inside blocks."""
    steps = Recipe.parse(line).steps
    return all(each.axis != "inner" and each.repair != "projections" for each in steps)


def test_every_recipe_that_ships_is_among_them(judged):
    def plain(line: str) -> str:
        """The line without what all lines here are given."""
        steps = Recipe.parse(line).steps
        usual = (
            each.model_copy(update={"rounding": 8} if each.axis == "stream" else {"windows": 4})
            for each in steps
        )
        return Recipe(steps=tuple(usual)).line

    stored = STORED["llama"]["trials"]
    for lines, budget in ((USUAL, "like_constant=0.3"), (BOARD, "parameters=0.45")):
        assert set(filter(of_then, lines)) <= set(map(plain, stored[budget]["0"]))
    assert Study(**judged, recipes=recipes(*BOARD), budgets=(Budget.parse("parameters=0.45"),))
