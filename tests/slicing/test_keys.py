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
from pydantic import TypeAdapter, create_model

from analysis.errors import StorageError
from analysis.sources.model import ModelSource
from analysis.sources.opening import OpenModel
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from analysis.values import Value
from slicing.budget import Budget
from slicing.library import bring_in, note_of, pack, take_back, throw_away, trashed
from slicing.plans import Plan, Slicing
from slicing.steps import STEPS
from slicing.studies import store
from slicing.studies.earlier import read_request
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest, ShrinkRequest, Trial
from slicing.studies.results import Request, Run
from slicing.studies.run import perform
from slicing.studies.store import (
    find_run,
    find_stored,
    folder_of,
    list_runs,
    load_run,
    summaries,
)
from slicing.studies.study import Study, comparison, contest, leaderboard, recipes, sweep
from slicing.studies.verdicts import read_board, read_comparison
from slicing.wish import Wish

DEMO = ModelSource(kind="demo")
CALIBRATION, EVALUATION = (TextSource(kind="demo", split=split) for split in ("calibration", "evaluation"))
SHARED: dict[str, Any] = {"model": DEMO, "calibration": CALIBRATION}
JUDGED: dict[str, Any] = {**SHARED, "evaluation": EVALUATION}
BOTH = Recipe.parse(
    "laco(windows=8, merge=mean, share=0.5) | slice(softmax, block-influence, temperature=2, rounding=4)"
)
GOLDEN: dict[str, Any] = {
    "profile": ProfileRequest(model=DEMO, text=CALIBRATION),
    "profile, all": ProfileRequest(
        model=ModelSource(kind="hub", location="owner/name", revision="main", dtype="bfloat16"),
        text=TextSource(kind="file", location="/texts/a.txt", max_documents=3),
        windows=4,
        window_length=128,
        seed=7,
        bases=True,
        probes=("leave-one-out",),
        lens=True,
    ),
    "shrink": ShrinkRequest(**JUDGED, wish=Wish(fewer=0.2)),
    "search": SearchRequest(**SHARED, plan=Plan(allocation="searched")),
    "compress, sliced": CompressRequest(**SHARED, recipe=Recipe.parse("slice(dynamic)")),
    "compress, removed": CompressRequest(
        **SHARED,
        recipe=Recipe.parse("sleb(repair=writers)"),
        budget=Budget.parse("blocks=4"),
        evaluation=EVALUATION,
    ),
    "trial, dense": Trial(**JUDGED),
    "trial, constant": Trial(**JUDGED, recipe=Recipe.parse("slice(constant)"), budget=Budget()),
    "trial, both": Trial(**JUDGED, recipe=BOTH, budget=Budget.parse("parameters=0.2"), seed=3),
    "comparison": comparison(
        Plan(target=0.3, settings={"base": 0.05}, blocks_per_basis=3), repair="writers", **JUDGED
    ),
    "sweep": sweep(Plan(), (0.0, 0.05), **JUDGED),
    "contest": contest(recipes("slice(constant)", "slice(rising)"), seeds=(0, 1), **JUDGED),
    "leaderboard": leaderboard(
        recipes("slice(constant)", "shortgpt", "random-blocks(draw=2)"), (0.2,), **JUDGED
    ),
}
KEYS = {
    "shrink": "ce43c5dea649",
    "profile": "b74ba5db4268",
    "profile, all": "7411c76ff9b4",
    "search": "c5809b644900",
    "compress, sliced": "56d1f21f6640",
    "compress, removed": "33088ddb4afb",
    "trial, dense": "4907c540f2e6",
    "trial, constant": "4a5f46136682",
    "trial, both": "b3da5f4f6373",
    "comparison": "c19607c3ee7d",
    "sweep": "68610d76c04e",
    "contest": "1c9db41e59f5",
    "leaderboard": "be96771687d9",
}
"""Never changed: a key that differs here is one that nobody's stored run has."""
SHIPPED = {
    "bundled_run": "30381ef711c1",
    "bundled_energy": "35d7f45a8d23",
    "bundled_units": "d75adcb9e1e0",
    "bundled_sweep": "5be33d5a8b91",
    "bundled_contest": "27f2a062dcd7",
    "bundled_board": "9378fd017f6f",
    "bundled_widths": "2ffc0d11cabc",
    "bundled_dial": "1fc281aa1d44",
}


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


