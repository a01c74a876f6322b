"""Removals and leaderboards carried out: what lies in the run's folder, equal sizes, and who is best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from alone import alone as run_alone
from conftest import byte_tokenizer, tiny_model
from every_family import tiny

from analysis.errors import Cancelled, PlanError, StorageError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.sources.card import describe
from analysis.sources.model import ModelSource, is_sliced
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from slicing.budget import Budget
from slicing.depth.layout import Layout
from slicing.depth.reduce import ReducedModel, reduce_model
from slicing.plans import Slicing
from slicing.repair import Repair
from slicing.steps import STEPS
from slicing.store import open_model, save_reduced
from slicing.studies import keep as keeping
from slicing.studies import run as running
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, Trial
from slicing.studies.run import perform
from slicing.studies.store import MODEL_FOLDER, list_runs, load_run
from slicing.studies.study import Study, leaderboard, recipes
from slicing.studies.verdicts import Board, beside, read_board

TEXT = "What is taken away from the middle is missed less than what is taken away from either end. "
PROMPT = torch.arange(10, 26).view(2, 8)

ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"analysis", "slicing", "app", "tests"}:
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(1)
prompt = torch.tensor(prompt)
options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
found = []
for folder in folders:
    AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    tokens = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options).tolist()
    kind = type(model).__module__
    found.append({"logits": model(prompt).logits.tolist(), "tokens": tokens, "kind": kind})
print(json.dumps(found))
"""


def alone(folders: list[Path], cwd: Path) -> list[dict]:
    """What transformers says of the folders, in a process where nothing of ours can be imported."""
    begin = f"folders, prompt = {list(map(str, folders))!r}, {PROMPT.tolist()!r}\n"
    answer = run_alone(begin + ALONE, cwd=cwd)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return json.loads(answer.stdout.splitlines()[-1])


def folder_of(model, folder: Path) -> ModelSource:
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return ModelSource.parse(str(folder))


def texts_in(folder: Path) -> dict[str, TextSource]:
    found = {}
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (folder / f"{name}.txt").write_text(text * 30)
        found[name] = TextSource.parse(str(folder / f"{name}.txt"), "evaluation")
    return found


@pytest.fixture
def removing(tiny_folder: Path, tmp_path: Path) -> CompressRequest:
    return CompressRequest(
        model=ModelSource.parse(str(tiny_folder)),
        recipe=Recipe.parse("sleb"),
        budget=Budget.parse("blocks=1"),
        calibration_windows=4,
        profile_windows=2,
        evaluation_windows=3,
        window_length=24,
        **texts_in(tmp_path),
    )


@pytest.fixture
def made(monkeypatch) -> list[ReducedModel]:
    """The models that removals store, as they were in memory."""
    found: list[ReducedModel] = []
    real = keeping.save_reduced

    def save(reduced, *given, **named):
        found.append(reduced)
        real(reduced, *given, **named)

    monkeypatch.setattr(keeping, "save_reduced", save)
    return found


def folder_in(request: CompressRequest) -> Path:
    return runs_folder() / request.key / MODEL_FOLDER


def by(line: str) -> dict[str, Recipe]:
    """The change of a request that takes blocks out another way."""
    return {"recipe": Recipe.parse(line)}


def test_what_lies_in_the_run_opens_with_transformers_alone(removing, made, tmp_path):
    closed = removing.model_copy(update={**by("shortgpt(repair=writers)"), "calibration_windows": 16})
    merged = removing.model_copy(update=by("laco(merge=mean)"))
    others = removing.model_copy(update={"model": folder_of(tiny("gemma2"), tmp_path / "gemma2")})
    asked = (removing, closed, merged, others)
    results = [perform(each).result for each in asked]
    for reduced, result, said in zip(made, results, alone([*map(folder_in, asked)], tmp_path), strict=True):
        assert result.kind == "compress"
        assert result.plain
        assert said["kind"].startswith("transformers.models.")
        assert torch.allclose(torch.tensor(said["logits"]), reduced.model(PROMPT).logits, atol=1e-5)
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        here = reduced.model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options)
        assert said["tokens"] == here.tolist()
    assert results[-1].shape is None
    assert results[-1].not_sliceable


