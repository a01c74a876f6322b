"""Keys last: new fields with defaults change none, and runs of earlier versions stay what they are."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import byte_tokenizer, tiny_model
from pydantic import create_model
from slicing.contest import read_contest
from slicing.grid import read_grid
from slicing.runs import (
    CompareRecipe,
    ContestRecipe,
    LeaderboardRecipe,
    ProfileRecipe,
    RemoveRecipe,
    SearchRecipe,
    SliceRecipe,
    SweepRecipe,
    TrialRecipe,
)

from analysis.errors import StorageError
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from analysis.values import Value
from app.journal import Entry
from app.journal import Entry as Waiting
from app.report import build_report
from slicing.library import bring_in, note_of, pack, take_back, throw_away, trashed
from slicing.plan import Plan
from slicing.steps.removal import Removal
from slicing.study import store
from slicing.study.recipe import Recipe
from slicing.study.results import Run
from slicing.study.run import perform
from slicing.study.store import (
    bundled_board,
    bundled_contest,
    bundled_run,
    bundled_sweep,
    find_run,
    find_stored,
    folder_of,
    list_runs,
    load_run,
    summaries,
)
from slicing.study.verdicts import read_board

DEMO = ModelSource(kind="demo")
CALIBRATION, EVALUATION = (TextSource(kind="demo", split=split) for split in ("calibration", "evaluation"))
SHARED: dict[str, Any] = {"model": DEMO, "calibration": CALIBRATION}
JUDGED: dict[str, Any] = {**SHARED, "evaluation": EVALUATION}
GOLDEN: dict[str, Value] = {
    "profile": ProfileRecipe(model=DEMO, text=CALIBRATION),
    "profile, all": ProfileRecipe(
        model=ModelSource(kind="hub", location="owner/name", revision="main", dtype="bfloat16"),
        text=TextSource(kind="file", location="/texts/a.txt", max_documents=3),
        windows=4,
        window_length=128,
        seed=7,
        bases=True,
        probes=("leave-one-out",),
        lens=True,
    ),
    "slice": SliceRecipe(**SHARED),
    "remove": RemoveRecipe(**SHARED, removal=Removal(method="laco", settings={"merge": "mean"})),
    "compare": CompareRecipe(**JUDGED, plan=Plan(target=0.3, settings={"base": 0.05}, span=3), repair=True),
    "search": SearchRecipe(**SHARED, plan=Plan(allocation="searched", settings={})),
    "trial": TrialRecipe(**JUDGED, plan=None),
    "sweep": SweepRecipe(**JUDGED, bases=(0.0, 0.05)),
    "contest": ContestRecipe(**JUDGED, entries=(Entry(), Entry(allocation="rising")), seeds=(0, 1)),
    "leaderboard": LeaderboardRecipe(**JUDGED, sizes=(0.2,)),
}
KEYS = {
    "profile": "b74ba5db4268",
    "profile, all": "7411c76ff9b4",
    "slice": "ed1317edc9f4",
    "remove": "c11f7d936c61",
    "compare": "4abe824ea332",
    "search": "e02d7daccedc",
    "trial": "8ead51f72082",
    "sweep": "9fca12ec62a9",
    "contest": "889092be8a23",
    "leaderboard": "fed8e1fdda63",
}
"""Never changed: a key that differs here is one that nobody's stored run has."""
SHIPPED = {
    "bundled_run": "30381ef711c1",
    "bundled_sweep": "5be33d5a8b91",
    "bundled_contest": "27f2a062dcd7",
    "bundled_board": "573e1d35f417",
}


def of_recipes() -> list[type[Value]]:
    return list(get_args(get_args(Recipe)[0]))


def grown(value: Any) -> Any:
    """The same value in a version of slicescope where each of its classes has one more field."""
    if isinstance(value, Value):
        fields = {name: grown(getattr(value, name)) for name in type(value).model_fields}
        kind = create_model(type(value).__name__, __base__=type(value), added=(int, 7), more=(dict, {}))
        return kind.model_construct(**fields, added=7, more={})
    if isinstance(value, tuple):
        return tuple(map(grown, value))
    return value


@pytest.mark.parametrize("name", GOLDEN)
def test_keys_are_golden(name):
    assert GOLDEN[name].key == KEYS[name]


