"""A request becomes a run, whole or not at all."""

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

from analysis.errors import Cancelled, PlanError, StorageError, TextError, UnsupportedError
from analysis.evaluate import perplexity
from analysis.profile import profile_blocks
from analysis.sources.model import ModelSource
from analysis.sources.opening import open_dense
from analysis.sources.text import TextSource
from analysis.sources.windows import token_windows
from analysis.storage import runs_folder
from slicing.budget import Budget
from slicing.library import throw_away
from slicing.plans import Plan
from slicing.store import load_sliced
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, Trial
from slicing.studies.results import Run
from slicing.studies.run import perform
from slicing.studies.store import (
    BUNDLED_RUN,
    bundled_board,
    bundled_contest,
    bundled_energy,
    bundled_run,
    bundled_sweep,
    find_run,
    list_runs,
)
from slicing.studies.study import USUAL, Study, comparison, contest, leaderboard, recipes, sweep
from slicing.studies.verdicts import Comparison, read_board, read_comparison

TEXT = "A whole is what has a beginning and middle and end; a window has at least the middle of one. "


@pytest.fixture
def judged(tiny_folder: Path, tmp_path: Path) -> dict[str, Any]:
    for name, text in (("calibration", TEXT), ("evaluation", TEXT[::-1])):
        (tmp_path / f"{name}.txt").write_text(text * 20)
    return {
        "model": ModelSource.parse(str(tiny_folder)),
        "calibration": TextSource.parse(str(tmp_path / "calibration.txt"), "calibration"),
        "evaluation": TextSource.parse(str(tmp_path / "evaluation.txt"), "evaluation"),
        "calibration_windows": 4,
        "profile_windows": 2,
        "evaluation_windows": 9,
        "window_length": 24,
        "new_tokens": 2,
    }


@pytest.fixture
def study(judged) -> Study:
    return comparison(Plan(rounding=1), **judged)


@pytest.fixture
def sliced(study) -> CompressRequest:
    """What keeps the planned model."""
    return study.trials()[-1].compress_request()


def compared(study: Study) -> Comparison:
    result = perform(study).result
    assert result.kind == "study"
    return read_comparison(study, result)


def profile_of(study: Study) -> ProfileRequest:
    return ProfileRequest(model=study.model, text=study.calibration, windows=2, window_length=24)


def left_over() -> list[str]:
    """What lies in the folder of runs, but the trials of a study."""
    folder = runs_folder()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.is_dir() else []


def test_comparison_names_everyone_and_pairs_them(study):
    found = compared(study)
    assert list(found.measured) == ["dense", "constant", "dynamic", "constant-matched"]
    assert found.planned == "dynamic"
    assert found.measured["dense"].parameters > found.measured["dynamic"].parameters
    for each in found.differences:
        nll = [np.array(found.measured[name].evaluation.nll) for name in (each.baseline, each.contender)]
        assert each.nats == pytest.approx(float((nll[1] - nll[0]).mean()), abs=1e-12)
        one, other = (found.measured[name].evaluation.perplexity for name in (each.baseline, each.contender))
        assert each.percent == pytest.approx(100 * (other / one - 1), rel=1e-9, abs=1e-9)
    files = {"profile.json", "profile.safetensors", "run.json"}
    assert {path.name for path in (runs_folder() / study.key).iterdir()} == files
    assert {run.request.kind for run in list_runs()[0]} == {"study", "trial"}


def test_base_equal_to_target_is_constant_slicing(judged):
    found = compared(comparison(Plan(rounding=1, target=0.25, settings={"base": 0.25}), **judged))
    constant, dynamic = found.measured["constant"], found.measured["dynamic"]
    assert dynamic.schedule == constant.schedule
    assert dynamic.evaluation == constant.evaluation
    assert found.difference("constant", "dynamic").verdict == "no clear difference"


def test_constant_plan_is_compared_with_nothing_else(judged):
    found = compared(comparison(Plan(rounding=1, allocation="constant"), **judged))
    assert list(found.measured) == ["dense", "constant", "constant-matched"]
    assert found.difference("dense", "constant").nats != 0.0


