"""Removals and leaderboards carried out: what lies in the run's folder, equal sizes, and who is best."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import byte_tokenizer, tiny_model
from every_family import tiny
from slicing.bench import phases
from slicing.board import against, best, kind_of
from slicing.runs import (
    BOARD_ENTRIES,
    LeaderboardRecipe,
    LeaderboardResult,
    RemoveRecipe,
    RemoveResult,
    TrialRecipe,
)

from analysis.errors import Cancelled, PlanError, StorageError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.sources.card import describe
from analysis.sources.model import ModelSource, is_sliced
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from app.journal import Entry
from slicing import bench
from slicing.depth import METHODS
from slicing.depth.layout import Layout
from slicing.depth.reduce import ReducedModel, reduce_model
from slicing.plan import Plan
from slicing.repair import Repair
from slicing.steps.removal import Removal
from slicing.store import open_model, save_reduced
from slicing.study.run import perform
from slicing.study.store import MODEL_FOLDER, list_runs, load_run
from slicing.study.verdicts import Board, read_board

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
    environment = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(cwd / "code"), "PATH": "/usr/bin:/bin"}
    answer = subprocess.run(
        [sys.executable, "-c", begin + ALONE],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )
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
def recipe(tiny_folder: Path, tmp_path: Path) -> RemoveRecipe:
    return RemoveRecipe(
        model=ModelSource.parse(str(tiny_folder)),
        blocks=1,
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
    real = bench.save_reduced

    def save(reduced, *given, **named):
        found.append(reduced)
        real(reduced, *given, **named)

    monkeypatch.setattr(bench, "save_reduced", save)
    return found


def folder_in(recipe: RemoveRecipe) -> Path:
    return runs_folder() / recipe.key / MODEL_FOLDER


def test_what_lies_in_the_run_opens_with_transformers_alone(recipe, made, tmp_path):
    closed = recipe.model_copy(
        update={"removal": Removal(method="shortgpt", closing="writers"), "calibration_windows": 16}
    )
    merged = recipe.model_copy(update={"removal": Removal(method="laco", settings={"merge": "mean"})})
    others = recipe.model_copy(update={"model": folder_of(tiny("gemma2"), tmp_path / "gemma2")})
    asked = (recipe, closed, merged, others)
    results = [perform(each).result for each in asked]
    for reduced, result, said in zip(made, results, alone([*map(folder_in, asked)], tmp_path), strict=True):
        assert isinstance(result, RemoveResult)
        assert result.plain
        assert said["kind"].startswith("transformers.models.")
        assert torch.allclose(torch.tensor(said["logits"]), reduced.model(PROMPT).logits, atol=1e-5)
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
        here = reduced.model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options)
        assert said["tokens"] == here.tolist()
    assert results[-1].shape is None
    assert results[-1].not_sliceable


def test_a_removal_says_what_it_made(recipe, made):
    run = perform(recipe)
    result = run.result
    assert isinstance(result, RemoveResult)
    assert load_run(runs_folder() / recipe.key) == run
    (reduced,) = made
    assert result.layout == reduced.layout
    assert (result.layout.blocks, result.layout.count) == (3, 1)
    dense = open_dense(recipe.model).model
    for model, told, parameters in (
        (dense, result.dense, result.dense_parameters),
        (reduced.model, result.reduced, result.parameters),
    ):
        windows = token_windows(recipe.evaluation, byte_tokenizer(), 24, 3)
        assert told.nll == pytest.approx(perplexity(model, windows).nll, rel=1e-2)
        assert parameters == sum(each.numel() for each in model.parameters())
    assert result.parameters == result.dense_parameters - result.shape.block_parameters(0)
    card = (folder_in(recipe) / "README.md").read_text()
    for said in (
        f"# {recipe.model.label}, 2 of 3 blocks",
        f"{recipe.model.label} {result.layout.label}",
        METHODS["greedy"].title,
        "4 windows of 24 tokens",
        f"{result.parameters:,} parameters",
        f"{result.dense_parameters:,}",
        f"Perplexity {result.reduced.perplexity:.2f}, dense {result.dense.perplexity:.2f}",
        "Nothing closes the gaps.",
    ):
        assert said in card
    assert "trust_remote_code" not in card
    assert "{" not in card


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("closing", ["matrix", "writer", "block", "writers"])
def test_the_card_says_what_closes_the_gaps_where_that_was_kept(recipe, made, closing, kept, monkeypatch):
    monkeypatch.setattr(Repair, "kept", kept)
    asked = recipe.model_copy(
        update={"removal": Removal(method="top", closing=closing), "calibration_windows": 16}
    )
    result = perform(asked).result
    assert isinstance(result, RemoveResult)
    assert result.repair is not None
    assert result.repair == made[0].repair
    assert result.repair.windows == 2
    card = " ".join((folder_in(asked) / "README.md").read_text().split())
    losses = f"held out {result.repair.repaired:.3f}, without {result.repair.unrepaired:.3f} nats per token"
    assert (losses in card) == kept
    assert ("Nothing closes the gaps." in card) != kept
    assert result.plain == (not kept or closing != "matrix") == ("trust_remote_code" not in card)
    bridge = 0 if result.plain else 32 * 32
    assert result.parameters == result.dense_parameters - result.shape.block_parameters(0) + bridge


def test_the_folder_is_a_model_like_any_other(recipe, made):
    perform(recipe)
    source = ModelSource.parse(str(folder_in(recipe)))
    assert not is_sliced(source)
    card = describe(source)
    assert (card.blocks, card.architecture, card.not_sliceable) == (2, "llama", None)
    opened = open_model(source)
    assert torch.equal(opened.model(PROMPT).logits, made[0].model(PROMPT).logits)
    again = recipe.model_copy(update={"model": source})
    result = perform(again).result
    assert isinstance(result, RemoveResult)
    assert result.layout.blocks == 2
    assert describe(ModelSource.parse(str(folder_in(again)))).blocks == 1


def test_progress_keeps_to_the_phases(recipe):
    seen: list[str] = []
    asked = recipe.model_copy(update={"removal": Removal(method="top", closing="writer")})
    perform(asked, lambda phase, done, total: seen.append(phase))
    assert set(seen) <= {name for name, _ in phases(asked)}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"blocks": 3}, "are to go"),
        ({"calibration_windows": 1, "profile_windows": 1}, "only one calibration window"),
    ],
)
def test_what_cannot_be_removed_is_told_before_the_text_is_read(recipe, changes, told):
    seen: list[str] = []
    asked = recipe.model_copy(update={"removal": Removal(method="greedy", closing="writers"), **changes})
    with pytest.raises(PlanError, match=told):
        perform(asked, lambda phase, done, total: seen.append(phase))
    assert set(seen) == {"Opening"}


def test_a_removal_that_fails_leaves_nothing(recipe):
    with pytest.raises(PlanError, match="can take away from 0 to 2 of the 3 blocks, but 3 are to go"):
        perform(recipe.model_copy(update={"blocks": 3}))

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "Saving":
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        perform(recipe, stop)
    assert list_runs() == ([], [])
    assert not list(runs_folder().iterdir())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"blocks": 0}, "At least one block must go"),
        ({"removal": Removal(share=0.5)}, "leave out the share"),
    ],
)
def test_a_removal_that_makes_no_sense_is_one_sentence(recipe, changes, told):
    with pytest.raises(PlanError, match=told):
        RemoveRecipe(**{**dict(recipe), **changes})


ENTRIES = (
    "constant",
    "remove:random:draw=0",
    "remove:greedy",
    "remove:top",
    "remove:laco:merge=top",
    "remove:shortgpt+writers",
    "remove:greedy+matrix",
    "remove:greedy:share=0.5/constant+span=2+repair",
)
SIZES = (0.28, 0.42)


def six(folder: Path) -> LeaderboardRecipe:
    """On a model of six blocks, of which two and three go."""
    return LeaderboardRecipe(
        model=folder_of(tiny_model("llama", num_hidden_layers=6), folder / "six"),
        plan=Plan(rounding=1),
        entries=tuple(Entry.parse(text) for text in ENTRIES),
        sizes=SIZES,
        calibration_windows=4,
        profile_windows=2,
        evaluation_windows=9,
        window_length=24,
        search_windows=2,
        **texts_in(folder),
    )


@pytest.fixture
def board(tmp_path) -> LeaderboardRecipe:
    return six(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Board, Board, LeaderboardResult]:
    """A leaderboard as it is read from its trials, as it is read from its run, and what the run found."""
    folder = tmp_path_factory.mktemp("board")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLICESCOPE_HOME", str(folder / "home"))
        recipe = six(folder)
        result = perform(recipe).result
        assert isinstance(result, LeaderboardResult)
        return read_board(recipe), read_board(recipe, result), result


def test_a_leaderboard_is_a_fair_contest_at_every_size(finished):
    found, same, result = finished
    assert found == same
    assert found.done == found.total == len(result.contestants) == 1 + len(ENTRIES) * len(SIZES)
    assert found.dense == result.contestants[0]
    shape = result.shape
    for table, blocks in zip(found.tables, (2, 3), strict=True):
        budget = shape.parameters - blocks * shape.block_parameters(0)
        step = 2 * shape.parameters // (shape.block_count * shape.hidden_size)
        assert [each.nats for each in table.standings] == sorted(each.nats for each in table.standings)
        for standing in table.standings:
            (contestant,) = standing.runs
            if standing.entry.slices:
                assert standing.parameters == pytest.approx(budget, abs=max(step, 0.005 * budget))
            else:
                assert contestant.layout.count == blocks
                matrices = 0
                if standing.entry.removal.closing == "matrix" and contestant.repair.kept:
                    matrices = sum(gap.after >= 0 for gap in contestant.layout.gaps)
                assert standing.parameters == budget + 32 * 32 * matrices
                assert contestant.flops_per_token < shape.flops_per_token
            floor = np.mean(table.dense.evaluation.nll)
            assert standing.nats == pytest.approx(np.mean(contestant.evaluation.nll) - floor)
        both = table.standing(ENTRIES[-1]).runs[0]
        assert both.layout.count == round(blocks / 2)
        assert len(both.schedule.widths) - 1 == 6 - both.layout.count
        assert both.schedule.span == 2
        assert both.repair is not None


def test_the_best_and_the_front_are_those_that_nothing_beats(finished):
    found = finished[0]
    everyone = [each for table in found.tables for each in table.standings if not each.entry.control]
    for table in found.tables:
        rightful = [each for each in table.standings if not each.entry.control]
        assert best(table) == min(rightful, key=lambda each: each.nats)
        for kind, words in (("width", 1), ("depth", 6), ("both", 1)):
            them = [each for each in rightful if kind_of(each.entry) == kind]
            assert len(them) == words - (kind == "depth")  # chance is a control
            assert best(table, kind) == min(them, key=lambda each: each.nats)
        first, second = rightful[:2]
        told = against(second, first)
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
    drawn = table.standing("remove:random:draw=0")
    lucky = drawn._replace(
        runs=tuple(each.model_copy(update={"parameters": 1}) for each in drawn.runs), nats=-9.0
    )
    others = tuple(each for each in table.standings if each != drawn)
    luckier = found._replace(tables=(table._replace(standings=(lucky, *others)), *found.tables[1:]))
    assert luckier.front == found.front
    assert best(luckier.tables[0]) == best(table)
    assert best(luckier.tables[0], "depth") == best(table, "depth")


def test_a_leaderboard_that_was_stopped_makes_no_trial_twice(board, monkeypatch):
    board = board.model_copy(update={"entries": tuple(map(Entry.parse, (*ENTRIES[:2], *ENTRIES[-2:])))})
    tried: list[str] = []
    real = bench._tried

    def trying(recipe: TrialRecipe, *given):
        tried.append(recipe.key)
        return real(recipe, *given)

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "Trials" and done == 4:
            raise Cancelled("enough")

    monkeypatch.setattr(bench, "_tried", trying)
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
    perform(board.model_copy(update={"sizes": (SIZES[1],)}))  # a smaller board is made already
    assert len(tried) == half.total


def test_every_entry_of_the_board_reads_back_and_every_method_takes_part():
    entries = [Entry.parse(text) for text in BOARD_ENTRIES]
    assert tuple(entry.name for entry in entries) == BOARD_ENTRIES
    assert {entry.removal.method for entry in entries if entry.removal} == set(METHODS)
    for text in (
        "remove:greedy:share=search/constant+repair",
        "remove:laco:merge=mean:width=2:interval=3:threshold=0.65+matrix",
        ENTRIES[-1],
    ):
        assert Entry.parse(text).name == text
        assert Entry.parse(f"  {text} ") == Entry.parse(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("remove:", "Unknown method of removal ''"),
        ("remove:gredy", "Did you mean 'greedy'"),
        ("remove:laco:mean", "'mean' of 'remove:laco:mean' is no setting: name it"),
        ("remove:laco:merge=max", "'top', 'sum' or 'mean'"),
        ("remove:laco:width=0", "greater than or equal to 1"),
        ("remove:greedy:depth=3", "its settings are: none"),
        ("remove:greedy+glue", "one of .* can be added"),
        ("remove:greedy+matrix+writer", "one of .* can be added"),
        ("remove:greedy:share=half/constant", "the share is a number"),
        ("remove:greedy:share=0.5", "must say both or neither"),
        ("remove:greedy/constant", "must say both or neither"),
        ("remove:greedy:share=1/constant", "must say both or neither"),
        ("remove:greedy:share=0/constant", "above 0 and at most 1; got 0"),
        ("remove:greedy:share=1.5/constant", "above 0 and at most 1; got 1.5"),
        ("remove:greedy:share=0.5+writers/constant", r"choose '\+repair' instead of '\+writers'"),
        ("remove:greedy:share=0.5/constent", "Did you mean 'constant'"),
        ("remove:greedy:share=0.5/remove:top", "Unknown allocation 'remove'"),
    ],
)
def test_an_entry_that_is_none_is_one_sentence(text, told):
    with pytest.raises(PlanError, match=told) as raised:
        Entry.parse(text)
    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sizes": ()}, "distinct sizes"),
        ({"sizes": (0.1, 0.1)}, "distinct sizes"),
        ({"sizes": (1.0,)}, "between 0 and 1; got 1"),
        ({"entries": (Entry.parse("remove:top"),)}, "needs 'constant' among"),
        ({"entries": (Entry(), Entry())}, "distinct entries"),
    ],
)
def test_a_leaderboard_that_makes_no_sense_is_one_sentence(board, changes, told):
    with pytest.raises(PlanError, match=told):
        LeaderboardRecipe(**{**dict(board), **changes})


def test_a_size_that_is_no_block_is_one_sentence(board):
    with pytest.raises(
        PlanError, match=r"^1% of the .* is 0 of the 6 blocks: choose a share from 1\d\.\d% to"
    ):
        perform(board.model_copy(update={"sizes": (0.01,)}))


def test_an_unsliceable_model_has_no_leaderboard(board, tmp_path):
    with pytest.raises(UnsupportedError, match="'gemma2' cannot be sliced"):
        perform(board.model_copy(update={"model": folder_of(tiny("gemma2"), tmp_path / "gemma2")}))


def test_a_bridged_folder_opens_here_too_and_says_why_it_is_not_sliced(
    windows, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(Repair, "kept", property(lambda _: True))
    model = tiny_model("llama")
    reduced = reduce_model(model, Layout.without(3, {1}), windows, "matrix")
    assert not reduced.plain
    told = {"made_from": "it", "method": "by hand", "dense_parameters": 1, "calibration": "it"}
    save_reduced(reduced, tokenizer, tmp_path / "it", **told)
    assert "trust_remote_code=True" in (tmp_path / "it" / "README.md").read_text().split("tokenizer =")[1]
    source = ModelSource.parse(str(tmp_path / "it"), dtype="float32")
    assert torch.equal(open_model(source).model(windows).logits, reduced.model(windows).logits)
    assert "matrices in the place of blocks" in str(describe(source).not_sliceable)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dynamic:lr:base=nan", "needs a number"),
        ("remove:laco:threshold=inf", "number"),
        ("remove:greedy:share=search:share=0.5/constant", "twice"),
        ("dynamic:base=0:base=0.1", "twice"),
    ],
)
def test_numbers_of_an_entry_are_finite_and_named_once(text, said):
    with pytest.raises(PlanError, match=said) as error:
        Entry.parse(text)
    assert "\n" not in str(error.value)


def test_the_name_of_an_entry_holds_all_of_its_numbers():
    name = "remove:laco:merge=mean:threshold=0.123456789"
    assert Entry.parse(Entry.parse(name).name) == Entry.parse(name)
