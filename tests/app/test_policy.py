"""What the policy refuses and allows: paths, models, texts, budgets, and what it has never heard of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import cache_folder, runs_folder
from analysis.values import Value
from app import policy as module
from app.engine import Load, Unload
from app.forms import FIRST_ON_BOARD, FIRST_RECIPES
from app.policy import Policy, Refused
from slicing.plans import Plan
from slicing.preview import PreviewRequest
from slicing.steps import STEPS, Step
from slicing.studies import study
from slicing.studies.recipe import Recipe
from slicing.studies.requests import CompressRequest, ProfileRequest, SearchRequest
from slicing.studies.store import bundled_run
from slicing.studies.study import Study

DEMO = ModelSource(kind="demo")
CALIBRATION = TextSource(kind="demo", split="calibration")
EVALUATION = TextSource(kind="demo", split="evaluation")


JUDGED = {"model": DEMO, "calibration": CALIBRATION, "evaluation": EVALUATION}


def profile(**changes: Any) -> ProfileRequest:
    return ProfileRequest(**{"model": DEMO, "text": CALIBRATION, **changes})


def compare(plan: Plan | None = None, **changes: Any) -> Study:
    return study.comparison(plan or Plan(), **{**JUDGED, **changes})


def sweep(**changes: Any) -> Study:
    return study.sweep(Plan(), **{**JUDGED, **changes})


def contest(*lines: str, **changes: Any) -> Study:
    recipes = study.recipes("slice(constant)", *lines)
    return study.contest(recipes, **{**JUDGED, "seeds": (0,), **changes})


def board(*lines: str, **changes: Any) -> Study:
    recipes = study.recipes("slice(constant)", *lines)
    return study.leaderboard(recipes, **{**JUDGED, **changes})


def folder(path: Path | str) -> ModelSource:
    return ModelSource(kind="folder", location=str(path))


def file(path: Path | str) -> TextSource:
    return TextSource(kind="file", location=str(path))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk of whoever runs the tests may be full."""
    monkeypatch.setattr(module, "SPARE_DISK", 0)


# Paths