def test_every_kind_of_request_has_a_golden_key():
    kinds = {get_args(each.model_fields["kind"].annotation)[0] for each in get_args(get_args(Request)[0])}
    assert {request.kind for request in GOLDEN.values()} == kinds
    assert len(set(KEYS.values())) == len(GOLDEN)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_new_field_with_a_default_changes_no_key(name):
    request: Any = grown(GOLDEN[name])
    assert request.added == request.model.added == 7
    assert request.key == KEYS[name]
    assert request.model_copy(update={"added": 8}).key != KEYS[name]
    assert request.model_copy(update={"more": {"a": 1}}).key != KEYS[name]


def test_a_default_that_means_something_else_changes_the_key():
    class Later(ProfileRequest):
        version = 2

    assert Later(model=DEMO, text=CALIBRATION).key != KEYS["profile"]


def test_an_inner_default_that_means_something_else_changes_the_key():
    class LaterPlan(Plan):
        version = 2

    class Later(SearchRequest):
        plan: LaterPlan = LaterPlan(allocation="searched")  # type: ignore[assignment]

    assert Later(**SHARED).key != KEYS["search"]


@pytest.mark.parametrize("name", STEPS)
def test_the_version_of_a_step_is_part_of_every_key_that_it_is_in(name, monkeypatch):
    recipe = Recipe.parse(f"shortgpt | {name}" if STEPS[name].axis == "weights" else name)
    budget = Budget() if recipe.kind == "width" else Budget.parse("parameters=0.2")
    asked = [
        Trial(**JUDGED, recipe=recipe, budget=budget),
        CompressRequest(**SHARED, recipe=recipe, budget=budget),
        Study(**JUDGED, recipes=(recipe,), budgets=(budget,)),
    ]
    before = [request.key for request in asked]
    monkeypatch.setattr(STEPS[name], "version", 2)
    assert not {*before} & {request.key for request in asked}
    others = [request for golden, request in GOLDEN.items() if golden == "profile"]
    assert [request.key for request in others] == [KEYS["profile"]]


def test_how_a_recipe_is_written_changes_no_key():
    def key(line: str) -> str:
        return Trial(**JUDGED, recipe=Recipe.parse(line), budget=Budget()).key

    assert key("slice") == key("slice(dynamic, lr, base=0.1)") == key("slice( allocation = dynamic )")
    assert key("slice(dynamic, base=0)") != key("slice")
    kept = Trial.from_json(GOLDEN["trial, both"].to_json(), "it")
    assert kept.key == KEYS["trial, both"]


@pytest.mark.parametrize("name", SHIPPED)
def test_runs_that_ship_keep_the_keys_they_were_made_with(name):
    assert getattr(store, name)().key == SHIPPED[name]


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


def read_any(plain: Any) -> Any:
    return TypeAdapter(Request).validate_python(plain)


def opened(_: ModelSource) -> OpenModel:
    return OpenModel(tiny_model("llama"), byte_tokenizer())