def test_constant_plan_with_shared_bases_is_compared_with_the_published_one(judged):
    asked = comparison(Plan(rounding=1, allocation="constant", blocks_per_basis=2), **judged)
    found = compared(asked)
    names = ["dense", "constant", "constant+span=2", "constant-matched"]
    assert list(found.measured) == names
    spans = [each.schedule and each.schedule.span for each in found.measured.values()]
    assert spans == [None, 0, 2, 0]
    assert found.planned == "constant+span=2"
    assert found.difference("constant", found.planned).nats != 0.0
    assert {phase for phase, _ in asked.phases()} >= {"Slicing constant+span=2"}


def test_run_comes_back_from_its_folder(sliced):
    run = perform(sliced)
    assert find_run(run.key[:6]) == run
    assert list_runs() == ([run], [])
    assert Run.from_json(run.to_json(), "test") == run


def test_same_request_gives_the_same_numbers_in_the_same_folder(sliced):
    first, second = perform(sliced), perform(sliced)
    assert first.key == second.key
    assert len(list_runs()[0]) == 1
    assert first.result.smaller.nll == second.result.smaller.nll  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"window_length": 25},
        {"evaluation_windows": 8},
        {"recipes": recipes("slice(constant)", "slice(dynamic)")},
        {"budgets": (Budget(amount=0.26),)},
        {"matched": False},
        {"model": ModelSource(kind="demo")},
    ],
)
def test_any_other_request_has_another_key(study, change):
    assert study.model_copy(update=change).key != study.key


def test_sliced_run_keeps_a_model_that_opens(sliced):
    run: Any = perform(sliced)
    folder = runs_folder() / run.key / "model"
    opened, _ = load_sliced(ModelSource.parse(str(folder)))
    assert opened.schedule == run.result.schedule
    assert sum(p.numel() for p in opened.model.parameters()) == run.result.parameters


def test_progress_follows_the_announced_phases(study):
    seen: list[str] = []
    perform(study, lambda phase, done, total: seen.append(phase))
    order = list(dict.fromkeys(seen))
    announced = [name for name, _ in study.phases()]
    assert order == [name for name in announced if name in order]
    assert {name.split()[0] for name in set(announced) - set(order)} <= {"Timing"}


@pytest.mark.parametrize("phase", ["Opening", "Profiling", "Slicing", "Evaluating dense", "Saving"])
@pytest.mark.parametrize("error", [Cancelled("stopped"), RuntimeError("broken")])
def test_nothing_is_left_of_a_run_that_ends_early(sliced, phase, error):
    def stop(at: str, done: int, total: int) -> None:
        if at == phase and done:
            raise error

    with pytest.raises(type(error)):
        perform(sliced, stop)
    assert left_over() == []


def test_earlier_run_survives_a_later_one_that_fails(study):
    run = perform(study)

    def stop(phase: str, done: int, total: int) -> None:
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        perform(study, stop)
    assert find_run(run.key) == run


def test_full_disk_is_one_sentence_and_leaves_nothing(study, monkeypatch):
    real = Path.write_text

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if path.name == "run.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match="the disk is full; free some space and try again"):
        perform(profile_of(study))
    assert left_over() == []


def test_runs_folder_that_cannot_be_written_is_told_before_any_work(study, monkeypatch):
    runs_folder().parent.mkdir(parents=True)
    runs_folder().write_text("a file in the way")

    def opener(source: ModelSource) -> Iterator[None]:
        pytest.fail("the model was opened")

    with pytest.raises(StorageError, match="choose another folder"):
        perform(study, opener=opener)  # type: ignore[arg-type]