def test_paths_below_a_root_and_in_slicescopes_own_folders_are_allowed(root: Path) -> None:
    policy = Policy(roots=(root,))
    for path in (root, root / "models" / "a", runs_folder() / "key" / "model", cache_folder() / "a"):
        policy.check(Load(folder(path)))
        policy.check(profile(text=file(path)))
        policy.check(profile(model=ModelSource(kind="gguf", location=str(path))))


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "{root}/../secret", "{root}-beside/a", "~root/.profile", "~nobody-at-all/a", "a\0b"],
)
def test_paths_elsewhere_are_refused(root: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    (root / "~root").mkdir()
    policy, path = Policy(roots=(root,)), path.format(root=root)
    for asked in (Load(folder(path)), profile(text=file(path)), folder(path), compare(evaluation=file(path))):
        with pytest.raises(Refused, match="--root"):
            policy.check(asked)


def test_links_are_followed_before_a_path_is_judged(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "escape").symlink_to(outside)
    (outside / "home").symlink_to(root)
    with pytest.raises(Refused):
        Policy(roots=(root,)).check(folder(root / "escape" / "model"))
    Policy(roots=(root,)).check(folder(outside / "home" / "model"))
    Policy(roots=(outside / "home",)).check(folder(root / "model"))


def test_a_loop_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    with pytest.raises(Refused):
        Policy(roots=(root / "c",)).check(folder(root / "a"))


def test_home_and_working_folder_are_the_usual_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for allowed in ("person/models/a", "work/a"):
        Policy().check(folder(tmp_path / allowed))
    Policy().check(folder("relative/a"))
    Policy().check(file("~/texts/a.txt"))
    with pytest.raises(Refused, match="your home and the working folder"):
        Policy().check(folder(tmp_path / "elsewhere"))


def test_everything_else_is_allowed_by_default() -> None:
    hub = TextSource(kind="hub", location="a/b", split="train")
    model = ModelSource(kind="hub", location="a/b")
    for task in (
        profile(model=model, text=hub, windows=4096, window_length=131072),
        CompressRequest(model=model, calibration=hub, recipe=Recipe.parse("slice(dynamic)")),
        compare(new_tokens=1000),
        Load(model),
        Unload(),
    ):
        Policy().check(task)
    Policy().check_queue(1000)
    assert Policy().cap("profile-windows") is None


# Demo mode


def test_what_the_pages_propose_is_allowed_in_demo_mode() -> None:
    policy = Policy.demo()
    plans = [Plan(), Plan(allocation="constant", settings={})]
    plans.append(Plan(allocation="manual", settings={"shares": (0.25,) * 30}))
    for plan in plans:
        policy.check(compare(plan=plan))
        policy.check(PreviewRequest(run="abcdef123456", plan=plan, evaluation=EVALUATION))
    for task in (profile(), profile(bases=True, lens=True), sweep(), Load(DEMO), bundled_run().request, DEMO):
        policy.check(task)
    for trial in sweep().trials():
        policy.check(trial)
    small = contest(*FIRST_RECIPES[1:], other=EVALUATION)
    removing = board(*FIRST_ON_BOARD[1:4], sizes=(0.1, 0.2, 0.3))
    repeated = contest("slice(rising)", jitter=3)
    for task in (repeated, *repeated.trials()):
        policy.check(task)
    for task in (small, *small.trials(), removing, *removing.trials(), compare(repair="writers")):
        policy.check(task)


def test_a_pass_for_every_part_of_a_model_is_refused_in_demo_mode() -> None:
    Policy.demo().check(profile(units=True))
    Policy().check(profile(units=True, units_measured=True))
    with pytest.raises(Refused, match="'units measured' takes this server too long for visitors"):
        Policy.demo().check(profile(units=True, units_measured=True))


@pytest.mark.parametrize(
    "model",
    [
        ModelSource(kind="hub", location="a/b"),
        ModelSource(kind="folder", location="/etc"),
        ModelSource(kind="gguf", location="/m.gguf"),
        ModelSource(kind="demo", dtype="float64"),
        ModelSource(kind="demo", device="cuda"),
    ],
)
def test_other_models_are_refused_in_demo_mode(model: ModelSource) -> None:
    for asked in (model, Load(model), profile(model=model), compare(model=model), sweep(model=model)):
        with pytest.raises(Refused, match="does not offer the model"):
            Policy.demo().check(asked)


@pytest.mark.parametrize(
    "text",
    [
        TextSource(kind="hub", location="a/b", split="train"),
        TextSource(kind="file", location="/etc/passwd"),
        TextSource.parse("wikitext2", "evaluation"),
    ],
)
def test_other_texts_are_refused_in_demo_mode(text: TextSource) -> None:
    asked = (profile(text=text), compare(calibration=text), compare(evaluation=text), sweep(evaluation=text))
    preview = PreviewRequest(run="abcdef123456", plan=Plan(), evaluation=text)
    for each in (*asked, preview):
        with pytest.raises(Refused, match="does not offer the text"):
            Policy.demo().check(each)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (profile(windows=17), "16 windows at most, but got 17"),
        (profile(window_length=513), "512 window length at most"),
        (compare(calibration_windows=17), "16 calibration windows"),
        (compare(profile_windows=17), "16 profile windows"),
        (compare(evaluation_windows=17), "16 evaluation windows"),
        (compare(new_tokens=61), "60 new tokens"),
        (compare(speed_rounds=6), "5 speed rounds"),
        (compare(prompt="a" * 2001), "The prompt is 2,001 long"),
        (compare(Plan(allocation="manual", settings={"shares": (0.25,) * 2001})), "The shares is 2,001"),
        (sweep(bases=(0.0, 0.01, 0.02, 0.03, 0.04)), "12 cells at most, but got 18"),
        (
            contest("slice(rising)", "slice(falling)", "slice(constant, repair=writers)", seeds=(0, 1, 2, 3)),
            r"12 cells at most, but got 16 \(recipes times budgets times seeds\)",
        ),
        (contest(seeds=tuple(range(13))), "12 cells at most, but got 13"),
        (contest(jitter=4), r"3 repetitions \(jitter\) at most, but got 4"),
        (
            contest("slice(rising)", "slice(falling)", "slice(constant, repair=writers)", jitter=3),
            r"12 cells at most, but got 16 \(recipes times budgets times seeds times repetitions\)",
        ),
        (contest(other=TextSource.parse("wikitext2", "evaluation")), "does not offer the text"),
        (contest("slice(searched)"), r"'slice\(searched\)' takes this server too long for visitors"),
        (contest("slice(water-filling, discarded-energy)"), r"'slice\(water-filling.* too long"),
        (contest("slice(dynamic, leave-one-out)"), r"'slice\(dynamic, leave-one-out\)' takes this server"),
        (compare(Plan(score="slice-one")), r"'slice\(dynamic, slice-one\)' takes this server too long"),
        (compare(Plan(allocation="searched")), r"'slice\(searched\)' takes this server too long"),
        (board("sleb"), "'sleb' takes this server too long"),
        (board("laco(merge=top)"), r"'laco\(merge=top\)' takes this server too long"),
        (board("llm-streamline(repair=train-block)"), "repair=train-block.* too long"),
        (board("shortgpt(share=search) | slice(dynamic)"), r"'shortgpt\(share=search\) .* takes this"),
        (profile(probes=("leave-one-out",)), "does not let visitors set 'probes'"),
    ],
)
def test_budgets_are_capped(task: Any, said: str) -> None:
    with pytest.raises(Refused, match=said):
        Policy.demo().check(task)
    Policy().check(task)


