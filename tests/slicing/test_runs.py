"""A recipe becomes a run, whole or not at all."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import DEMO_SHAPE, byte_tokenizer, tiny_model
from safetensors import SafetensorError
from slicing.bench import phases
from slicing.contest import read_contest
from slicing.runs import (
    CompareRecipe,
    ContestRecipe,
    ContestResult,
    LeaderboardRecipe,
    LeaderboardResult,
    ProfileRecipe,
    RemoveRecipe,
    SearchRecipe,
    SliceRecipe,
    SweepRecipe,
    TrialRecipe,
)

from analysis.errors import Cancelled, PlanError, StorageError, TextError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from app.journal import Entry
from slicing.library import throw_away
from slicing.plan import Plan
from slicing.steps.removal import Removal
from slicing.store import load_sliced
from slicing.study.results import Run
from slicing.study.run import perform
from slicing.study.store import (
    BUNDLED_RUN,
    bundled_board,
    bundled_contest,
    bundled_run,
    bundled_sweep,
    find_run,
    list_runs,
)
from slicing.study.verdicts import read_board

TEXT = "A whole is what has a beginning and middle and end; a window has at least the middle of one. "


@pytest.fixture
def recipe(tiny_folder: Path, tmp_path: Path) -> CompareRecipe:
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    return CompareRecipe(
        model=ModelSource.parse(str(tiny_folder)),
        plan=Plan(rounding=1),
        calibration=TextSource.parse(str(tmp_path / "calibration.txt"), "calibration"),
        evaluation=TextSource.parse(str(tmp_path / "evaluation.txt"), "evaluation"),
        calibration_windows=4,
        profile_windows=2,
        evaluation_windows=9,
        window_length=24,
        new_tokens=2,
    )


def profile_of(recipe: CompareRecipe) -> ProfileRecipe:
    return ProfileRecipe(model=recipe.model, text=recipe.calibration, windows=2, window_length=24)


def left_over() -> list[str]:
    folder = runs_folder()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.is_dir() else []


def test_comparison_names_everyone_and_pairs_them(recipe):
    result = perform(recipe).result
    by_name = {each.name: each for each in result.contestants}
    assert list(by_name) == ["dense", "constant", "dynamic", "constant-matched"]
    assert by_name["dense"].parameters > by_name["dynamic"].parameters
    for each in result.differences:
        nll = [np.array(by_name[name].evaluation.nll) for name in (each.baseline, each.contender)]
        assert each.nats == pytest.approx(float((nll[1] - nll[0]).mean()), abs=1e-12)
        ratio = by_name[each.contender].evaluation.perplexity / by_name[each.baseline].evaluation.perplexity
        assert each.percent == pytest.approx(100 * (ratio - 1), rel=1e-9, abs=1e-9)
    files = ("profile.json", "profile.safetensors", "run.json")
    assert [path for path in left_over() if path[0] != "."] == [
        recipe.key,
        *(f"{recipe.key}/{name}" for name in files),
    ]


def test_base_equal_to_target_is_constant_slicing(recipe):
    plan = Plan(rounding=1, target=0.25, settings={"base": 0.25})
    result = perform(recipe.model_copy(update={"plan": plan})).result
    constant, dynamic = result.contestant("constant"), result.contestant("dynamic")
    assert dynamic.schedule == constant.schedule
    assert dynamic.evaluation == constant.evaluation
    assert result.difference("constant", "dynamic").verdict == "no clear difference"


def test_constant_plan_is_compared_with_itself(recipe):
    plan = Plan(rounding=1, allocation="constant", settings={})
    result = perform(recipe.model_copy(update={"plan": plan})).result
    assert [each.name for each in result.contestants] == ["dense", "constant", "constant-matched"]
    assert result.difference("constant", "constant").nats == 0.0


def test_constant_plan_with_shared_bases_is_compared_with_the_published_one(recipe):
    asked = recipe.model_copy(update={"plan": Plan(rounding=1, allocation="constant", settings={}, span=2)})
    result = perform(asked).result
    names = ["dense", "constant", "constant+span=2", "constant-matched"]
    assert [each.name for each in result.contestants] == names
    assert [result.contestant(name).schedule.span for name in names[1:]] == [0, 2, 0]
    assert asked.planned == "constant+span=2"
    assert result.difference("constant", asked.planned).nats != 0.0
    assert {phase for phase, _ in phases(asked)} >= {"Slicing constant+span=2"}


def test_run_comes_back_from_its_folder(recipe):
    run = perform(recipe)
    assert find_run(run.key[:6]) == run
    assert list_runs() == ([run], [])
    assert Run.from_json(run.to_json(), "test") == run


def test_same_recipe_gives_the_same_numbers_in_the_same_folder(recipe):
    first, second = perform(recipe), perform(recipe)
    assert first.key == second.key
    assert len(list_runs()[0]) == 1
    nll = [[each.evaluation.nll for each in run.result.contestants] for run in (first, second)]
    assert nll[0] == nll[1]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"window_length": 25},
        {"evaluation_windows": 8},
        {"plan": Plan(rounding=8)},
        {"plan": Plan(rounding=1, settings={"base": 0.11})},
        {"model": ModelSource(kind="demo")},
    ],
)
def test_any_other_recipe_has_another_key(recipe, change):
    assert recipe.model_copy(update=change).key != recipe.key


def test_sliced_run_keeps_a_model_that_opens(recipe):
    run = perform(recipe.slice_recipe())
    folder = runs_folder() / run.key / "model"
    sliced, _ = load_sliced(ModelSource.parse(str(folder)))
    assert sliced.schedule == run.result.schedule
    assert sum(p.numel() for p in sliced.model.parameters()) == run.result.parameters


def test_progress_follows_the_announced_phases(recipe):
    seen: list[str] = []
    perform(recipe, lambda phase, done, total: seen.append(phase))
    order = list(dict.fromkeys(seen))
    announced = [name for name, _ in phases(recipe)]
    assert order == [name for name in announced if name in order]
    assert set(announced) - set(order) <= {"Slicing constant-matched", "Evaluating constant-matched"}


@pytest.mark.parametrize("phase", ["Opening", "Profiling", "Evaluating dense", "Slicing dynamic"])
@pytest.mark.parametrize("error", [Cancelled("stopped"), RuntimeError("broken")])
def test_nothing_is_left_of_a_run_that_ends_early(recipe, phase, error):
    def stop(at: str, done: int, total: int) -> None:
        if at == phase and done:
            raise error

    with pytest.raises(type(error)):
        perform(recipe, stop)
    assert left_over() == []


def test_earlier_run_survives_a_later_one_that_fails(recipe):
    run = perform(recipe)

    def stop(phase: str, done: int, total: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        perform(recipe, stop)
    assert find_run(run.key) == run


def test_full_disk_is_one_sentence_and_leaves_nothing(recipe, monkeypatch):
    real = Path.write_text

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if path.name == "run.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="the disk is full; free some space and try again"):
        perform(profile_of(recipe))
    assert left_over() == []


def test_runs_folder_that_cannot_be_written_is_told_before_any_work(recipe, monkeypatch):
    runs_folder().parent.mkdir(parents=True)
    runs_folder().write_text("a file in the way")

    def opener(source: ModelSource) -> Iterator[None]:
        pytest.fail("the model was opened")

    with pytest.raises(StorageError, match="choose another folder"):
        perform(recipe, opener=opener)  # type: ignore[arg-type]


def test_broken_run_is_one_sentence_and_hides_no_other(recipe):
    run = perform(profile_of(recipe))
    for name, content in (("aaaa", "{"), ("bbbb", '{"format": 1}'), ("cccc", None)):
        folder = runs_folder() / name
        folder.mkdir()
        if content:
            (folder / "run.json").write_text(content)
    stored, broken = list_runs()
    assert stored == [run]
    assert len(broken) == 3
    assert [each.name for each in broken] == ["aaaa", "bbbb", "cccc"]
    assert all("run.json" in each.problem and "\n" not in each.problem for each in broken)
    throw_away("aaaa")
    assert len(list_runs()[1]) == 2


def edited(content: Any, path: str, value: object) -> str:
    """The JSON of a run in which the field at ``path`` has another value."""
    place, (*outer, last) = content, path.split("/")
    for name in outer:
        place = place[int(name) if name.isdigit() else name]
    place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("format", 2),
        ("recipe/kind", "of another version"),
        ("recipe/plan/allocation", "of another version"),
        ("recipe/calibration/split", "renamed"),
        ("recipe/model/kind", "hub"),
        ("result/contestants/1/schedule/widths", [0, 576]),
    ],
)
def test_run_of_another_version_is_one_sentence_and_hides_no_other(recipe, path, value):
    run = perform(profile_of(recipe))
    foreign = runs_folder() / "foreign"
    foreign.mkdir()
    (foreign / "run.json").write_text(edited(json.loads(bundled_run().to_json()), path, value))
    stored, ((name, sentence),) = list_runs()
    assert (stored, name) == ([run], "foreign")
    assert "foreign/run.json' is not a readable Run (" in sentence
    assert "\n" not in sentence


def test_runs_folder_that_cannot_be_looked_into_is_one_sentence(monkeypatch):
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_dir", refuse)  # root may look everywhere
    with pytest.raises(StorageError, match="there is no permission"):
        list_runs()


@pytest.mark.parametrize("phase", ["Slicing", "Saving"])
def test_nothing_is_left_of_a_sliced_run_that_is_stopped(recipe, phase):
    def stop(at: str, done: int, total: int) -> None:
        if at == phase and done == total:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        perform(recipe.slice_recipe(), stop)
    assert left_over() == []


def test_model_that_does_not_fit_on_the_disk_is_one_sentence_and_leaves_nothing(recipe, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("slicing.modeling_sliced.SlicedForCausalLM.save_pretrained", full)
    with pytest.raises(StorageError, match="the disk is full"):
        perform(recipe.slice_recipe())
    assert left_over() == []


def test_dense_model_is_judged_on_the_first_windows_of_the_evaluation_text(recipe):
    result = perform(recipe).result
    opened = open_dense(recipe.model)
    windows = token_windows(recipe.evaluation, opened.tokenizer, 24, 9)
    found = result.contestant("dense").evaluation
    assert found.nll == perplexity(opened.model, windows, precision=found.precision).nll
    assert result.calibration.digest != result.evaluation.digest
    assert (result.calibration.windows, result.evaluation.windows) == (4, 9)


@pytest.mark.parametrize(("score", "first_token"), [("lr", False), ("lr", True), ("angular", False)])
def test_plan_is_made_from_the_score_it_names(recipe, score, first_token):
    plan = Plan(rounding=1, score=score, first_token=first_token)
    result = perform(recipe.slice_recipe().model_copy(update={"plan": plan})).result
    assert result.fractions == plan.fractions(result.profile.redundancy(score, first_token))
    every = [
        result.profile.redundancy(*choice) for choice in (("lr", False), ("lr", True), ("angular", False))
    ]
    assert len({plan.fractions(redundancy) for redundancy in every}) == 3


def test_seed_draws_the_calibration_windows_and_the_profile_uses_the_first_of_them(recipe):
    sliced = recipe.slice_recipe()
    first, second = (perform(sliced.model_copy(update={"seed": seed})).result for seed in (0, 1))
    assert first.calibration.digest != second.calibration.digest
    assert first.profile.windows == second.profile.windows == 2
    opened = open_dense(recipe.model)
    windows = token_windows(recipe.calibration, opened.tokenizer, 24, 4, seed=1)
    expected = profile_blocks(opened.model, windows[:2], model_label="", text_label="")
    assert second.profile.measurements == expected.measurements


def test_a_profile_of_the_calibration_draw_is_the_one_that_slicing_makes(recipe):
    compared = perform(recipe).result.profile
    shared = {"model": recipe.model, "text": recipe.calibration, "windows": 2, "window_length": 24}
    same = perform(ProfileRecipe(**shared, drawn=4)).result.profile
    other = perform(ProfileRecipe(**shared)).result.profile
    assert same.measurements == compared.measurements
    assert other.measurements != compared.measurements
    with pytest.raises(PlanError, match="draw more calibration windows"):
        ProfileRecipe(**shared, drawn=1)


def test_runs_are_listed_newest_first(recipe):
    keys = []
    for day, seed in enumerate((3, 1, 2), start=1):
        run = perform(profile_of(recipe).model_copy(update={"seed": seed}))
        path = runs_folder() / run.key / "run.json"
        path.write_text(edited(json.loads(path.read_text()), "created", f"2026-01-0{day}T00:00:00Z"))
        keys.insert(0, run.key)
    assert [run.key for run in list_runs()[0]] == keys


def test_family_that_cannot_be_sliced_is_profiled_and_the_reason_is_kept(recipe, tmp_path):
    tiny_model("olmo2").save_pretrained(tmp_path / "olmo2")
    byte_tokenizer().save_pretrained(tmp_path / "olmo2")
    other = recipe.model_copy(update={"model": ModelSource.parse(str(tmp_path / "olmo2"))})
    result = perform(profile_of(other)).result
    assert result.shape is None
    assert "'olmo2' cannot be sliced" in result.not_sliceable
    with pytest.raises(UnsupportedError, match="'olmo2' cannot be sliced"):
        perform(other)
    assert len(list_runs()[0]) == 1


@pytest.mark.parametrize("key", ["", "..", "../runs", ".", "zzzz", "/"])
def test_keys_that_name_no_run_delete_nothing(recipe, key):
    run = perform(profile_of(recipe))
    with pytest.raises(StorageError, match="lists the keys"):
        throw_away(key)
    with pytest.raises(StorageError, match="lists the keys"):
        find_run(key)
    assert list_runs()[0] == [run]


def test_profile_of_more_windows_than_there_are_is_refused(recipe):
    with pytest.raises(PlanError, match="choose a number from 1 to all of them"):
        perform(recipe.model_copy(update={"profile_windows": 5}))


def test_impossible_plan_is_told_before_the_profile(recipe):
    seen: list[str] = []
    plan = Plan(rounding=1, target=0.5, settings={"base": 0.1}, max_fraction=0.4)
    with pytest.raises(PlanError, match="cannot be reached"):
        perform(recipe.model_copy(update={"plan": plan}), lambda phase, done, total: seen.append(phase))
    assert set(seen) == {"Opening"}


def test_too_little_evaluation_text_is_told_before_the_profile(recipe):
    with pytest.raises(TextError, match="tokens, but 9,000 windows"):
        perform(recipe.model_copy(update={"evaluation_windows": 9000}))


def test_same_text_twice_is_warned_about(recipe):
    assert recipe.warnings(None) == ()
    twice = recipe.model_copy(update={"evaluation": recipe.calibration})
    (told,) = twice.warnings(None)
    assert "flatters every smaller model" in told
    assert twice.slice_recipe().warnings(None) == (told,)


def test_both_warnings_can_stand_together(recipe):
    twice = recipe.model_copy(update={"evaluation": recipe.calibration, "calibration_windows": 1})
    same, few = twice.warnings(DEMO_SHAPE)
    assert "flatters" in same
    assert "576 dimensions" in few


SHARED: dict[str, Any] = {
    "model": ModelSource(kind="demo"),
    "calibration": TextSource(kind="demo", split="calibration"),
    "calibration_windows": 2,
    "profile_windows": 1,
    "window_length": 256,
}
EVALUATED: dict[str, Any] = {**SHARED, "evaluation": TextSource(kind="demo", split="evaluation")}
REMOVED = Removal(closing="writers")
BASES, WRITERS, MATRIX = "The bases of a stream", "Writers are fitted", "A matrix over a gap is fitted"
CALIBRATING: list[tuple[Any, list[str]]] = [
    (SliceRecipe(**SHARED), [BASES]),
    (SliceRecipe(**SHARED, repair=True), [BASES, WRITERS]),
    (CompareRecipe(**EVALUATED), [BASES]),
    (SearchRecipe(**SHARED, plan=Plan(allocation="searched", settings={})), [BASES]),
    (SweepRecipe(**EVALUATED), [BASES]),
    (RemoveRecipe(**SHARED), []),
    (RemoveRecipe(**SHARED, removal=Removal(closing="block")), []),
    (RemoveRecipe(**SHARED, removal=REMOVED), [WRITERS]),
    (RemoveRecipe(**SHARED, removal=Removal(closing="matrix")), [MATRIX]),
    (TrialRecipe(**EVALUATED, plan=None), []),
    (TrialRecipe(**EVALUATED, plan=None, repair=True), []),
    (TrialRecipe(**EVALUATED, plan=Plan()), [BASES]),
    (TrialRecipe(**EVALUATED, plan=None, removal=REMOVED, fewer=0.1), [WRITERS]),
    (ContestRecipe(**EVALUATED, entries=(Entry(),)), [BASES]),
    (ContestRecipe(**EVALUATED, entries=(Entry(), Entry(repair=True))), [BASES, WRITERS]),
    (
        LeaderboardRecipe(**EVALUATED, entries=(Entry(), Entry.parse("remove:greedy+matrix"))),
        [BASES, MATRIX],
    ),
    (
        ProfileRecipe(model=SHARED["model"], text=SHARED["calibration"], windows=2, window_length=256),
        [],
    ),
    (
        ProfileRecipe(
            model=SHARED["model"], text=SHARED["calibration"], windows=2, window_length=256, bases=True
        ),
        [BASES],
    ),
]


@pytest.mark.parametrize(("asked", "told"), CALIBRATING)
def test_every_recipe_warns_of_too_few_tokens_for_what_it_fits(asked, told):
    found = asked.warnings(DEMO_SHAPE)
    assert [
        next(each for each in (BASES, WRITERS, MATRIX) if text.startswith(each)) for text in found
    ] == told
    assert asked.warnings(None) == ()
    enough = "windows" if isinstance(asked, ProfileRecipe) else "calibration_windows"
    assert asked.model_copy(update={enough: 16}).warnings(DEMO_SHAPE) == ()


def test_bundled_runs_need_no_warning():
    for run in (bundled_run(), bundled_sweep(), bundled_contest(), bundled_board()):
        assert run.recipe.warnings(run.result.shape) == ()


def test_a_model_card_begins_with_the_warnings(recipe):
    few = recipe.slice_recipe().model_copy(
        update={"evaluation": recipe.calibration, "calibration_windows": 1}
    )
    few = few.model_copy(update={"profile_windows": 1, "window_length": 16, "evaluation_windows": 1})
    perform(few)
    card = (runs_folder() / few.key / "model" / "README.md").read_text()
    assert card.count("> **Warning:** ") == 2
    assert (
        card.index("flatters") < card.index("The bases of a stream of 32 dimensions") < card.index("Recipe")
    )
    removing = RemoveRecipe(
        model=recipe.model,
        calibration=recipe.calibration,
        calibration_windows=2,
        profile_windows=1,
        window_length=16,
        blocks=1,
        removal=Removal(method="shortgpt", closing="matrix"),
        search_windows=1,
    )
    perform(removing)
    card = (runs_folder() / removing.key / "model" / "README.md").read_text()
    assert card.count("> **Warning:** A matrix over a gap is fitted to 16 tokens") == 1


def test_sliced_model_is_not_sliced_again(recipe):
    perform(recipe.slice_recipe())
    folder = runs_folder() / recipe.slice_recipe().key / "model"
    with pytest.raises(UnsupportedError, match="sliced already"):
        perform(recipe.model_copy(update={"model": ModelSource.parse(str(folder))}))


def test_open_model_is_left_as_it_was(recipe):
    opened = open_dense(recipe.model)
    before = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    perform(recipe, opener=lambda source: opened)
    assert all(tensor.equal(before[name]) for name, tensor in opened.model.state_dict().items())


def test_bundled_board_holds_everyone_that_its_recipe_names_at_one_size():
    run = bundled_board()
    recipe, result = run.recipe, run.result
    assert isinstance(recipe, LeaderboardRecipe)
    assert isinstance(result, LeaderboardResult)
    board = read_board(recipe, result)
    assert board.done == board.total
    for table in board.tables:
        assert len(table.standings) == len(recipe.entries)
        sizes = [each.parameters for each in table.standings]
        assert max(sizes) - min(sizes) < 0.005 * min(sizes)  # a matrix more, or a rounding step


def test_bundled_contest_holds_everyone_that_its_recipe_names():
    run = bundled_contest()
    recipe, result = run.recipe, run.result
    assert isinstance(recipe, ContestRecipe)
    assert isinstance(result, ContestResult)
    table = read_contest(recipe, result)
    assert table.done == table.total == len(result.contestants)
    assert len(table.standings) == len(recipe.entries)
    size = result.contestants[1].parameters
    for each in result.contestants[1:]:
        assert each.schedule is not None
        assert each.parameters == each.schedule.shape_after(result.shape).parameters
        assert abs(each.parameters - size) <= size // 1000


def test_bundled_run_is_the_default_comparison_of_the_demo():
    run = bundled_run()
    assert BUNDLED_RUN.name == "demo-run"
    assert run.recipe == CompareRecipe(
        model=ModelSource.parse("demo"),
        calibration=TextSource.parse("demo", "calibration"),
        evaluation=TextSource.parse("demo", "evaluation"),
    )