def test_broken_run_is_one_sentence_and_hides_no_other(study):
    run = perform(profile_of(study))
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
        ("format", 3),
        ("request/kind", "of another version"),
        ("request/recipes/1/steps/0/allocation", "of another version"),
        ("request/recipes/1/steps/0/step", "of another version"),
        ("request/budgets/0/measure", "of another version"),
        ("request/calibration/split", "renamed"),
        ("request/model/kind", "hub"),
        ("result/measurements/1/schedule/widths", [0, 576]),
    ],
)
def test_run_of_another_version_is_one_sentence_and_hides_no_other(study, path, value):
    run = perform(profile_of(study))
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
def test_nothing_is_left_of_a_sliced_run_that_is_stopped(sliced, phase):
    def stop(at: str, done: int, total: int) -> None:
        if at == phase and done == total:
            raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        perform(sliced, stop)
    assert left_over() == []


def test_model_that_does_not_fit_on_the_disk_is_one_sentence_and_leaves_nothing(sliced, monkeypatch):
    def full(*args: object, **kwargs: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("slicing.modeling_sliced.SlicedForCausalLM.save_pretrained", full)
    with pytest.raises(StorageError, match="the disk is full"):
        perform(sliced)
    assert left_over() == []


def test_dense_model_is_judged_on_the_first_windows_of_the_evaluation_text(study):
    result = perform(study).result
    opened = open_dense(study.model)
    windows = token_windows(study.evaluation, opened.tokenizer, 24, 9)
    found = result.measurements[0].evaluation
    assert found.nll == perplexity(opened.model, windows, precision=found.precision).nll
    assert result.calibration.digest != result.evaluation.digest
    assert (result.calibration.windows, result.evaluation.windows) == (4, 9)


@pytest.mark.parametrize(("score", "first_token"), [("lr", False), ("lr", True), ("angular", False)])
def test_plan_is_made_from_the_score_it_names(judged, score, first_token):
    plan = Plan(rounding=1, score=score, first_token=first_token)
    result: Any = perform(comparison(plan, **judged).trials()[-1].compress_request()).result
    found = plan.schedule(result.profile.redundancy(score, first_token), result.shape)
    assert result.schedule == found
    every = [
        result.profile.redundancy(*choice) for choice in (("lr", False), ("lr", True), ("angular", False))
    ]
    assert len({plan.fractions(redundancy) for redundancy in every}) == 3


def test_seed_draws_the_calibration_windows_and_the_profile_uses_the_first_of_them(sliced):
    first, second = (perform(sliced.model_copy(update={"seed": seed})).result for seed in (0, 1))
    assert first.calibration.digest != second.calibration.digest
    assert first.profile.windows == second.profile.windows == 2
    opened = open_dense(sliced.model)
    windows = token_windows(sliced.calibration, opened.tokenizer, 24, 4, seed=1)
    expected = profile_blocks(opened.model, windows[:2], model_label="", text_label="")
    assert second.profile.measurements == expected.measurements


def test_a_profile_of_the_calibration_draw_is_the_one_that_slicing_makes(study):
    compared = perform(study).result.profile
    shared = {"model": study.model, "text": study.calibration, "windows": 2, "window_length": 24}
    same = perform(ProfileRequest(**shared, drawn=4)).result.profile
    other = perform(ProfileRequest(**shared)).result.profile
    assert same.measurements == compared.measurements
    assert other.measurements != compared.measurements
    with pytest.raises(PlanError, match="draw more calibration windows"):
        ProfileRequest(**shared, drawn=1)


def test_runs_are_listed_newest_first(study):
    keys = []
    for day, seed in enumerate((3, 1, 2), start=1):
        run = perform(profile_of(study).model_copy(update={"seed": seed}))
        path = runs_folder() / run.key / "run.json"
        path.write_text(edited(json.loads(path.read_text()), "created", f"2026-01-0{day}T00:00:00Z"))
        keys.insert(0, run.key)
    assert [run.key for run in list_runs()[0]] == keys


def test_family_that_cannot_be_sliced_is_profiled_and_the_reason_is_kept(study, tmp_path):
    tiny_model("olmo2").save_pretrained(tmp_path / "olmo2")
    byte_tokenizer().save_pretrained(tmp_path / "olmo2")
    other = study.model_copy(update={"model": ModelSource.parse(str(tmp_path / "olmo2"))})
    result = perform(profile_of(other)).result
    assert result.shape is None
    assert "'olmo2' cannot be sliced" in result.not_sliceable
    with pytest.raises(UnsupportedError, match="'olmo2' cannot be sliced"):
        perform(other)
    assert len(list_runs()[0]) == 1


@pytest.mark.parametrize("key", ["", "..", "../runs", ".", "zzzz", "/"])
def test_keys_that_name_no_run_delete_nothing(study, key):
    run = perform(profile_of(study))
    with pytest.raises(StorageError, match="lists the keys"):
        throw_away(key)
    with pytest.raises(StorageError, match="lists the keys"):
        find_run(key)
    assert list_runs()[0] == [run]


def test_profile_of_more_windows_than_there_are_is_refused(study):
    with pytest.raises(PlanError, match="choose a number from 1 to all of them"):
        perform(study.model_copy(update={"profile_windows": 5}))


def test_impossible_plan_is_told_before_the_profile(judged):
    seen: list[str] = []
    plan = Plan(rounding=1, target=0.5, settings={"base": 0.1}, max_fraction=0.4)
    with pytest.raises(PlanError, match="cannot be reached"):
        perform(comparison(plan, **judged), lambda phase, done, total: seen.append(phase))
    assert set(seen) <= {"Opening", "Reading text"}


def test_too_little_evaluation_text_is_told_before_the_profile(study):
    with pytest.raises(TextError, match="tokens, but 9,000 windows"):
        perform(study.model_copy(update={"evaluation_windows": 9000}))


def test_same_text_twice_is_warned_about(study):
    assert study.warnings(None) == ()
    twice = study.model_copy(update={"evaluation": study.calibration})
    (told,) = twice.warnings(None)
    assert "flatters every smaller model" in told
    assert twice.trials()[-1].compress_request().warnings(None) == (told,)


def test_both_warnings_can_stand_together(study):
    twice = study.model_copy(update={"evaluation": study.calibration, "calibration_windows": 1})
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
BASES, WRITERS, MATRIX = (
    "The bases of a stream",
    "Writers are fitted",
    "A linear replacement is fitted",
)
PROFILED = {"model": SHARED["model"], "text": SHARED["calibration"], "windows": 2, "window_length": 256}
FEWER, BLOCKS = Budget.parse("parameters=0.1"), Budget.parse("blocks=4")


def kept(line: str) -> CompressRequest:
    recipe = Recipe.parse(line)
    return CompressRequest(**SHARED, recipe=recipe, budget=BLOCKS if recipe.kind == "depth" else Budget())


CALIBRATING: list[tuple[Any, list[str]]] = [
    (kept("slice(dynamic)"), [BASES]),
    (kept("slice(dynamic, repair=writers)"), [BASES, WRITERS]),
    (kept("sleb"), []),
    (kept("sleb(repair=train-block)"), []),
    (kept("sleb(repair=writers)"), [WRITERS]),
    (kept("sleb(repair=linear)"), [MATRIX]),
    (SearchRequest(**SHARED, plan=Plan(allocation="searched")), [BASES]),
    (Trial(**EVALUATED), []),
    (Trial(**EVALUATED, recipe=Recipe.parse("slice(dynamic)"), budget=Budget()), [BASES]),
    (Trial(**EVALUATED, recipe=Recipe.parse("sleb(repair=writers)"), budget=FEWER), [WRITERS]),
    (comparison(Plan(), **EVALUATED), [BASES]),
    (sweep(Plan(), **EVALUATED), [BASES]),
    (contest(recipes("slice(constant)"), **EVALUATED), [BASES]),
    (contest(recipes("slice(constant)", "slice(constant, repair=writers)"), **EVALUATED), [BASES, WRITERS]),
    (leaderboard(recipes("slice(constant)", "sleb(repair=linear)"), **EVALUATED), [BASES, MATRIX]),
    (ProfileRequest(**PROFILED), []),
    (ProfileRequest(**PROFILED, bases=True), [BASES]),
]


@pytest.mark.parametrize(("asked", "told"), CALIBRATING)
def test_every_request_warns_of_too_few_tokens_for_what_it_fits(asked, told):
    found = asked.warnings(DEMO_SHAPE)
    assert [
        next(each for each in (BASES, WRITERS, MATRIX) if text.startswith(each)) for text in found
    ] == told
    assert asked.warnings(None) == ()
    enough = "windows" if asked.kind == "profile" else "calibration_windows"
    assert asked.model_copy(update={enough: 16}).warnings(DEMO_SHAPE) == ()


def test_bundled_runs_need_no_warning():
    for run in (bundled_run(), bundled_energy(), bundled_sweep(), bundled_contest()):
        assert run.request.warnings(run.result.shape) == ()
    board = bundled_board()
    (told,) = board.request.warnings(board.result.shape)  # one of its recipes makes a plain model
    assert "a plain model in one basis has two tables" in told


def test_a_model_card_begins_with_the_warnings(sliced):
    few = sliced.model_copy(
        update={
            "evaluation": sliced.calibration,
            "calibration_windows": 1,
            "profile_windows": 1,
            "window_length": 16,
            "evaluation_windows": 1,
        }
    )
    perform(few)
    card = (runs_folder() / few.key / "model" / "README.md").read_text()
    assert card.count("> **Warning:** ") == 2
    assert (
        card.index("flatters") < card.index("The bases of a stream of 32 dimensions") < card.index("Recipe")
    )
    removing = CompressRequest(
        model=sliced.model,
        calibration=sliced.calibration,
        calibration_windows=2,
        profile_windows=1,
        window_length=16,
        recipe=Recipe.parse("shortgpt(windows=1, repair=linear)"),
        budget=Budget.parse("blocks=1"),
    )
    perform(removing)
    card = (runs_folder() / removing.key / "model" / "README.md").read_text()
    assert card.count("> **Warning:** A linear replacement is fitted to 16 tokens") == 1


def test_sliced_model_is_not_sliced_again(sliced):
    perform(sliced)
    folder = runs_folder() / sliced.key / "model"
    with pytest.raises(UnsupportedError, match="sliced already"):
        perform(sliced.model_copy(update={"model": ModelSource.parse(str(folder))}))


def test_open_model_is_left_as_it_was(study):
    opened = open_dense(study.model)
    before = {name: tensor.clone() for name, tensor in opened.model.state_dict().items()}
    perform(study, opener=lambda source: opened)
    assert all(tensor.equal(before[name]) for name, tensor in opened.model.state_dict().items())


def test_bundled_board_holds_everyone_at_one_size():
    run: Any = bundled_board()
    board = read_board(run.request, run.result)
    assert board.done == board.total
    assert run.request.view == "frontier"
    for table in board.tables:
        assert len(table.standings) == len(run.request.recipes)
        # A plain model in one basis has a hidden size that its heads divide: steps of 72 dimensions here.
        sizes = [each.parameters for each in table.standings if "plain=true" not in each.name]
        assert len(sizes) == len(table.standings) - 1
        assert max(sizes) - min(sizes) < 0.01 * min(sizes)  # a matrix more, or a sub-layer


def test_bundled_contest_holds_everyone_at_one_size():
    run: Any = bundled_contest()
    board = read_board(run.request, run.result)
    assert board.done == board.total == len(run.result.measurements)
    assert run.request.view == "ranking"
    assert {each.line for each in run.request.recipes} <= set(USUAL)
    assert len(board.tables[0].standings) == len(run.request.recipes)
    size = run.result.measurements[1].parameters
    for each in run.result.measurements[1:]:
        assert each.schedule is not None
        assert each.parameters == each.schedule.shape_after(run.result.shape).parameters
        assert abs(each.parameters - size) <= size // 1000


def test_bundled_runs_are_the_usual_ones_of_the_demo():
    assert BUNDLED_RUN.name == "demo-run"
    shared = {
        "model": ModelSource.parse("demo"),
        "calibration": TextSource.parse("demo", "calibration"),
        "evaluation": TextSource.parse("demo", "evaluation"),
    }
    assert bundled_run().request == comparison(Plan(), **shared)
    assert bundled_energy().request == comparison(Plan(score="discarded-energy"), **shared)