@pytest.mark.parametrize(
    "task",
    [
        CompressRequest(model=DEMO, calibration=CALIBRATION, recipe=Recipe.parse("slice(dynamic)")),
        SearchRequest(model=DEMO, calibration=CALIBRATION, plan=Plan(allocation="searched")),
        Unload(),
    ],
)
def test_what_costs_others_is_refused_in_demo_mode(task: Any) -> None:
    with pytest.raises(Refused, match=f"does not do '{task.kind}'"):
        Policy.demo().check(task)


def test_a_step_that_does_not_say_that_it_is_quick_is_refused_in_demo_mode() -> None:
    assert not Step.quick.fget(next(iter(STEPS.values())).from_said({}))  # type: ignore[attr-defined]
    assert Policy.demo().may_ask(Recipe.parse("shortgpt"))
    assert not Policy.demo().may_ask(Recipe.parse("sleb"))
    assert Policy().may_ask(Recipe.parse("sleb"))


class Nested(Value):
    """A request of tomorrow."""

    kind: str = "profile"
    recipes: tuple[ProfileRequest, ...] = ()
    named: dict[str, ProfileRequest] = Field(default_factory=dict)


def test_requests_inside_requests_are_looked_at(root: Path) -> None:
    wrong = profile(text=file("/etc/passwd"))
    for asked in (Nested(recipes=(profile(), wrong)), Nested(named={"a": wrong})):
        for policy in (Policy(roots=(root,)), Policy.demo()):
            with pytest.raises(Refused, match="passwd"):
                policy.check(asked)
    Policy.demo().check(Nested(recipes=(profile(),), named={"a": profile()}))


class Exporting(Value):
    """A request of tomorrow with settings that nobody has judged."""

    kind: str = "profile"
    target: str | None = None
    threads: int | None = None
    out: Path | None = None


