"""The Python interface: what it takes, what it leaves alone, where its runs go, and what it tells."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import subprocess
import sys
import types
import warnings
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, gemma_tokenizer, tiny_model
from transformers import BertConfig, BertModel

import slicing
from analysis.errors import ModelError, PlanError, SlicescopeError, StorageError, TextError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from app.cli.options import ProfileOptions
from slicing.interface import views as finding
from slicing.interface.telling import Bars
from slicing.slicer import slice_model
from slicing.studies.requests import ProfileRequest
from slicing.studies.store import find_run, find_stored, list_runs

ROOT = Path(__file__).parents[2]
TEXT = ["It is a truth universally acknowledged, that a tensor must want a basis. " * 30]
OTHER = ["Call me a vector. Some years ago, never mind how long, I thought I would rotate. " * 30]
SMALL: dict[str, Any] = {"windows": 8, "window_length": 32, "progress": False}


@pytest.fixture
def model():
    return tiny_model("llama")


@pytest.fixture
def opened(model, tokenizer):
    return slicing.load(model, tokenizer)


@pytest.fixture
def found(opened):
    return slicing.profile(opened, TEXT, **SMALL)


@pytest.fixture
def smaller(opened):
    return slicing.compress(opened, "shortgpt", budget="blocks=1", text=TEXT, **SMALL)


def state_of(model: Any) -> dict[str, Any]:
    """All that a user could see of a model."""
    return {
        "weights": {name: each.clone() for name, each in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "learning": [each.requires_grad for each in model.parameters()],
        "configuration": model.config.to_dict(),
        "hooks": [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
    }


# What is imported


def test_importing_it_imports_nothing_heavy():
    script = (
        "import sys, slicing; slicing.Plan(allocation='constant'); slicing.PlanError; dir(slicing); "
        "print({'torch', 'transformers', 'pandas', 'plotly', 'streamlit', 'tqdm', 'app'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_the_verbs_import_nothing_of_the_app():
    script = "import sys, slicing; slicing.profile; print({'plotly', 'streamlit', 'app'} & set(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "set()"


def test_all_names_are_there_documented_and_typed():
    for name in slicing.__all__:
        assert getattr(slicing, name).__doc__
        assert name in dir(slicing)
    assert (ROOT / "slicing" / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'slize'"):
        _ = slicing.slize


def test_a_source_tree_that_is_not_installed_works_too(tiny_folder, monkeypatch):
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "slicescope":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(finding, "entry_points", lambda group: [])
    finding.views.cache_clear()
    found = slicing.profile(tiny_folder, TEXT, **SMALL)
    assert found.run.environment.versions["slicescope"] == "source"
    assert found.plot().data
    assert "slicescope source" in found.report()


# Plans


def test_settings_of_an_allocation_are_given_by_their_names():
    assert slicing.Plan(allocation="constant").rule().name == "constant"
    plan = slicing.Plan(target=0.25, base=0.2)
    assert plan == slicing.Plan(target=0.25, settings={"base": 0.2})
    assert plan.base == 0.2
    with pytest.raises(PlanError, match="'constant' 'base'"):
        slicing.Plan(allocation="constant", base=0.2)
    with pytest.raises(PlanError, match="Did you mean 'target'"):
        slicing.Plan(targt=0.2)


def test_a_plan_for_a_size_reaches_it(found):
    planned = slicing.plan(found, fewer=0.2, rounding=1)
    assert planned.plan.base == 0.1
    fewer = 1 - planned.parameters / planned.dense_parameters
    assert fewer == pytest.approx(7744 / 32864, abs=0.02)  # the nearest whole block
    assert len(planned.frame()) == 3


# Texts


def test_strings_files_and_windows_of_tokens_are_the_same_text(opened, tokenizer, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT[0])
    tokens = torch.tensor(tokenizer(TEXT[0])["input_ids"])
    windows = tokens[: len(tokens) // 32 * 32].view(-1, 32)
    given = (TEXT, tmp_path / "text.txt", str(tmp_path / "text.txt"), windows, windows.numpy())
    said = {"progress": False, "windows": 8}
    results = [slicing.profile(opened, each, **said, window_length=32).profile for each in given[:3]]
    results += [slicing.profile(opened, each, **said).profile for each in given[3:]]
    assert all(each.measurements == results[0].measurements for each in results)


def test_windows_of_tokens_are_read_whole_and_in_order(opened):
    windows = torch.randint(3, 259, (5, 24), generator=torch.Generator().manual_seed(1))
    found = slicing.evaluate(opened, windows, progress=False)
    assert found.measured.nll == perplexity(opened.model, windows).nll
    assert found.frame()["document"].tolist() == [f"window {number}" for number in range(5)]
    profile = slicing.profile(opened, windows, progress=False).profile
    same = profile_blocks(opened.model, windows, model_label="", text_label="")
    assert profile.measurements == same.measurements


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (5, "got int"),
        ([], "got an empty list"),
        ([1, 2], "got list"),
        ("It is a truth.\nIt is another.", "give a list, as in text="),
        ("missing.txt", "'missing.txt' does not exist"),
        ("wikitxt2", "Did you mean 'wikitext2'"),
        (["too short"], "ask for fewer or shorter windows, or give more text"),
        (np.zeros((4, 8)), "whole numbers of the shape"),
        (torch.zeros(8, dtype=torch.long), r"\(8,\)"),
        (torch.full((8, 32), -100), "the least is -100"),
        (torch.full((8, 32), 4000), "4,?000"),
    ],
)
def test_a_text_that_is_none_is_told(opened, text, told):
    with pytest.raises((TextError, ModelError), match=told):
        slicing.profile(opened, text, windows=8, progress=False)


def test_a_file_without_tokens_is_told(opened, tmp_path):
    from safetensors.torch import save_file

    save_file({"weights": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    for name, told in (("model", "holds no tensor 'tokens'"), ("broken", "cannot be read")):
        with pytest.raises(TextError, match=told):
            slicing.profile(opened, tmp_path / f"{name}.safetensors", progress=False)


def test_a_file_of_tokens_is_a_text_by_its_name(tokenizer, tmp_path):
    from safetensors.torch import save_file

    windows = torch.randint(3, 259, (5, 24), generator=torch.Generator().manual_seed(1))
    save_file({"tokens": windows}, tmp_path / "mine.safetensors")
    source = TextSource.parse(str(tmp_path / "mine.safetensors"), "calibration")
    assert torch.equal(token_windows(source, tokenizer, 24, None), windows)
    assert torch.equal(token_windows(source, gemma_tokenizer(), 24, 5), windows)  # as they are, BOS or not
    drawn = token_windows(source, tokenizer, 24, 3, seed=0)
    assert all(any(torch.equal(each, one) for one in windows) for each in drawn)
    with pytest.raises(TextError, match=r"'mine\.safetensors' does not exist"):
        TextSource.parse("mine.safetensors", "calibration")


def test_a_text_to_judge_on_is_asked_for(opened):
    with pytest.raises(TextError, match="There is no text to judge models on"):
        slicing.compare(opened, text=TEXT, progress=False)


# Models


@pytest.mark.parametrize("verb", ["profile", "compress", "heal", "compare", "evaluate"])
def test_the_model_of_the_caller_stays_as_it_is(model, tokenizer, verb):
    model.train().requires_grad_(True)
    model.model.layers[0].requires_grad_(False)
    model.lm_head.weight.grad = gradient = torch.ones_like(model.lm_head.weight)
    before = state_of(model)
    said = {**SMALL, "tokenizer": tokenizer}
    if verb == "profile":
        slicing.profile(model, TEXT, **said, probes=["leave-one-out", "taylor"], lens=True, units=True)
    elif verb == "compress":
        slicing.compress(model, slicing.Plan(rounding=1), text=TEXT, **said)
    elif verb == "heal":
        made = slicing.compress(model, "shortgpt", budget="blocks=1", text=TEXT, **said)
        slicing.heal(made, tokens=256, progress=False)
    elif verb == "compare":
        slicing.compare(model, text=TEXT, evaluation=OTHER, **said, evaluation_windows=8, speed_rounds=0)
    else:
        slicing.evaluate(model, TEXT, **said)
    after = state_of(model)
    weights, same = before.pop("weights"), after.pop("weights")
    assert weights.keys() == same.keys()
    assert all(torch.equal(each, same[name]) for name, each in weights.items())
    assert before == after
    assert model.lm_head.weight.grad is gradient


def test_it_stays_so_where_the_work_fails(model, tokenizer):
    model.train().requires_grad_(True)
    with pytest.raises(TextError):
        slicing.profile(model, ["short"], tokenizer=tokenizer, progress=False)
    assert all(module.training for module in model.modules())
    assert all(each.requires_grad for each in model.parameters())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (5, "got int"),
        (None, "got NoneType"),
        ("./missing", "'./missing' does not exist"),
        (BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), "not a causal"),
    ],
)
def test_a_model_that_is_none_is_told(tokenizer, given, told):
    with pytest.raises(ModelError, match=told):
        slicing.profile(given, TEXT, tokenizer=None if isinstance(given, str) else tokenizer)


def test_a_model_without_tokenizer_or_weights_is_told(model, tokenizer, tiny_folder):
    with pytest.raises(ModelError, match="its tokenizer is needed too"):
        slicing.profile(model, TEXT)
    with pytest.raises(ModelError, match="has no weights in memory"):
        slicing.profile(model.to("meta"), TEXT, tokenizer=tokenizer)
    with pytest.raises(ModelError, match="brings a tokenizer of its own"):
        slicing.load(str(tiny_folder), tokenizer)


def test_what_cannot_be_sliced_is_told(tokenizer):
    model = tiny_model("bloom", n_head=4)
    found = slicing.profile(model, TEXT, tokenizer=tokenizer, **SMALL)
    with pytest.raises(UnsupportedError):
        slicing.plan(found)
    with pytest.raises(UnsupportedError):
        slicing.compress(model, "slice(constant)", text=TEXT, tokenizer=tokenizer, **SMALL)


def test_a_folder_is_opened_as_ever(tiny_folder):
    model, tokenizer = slicing.load(tiny_folder, device="cpu", progress=False)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert tokenizer.decode(tokenizer("words")["input_ids"]) == "words"
    assert not any(each.requires_grad for each in model.parameters())


# Mistakes


@pytest.mark.parametrize(
    ("how", "said", "told"),
    [
        ("shortgtp", {}, "Did you mean 'shortgpt'"),
        (5, {}, "but got int"),
        ("dense", {}, "makes no model smaller"),
        ("shortgpt", {"budget": "parts=0.2"}, "Unknown budget 'parts'"),
        ("shortgpt", {"budget": 0.2}, "A budget is a line"),
        ("shortgpt", {"budget": "blocks=1", "fewer": 0.2}, "leave one of them out"),
        ("shortgpt", {"fewer": 1.5}, "between 0 and 1"),
        ("shortgpt", {"seed": "first"}, "A setting does not fit"),
    ],
)
def test_a_wrong_way_to_compress_is_told(opened, how, said, told):
    with pytest.raises(PlanError, match=told):
        slicing.compress(opened, how, text=TEXT, **{**SMALL, **said})


def test_other_mistakes_are_told(opened, found, smaller):
    with pytest.raises(PlanError, match="Did you mean 'new_tokens'"):
        slicing.compare(opened, text=TEXT, evaluation=OTHER, new_token=0)
    with pytest.raises(PlanError, match="but got str"):
        slicing.compare(opened, "constant", text=TEXT, evaluation=OTHER)
    with pytest.raises(PlanError, match=r"what slicing\.profile gave"):
        slicing.plan(opened)
    with pytest.raises(PlanError, match="leave one of them out"):
        slicing.plan(found, 0.2, fewer=0.2)
    with pytest.raises(PlanError, match="'dynamic' 'bases'"):
        slicing.plan(found, bases=0.2)
    with pytest.raises(PlanError, match="one step that trains"):
        slicing.heal(smaller, how="slice(constant)")
    with pytest.raises(PlanError, match=r"What slicing\.compress gave"):
        slicing.heal(opened)
    with pytest.raises(PlanError, match=r"LR score of every block"):
        found.plot("LR score")


# Smaller models


def test_a_smaller_model_is_one_of_its_own(opened, tmp_path):
    plan = slicing.Plan(target=0.25, rounding=1)
    made = slicing.compress(opened, plan, text=TEXT, evaluation=OTHER, evaluation_windows=4, **SMALL)
    assert made.parameters < made.dense_parameters
    dense = {each.data_ptr() for each in opened.model.parameters()}
    assert not dense & {each.data_ptr() for each in made.model.parameters()}
    windows = torch.randint(3, 259, (4, 32), generator=torch.Generator().manual_seed(1))
    request, profile = made.run.request, made.run.result.profile
    schedule = plan.schedule(profile.redundancy("lr"), made.run.result.shape)
    assert made.run.result.schedule == schedule
    assert request.kind == "compress" and request.budget.line == "mean_slice=0.25"
    saved = slicing.save(made, tmp_path / "smaller")
    assert "Perplexity" in (saved / "README.md").read_text()
    again = slicing.load(saved, device="cpu", progress=False)
    assert slicing.evaluate(again, windows, progress=False).measured.nll == pytest.approx(
        slicing.evaluate(made, windows, progress=False).measured.nll
    )
    assert "slice(dynamic)" not in again.label and "slice" in slicing.evaluate(made, windows).model
    with pytest.raises(StorageError, match="exists already"):
        slicing.save(made, saved)


def test_it_is_the_model_of_the_functions_below(opened, tokenizer):
    ids = torch.tensor(tokenizer(TEXT[0])["input_ids"])
    windows = ids[: 8 * 32].view(8, 32)
    made = slicing.compress(opened, slicing.Plan(allocation="constant"), text=windows, progress=False)
    schedule = made.result.schedule
    assert schedule is not None
    below = slice_model(opened.model, schedule, windows)
    with torch.no_grad():
        torch.testing.assert_close(made.model(windows).logits, below.model(windows).logits)


def test_healing_leaves_what_it_heals(smaller):
    before = {name: each.clone() for name, each in smaller.model.state_dict().items()}
    healed = slicing.heal(smaller, TEXT, how="finetune(rate=0.01)", minutes=0.001, progress=False)
    (told,) = healed.result.healed
    assert told.tokens > 0
    assert healed.run.request.recipe.line == "shortgpt | finetune(minutes=0.001, rate=0.01)"
    assert all(torch.equal(each, before[name]) for name, each in smaller.model.state_dict().items())


# Where runs go


def test_runs_on_a_named_model_are_those_of_the_command_line(tiny_folder, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT[0])
    found = slicing.profile(tiny_folder, text, windows=4, window_length=32, progress=False)
    options = ProfileOptions(text=str(text), windows=4, window_length=32)
    request = ProfileRequest(model=found.run.request.model, **options.fields())
    assert found.run.request == request
    assert find_stored(request) == find_run(found.run.key) == found.run
    assert found.folder == runs_folder() / found.run.key
    apart = slicing.profile(tiny_folder, text, windows=5, window_length=32, store=False, progress=False)
    assert len(list_runs()[0]) == 1
    assert apart.folder.is_dir()
    assert "Depth by depth" in apart.parts()


def test_an_opened_model_is_stored_under_its_name_until_it_changes(tiny_folder):
    opened = slicing.load(tiny_folder, device="cpu", progress=False)
    found = slicing.profile(opened, TEXT, **SMALL)
    assert [run.key for run in list_runs()[0]] == [found.run.key]
    smaller = slicing.compress(opened, "shortgpt", budget="blocks=1", text=TEXT, **SMALL)
    assert len(list_runs()[0]) == 2
    opened.model.model.norm.weight.data[0] += 1.0
    changed = slicing.profile(opened, TEXT, **SMALL)
    assert changed.run.request.model.kind == "memory"
    assert len(list_runs()[0]) == 2
    with pytest.raises(ModelError, match="were changed"):
        slicing.heal(smaller, tokens=256, progress=False)


def test_runs_in_memory_go_with_their_results(opened):
    found = slicing.profile(opened, TEXT, **SMALL)
    folder = found.folder
    assert (folder / "run.json").is_file()
    assert "Depth by depth" in found.parts()
    planned = slicing.plan(found)
    del found
    gc.collect()
    assert not folder.exists()
    assert len(planned.frame()) == 3
    assert list_runs()[0] == []


def test_what_was_in_memory_is_told_where_it_is_opened(found):
    from slicing.store import open_model

    with pytest.raises(ModelError, match="was in the memory of another program"):
        open_model(found.run.request.model)
    report = found.report()
    assert "no command repeats this" in report
    assert "slicescope profile" not in report


# What results show


def test_every_result_shows_itself(opened, found, smaller, tmp_path):
    said = {**SMALL, "evaluation": OTHER, "evaluation_windows": 8}
    compared = slicing.compare(opened, text=TEXT, **said, new_tokens=0, speed_rounds=0)
    ranked = slicing.study(opened, ["slice(constant)", "shortgpt"], "blocks=1", text=TEXT, **said)
    several = slicing.study(
        opened, ["slice(constant)", "shortgpt"], ["blocks=1", "blocks=2"], text=TEXT, **said
    )
    judged = slicing.evaluate(opened, OTHER, **SMALL)
    for number, each in enumerate((found, smaller, slicing.plan(found), compared, ranked, several, judged)):
        frame, figure = each.frame(), each.plot()
        assert len(frame) >= 1
        assert figure.data
        shown = each._repr_html_()
        assert "<table" in shown
        assert each.sentence and each.sentence.split()[0] in shown
        assert each.sentence in repr(each)
        assert each.plot(each.parts()[-1]).data
        page = each.report(tmp_path / f"{number}.html")
        assert (tmp_path / f"{number}.html").read_text() == page
        assert page.startswith("<!doctype html>")
    assert ranked.frame()["recipe"].str.contains("shortgpt", case=False).any()
    assert len(several.measurements) == 5
    assert compared.measurements[0].name == "dense"


def test_a_long_table_says_what_it_leaves_out(tokenizer):
    model = tiny_model("llama", num_hidden_layers=14)
    found = slicing.profile(model, TEXT, tokenizer=tokenizer, **SMALL)
    assert "2 more rows" in found._repr_html_()
    assert len(found.frame()) == 14


def test_whoever_draws_is_found_by_an_entry_point(found, monkeypatch):
    drawing = types.ModuleType("drawing")
    drawing.of_run = lambda run: types.SimpleNamespace(sentence=lambda: f"run {run.key}")
    monkeypatch.setitem(sys.modules, "drawing", drawing)
    entry = EntryPoint("mine", "drawing", finding.GROUP)
    monkeypatch.setattr(finding, "entry_points", lambda group: [entry] if group == finding.GROUP else [])
    finding.views.cache_clear()
    try:
        assert found.sentence == f"run {found.run.key}"
    finally:
        finding.views.cache_clear()


def test_the_wheel_names_what_the_source_tree_does():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"][finding.GROUP].values()) == [finding.IN_SOURCE_TREE]


@pytest.mark.parametrize("missing", ["plotly", "a module that hides ours"])
def test_a_missing_drawer_is_told(found, monkeypatch, tmp_path, missing):
    finding.views.cache_clear()
    monkeypatch.setattr(finding, "entry_points", lambda group: [])
    if missing == "plotly":
        monkeypatch.setattr(finding, "IN_SOURCE_TREE", "app.not_there")
        told = "pip install slicescope"
    else:
        (tmp_path / "app.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))
        told = "hides the package 'app'"
    try:
        with pytest.raises(SlicescopeError, match=told):
            found.plot()
    finally:
        finding.views.cache_clear()


# Progress and warnings


def test_progress_is_shown_told_or_silent(opened, capsys):
    said = {"windows": 4, "window_length": 32}
    slicing.profile(opened, TEXT, **said, progress=False)
    assert capsys.readouterr().err == ""
    slicing.profile(opened, TEXT, **said)
    assert "Profiling" in capsys.readouterr().err
    phases: list[tuple[str, int, int]] = []
    slicing.profile(opened, TEXT, **said, progress=lambda *told: phases.append(told))
    assert ("Profiling", 4, 4) in phases


def test_bars_begin_anew_with_each_phase(capsys):
    bars = Bars()
    for phase, done in (("One", 0), ("One", 2), ("Two", 1), ("Two", 0), ("Two", 2)):
        bars.tell(phase, done, 2)
    bars.close()
    assert {"One", "Two"} <= {each.partition(":")[0].strip() for each in capsys.readouterr().err.split("\r")}


def test_warnings_name_the_line_that_called(opened):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        made = slicing.compress(
            opened, "slice(constant)", text=TEXT, windows=1, window_length=32, progress=False
        )
    few = [each for each in told if "are found on 32 tokens" in str(each.message)]
    assert len(few) == 1
    assert few[0].filename == __file__
    assert any("32 tokens" in each for each in made.warnings)
    assert "32 tokens" in made._repr_html_()


def test_a_result_goes_to_json(found):
    assert json.loads(found.run.to_json())["result"]["profile"]["blocks"] == 3


def test_the_tokenizer_is_that_of_the_dense_model(smaller):
    assert smaller.tokenizer.get_vocab() == byte_tokenizer().get_vocab()
