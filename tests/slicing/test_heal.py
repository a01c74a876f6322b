"""Healing: it lowers the loss on windows held out, goes on after a kill, stops early, and gives back what it
cannot better.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable
from functools import cache, partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from torch import Tensor
from torch.nn import functional
from typer.testing import CliRunner

from analysis.errors import PlanError, TextError
from analysis.evaluate import perplexity
from analysis.read_shape import read_shape
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from app.cli import app
from slicing.budget import Budget
from slicing.healing import training
from slicing.healing.block import train_block
from slicing.healing.examples import Examples
from slicing.healing.limits import Limits, rate_at
from slicing.healing.need import training_need
from slicing.healing.record import Healed
from slicing.healing.resume import DAYS, Resume, trainings_folder, trainings_told
from slicing.healing.student import merged, student_of, trainable
from slicing.healing.training import LOOKS, PATIENCE, Settings, train
from slicing.steps import find_step
from slicing.steps.base import Made
from slicing.store import open_model
from slicing.studies.files import parse_study, write_study
from slicing.studies.healing import healing_windows
from slicing.studies.judge import count_parameters
from slicing.studies.recipe import Recipe
from slicing.studies.requests import SEARCHED, CompressRequest, Trial
from slicing.studies.run import make_smaller, perform
from slicing.studies.searching import search_windows
from slicing.studies.store import MODEL_FOLDER, load_run
from slicing.studies.study import Study, recipes
from slicing.view import ModelView

LENGTH = 24


@pytest.fixture(autouse=True)
def exact(monkeypatch):
    """Have matrix products in fp32, whatever the processor multiplies in."""
    monkeypatch.setattr("slicing.steps.healing.training_precision", lambda device: "exact")


def counting(count: int, seed: int) -> Tensor:
    """Windows (N, T) of text that can be learned: every token is the one before it plus a step."""
    drawn = torch.Generator().manual_seed(seed)
    first, by = (
        torch.randint(3, 60, (count, 1), generator=drawn),
        torch.randint(1, 4, (count, 1), generator=drawn),
    )
    return 3 + (first + by * torch.arange(LENGTH)) % 57


WINDOWS, TEXT = counting(16, 0), counting(72, 1)


def next_token(model: Any, rows: Examples) -> Tensor:
    logits = model(rows.tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
    return functional.cross_entropy(logits, rows.tokens[:, 1:].flatten())


def settings(**own: Any) -> Settings:
    return Settings(**{"name": "it", "rate": 1e-2, "batch": 8, "seed": 0, "precision": "exact", **own})


def trained(
    model: Any, tokens: int, resume: Resume | None = None, loss: Any = next_token, **own: Any
) -> Healed:
    text, held = Examples.of(TEXT[8:]), Examples.of(TEXT[:8])
    return train(model, loss, text, held, Limits(tokens), settings(**own), lambda used: None, resume)


@pytest.fixture(scope="module")
def dense() -> Any:
    """A tiny model that has learned to count."""
    model = student_of(tiny_model("llama", num_hidden_layers=5))
    trainable(model, "all", 1, 1.0)
    told = trained(model, 40_000)
    assert told.after < 0.6 * told.before
    return merged(model, torch.float32)


def view_of(model: Any, text: Tensor = TEXT) -> ModelView:
    return ModelView(model, WINDOWS, healing_windows=lambda: text)


def healed(line: str, model: Any, text: Tensor = TEXT) -> tuple[Made, Made]:
    """What a recipe makes without its last step, and with it."""
    recipe, budget, view = Recipe.parse(line), Budget.parse("parameters=0.2"), view_of(model, text)
    before, _ = make_smaller(Recipe(steps=recipe.cutting), budget, view)
    made, _ = make_smaller(recipe, budget, view)
    return before, made


LINES = (
    "shortgpt | distil(tokens=4000, rate=0.003, batch=4)",
    "shortgpt | distil(tokens=4000, rate=0.003, states=1)",
    "fasp | distil(tokens=8000, rate=0.003)",
    "fasp | finetune(tokens=4000, rate=0.003, train=all)",
    "fasp | finetune(tokens=8000, rate=0.01, rank=4)",
    "slice(constant, rounding=1) | distil(tokens=4000, rate=0.003)",
    "slice(constant, rounding=1) | finetune(tokens=4000, rate=0.01)",
    "slice(constant, rounding=1, plain=true) | distil(tokens=4000, rate=0.003)",
    "llm-streamline(repair=linear) | distil(tokens=8000, rate=0.003)",
    "shortgpt | reconstruct(tokens=8000, rate=0.001)",
    "fasp | reconstruct(tokens=8000, rate=0.001)",
)


@pytest.fixture(scope="module")
def healed_once(dense: Any) -> Callable[[str], tuple[Made, Made]]:
    """What ``healed`` says of a line, trained once for all tests that only look at it."""
    return cache(lambda line: healed(line, dense))


@pytest.mark.parametrize("line", LINES)
def test_healing_lowers_the_loss_on_windows_that_it_does_not_see(line, dense, healed_once):
    weights = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    before, made = healed_once(line)
    assert all(tensor.equal(weights[name]) for name, tensor in dense.state_dict().items())
    (told,) = made.healed
    assert told.kept
    view, unseen = view_of(dense), counting(16, 7)
    assert view.mean_loss(made.model, unseen) < view.mean_loss(before.model, unseen) - 0.01
    assert told.after == pytest.approx(view.mean_loss(made.model, TEXT[: told.windows]), abs=1e-5)
    assert told.before == pytest.approx(view.mean_loss(before.model, TEXT[: told.windows]), abs=1e-5)


@pytest.mark.parametrize("line", LINES)
def test_a_healed_model_has_the_form_and_the_names_of_the_one_before(line, healed_once):
    before, made = healed_once(line)
    assert type(made.model) is type(before.model)
    shapes = [{n: t.shape for n, t in each.model.state_dict().items()} for each in (before, made)]
    assert shapes[0] == shapes[1]
    assert count_parameters(made.model) == count_parameters(before.model)
    assert not any(each.requires_grad for each in made.model.parameters())
    assert not made.model.training
    assert (made.sliced is None) == (before.sliced is None)
    if made.sliced:
        assert made.sliced.model is made.model


def test_distillation_comes_nearer_to_the_dense_model(dense, healed_once):
    before, made = healed_once(LINES[0])
    rows = counting(8, 9)
    wanted = functional.log_softmax(dense(rows).logits, -1)

    def divergence(model: Any) -> float:
        found = functional.log_softmax(model(rows).logits, -1)
        return float((wanted.exp() * (wanted - found)).sum() / rows.numel())

    assert divergence(made.model) < 0.7 * divergence(before.model)
    step = find_step("distil")()
    loss = step.loss(view_of(dense), Made(dense), before.model)  # type: ignore[attr-defined]
    assert float(loss(before.model, Examples.of(rows))) == pytest.approx(divergence(before.model), abs=1e-5)


def test_weights_that_are_no_better_are_given_back(dense):
    before, made = healed("fasp | finetune(tokens=4000, rate=1, train=all)", dense)
    (told,) = made.healed
    assert not told.kept
    assert told.ended == "no gain"
    assert len(told.looks) == 1 + PATIENCE
    assert "it was not kept" in told.told
    for name, tensor in made.model.state_dict().items():
        assert tensor.equal(before.model.state_dict()[name])


def test_training_ends_where_nothing_is_gained_and_keeps_the_best_look():
    model = student_of(tiny_model("llama", num_hidden_layers=2))
    trainable(model, "all", 1, 1.0)
    unlike = torch.randint(3, 300, TEXT.shape, generator=torch.Generator().manual_seed(5))
    given = Examples.of(unlike), Examples.of(TEXT[:8])
    told = train(model, next_token, *given, Limits(60_000), settings(), lambda used: None)
    assert told.ended == "no gain"
    assert told.tokens < 60_000
    losses = [look.loss for look in told.looks]
    assert told.after == min(losses)
    assert losses[-PATIENCE:] == [each for each in losses[-PATIENCE:] if each >= told.after]
    assert view_of(model).mean_loss(model, TEXT[:8]) == pytest.approx(told.after, abs=1e-5)


def test_a_training_that_was_killed_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    whole, broken = (student_of(tiny_model("llama", num_hidden_layers=2)) for _ in range(2))
    again = copy.deepcopy(broken)
    for each in (whole, broken, again):
        trainable(each, "all", 1, 1.0)
    calls = steps = 0

    def dies(model: Any, rows: Examples) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 60:
            raise KeyboardInterrupt
        return next_token(model, rows)

    def counted(model: Any, rows: Examples) -> Tensor:
        nonlocal steps
        steps += 1
        return next_token(model, rows)

    expected, all_steps = trained(whole, 8000, loss=counted), steps
    with pytest.raises(KeyboardInterrupt):
        trained(broken, 8000, Resume("one", every=0.0), dies)
    resume, steps = Resume("one", every=0.0), 0
    told = trained(again, 8000, resume, counted)
    assert all_steps - calls <= steps < 0.8 * all_steps  # it did not begin anew
    assert told.looks == expected.looks
    assert told.tokens == expected.tokens
    for name, tensor in again.state_dict().items():
        assert tensor.equal(whole.state_dict()[name]), name
    resume.clear()
    assert Resume("one").load() is None


def test_a_reconstruction_that_was_killed_goes_on_behind_what_is_done(dense, tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    monkeypatch.setattr("slicing.steps.healing.Resume", partial(Resume, every=0.0))
    line = "fasp | reconstruct(tokens=2000, rate=0.001)"
    recipe, budget = Recipe.parse(line), Budget.parse("parameters=0.2")
    expected, _ = make_smaller(recipe, budget, view_of(dense))
    places: list[int] = []

    def watched(*given: Any) -> Any:
        if len(places) == 3 and given[2] == 3:
            raise KeyboardInterrupt
        places.append(given[2])
        return train_block(*given)

    monkeypatch.setattr("slicing.steps.reconstruct.train_block", watched)

    def again() -> Made:
        kept = ModelView(dense, WINDOWS, healing_windows=lambda: TEXT, key="kept")
        return make_smaller(recipe, budget, kept)[0]

    with pytest.raises(KeyboardInterrupt):
        again()
    assert places == [0, 1, 2]
    places.append(-1)
    made = again()
    assert places == [0, 1, 2, -1, 3, 4]
    weights = expected.model.state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in made.model.state_dict().items())
    assert made.healed[0].after == expected.healed[0].after
    assert not list(trainings_folder().glob("*.pt"))


def test_trainings_that_nobody_goes_on_with_are_told_of_and_go(dense, tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    assert trainings_told() == ""
    listed = CliRunner().invoke(app, ["runs"])
    assert "interrupted" not in listed.output
    for name in ("old", "young"):
        Resume(name, every=0.0).save(lambda: {"state": {}})
    old, young = (trainings_folder() / f"{name}.pt" for name in ("old", "young"))
    for path, days in ((old, DAYS + 0.1), (young, DAYS - 0.1)):
        then = time.time() - days * 86_400
        os.utime(path, (then, then))
    assert trainings_told().startswith("2 trainings that run or were interrupted take 0.00 GB in ")
    listed = CliRunner().invoke(app, ["runs"])
    assert "2 trainings that run or were interrupted" in listed.output
    view = ModelView(dense, WINDOWS, healing_windows=lambda: TEXT, key="kept")
    make_smaller(Recipe.parse("shortgpt | distil(tokens=400)"), Budget.parse("parameters=0.2"), view)
    assert not old.exists()
    assert young.exists()
    assert trainings_told().startswith("One training that runs or was interrupted takes")


def test_a_file_of_a_training_that_cannot_be_read_is_as_good_as_none(tmp_path, monkeypatch):
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path))
    resume = Resume("one", every=0.0)
    resume.save(lambda: {"state": {}})
    assert resume.load() == {"state": {}}
    resume.path.write_bytes(resume.path.read_bytes()[:40])
    assert resume.load() is None


def test_adapters_leave_all_but_linear_maps_alone():
    model = tiny_model("llama", num_hidden_layers=2)
    student = student_of(model)
    trainable(student, "lora", 4, 8.0)
    told = trained(student, 4000)
    made = merged(student, torch.float32)
    changed = {n for n, t in made.state_dict().items() if not t.equal(model.state_dict()[n])}
    assert changed
    assert all("_proj" in name for name in changed)
    assert told.parameters < count_parameters(model) // 2
    step = (made.state_dict()[next(iter(changed))] - model.state_dict()[next(iter(changed))]).double()
    assert int(torch.linalg.matrix_rank(step, rtol=1e-4)) <= 4


def test_16_bit_models_are_trained_in_fp32_and_come_back_as_they_were(dense):
    small = copy.deepcopy(dense).bfloat16()
    _, made = healed("shortgpt | distil(tokens=4000, rate=0.003)", small)
    assert {each.dtype for each in made.model.parameters()} == {torch.bfloat16}
    assert made.healed[0].kept


def test_minutes_are_kept(dense, monkeypatch):
    monkeypatch.setattr(training, "PATIENCE", 1000)
    _, made = healed("shortgpt | distil(minutes=0.01, rate=0.003)", dense)
    (told,) = made.healed
    assert 0.6 <= told.seconds < 0.6 + 2.0
    assert told.tokens > 0


def test_every_pass_has_each_window_once_in_an_order_of_its_own():
    places = [place for step in range(6) for place in training._order(step, 4, 12, 0)]
    assert sorted(places[:12]) == sorted(places[12:]) == list(range(12))
    assert places[:12] != places[12:]
    assert places == [place for step in range(6) for place in training._order(step, 4, 12, 0)]
    assert places != [place for step in range(6) for place in training._order(step, 4, 12, 1)]


def test_the_rate_rises_and_falls_and_the_budget_ends_it():
    rates = [rate_at(each / 100, 1.0) for each in range(101)]
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert all(a < b for a, b in pairwise(rates[: top + 1]))
    assert all(a > b for a, b in pairwise(rates[top:]))
    assert 0.0 < rates[-1] < 0.1
    assert Limits(100).used(50, 1e9) == 0.5
    assert Limits(100, 10.0).used(10**9, 5.0) == 0.5
    assert Limits(100).used(1000, 0.0) == 1.0


def test_the_looks_are_as_many_as_are_said(dense):
    _, made = healed("shortgpt | distil(tokens=2000, rate=0.0001)", dense)
    assert len(made.healed[0].looks) <= LOOKS + 1
    assert made.healed[0].looks[0].tokens == 0


def request_on(path: Any, **own: Any) -> Any:
    text = TextSource.parse(str(path), "calibration")
    model = ModelSource(kind="hub", location="slicescope/tiny")
    return Trial(**{"model": model, "calibration": text, "evaluation": text, "window_length": 24, **own})


def test_healing_sees_no_window_of_calibration_or_of_a_search(tmp_path):
    (tmp_path / "text.txt").write_text(" ".join(map(str, range(2000))))
    request, tokenizer = request_on(tmp_path / "text.txt", calibration_windows=8, seed=3), byte_tokenizer()
    windows = healing_windows(request, tokenizer)
    calibration = token_windows(request.calibration, tokenizer, 24, 8, 3)
    searched = search_windows(request, tokenizer, 4)
    rows = {tuple(row.tolist()) for row in windows}
    assert len(rows) == len(windows) > 100
    for other in (calibration, searched):
        assert not rows & {tuple(row.tolist()) for row in other}
    assert windows.tolist() != sorted(windows.tolist())
    assert healing_windows(request, tokenizer).equal(windows)
    assert not healing_windows(request_on(tmp_path / "text.txt", seed=4), tokenizer).equal(windows)


@pytest.mark.parametrize("shared", ["calibration", "search_text"])
def test_a_healing_text_that_others_draw_from_too_is_shared_out(tmp_path, shared):
    for name in ("text", "other"):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name[0]}{place}" for place in range(2000)))
    other = TextSource.parse(str(tmp_path / "other.txt"), "calibration")
    request = request_on(tmp_path / "text.txt", calibration_windows=8, search_text=other)
    request = request.model_copy(update={"healing_text": getattr(request, shared)})
    tokenizer = byte_tokenizer()
    rows = {tuple(row.tolist()) for row in healing_windows(request, tokenizer)}
    assert len(rows) > 100
    calibration = token_windows(request.calibration, tokenizer, 24, 8, request.seed)
    for seen in (calibration, search_windows(request, tokenizer, SEARCHED)):
        assert not rows & {tuple(row.tolist()) for row in seen}


def test_a_healing_text_of_its_own_is_drawn_from_and_watched(tmp_path):
    (tmp_path / "text.txt").write_text("a short text " * 300)
    (tmp_path / "other.txt").write_text("something else " * 300)
    tokenizer, other = byte_tokenizer(), TextSource.parse(str(tmp_path / "other.txt"), "calibration")
    own = request_on(tmp_path / "text.txt", healing_text=other)
    assert len(healing_windows(own, tokenizer)) == len(token_windows(other, tokenizer, 24, None))
    told = own.model_copy(update={"evaluation": other}).warnings(None)
    assert any("Healing and evaluation are both on" in each for each in told)
    assert own.view_key == request_on(tmp_path / "text.txt").view_key
    few = request_on(tmp_path / "text.txt", calibration_windows=1000)
    with pytest.raises(TextError, match="so that none is left to heal on: give more text, or a healing text"):
        healing_windows(few, tokenizer)


def test_only_trials_that_heal_have_a_healing_text(tmp_path):
    (tmp_path / "text.txt").write_text("a short text " * 300)
    trial = request_on(tmp_path / "text.txt")
    study = Study(
        model=trial.model,
        calibration=trial.calibration,
        evaluation=trial.evaluation,
        healing_text=trial.calibration,
        recipes=recipes("sleb", "sleb | distil"),
        budgets=(Budget.parse("parameters=0.2"),),
    )
    assert [each.healing_text is not None for each in study.trials()] == [False, False, True]
    assert len({each.view_key for each in study.trials()}) == 1


def test_too_little_text_is_told(dense):
    with pytest.raises(
        PlanError, match=r"has 8 windows of 24 tokens .* 8 of them are held out: give more text"
    ):
        healed("shortgpt | distil", dense, TEXT[:8])
    with pytest.raises(PlanError, match="no text to heal on"):
        make_smaller(
            Recipe.parse("shortgpt | distil"), Budget.parse("parameters=0.2"), ModelView(dense, WINDOWS)
        )


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("distil", "begin with a step that makes the model smaller, as in 'sleb . distil'"),
        ("distil | sleb", "Steps that train come last"),
        ("sleb(share=0.5) | distil", "leaves a share to no other"),
        ("sleb | distil(share=0.5)", "'distil' makes nothing smaller: leave its share out"),
        ("sleb | distil(repair=linear)", "repair"),
        ("slice(constant) | reconstruct", "has other directions: choose 'distil' instead"),
        ("slice(constant) | distil(states=1)", "leave 'states' out"),
        ("sleb | distil(tokens=0)", "tokens"),
        ("sleb | distil(train=some)", "train"),
    ],
)
def test_what_cannot_be_healed_is_told_in_one_sentence(line, told):
    with pytest.raises(PlanError, match=told):
        Recipe.parse(line)


def test_a_recipe_is_what_it_is_without_its_healing():
    line = "sleb(share=0.5) | fasp(repair=writers)"
    recipe = Recipe.parse(f"{line} | reconstruct | distil(minutes=2)")
    assert Recipe(steps=recipe.cutting) == Recipe.parse(line)
    assert recipe.kind == "both"
    assert recipe.repaired == "writers"
    assert recipe.heals
    assert not recipe.quick
    assert recipe.short == "sleb/fasp/reconstruct/distil"


def test_training_takes_more_memory_the_more_is_trained():
    shape = read_shape(tiny_model("llama"))
    need = [training_need(shape, 1000, each, 24, 4).total for each in (1000, 100, 10)]
    assert need == sorted(need, reverse=True)
    assert need[0] - need[1] == 900 * 4 * 4
    assert math.isfinite(need[0])


KEPT = (
    "fasp | distil(tokens=600, rate=0.01, batch=2)",
    "shortgpt | finetune(tokens=600, rate=0.01, batch=2) | reconstruct(tokens=600)",
    "slice(constant, rounding=1) | distil(tokens=600, rate=0.01, batch=2)",
)


@pytest.mark.parametrize("line", KEPT)
def test_a_healed_model_is_kept_and_opens_as_it_was_evaluated(line, tmp_path):
    folder, text = tmp_path / "tiny", tmp_path / "text.txt"
    tiny_model("llama", num_hidden_layers=4).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    text.write_text(
        "What is taken away from the middle is missed less than what is taken away before it. " * 60
    )
    asked = request_on(text, model=ModelSource.parse(str(folder), device="cpu"))
    run = perform(
        CompressRequest(
            model=asked.model,
            calibration=asked.calibration,
            calibration_windows=6,
            profile_windows=2,
            window_length=24,
            evaluation=asked.evaluation,
            evaluation_windows=4,
            recipe=Recipe.parse(line),
            budget=Budget.parse("parameters=0.3"),
        )
    )
    result: Any = run.result
    assert [told.step for told in result.healed] == [each.split("(")[0] for each in line.split(" | ")[1:]]
    assert any(told.kept for told in result.healed)
    place = runs_folder() / run.key / MODEL_FOLDER
    opened = open_model(ModelSource.parse(str(place), device="cpu"))
    windows = token_windows(asked.evaluation, byte_tokenizer(), 24, 4)
    assert list(perplexity(opened.model, windows).nll) == pytest.approx(list(result.smaller.nll), abs=1e-4)
    card = (place / "README.md").read_text()
    assert all(told.told in card for told in result.healed)
    assert load_run(runs_folder() / run.key) == run


HEALING = ("sleb | distil", "sleb | reconstruct | finetune(tokens=900)", "sleb | distil(minutes=2)", "sleb")


def study_of(path: Any, *lines: str, **own: Any) -> Study:
    asked = request_on(path)
    shared = {name: getattr(asked, name) for name in ("model", "calibration", "evaluation")}
    return Study(**shared, recipes=recipes(*lines), budgets=(Budget.parse("parameters=0.2"),), **own)


def test_a_study_fixes_the_tokens_that_its_recipes_are_trained_on(tmp_path):
    (tmp_path / "text.txt").write_text("a short text " * 300)
    study = study_of(tmp_path / "text.txt", *HEALING, redrawn=recipes(HEALING[0]), healing_tokens=5000)
    assert [each.line for each in study.recipes] == [
        "sleb | distil(tokens=5000)",
        "sleb | reconstruct(tokens=5000) | finetune(tokens=900)",
        "sleb | distil(minutes=2)",
        "sleb",
    ]
    assert study.redrawn == study.recipes[:1]
    assert [each.recipe for each in study.trials()[1:]] == list(study.recipes)
    by_hand = study_of(tmp_path / "text.txt", "sleb | distil(tokens=5000)")
    assert by_hand.trials()[1].key == study.trials()[1].key
    written = write_study(study)
    assert "healing_tokens = 5000\n" in written
    assert parse_study(written, "it") == study == Study.model_validate_json(study.model_dump_json())
    said = 'budgets = ["blocks=2"]\nrecipes = ["sleb | distil"]\nhealing_tokens = '
    assert parse_study(f"{said}70\n", "it").recipes == recipes("sleb | distil(tokens=70)")
    with pytest.raises(PlanError, match="The key 'healing_tokens' must be a whole number from 0"):
        parse_study(f"{said}-1\n", "it")


def test_recipes_that_are_healed_on_different_amounts_are_told(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("a short text " * 300)

    def told(*lines: str, **own: Any) -> list[str]:
        return [each for each in study_of(path, *lines, **own).warnings(None) if "different amounts" in each]

    (sentence,) = told(*HEALING)
    assert (
        "'sleb | distil' on 200,000 tokens; 'sleb | reconstruct | finetune(tokens=900)' on 66,436 "
        in sentence
    )
    assert "'sleb | distil(minutes=2)' on 2 minutes" in sentence
    assert "'sleb'" not in sentence
    assert told("sleb | distil", "sleb | reconstruct")
    assert not told("sleb | distil", "sleb | reconstruct", healing_tokens=5000)
    assert not told("sleb", "sleb | distil")