def test_a_removal_says_what_it_made(removing, made):
    run = perform(removing)
    result = run.result
    assert result.kind == "compress"
    assert load_run(runs_folder() / removing.key) == run
    (reduced,) = made
    assert result.layout == reduced.layout
    assert (result.layout.blocks, result.layout.count) == (3, 1)
    dense = open_dense(removing.model).model
    for model, told, parameters in (
        (dense, result.dense, result.dense_parameters),
        (reduced.model, result.smaller, result.parameters),
    ):
        windows = token_windows(removing.evaluation, byte_tokenizer(), 24, 3)
        assert told.nll == pytest.approx(perplexity(model, windows).nll, rel=1e-2)
        assert parameters == sum(each.numel() for each in model.parameters())
    assert result.parameters == result.dense_parameters - result.shape.block_parameters(0)
    card = (folder_in(removing) / "README.md").read_text()
    for said in (
        f"# {removing.model.label}, 2 of 3 blocks",
        f"{removing.model.label} {result.layout.label}",
        STEPS["sleb"].title,
        "4 windows of 24 tokens",
        f"{result.parameters:,} parameters",
        f"{result.dense_parameters:,}",
        f"Perplexity {result.smaller.perplexity:.2f}, dense {result.dense.perplexity:.2f}",
        "Nothing repairs the cuts.",
    ):
        assert said in card
    assert "trust_remote_code" not in card
    assert "{" not in card


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("repair", ["linear", "last-writer", "train-block", "writers"])
def test_the_card_says_what_closes_the_gaps_where_that_was_kept(removing, made, repair, kept, monkeypatch):
    monkeypatch.setattr(Repair, "kept", kept)
    asked = removing.model_copy(update={**by(f"last-blocks(repair={repair})"), "calibration_windows": 16})
    result = perform(asked).result
    assert result.kind == "compress"
    assert result.repair is not None
    assert result.repair == made[0].repair
    assert result.repair.windows == 2
    card = " ".join((folder_in(asked) / "README.md").read_text().split())
    losses = f"held out {result.repair.repaired:.3f}, without {result.repair.unrepaired:.3f} nats per token"
    assert (losses in card) == kept
    assert ("Nothing repairs the cuts." in card) != kept
    assert result.plain == (not kept or repair != "linear") == ("trust_remote_code" not in card)
    bridge = 0 if result.plain else 32 * 32
    assert result.parameters == result.dense_parameters - result.shape.block_parameters(0) + bridge


def test_the_folder_is_a_model_like_any_other(removing, made):
    perform(removing)
    source = ModelSource.parse(str(folder_in(removing)))
    assert not is_sliced(source)
    card = describe(source)
    assert (card.blocks, card.architecture, card.not_sliceable) == (2, "llama", None)
    opened = open_model(source)
    assert torch.equal(opened.model(PROMPT).logits, made[0].model(PROMPT).logits)
    again = removing.model_copy(update={"model": source})
    result = perform(again).result
    assert result.kind == "compress"
    assert result.layout.blocks == 2
    assert describe(ModelSource.parse(str(folder_in(again)))).blocks == 1


def test_progress_keeps_to_the_phases(removing):
    seen: list[str] = []
    asked = removing.model_copy(update=by("last-blocks(repair=last-writer)"))
    perform(asked, lambda phase, done, total: seen.append(phase))
    assert set(seen) <= {name for name, _ in asked.phases()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget": Budget.parse("blocks=3")}, "are to go"),
        ({"calibration_windows": 1, "profile_windows": 1}, "only one calibration window"),
    ],
)
def test_what_cannot_be_removed_is_told_before_any_work(removing, changes, told):
    seen: list[str] = []
    asked = removing.model_copy(update={**by("sleb(repair=writers)"), **changes})
    with pytest.raises(PlanError, match=told):
        perform(asked, lambda phase, done, total: seen.append(phase))
    assert set(seen) == {"Opening", "Reading text"}