def stopped_contest() -> Study:
    texts = {
        name: TextSource(kind="demo", split=split, max_documents=1)
        for name, split in (
            ("calibration", "calibration"),
            ("evaluation", "evaluation"),
            ("other", "out-of-style"),
        )
    }
    lines = (
        "slice(constant)",
        "slice(dynamic, base=0)",
        "slice(random)",
        "slice(constant, blocks_per_basis=3, repair=writers)",
    )
    return contest(
        tuple(each.in_form(Slicing(rounding=1)) for each in recipes(*lines)),
        0.3,
        seeds=(0, 1),
        model=ModelSource(kind="hub", location="slicescope/tiny"),
        **texts,
        calibration_windows=4,
        profile_windows=2,
        window_length=24,
        evaluation_windows=9,
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
        assert run.request.key != run.key
        assert find_run(run.request.key).key == run.key
        found = find_stored(run.request)
        assert found is not None
        assert found.key == run.key
        assert folder_of(run.request) == old / run.key


def test_earlier_comparisons_have_intervals_of_this_version(old):
    run: Any = find_run(COMPARED)
    found = read_comparison(run.request, run.result)
    assert list(found.measured) == ["dense", "constant", "dynamic", "constant-matched"]
    assert len(found.differences) == 4
    assert {each.comparisons for each in found.differences} == {4}


def test_earlier_sweeps_and_leaderboards_are_whole(old):
    for key in (SWEPT, BOARD):
        run: Any = find_run(key)
        found = read_board(run.request)  # from the stored trials
        assert found == read_board(run.request, run.result)
        assert found.done == found.total


def test_an_earlier_contest_goes_on_where_it_stopped(old):
    study = stopped_contest()
    assert read_board(study).done == len(CONTEST_TRIALS)
    before = {path: path.read_bytes() for path in old.glob("*/run.json")}
    made: list[str] = []
    run = perform(study, lambda phase, done, total: made.append(phase), opener=opened)
    assert read_board(study).done == len(study.trials())
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(summaries()[0]) == COUNT + len(study.trials()) - len(CONTEST_TRIALS) + 1
    assert run.key == study.key


def test_an_earlier_run_made_again_keeps_its_key_and_note(old):
    earlier = find_run(PROFILE)
    again = perform(earlier.request, opener=opened)
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


def test_the_recipe_of_an_earlier_job_is_the_request_of_its_run(old):
    for key in (PROFILE, SLICED, REMOVED, COMPARED, SEARCHED, SWEPT, BOARD):
        recipe = json.loads((old / key / "run.json").read_text())["recipe"]
        assert read_any(read_request(recipe)) == find_run(key).request


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
    found = find_stored(find_run("my copy").request)
    assert found is not None
    assert found.key == "my copy"


@pytest.mark.parametrize("name", ["my copy", f"{PROFILE}-2"])
def test_a_run_made_again_under_another_name_stays_there_and_is_read(old, name):
    (old / PROFILE).rename(old / name)
    again = perform(find_run(name).request, opener=opened)
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
    other = asked.model_copy(update={"recipe": Recipe.parse("slice(rising)"), "budget": Budget(amount=0.3)})
    forged = json.loads(run.to_json()) | {"recorded_key": other.key, "created": "2026-01-02T00:00:00Z"}
    bring_in(json.dumps(forged).encode(), "it")
    assert find_stored(other) is None
    made = perform(other, opener=opened)
    assert made.key == f"{other.key}-2"
    assert find_run(other.key).request == run.request  # which was not replaced


def test_a_run_is_brought_in_once(old):
    later = json.loads(find_run(COMPARED).to_json()) | {"created": "2026-12-01T00:00:00Z"}
    assert bring_in(json.dumps(later).encode(), "it").key == f"{COMPARED}-2"
    with pytest.raises(StorageError, match="stored here already"):
        bring_in(json.dumps(later).encode(), "it")


def test_a_damaged_profile_is_told_hides_no_other_and_is_mended(old):
    run = perform(find_run(PROFILE).request, opener=opened)
    assert len(summaries()[0]) == COUNT
    (shared,) = (old / ".profiles").iterdir()
    shared.write_text("{")
    store._cached_run.cache_clear()
    store._profiles.clear()
    found, ((_, sentence),) = list_runs()
    assert len(found) == COUNT - 1
    assert "profile.json' is not a readable LayerProfile" in sentence
    perform(run.request, opener=opened)
    assert list_runs()[1] == []
    assert len(list_runs()[0]) == COUNT


def test_trials_that_saw_other_windows_are_not_counted(old):
    study = stopped_contest()
    path = old / CONTEST_TRIALS[0] / "run.json"
    plain = json.loads(path.read_text())
    plain["result"]["evaluation"]["digest"] = "0" * 16
    path.write_text(json.dumps(plain))
    assert read_board(study).done == len(CONTEST_TRIALS) - 1


def test_all_of_a_run_is_in_its_json(old):
    plain = json.loads(find_run(COMPARED).to_json())["result"]
    assert [each["name"] for each in plain["measurements"]] == ["dense", "constant", "dynamic"]
    assert len(plain["measurements"][0]["evaluation"]["interval"]) == 2


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
    run = perform(find_run(PROFILE).request, opener=opened)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("run.json", "profile.json"):
            archive.write(old / run.key / name, name)
    monkeypatch.setenv("SLICESCOPE_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(StorageError, match="without its profile"):
        bring_in((old / run.key / "run.json").read_bytes(), "it")
    assert bring_in(packed.getvalue(), "it").result == run.result


def test_profiles_that_no_run_needs_are_cleared_away(old):
    run = perform(find_run(PROFILE).request, opener=opened)
    (shared,) = (old / ".profiles").iterdir()
    throw_away(run.key)
    assert shared.exists()  # the trash may give it back
    (old / ".trash" / trashed()[0] / "profile.json").unlink()
    store.clear_profiles()
    assert not shared.exists()