def test_every_kind_of_recipe_has_a_golden_key():
    assert {type(recipe) for recipe in GOLDEN.values()} == set(of_recipes())
    assert len(set(KEYS.values())) == len(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_new_field_with_a_default_changes_no_key(name):
    recipe: Any = grown(GOLDEN[name])
    assert recipe.added == recipe.model.added == 7
    assert recipe.key == KEYS[name]
    assert recipe.model_copy(update={"added": 8}).key != KEYS[name]
    assert recipe.model_copy(update={"more": {"a": 1}}).key != KEYS[name]


def test_a_default_that_means_something_else_changes_the_key():
    class Later(ProfileRecipe):
        version = 2

    assert Later(model=DEMO, text=CALIBRATION).key != KEYS["profile"]


def test_an_inner_default_that_means_something_else_changes_the_key():
    class LaterPlan(Plan):
        version = 2

    class Later(SliceRecipe):
        plan: LaterPlan = LaterPlan()  # type: ignore[assignment]

    assert Later(**SHARED).key != KEYS["slice"]


@pytest.mark.parametrize("kind", [ContestRecipe, LeaderboardRecipe])
def test_entries_are_part_of_the_key_also_at_their_default(kind):
    usual = kind.model_fields["entries"].default
    later = create_model("Later", __base__=kind, entries=(tuple[Entry, ...], (*usual, Entry(span=7))))
    assert later(**JUDGED).key != kind(**JUDGED).key
    assert kind(**JUDGED, entries=usual).key == kind(**JUDGED).key


@pytest.mark.parametrize("run", [bundled_run, bundled_sweep, bundled_contest, bundled_board])
def test_runs_that_ship_keep_the_keys_they_were_made_with(run):
    assert run().key == SHIPPED[run.__name__]


# Runs of version 0.1

OLD = Path(__file__).parents[1] / "data" / "runs-0.1.0.tar.gz"
"""One of every kind, and a contest that was stopped, made by commit cc44ccc on a tiny model."""
PROFILE, SLICED, REMOVED, COMPARED = "5964bdd357e9", "68588df35108", "af845016f56d", "092897a98150"
SEARCHED, SWEPT, BOARD, TRASHED = "f4c8e8662ce7", "55b822d54f95", "5631bb80f0ac", "1e96bdf2ecd4"
COUNT = 18
CONTEST_TRIALS = ("7533b480b2a8", "cf86f1d6ad72", "a647df166ae1", "bc4d4d801323")


@pytest.fixture
def old() -> Path:
    runs_folder().parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(OLD) as archive:
        archive.extractall(runs_folder().parent, filter="data")
    return runs_folder()


def opened(_: ModelSource) -> OpenModel:
    return OpenModel(tiny_model("llama"), byte_tokenizer())


def stopped_contest() -> ContestRecipe:
    model = ModelSource(kind="hub", location="slicescope/tiny")
    texts = {
        name: TextSource(kind="demo", split=split, max_documents=1)
        for name, split in (
            ("calibration", "calibration"),
            ("evaluation", "evaluation"),
            ("other", "out-of-style"),
        )
    }
    names = ("constant", "dynamic:lr:base=0", "random:draw=0", "constant+span=3+repair")
    return ContestRecipe(
        model=model,
        **texts,
        calibration_windows=4,
        profile_windows=2,
        window_length=24,
        evaluation_windows=9,
        plan=Plan(target=0.3, rounding=1),
        entries=tuple(Entry.parse(name) for name in names),
        seeds=(0, 1),
    )


def test_earlier_runs_are_listed_and_found_by_their_keys(old):
    listed, broken = summaries()
    assert broken == []
    assert {each.name for each in listed} == {path.name for path in old.iterdir() if path.name[0] != "."}
    assert len(listed) == COUNT
    for key in (PROFILE, SLICED, REMOVED, COMPARED, SEARCHED, SWEPT, BOARD):
        assert find_run(key).key == find_run(key[:6]).key == key
    assert note_of(PROFILE).label == "the first profile"
    assert list_runs()[1] == []


def test_earlier_runs_are_found_by_the_keys_their_recipes_have_now(old):
    for run in list_runs()[0]:
        assert run.recipe.key != run.key
        assert find_run(run.recipe.key).key == run.key
        found = find_stored(run.recipe)
        assert found is not None
        assert found.key == run.key
        assert folder_of(run.recipe) == old / run.key


def test_earlier_runs_have_reports_and_intervals_of_this_version(old):
    for run in list_runs()[0]:
        assert run.key in build_report(run)
    result: Any = find_run(COMPARED).result
    assert len(result.differences) == 4
    assert {each.comparisons for each in result.differences} == {4}


def test_earlier_sweeps_and_leaderboards_are_whole(old):
    for key, read in ((SWEPT, read_grid), (BOARD, read_board)):
        found = read(find_run(key).recipe)  # from the stored trials
        assert found.done == found.total


def test_an_earlier_contest_goes_on_where_it_stopped(old):
    recipe = stopped_contest()
    assert read_contest(recipe).done == len(CONTEST_TRIALS)
    before = {path: path.read_bytes() for path in old.glob("*/run.json")}
    made: list[str] = []
    run = perform(recipe, lambda phase, done, total: made.append(phase), opener=opened)
    assert read_contest(recipe).done == len(recipe.trials())
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(summaries()[0]) == COUNT + len(recipe.trials()) - len(CONTEST_TRIALS) + 1
    assert run.key == recipe.key


def test_an_earlier_run_made_again_keeps_its_key_and_note(old):
    earlier = find_run(PROFILE)
    again = perform(earlier.recipe, opener=opened)
    assert again.key == PROFILE
    assert again.created > earlier.created
    assert note_of(PROFILE).label == "the first profile"
    assert len(summaries()[0]) == COUNT
    recorded = json.loads((old / PROFILE / "run.json").read_text())["recorded_key"]
    assert recorded == PROFILE


def test_an_earlier_run_leaves_the_trash_and_travels_under_its_key(old, monkeypatch, tmp_path):
    (name,) = trashed()
    assert take_back(name) == TRASHED
    packed = {key: pack(key) for key in (PROFILE, COMPARED, TRASHED)}
    plain = (old / COMPARED / "run.json").read_bytes()  # as version 0.1 stored it
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    for key, content in packed.items():
        assert bring_in(content, "it").key == key
    throw_away(COMPARED)
    assert bring_in(plain, "it").key == COMPARED


def test_a_run_that_cannot_be_read_is_never_to_be_deleted(old):
    path = old / PROFILE / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "from the future": 1}))
    _, ((_, sentence),) = summaries()
    assert "update slicescope if a later version wrote it" in sentence
    assert "delete" not in sentence