def test_a_removal_that_fails_leaves_nothing(removing):
    with pytest.raises(PlanError, match="can take away from 0 to 2 of the 3 blocks, but 3 are to go"):
        perform(removing.model_copy(update={"budget": Budget.parse("blocks=3")}))

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "Saving":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        perform(removing, stop)
    assert list_runs() == ([], [])
    assert not list(runs_folder().iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (by("dense"), "makes no model smaller"),
        ({"budget": Budget()}, "removes whole blocks, which the budget 'mean_slice=0.25' does not count"),
    ],
)
def test_a_removal_that_makes_no_sense_is_one_sentence(removing, changes, told):
    with pytest.raises(PlanError, match=told):
        CompressRequest(**{**dict(removing), **changes})


LINES = (
    "slice(constant)",
    "random-blocks",
    "sleb",
    "last-blocks",
    "laco(merge=top)",
    "shortgpt(repair=writers)",
    "sleb(repair=linear)",
    "sleb(share=0.5) | slice(constant, blocks_per_basis=2, repair=writers)",
)
SIZES = (0.28, 0.42)


def small(*lines: str) -> tuple[Recipe, ...]:
    """The recipes as they are asked for: widths are multiples of one, and two windows decide."""
    return tuple(each.in_form(Slicing(rounding=1), windows=2) for each in recipes(*lines))


def six(folder: Path, lines: tuple[str, ...] = LINES, sizes: tuple[float, ...] = SIZES) -> Study:
    """On a model of six blocks, of which two and three go."""
    return leaderboard(
        small(*lines),
        sizes,
        model=folder_of(tiny_model("llama", num_hidden_layers=6), folder / "six"),
        calibration_windows=4,
        profile_windows=2,
        evaluation_windows=9,
        window_length=24,
        **texts_in(folder),
    )