@pytest.mark.parametrize("setting", [{"target": "/etc"}, {"threads": 64}, {"out": Path("/etc")}])
def test_settings_that_nobody_judged_are_refused_in_demo_mode(setting: dict[str, Any], root: Path) -> None:
    Policy.demo().check(Exporting())
    with pytest.raises(Refused):
        Policy.demo().check(Exporting(**setting))
    if "out" in setting:
        with pytest.raises(Refused):
            Policy(roots=(root,)).check(Exporting(**setting))


@dataclass(frozen=True)
class Wipe:
    """A task that nobody has judged."""

    kind: str = "wipe"


@pytest.mark.parametrize("asked", [Wipe(), object(), "profile", Nested(kind="other")])
def test_kinds_that_nobody_judged_are_refused_in_demo_mode(asked: object) -> None:
    with pytest.raises(Refused, match="does not do"):
        Policy.demo().check(asked)


def test_the_offered_models_are_the_ones_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered = (folder("/far/away"), ModelSource(kind="hub", location="a/b"))
    policy = Policy.demo(offered)
    policy.check(Load(offered[0]))
    with pytest.raises(Refused, match="fetches none"):
        policy.check(Load(offered[1]))
    monkeypatch.setattr(module, "must_fetch", lambda source: False)
    policy.check(Load(offered[1]))
    with pytest.raises(Refused, match="choose from away, a/b"):
        policy.check(Load(DEMO))


def test_nobody_takes_the_queue_for_themselves() -> None:
    Policy.demo().check_queue(1)
    with pytest.raises(Refused, match="You have 2 jobs"):
        Policy.demo().check_queue(2)


def test_a_full_disk_is_told_without_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPARE_DISK", 10**18)
    with pytest.raises(Refused, match="disk of this server") as refused:
        Policy.demo().check(profile())
    assert str(runs_folder()) not in str(refused.value)
    Policy().check(profile())


def test_widgets_learn_the_caps() -> None:
    policy = Policy.demo()
    names = ("profile-windows", "calibration_windows", "window-length", "new-tokens", "speed_rounds", "seed")
    assert [policy.cap(name) for name in names] == [16, 16, 512, 60, 5, None]


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("'/srv/runs/abc' cannot be read", "'abc' cannot be read"),
        ("'/srv/My models/a b.gguf' is damaged: fetch it", "'a b.gguf' is damaged: fetch it"),
        ("slicescope profile --model /srv/m --seed 1", "slicescope profile --model m --seed 1"),
        ('{"location": "/srv/m"}', '{"location": "m"}'),
        ("'~/runs' and C:\\Users\\a", "'runs' and a"),
        ("see https://example.org/a/b, 3/4 tokens/s", "see https://example.org/a/b, 3/4 tokens/s"),
    ],
)
def test_strangers_are_not_told_paths(said: str, heard: str) -> None:
    assert Policy.demo().tell(said) == heard
    assert Policy().tell(said) == said


@pytest.mark.parametrize("inner", ["", "additional_chat_templates"])
def test_folder_whose_files_are_links_to_elsewhere_is_refused(tmp_path, inner):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("{}")
    place = tmp_path / "root" / "model" / inner
    place.mkdir(parents=True)
    policy = Policy(roots=(tmp_path / "root",))
    policy.check(Load(folder(tmp_path / "root" / "model")))
    (place / "config.json").symlink_to(tmp_path / "elsewhere" / "config.json")
    with pytest.raises(Refused, match="lies outside what this server may read"):
        policy.check(Load(folder(tmp_path / "root" / "model")))


def test_links_of_the_hubs_cache_inside_a_root_are_followed(tmp_path):
    (tmp_path / "models--o--n" / "blobs").mkdir(parents=True)
    (tmp_path / "models--o--n" / "blobs" / "ab12").write_text("{}")
    snapshot = tmp_path / "models--o--n" / "snapshots" / "c0"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/ab12")
    Policy(roots=(tmp_path,)).check(Load(folder(snapshot)))