def test_a_job_that_waited_in_an_earlier_server_is_taken_over(old):
    for key in (PROFILE, SLICED, REMOVED, COMPARED, SEARCHED, SWEPT, BOARD):
        recipe = json.loads((old / key / "run.json").read_text())["recipe"]
        noted = {"submitted": "2026-11-01T00:00:00Z", "owner": "ada", "recipe": recipe}
        assert Waiting.from_json(json.dumps(noted), "it").recipe == find_run(key).recipe


# The store


def test_listing_opens_only_what_is_new_or_has_changed(old, monkeypatch):
    opened_files: list[Path] = []
    real = store.parse_run

    def counted(content: bytes, origin: str, profile: Any) -> Run:
        opened_files.append(Path(origin.strip("'")))
        return real(content, origin, profile)

    monkeypatch.setattr(store, "parse_run", counted)
    store._cached_run.cache_clear()
    first = summaries()[0]
    assert len(opened_files) == COUNT
    store._cached_run.cache_clear()
    assert summaries()[0] == first
    assert len(opened_files) == COUNT
    path = old / PROFILE / "run.json"
    path.write_text(path.read_text().replace('"seconds"', ' "seconds"', 1))
    summaries()
    assert opened_files[COUNT:] == [path]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"made_by": "1 0.0.0", "runs": []}', '{"runs": 3}'])
def test_a_broken_or_foreign_index_is_made_anew(old, content):
    listed = summaries()
    (old / ".index.json").write_text(content)
    assert summaries() == listed
    assert json.loads((old / ".index.json").read_text())["runs"]