@pytest.fixture
def board(tmp_path) -> Study:
    return six(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Board, Board, Any]:
    """A leaderboard as it is read from its trials, as it is read from its run, and what the run found."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICESCOPE_HOME", str(folder / "home"))
        study = six(folder)
        result = perform(study).result
        assert result.kind == "study"
        return read_board(study), read_board(study, result), result


def test_a_leaderboard_is_a_fair_contest_at_every_size(finished):
    found, same, result = finished
    assert found == same
    assert found.done == found.total == len(result.measurements) == 1 + len(LINES) * len(SIZES)
    assert found.dense == result.measurements[0]
    shape = result.shape
    for table, blocks in zip(found.tables, (2, 3), strict=True):
        budget = shape.parameters - blocks * shape.block_parameters(0)
        step = 2 * shape.parameters // (shape.block_count * shape.hidden_size)
        assert [each.nats for each in table.standings] == sorted(each.nats for each in table.standings)
        for standing in table.standings:
            (contestant,) = standing.runs
            if standing.recipe.kind != "depth":
                assert standing.parameters == pytest.approx(budget, abs=max(step, 0.005 * budget))
            else:
                assert contestant.layout.count == blocks
                matrices = 0
                if standing.recipe.repaired == "linear" and contestant.repair.kept:
                    matrices = sum(cut.after >= 0 for cut in contestant.layout.cuts)
                assert standing.parameters == budget + 32 * 32 * matrices
                assert contestant.flops_per_token < shape.flops_per_token
            floor = np.mean(table.dense.evaluation.nll)
            assert standing.nats == pytest.approx(np.mean(contestant.evaluation.nll) - floor)
        both = table.standing(small(LINES[-1])[0].line).runs[0]
        assert both.layout.count == round(blocks / 2)
        assert len(both.schedule.widths) - 1 == 6 - both.layout.count
        assert both.schedule.span == 2
        assert both.repair is not None


def test_the_best_and_the_front_are_those_that_nothing_beats(finished):
    found = finished[0]
    everyone = [each for table in found.tables for each in table.standings if not each.recipe.control]
    for table in found.tables:
        rightful = [each for each in table.standings if not each.recipe.control]
        assert table.best_of() == min(rightful, key=lambda each: each.nats)
        for kind, words in (("width", 1), ("depth", 6), ("both", 1)):
            them = [each for each in rightful if each.recipe.kind == kind]
            assert len(them) == words - (kind == "depth")  # chance is a control
            assert table.best_of(kind) == min(them, key=lambda each: each.nats)
        first, second = rightful[:2]
        told = beside(second, first)
        assert told.nats == pytest.approx(second.nats - first.nats)

    def beaten(each) -> bool:
        return any(
            other.parameters <= each.parameters
            and other.perplexity <= each.perplexity
            and (other.parameters, other.perplexity) != (each.parameters, each.perplexity)
            for other in everyone
        )

    expected = [each for each in everyone if not beaten(each)]
    assert {each.perplexity for each in found.front} == {each.perplexity for each in expected}
    sizes = [each.parameters for each in found.front]
    assert sizes == sorted(sizes, reverse=True)


def test_chance_is_never_best_and_never_on_the_front(finished):
    found = finished[0]
    table = found.tables[0]
    drawn = table.standing(small("random-blocks")[0].line)
    lucky = drawn._replace(
        runs=tuple(each.model_copy(update={"parameters": 1}) for each in drawn.runs), nats=-9.0
    )
    others = tuple(each for each in table.standings if each != drawn)
    luckier = found._replace(tables=(table._replace(standings=(lucky, *others)), *found.tables[1:]))
    assert luckier.front == found.front
    assert luckier.tables[0].best_of() == table.best_of()
    assert luckier.tables[0].best_of("depth") == table.best_of("depth")


def test_a_leaderboard_that_was_stopped_makes_no_trial_twice(tmp_path, monkeypatch):
    board = six(tmp_path, (*LINES[:2], *LINES[-2:]))
    tried: list[str] = []
    real = running.Trials.make

    def trying(self: Any, trial: Trial, keep: Any = None) -> Any:
        tried.append(trial.key)
        return real(self, trial)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "Trials" and done == 4:
            raise Cancelled("enough")

    monkeypatch.setattr(running.Trials, "make", trying)
    with pytest.raises(Cancelled):
        perform(board, stop)
    assert len(tried) == 4
    half = read_board(board)
    assert (half.done, half.total) == (4, 1 + 4 * len(SIZES))
    assert [len(table.standings) for table in half.tables] == [3, 0]
    with pytest.raises(StorageError):
        load_run(runs_folder() / board.key)
    perform(board)
    assert len(tried) == len(set(tried)) == half.total
    perform(board.model_copy(update={"budgets": board.budgets[1:]}))  # a smaller board is made already
    assert len(tried) == half.total


def test_a_size_that_is_no_block_is_one_sentence(board):
    with pytest.raises(
        PlanError, match=r"^1% of the .* is 0 of the 6 blocks: choose a share from 1\d\.\d% to"
    ):
        perform(board.model_copy(update={"budgets": (Budget.parse("parameters=0.01"),)}))


def test_an_unsliceable_model_has_no_leaderboard(board, tmp_path):
    with pytest.raises(UnsupportedError, match="'gemma2' cannot be sliced"):
        perform(board.model_copy(update={"model": folder_of(tiny("gemma2"), tmp_path / "gemma2")}))


def test_a_bridged_folder_opens_here_too_and_says_why_it_is_not_sliced(
    windows, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(Repair, "kept", property(lambda _: True))
    model = tiny_model("llama")
    reduced = reduce_model(model, Layout.without(3, {1}), windows, "linear")
    assert not reduced.plain
    told = {"made_from": "it", "method": "by hand", "dense_parameters": 1, "calibration": "it"}
    save_reduced(reduced, tokenizer, tmp_path / "it", **told)
    before, _, after = (tmp_path / "it" / "README.md").read_text().partition("tokenizer =")
    assert "trust_remote_code=True" in before
    assert "trust_remote_code=False" in after
    source = ModelSource.parse(str(tmp_path / "it"), dtype="float32")
    assert torch.equal(open_model(source).model(windows).logits, reduced.model(windows).logits)
    assert "matrices in the place of blocks" in str(describe(source).not_sliceable)