def test_without_a_place_for_the_index_everything_is_listed(old, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert len(summaries()[0]) == COUNT
    assert not (old / ".index.json").exists()


def test_a_copied_folder_is_a_run_of_its_own(old):
    (old / COMPARED).rename(old / "my copy")
    assert find_run("my copy").key == "my copy"
    assert find_run("my copy").result == load_run(old / "my copy").result
    found = find_stored(find_run("my copy").recipe)
    assert found is not None
    assert found.key == "my copy"


@pytest.mark.parametrize("name", ["my copy", f"{PROFILE}-2"])
def test_a_run_made_again_under_another_name_stays_there_and_is_read(old, name):
    (old / PROFILE).rename(old / name)
    again = perform(find_run(name).recipe, opener=opened)
    assert again.key == name
    assert find_run(name).created == again.created
    assert summaries()[1] == []
    assert not (old / PROFILE).exists()


def test_a_key_that_belongs_to_another_recipe_is_not_believed(old):
    run, asked = find_run(COMPARED), stopped_contest().dense()
    forged = json.loads(run.to_json()) | {"recorded_key": asked.key, "created": "2026-01-01T00:00:00Z"}
    assert bring_in(json.dumps(forged).encode(), "it").key == asked.key
    found = find_stored(asked)
    assert found is not None
    assert found.key == CONTEST_TRIALS[0]
    other = stopped_contest().trial(Entry(allocation="rising"), 0)
    forged = json.loads(run.to_json()) | {"recorded_key": other.key, "created": "2026-01-02T00:00:00Z"}
    bring_in(json.dumps(forged).encode(), "it")
    assert find_stored(other) is None
    made = perform(other, opener=opened)
    assert made.key == f"{other.key}-2"
    assert find_run(other.key).recipe == run.recipe  # which was not replaced


def test_a_run_is_brought_in_once(old):
    later = json.loads(find_run(COMPARED).to_json()) | {"created": "2026-12-01T00:00:00Z"}
    assert bring_in(json.dumps(later).encode(), "it").key == f"{COMPARED}-2"
    with pytest.raises(StorageError, match="stored here already"):
        bring_in(json.dumps(later).encode(), "it")


def test_a_damaged_profile_is_told_hides_no_other_and_is_mended(old):
    run = perform(find_run(PROFILE).recipe, opener=opened)
    assert len(summaries()[0]) == COUNT
    (shared,) = (old / ".profiles").iterdir()
    shared.write_text("{")
    store._cached_run.cache_clear()
    store._profiles.clear()
    found, ((_, sentence),) = list_runs()
    assert len(found) == COUNT - 1
    assert "profile.json' is not a readable LayerProfile" in sentence
    perform(run.recipe, opener=opened)
    assert list_runs()[1] == []
    assert len(list_runs()[0]) == COUNT


def test_trials_that_saw_other_windows_are_not_counted(old):
    recipe = stopped_contest()
    path = old / CONTEST_TRIALS[0] / "run.json"
    plain = json.loads(path.read_text())
    plain["result"]["evaluation"]["digest"] = "0" * 16
    path.write_text(json.dumps(plain))
    assert read_contest(recipe).done == len(CONTEST_TRIALS) - 1


def test_all_of_a_run_is_in_its_json(old):
    plain = json.loads(find_run(COMPARED).to_json())["result"]
    pairs = [(each["baseline"], each["contender"]) for each in plain["differences"]]
    assert pairs[2:] == [("constant", "dynamic"), ("constant-matched", "dynamic")]
    assert len(plain["contestants"][0]["evaluation"]["interval"]) == 2


def test_trials_share_one_file_of_their_profile(old):
    perform(stopped_contest(), opener=opened)
    new = [path.parent for path in old.glob("*/profile.json")]
    assert len(new) >= 5
    inodes = {(folder / "profile.json").stat().st_ino for folder in new}
    assert len(inodes) < len(new)
    assert {path.stat().st_ino for path in (old / ".profiles").iterdir()} == inodes
    for folder in new:  # every folder has all of its run, whatever becomes of the others
        assert load_run(folder).result.profile.blocks == 3


def test_a_folder_copied_by_hand_brings_its_profile(old, monkeypatch, tmp_path):
    run = perform(find_run(PROFILE).recipe, opener=opened)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("run.json", "profile.json"):
            archive.write(old / run.key / name, name)
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(StorageError, match="without its profile"):
        bring_in((old / run.key / "run.json").read_bytes(), "it")
    assert bring_in(packed.getvalue(), "it").result == run.result


def test_profiles_that_no_run_needs_are_cleared_away(old):
    run = perform(find_run(PROFILE).recipe, opener=opened)
    (shared,) = (old / ".profiles").iterdir()
    throw_away(run.key)
    assert shared.exists()  # the trash may give it back
    (old / ".trash" / trashed()[0] / "profile.json").unlink()
    store.clear_profiles()
    assert not shared.exists()
