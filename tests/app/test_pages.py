"""Every page, opened on the bundled run without a browser: what it says, and that it never breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contest_stand_in import contest_run
from desk import Desk, charts, describe_unless_demo, press, seated, with_bases, words
from idle_app import page
from streamlit.testing.v1 import AppTest

from analysis.device import LARGE, Facts
from analysis.sources.card import describe
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app import plan_form, state
from app.engine import Load, Report
from app.job import Job
from app.jobs import Opened
from app.policy import Policy
from app.proposal import propose
from slicing.library import bring_in, note_of
from slicing.plans import Plan
from slicing.preview import Preview, PreviewRequest
from slicing.studies import store
from slicing.studies.requests import CompressRequest, ProfileRequest
from slicing.studies.results import ProfileResult, Run, TrialResult
from slicing.studies.store import bundled_run, bundled_sweep, bundled_units, find_details
from slicing.studies.verdicts import Comparison, read_comparison

MAIN = Path(__file__).parents[2] / "app" / "main.py"


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path) -> Desk:
    return seated(monkeypatch, tmp_path, "demo" in request.keywords)


def type_into(app: AppTest, key: str, text: str) -> None:
    """Type what is not among the options, which AppTest does not know how to do."""
    box = app.selectbox(key=key)
    box.options.append(text)
    box.set_value(text)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("shrink", "Make it smaller"),
        ("profile", "Where is it redundant?"),
        ("tune", "How much to cut where?"),
        ("compare", "What did it cost?"),
        ("play", "What do they write?"),
        ("runs", "What has been run?"),
        ("study", "Which recipe, at which size?"),
    ],
)
def test_every_page_opens(desk: Desk, name: str, title: str) -> None:
    app = page(name)
    assert app.title[0].value == title
    assert not app.error


@pytest.mark.parametrize("name", ["shrink", "model", "profile", "tune", "compare", "runs", "study"])
def test_no_page_makes_a_cuda_context(desk: Desk, tiny_folder: Path, on_cuda: list[str], name: str) -> None:
    """That would take hundreds of megabytes of the card, and fail where another program has filled it."""
    app = page(name)
    if name == "model":
        app.segmented_control(key="model-kind").set_value("folder").run()
        app.text_input(key="location-folder").set_value(str(tiny_folder)).run()
        assert "as bfloat16 on cuda. How much is free there is not known" in words(app)
    if name == "compare":
        assert "The work takes about" in words(app)
    assert not app.exception
    assert not on_cuda


def test_what_the_engine_says_of_the_card_is_told(desk: Desk, tiny_folder: Path, on_cuda: list[str]) -> None:
    source = ModelSource.parse(str(tiny_folder))
    assert state.told_of("cuda") == LARGE
    desk.report = Report(source, "cuda:0", "float16", 3, 7, bf16=False)
    assert state.told_of("auto") == state.told_of("cuda:0") == Facts(7, bf16=False)
    assert describe(source, state.told_of("auto")).dtype == "float16"
    assert not on_cuda


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A machine with a card; what would make a context on it is noted."""
    asked: list[str] = []

    def context() -> None:
        asked.append("context")
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr("analysis.device.DRIVERS", ("/",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", context)
    return asked


@pytest.mark.demo
def test_the_model_page_shows_the_card_before_anything_is_loaded(desk: Desk) -> None:
    app = page("model")
    facts = {metric.label: metric.value for metric in app.metric}
    assert facts["Blocks"] == "30" and facts["Width D"] == "576" and facts["Heads / KV heads"] == "9 / 3"
    assert facts["Parameters"] == "134.5 M"
    press(app, "Load")
    assert [type(task) for task in desk.tasks] == [Load]


def test_a_model_that_is_not_there_is_a_sentence(desk: Desk, tmp_path: Path) -> None:
    app = page("model")
    app.segmented_control(key="model-kind").set_value("folder").run()
    assert "Name a model to see its card" in words(app)
    app.text_input(key="location-folder").set_value(f"{tmp_path}/nowhere").run()
    assert f"'{tmp_path}/nowhere' does not exist" in app.error[0].value.replace("\\", "")
    assert next(button for button in app.button if button.label == "Load").disabled


def test_a_model_folder_has_a_card(desk: Desk, tiny_folder: Path) -> None:
    app = page("model")
    app.segmented_control(key="model-kind").set_value("folder").run()
    app.text_input(key="location-folder").set_value(str(tiny_folder)).run()
    assert "Can be sliced" in words(app)
    assert "these can be taken out: channels, heads of keys and values, value coordinates" in words(app)
    press(app, "Load")
    app.switch_page("app_pages/profile.py").run()
    assert f"Forms run {tiny_folder.name}, which is the model of this session" in words(app)
    assert f"Measure on {tiny_folder.name}" in [button.label for button in app.button]


@pytest.mark.parametrize("said_of", ["cpu", "cuda:0"])
def test_the_card_tells_memory_of_its_own_device_only(
    desk: Desk, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, said_of: str
) -> None:
    """The engine has told of the memory of one device, and the card is about the GPU."""
    opened = ModelSource(kind="folder", location="/models/other", device="cpu")
    desk.report = Report(opened, said_of, "float32", 3 * 2**30, 7 * 2**30)
    desk.opened = Opened(opened, "another")
    there = {"device": "cuda", "dtype": "bfloat16"}
    monkeypatch.setattr(state, "describe", lambda *of: describe_unless_demo(*of).model_copy(update=there))
    app = page("model")
    app.segmented_control(key="model-kind").set_value("folder").run()
    app.text_input(key="location-folder").set_value(str(tiny_folder)).run()
    assert "This closes **other**, which another person opened just now." in words(app)
    progress = " ".join(str(bar.proto.text) for bar in app.get("progress"))
    if said_of == "cpu":
        assert "as bfloat16 on cuda. How much is free there is not known" in words(app)
        assert "are free" not in progress
    else:
        assert "on cuda; 3.00\N{NO-BREAK SPACE}GiB of 7.00\N{NO-BREAK SPACE}GiB are free" in progress


def test_the_profile_switches_scores(desk: Desk) -> None:
    app = page("profile")
    assert "mean cosine" in words(app) and "lower means more redundant" in words(app)
    assert [chart.key for chart in app.get("plotly_chart")] == ["profile", "token-path", "tokens"]
    app.segmented_control(key="shown").set_value("angular").run()
    assert "Angle between" in words(app)
    app.toggle(key="shown-first").set_value(True).run()
    assert not app.exception


def test_measuring_queues_a_request(desk: Desk) -> None:
    app = page("profile")
    app.number_input(key="profile-windows").set_value(2)
    app.number_input(key="profile-length").set_value(64)
    press(app, "Measure")
    assert desk.tasks == [
        ProfileRequest(
            model=ModelSource(kind="demo"),
            text=TextSource(kind="demo", split="calibration"),
            windows=2,
            drawn=16,
            window_length=64,
            bases=True,
        )
    ]
    assert "Profile SmolLM2" in words(app)  # in the strip
    press(app, "Cancel")
    assert "was cancelled; nothing was stored" in words(app)
    press(app, "Dismiss")
    assert "was cancelled" not in words(app)


def test_an_unknown_text_and_a_full_queue_are_sentences(desk: Desk) -> None:
    app = page("profile")
    type_into(app, "profile-text", "wikitex")
    press(app, "Measure")
    assert "wikitext2" in app.error[0].value
    assert not desk.tasks
    desk.refusal = "8 jobs are waiting already."
    type_into(app, "profile-text", "demo")
    press(app, "Measure")
    assert app.error[0].value == "8 jobs are waiting already."


def test_a_failed_job_is_told_until_dismissed(desk: Desk) -> None:
    app = press(page("profile"), "Measure")
    (job,) = desk.active
    job.state, job.error, desk.active = "failed", "Memory ran out while profiling.", ()
    app.run()
    assert "Memory ran out while profiling." in app.error[0].value
    press(app, "Dismiss")
    assert not app.error


def test_sliders_change_the_plan_that_is_compared(desk: Desk) -> None:
    app = page("tune")
    before = [metric.value for metric in app.metric]
    app.slider(key="sp").set_value(40).run()
    assert not app.exception
    after = [metric.value for metric in app.metric]
    assert before[0] == "25.0\N{NO-BREAK SPACE}%" and after[0] == "40.0\N{NO-BREAK SPACE}%"
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert "fewer parameters" in words(app)
    press(app, "Compare with constant")
    (task,) = desk.tasks
    assert (task.view, task.budgets[0].target) == ("comparison", 0.4)
    assert (task.new_tokens, task.speed_rounds, task.matched) == (40, 5, True)


def test_a_comparison_asks_for_repetitions_and_precision_beginning_with_those_shown(desk: Desk) -> None:
    app = page("compare")
    assert app.number_input(key="comparison-jitter").value == 0
    app.number_input(key="comparison-jitter").set_value(2)
    assert not app.toggle(key="calibration-precision").value
    app.toggle(key="calibration-precision").set_value(True)
    press(app, "Compare")
    (task,) = desk.tasks
    assert (task.view, task.jitter, task.calibration_precision) == ("comparison", 2, "fast")
    shown = bundled_run().model_copy(update={"request": task})
    again = propose(shown, Plan()).comparison()
    assert (again.jitter, again.calibration_precision) == (2, "fast")


def test_an_address_sets_the_plan(desk: Desk) -> None:
    app = page("tune", sp="30", base="0", score="Angular distance", rounding="1")
    assert app.slider(key="sp").value == 30 and app.slider(key="base").value == 0
    assert app.selectbox(key="score").value == "angular"
    assert app.metric[0].value == "30.0\N{NO-BREAK SPACE}%"


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"sp": "60", "max": "50"}, "cannot be reached"),
        ({"sp": "60", "max": "0"}, "largest fraction must lie between"),
    ],
)
def test_a_bad_combination_is_a_sentence_beside_the_sliders(
    desk: Desk, parameters: dict[str, str], sentence: str
) -> None:
    app = page("tune", **parameters)
    assert sentence in app.error[0].value
    assert app.slider(key="sp")
    assert not app.metric


def test_the_base_cannot_pass_the_target(desk: Desk) -> None:
    app = page("tune", base="40")
    assert not app.error
    assert app.session_state["plan"].settings == {"base": 0.25}
    app.slider(key="sp").set_value(15).run()
    assert not app.error
    assert app.slider(key="base").value == 15
    app.slider(key="base").set_value(60).run()
    assert not app.error
    assert app.session_state["plan"].settings == {"base": 0.15}


def test_no_preset_makes_the_model_larger(desk: Desk) -> None:
    run = bundled_run()
    profile, shape = run.result.profile, run.result.shape
    assert shape
    offered = plan_form.presets(profile, shape)
    assert len(offered) == len(plan_form.PRESETS_OF_PLANS)  # on this model all of them pay
    for plan in offered.values():
        left = plan.schedule(profile.redundancy("lr"), shape).shape_after(shape)
        assert left.parameters < shape.parameters
    mild = {**plan_form.PRESETS_OF_PLANS, "Too mild: SP 5 %": Plan(target=0.05, settings={"base": 0.0})}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_form, "PRESETS_OF_PLANS", mild)
        assert plan_form.presets(profile, shape) == offered


def test_an_allocation_without_settings_has_no_sliders_for_them(desk: Desk) -> None:
    app = page("tune", allocation="Constant (SliceGPT)")
    assert [slider.key for slider in app.slider] == ["sp", "max"]
    assert app.metric[0].value == "25.0\N{NO-BREAK SPACE}%"


def compared() -> Comparison:
    request, result = bundled_run().request, bundled_run().result
    assert request.kind == "study" and result.kind == "study"
    return read_comparison(request, result)


def test_a_comparison_reads_in_one_glance(desk: Desk) -> None:
    app, found = page("compare"), compared()
    dynamic = found.measured["dynamic"].evaluation.perplexity
    assert app.subheader[0].value.startswith("Dynamic slicing")
    assert f"{dynamic:.2f}" in [metric.value for metric in app.metric]
    assert "At equal mean slice: " in words(app) and "At equal parameters: " in words(app)
    assert found.measured["dense"].evaluation.protocol in words(app)
    assert "not evidence" in words(app)
    assert any(code.value.startswith("slicescope ") for code in app.code)
    press(app, "Make and keep this model")
    assert [type(task) for task in desk.tasks] == [CompressRequest]


def test_a_comparison_is_set_up_with_the_tuned_plan(desk: Desk) -> None:
    app = page("tune", sp="35")
    app.switch_page("app_pages/compare.py").run()
    app.number_input(key="calibration-windows").set_value(2)
    app.number_input(key="evaluation-windows").set_value(3)
    press(app, "Compare")
    (task,) = desk.tasks
    assert (task.budgets[0].target, task.calibration_windows, task.profile_windows) == (0.35, 2, 2)
    assert task.evaluation_windows == 3


def test_the_same_text_twice_is_warned_of(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The state of the Union is strong.")
    app = page("compare")
    for role in ("calibration", "evaluation"):
        type_into(app, role, str(tmp_path / "text.txt"))
    press(app, "Compare")
    assert any("flatters" in warning.value for warning in app.warning)


def test_too_little_calibration_text_is_warned_of_where_it_is_asked_for(desk: Desk) -> None:
    app = page("compare")
    app.number_input(key="calibration-windows").set_value(1)
    press(app, "Compare")
    (told,) = (warning.value for warning in app.warning)
    assert "576 dimensions are found on 512 tokens" in told
    app = page("study")
    app.number_input(key="sweep-calibration-windows").set_value(1)
    press(app, "Run")
    assert any("576 dimensions are found on 512 tokens" in warning.value for warning in app.warning)
    app = page("profile")
    app.number_input(key="profile-windows").set_value(1)
    press(app, "Measure")
    assert any("576 dimensions are found on 512 tokens" in warning.value for warning in app.warning)


def test_what_a_result_may_not_hide_is_said_once_with_it(desk: Desk) -> None:
    run = bundled_run()
    few = {"calibration_windows": 1, "profile_windows": 1, "evaluation": run.request.profile_text}
    key = stored(run.model_copy(update={"request": run.request.model_copy(update=few)}))
    app = page("compare", compare=key)
    shown = [warning.value for warning in app.warning]
    assert [sum(part in each for each in shown) for part in ("flatters", "576 dimensions")] == [1, 1]
    assert "windows of one document resemble each other" in words(app)


def stored(run: Run | None = None) -> str:
    """The run, or the bundled one, stored as a run of one's own."""
    run = run or bundled_run()
    folder = runs_folder() / run.key
    folder.mkdir(parents=True)
    (folder / store.RUN_FILE).write_text(run.to_json())
    return run.key


def test_runs_are_listed_opened_and_deleted(desk: Desk) -> None:
    key = stored()
    broken = runs_folder() / "broken"
    broken.mkdir()
    (broken / store.RUN_FILE).write_text("{")
    app = page("runs")
    (table,) = app.dataframe
    assert list(table.value["key"]) == [key, "broken"]
    assert "is not a readable Run" in table.value["name"][1]
    press(app, "Open the comparison")
    assert app.title[0].value == "What did it cost?"
    assert f"Run {key}" in words(app)
    assert app.query_params["compare"] == key


def test_a_link_to_a_run_that_is_gone_shows_the_demo_and_says_so(desk: Desk) -> None:
    app = page("compare", compare="abcdef123456")
    assert "The run 'abcdef123456' is no longer stored" in app.warning[0].value
    assert app.subheader[0].value.startswith("Dynamic slicing")


def test_without_any_run_there_is_one_sentence(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store, "BUNDLED_RUN", tmp_path / "nothing")
    for name in ("profile", "tune", "compare"):
        assert "There is nothing to show yet" in words(page(name))


def test_a_model_that_cannot_be_sliced_is_told_on_the_tune_page(desk: Desk) -> None:
    run = bundled_run()
    result: Any = run.result
    unsliceable = ProfileResult(
        profile=result.profile, shape=None, not_sliceable="Its norms come after.", text=result.calibration
    )
    recipe = ProfileRequest(model=run.request.model, text=TextSource(kind="demo", split="calibration"))
    changed = run.model_copy(update={"recorded_key": recipe.key, "request": recipe, "result": unsliceable})
    folder = runs_folder() / changed.key
    folder.mkdir(parents=True)
    (folder / store.RUN_FILE).write_text(changed.to_json())
    assert "Its norms come after." in words(page("tune", profile=changed.key))


def test_previews_are_prepared_by_a_profile_that_keeps_its_bases(desk: Desk) -> None:
    app = page("tune")
    press(app, "Prepare previews")
    (task,) = desk.tasks
    assert isinstance(task, ProfileRequest)
    assert task.bases
    assert task.model == bundled_run().request.model
    desk.active = (Job(1, task, app.session_state["owner"], state="running"),)
    labels = {each.label for each in app.run().button}
    assert "Running now" in labels and "Prepare previews" not in labels  # it was asked for already


def test_plan_is_previewed_as_soon_as_a_slider_moves(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bases(monkeypatch)
    app = page("tune")
    assert {metric.label: metric.value for metric in app.metric}["Preview perplexity"] == "…"
    app.slider(key="sp").set_value(40).run()
    assert desk.previewed[-1].plan.target == 0.4
    found = compared()
    desk.found = Preview(
        dense=found.measured["dense"].evaluation,
        constant=found.measured["constant"].evaluation,
        planned=found.measured["dynamic"].evaluation,
        gain=found.difference("constant", "dynamic"),
        seconds=1.25,
    )
    app.slider(key="sp").set_value(41).run()
    assert not app.exception
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics["Preview perplexity"] == f"{desk.found.planned.perplexity:.2f}"
    assert "Preview in 1.2 s: bases of the dense stream" in words(app)
    assert "better" in words(app)


def test_all_of_the_page_follows_as_soon_as_the_plan_itself_is_previewed(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_bases(monkeypatch)
    found = compared()
    alone = Preview(
        dense=found.measured["dense"].evaluation,
        constant=None,
        planned=found.measured["dynamic"].evaluation,
        gain=None,
        seconds=1.25,
    )

    def preview(request: PreviewRequest, _: str) -> Preview | None:
        desk.previewed.append(request)
        return alone if len(desk.previewed) > 1 else None

    monkeypatch.setattr(desk, "preview", preview)
    app = page("tune")
    assert not app.exception
    assert {metric.label: metric.value for metric in app.metric}["Constant"] == "…"
    # The page asks once and its part that looks for numbers twice; after it both ask again, twice each. If
    # that part alone were drawn anew, the cloud and the curve would wait for constant slicing.
    assert len(desk.previewed) == 7


def test_preview_that_cannot_be_made_is_a_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with_bases(monkeypatch)
    desk.found = "The bases cannot be read: profile the model again."
    assert "No preview: The bases cannot be read" in words(page("tune"))


# Plans by hand


def shares_of(app: AppTest) -> tuple[float, ...]:
    return app.session_state["plan"].settings["shares"]


def test_presets_and_the_way_back(desk: Desk) -> None:
    app = page("tune")
    before = app.session_state["plan"]
    press(app, "Strong: SP 40\N{NO-BREAK SPACE}%, SB 20\N{NO-BREAK SPACE}%")
    strong = app.session_state["plan"]
    assert (strong.target, strong.settings) == (0.4, {"base": 0.2})
    assert app.slider(key="sp").value == 40
    app.slider(key="sp").set_value(30).run()
    assert app.session_state["plan"].target == 0.3
    press(app, "Undo")
    assert app.session_state["plan"] == strong
    press(app, "Undo")
    assert app.session_state["plan"] == before
    assert next(button for button in app.button if button.label == "Undo").disabled


def test_a_plan_edited_by_hand_begins_with_the_bars_and_stays_in_the_link(desk: Desk) -> None:
    app = page("tune", sp="30", base="0")
    cut = app.session_state["plan"]
    press(app, "Edit by hand")
    plan = app.session_state["plan"]
    assert plan.allocation == "manual"
    assert plan.target == 0.3
    run = bundled_run()
    scores = run.result.profile.redundancy("lr")
    assert run.result.shape
    expected = cut.schedule(scores, run.result.shape).block_fractions
    assert shares_of(app) == pytest.approx(expected, abs=6e-4)
    found = plan.schedule(scores, run.result.shape)
    assert found.widths == cut.schedule(scores, run.result.shape).widths
    link = {key: app.query_params[key] for key in ("sp", "allocation", "shares")}
    link = {key: value[0] if isinstance(value, list) else value for key, value in link.items()}
    again = page("tune", **link)
    assert again.session_state["plan"].settings == plan.settings
    assert again.session_state["plan"].target == plan.target
    press(app, "Undo")
    assert app.session_state["plan"] == cut
    assert "shares" not in app.query_params


def test_shares_that_are_not_normalised_make_the_target(desk: Desk) -> None:
    shares = ",".join(["10"] * 15 + ["20"] * 15)
    app = page("tune", sp="40", allocation="Manual", shares=shares)
    assert app.session_state["plan"].target == 0.4
    app.toggle(key="normalise").set_value(False).run()
    assert app.session_state["plan"].target == pytest.approx(0.15)


@pytest.mark.parametrize("shares", ["", "10,20", "10,x", ",".join(["10"] * 31)])
def test_shares_of_a_link_that_do_not_fit_begin_alike(desk: Desk, shares: str) -> None:
    app = page("tune", sp="20", allocation="Manual", shares=shares)
    assert not app.exception
    assert shares_of(app) == (0.2,) * 30


# What an allocation asks for


@pytest.mark.parametrize(
    ("plan", "key", "value"),
    [
        (Plan(allocation="softmax", settings={"temperature": 0.015}), "temperature", 0.015),
        (Plan(allocation="band", settings={"spread": 0.45}), "spread", 0.45),
        (Plan(allocation="rising", settings={"slope": 1.0}), "slope", 1.0),
        (Plan(allocation="falling", settings={"slope": 0.0}), "slope", 0.0),
        (Plan(allocation="random", settings={"draw": 7.0}), "draw", 7),
        (Plan(allocation="inverted", settings={"base": 0.05}), "base", 5),
        (Plan(blocks_per_basis=4), "span", 4),
    ],
)
def test_a_link_gives_the_plan_of_any_allocation(desk: Desk, plan: Plan, key: str, value: Any) -> None:
    app = page("tune", **plan_form.link_of(plan))
    assert not app.error
    assert app.session_state["plan"] == plan
    assert (
        next(
            each for kind in ("slider", "number_input") for each in getattr(app, kind) if each.key == key
        ).value
        == value
    )
    app.slider(key="sp").set_value(31).run()
    press(app, "Undo")
    assert app.session_state["plan"] == plan


def test_what_is_measured_or_searched_for_is_not_to_be_chosen(desk: Desk) -> None:
    app = page("tune")
    offered = app.selectbox(key="allocation").options
    assert "Random · a baseline to beat" in offered
    assert not [title for title in offered if title in ("Searched", "Water-filling")]
    assert app.selectbox(key="score").options == ["LR score", "Block influence", "Angular distance"]


def test_scores_that_a_run_holds_are_offered(desk: Desk) -> None:
    run = bring_in(contest_run().to_json().encode(), "it")
    app = page("tune", profile=run.key)
    assert "Leave-one-out loss" in app.selectbox(key="score").options
    app.selectbox(key="score").set_value("leave-one-out").run()
    assert app.session_state["plan"].score == "leave-one-out"
    assert "Leave-one-out loss" in page("profile", profile=run.key).segmented_control(key="shown").options


# Damage


def test_damage_is_measured_when_asked_for(desk: Desk) -> None:
    app = page("profile", near="Against damage")
    assert "No damage was measured here" in words(app)
    app.toggle(key="profile-damage").set_value(True)
    press(app, "Measure")
    (request,) = desk.tasks
    assert request.probes == ("leave-one-out", "slice-one")


def test_damage_is_held_against_the_score(desk: Desk) -> None:
    run = bring_in(contest_run().to_json().encode(), "it")
    app = page("profile", profile=run.key, near="Against damage")
    assert charts(app) == ["profile", "scatter"]
    app.toggle(key="damage-zoom").set_value(True).run()
    assert "Not shown: block 0" in words(app)


@pytest.mark.parametrize("held", ["mean", "size"])
def test_a_bar_is_moved_by_hand_and_what_the_others_keep_holds(desk: Desk, held: str) -> None:
    app = page("tune")
    before = {each.label: each.value for each in app.metric}
    app.segmented_control(key="held").set_value(held).run()
    app.text_input(key="plan-move").set_value("5:45.0:1").run()
    assert not app.exception
    made: Plan = app.session_state["plan"]
    assert made.allocation == "manual" and made.settings["shares"][5] == pytest.approx(0.45, abs=1e-3)
    now = {each.label: each.value for each in app.metric}
    label = {"mean": "Mean slice", "size": "Parameters"}[held]
    assert now[label] == before[label]
    app.text_input(key="plan-move").set_value("99:45.0:2").run()
    app.text_input(key="plan-move").set_value("nonsense").run()
    assert not app.exception and app.session_state["plan"] == made
    press(app, "Undo")
    assert app.session_state["plan"].allocation == "dynamic"


# The profile from near


@pytest.mark.parametrize(
    ("tab", "chart"),
    [
        ("Tokens", "tokens"),
        ("Depth by depth", "similarity"),
        ("Heads and MLP", "split"),
        ("Logit lens", "lens"),
    ],
)
def test_the_profile_is_seen_from_near(desk: Desk, tab: str, chart: str) -> None:
    app = page("profile", near=tab)
    before = ["token-path"] if chart == "tokens" else []
    assert charts(app) == ["profile", *before, chart]


def test_depths_are_compared_by_the_measure_that_is_chosen(desk: Desk) -> None:
    app = page("profile", near="Depth by depth")
    control = app.segmented_control(key="compared-by")
    assert control.options == ["Cosine", "Angle at the last token", "CKA"]
    assert "Mean cosine **" in words(app) and "LLM-Streamline" in words(app)
    app.number_input(key="pair-from").set_value(4).run()
    control.set_value("angular").run()
    assert not app.exception
    assert "Angle **" in words(app) and "entering block 4" in words(app)
    assert "the span that Unreasonable Ineffectiveness would remove" in words(app)
    app = page("profile", **{"near": "Depth by depth", "compared-by": "CKA"})
    assert "CKA **" in words(app)


def test_only_the_measures_that_were_kept_are_offered(desk: Desk) -> None:
    found = find_details(bundled_run())
    assert found is not None
    before = found._replace(angular=None, cka=None, lens=None)
    before.save(runs_folder() / stored() / store.DETAILS_FILE)
    app = page("profile", **{"near": "Depth by depth", "compared-by": "CKA"})
    assert app.segmented_control(key="compared-by").options == ["Cosine"]
    assert "Mean cosine **" in words(app)
    assert "No logit lens was measured here" in words(page("profile", near="Logit lens"))


def test_the_logit_lens_is_measured_when_asked_for(desk: Desk) -> None:
    app = page("profile", near="Logit lens")
    assert "before perplexity doubles" in words(app)
    app.toggle(key="profile-lens").set_value(True)
    press(app, "Measure")
    (request,) = desk.tasks
    assert request.lens and not request.probes


def test_profiles_are_laid_over_one_another(desk: Desk) -> None:
    app = page("profile", near="Beside other runs")
    assert "There is no other run" in words(app)
    sweep = bundled_sweep()
    bring_in(sweep.to_json().encode(), "it")
    app = page("profile", near="Beside other runs")
    assert [each.key for each in app.get("plotly_chart")] == ["profile", "overlay"]


def test_what_parts_two_profiles_is_shown_and_the_address_keeps_which(desk: Desk) -> None:
    assert "There is no other run" in words(page("profile", near="Difference"))
    units = bundled_units()
    bring_in(units.to_json().encode(), "it")
    sweep = bundled_sweep()
    bring_in(sweep.to_json().encode(), "it")
    app = page("profile", near="Difference", against=units.key)
    assert charts(app) == ["profile", "difference", "two-profiles"]
    assert app.selectbox(key="held-against").value == units.key
    assert "are equal in all 30 blocks" in words(app)
    app.selectbox(key="held-against").set_value(sweep.key).run()
    assert not app.exception
    assert app.query_params["against"] == sweep.key


def test_a_note_is_kept_on_a_block_of_a_stored_profile(desk: Desk) -> None:
    key = stored()
    app = page("profile", profile=key, block="7 · model.layers.7")
    app.text_input(key=f"block-note-{key}-7").set_value("spare [this] one")
    press(app, "Keep the note")
    assert "**Block 7:** spare \\[this\\] one" in words(app)
    assert note_of(key).blocks == {7: "spare [this] one"}
    app.selectbox(key="block").set_value(8).run()
    assert "**Block 7:**" not in words(app)


def test_a_run_without_details_says_so(desk: Desk) -> None:
    key = stored()
    (runs_folder() / key).rename(runs_folder() / "elsewhere")
    other = bundled_sweep()
    bring_in(other.to_json().encode(), "it")
    app = page("profile", profile=other.key)
    assert "stored without its tokens" in words(app)


# Runs


def test_a_run_is_named_and_its_name_is_used(desk: Desk) -> None:
    key = stored()
    app = page("runs")
    next(box for box in app.text_input if box.label == "Name").set_value("The talk")
    next(box for box in app.text_area if box.label == "Note").set_value("shown in May")
    press(app, "Keep")
    assert list(app.dataframe[0].value["name"])[:1] == ["The talk"]
    assert "shown in May" in words(app)
    assert "The talk" in words(page("compare", compare=key))


def test_a_run_is_deleted_and_taken_back(desk: Desk) -> None:
    key = stored()
    app = page("runs")
    press(app, "Delete")
    assert not (runs_folder() / key).exists()
    assert "No runs are stored yet" in words(app)
    press(app, "Undo")
    assert list(app.dataframe[0].value["key"]) == [key]
    press(app, "Delete")
    bring_in(bundled_run().to_json().encode(), "it")
    press(app, "Undo")
    assert set(app.dataframe[0].value["key"]) == {key, f"{key}-2"}


def test_trials_are_listed_when_asked_for(desk: Desk) -> None:
    sweep = bundled_sweep()
    study, result = sweep.request, sweep.result
    assert study.kind == "study" and result.kind == "study"
    trial = TrialResult(
        profile=result.profile,
        shape=result.shape,
        measurement=result.measurements[0],
        calibration=result.calibration,
        evaluation=result.evaluation,
    )
    run = sweep.model_copy(
        update={"recorded_key": study.dense().key, "request": study.dense(), "result": trial}
    )
    bring_in(run.to_json().encode(), "it")
    bring_in(sweep.to_json().encode(), "it")
    app = page("runs")
    assert list(app.dataframe[0].value["kind"]) == ["study"]
    app.toggle(key="trials").set_value(True).run()
    assert sorted(app.dataframe[0].value["kind"]) == ["study", "trial"]


def test_a_public_server_offers_neither_import_nor_deletion(desk: Desk, monkeypatch: Any) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy.demo())
    key = stored()
    app = page("runs")
    assert "No runs are stored yet" in words(app)  # a stranger's runs are not listed
    assert not [button for button in app.button if button.label in ("Delete", "Store it")]
    assert f"Run {key}" in words(page("compare", compare=key))  # but are opened by their keys


# The strip


def test_a_job_that_does_not_stop_can_be_stopped_now(desk: Desk, monkeypatch: Any) -> None:
    app = page("profile")
    press(app, "Measure")
    (job,) = desk.active
    job.state = "running"
    assert not [button for button in app.button if button.label == "Stop now"]
    monkeypatch.setattr(Job, "stuck", property(lambda job: True))
    app.run()
    assert [button for button in app.button if button.label == "Stop now"]


def test_a_restarted_server_says_what_begins_again_and_what_is_lost(desk: Desk) -> None:
    asked = bundled_run().request
    desk.active = (Job(1, asked, "somebody", state="running", restarted=True),)
    desk.lost = ("A job that waited when the server ended is lost: it was damaged.",)
    app = page("profile")
    assert "The server was restarted, and this job begins again" in words(app)
    assert "is lost: it was damaged" in words(app)
    press(app, "Dismiss")
    assert "is lost: it was damaged" not in words(app)


def test_the_results_of_a_restarted_job_are_shown_to_whoever_comes_back(desk: Desk) -> None:
    run = bundled_run()
    job = Job(1, run.request, "a session that is gone", state="running", restarted=True)
    desk.active = (job,)
    app = page("compare")
    bring_in(run.to_json().encode(), "it")
    job.state, job.key, desk.active = "done", run.key, ()
    app.run()
    assert not app.exception
    assert f"Run {run.key}" in words(app)


def test_the_target_can_be_given_as_fewer_parameters(desk: Desk) -> None:
    app = page("tune")
    app.segmented_control(key="target-as").set_value("fewer").run()
    app.slider(key="plan-fewer").set_value(20).run()
    assert not app.exception
    assert "% reaches 21.1\N{NO-BREAK SPACE}%, the nearest to whole blocks" in words(app)
    press(app, "Compare with constant")
    (task,) = desk.tasks
    shape = bundled_run().result.shape
    redundancy = bundled_run().result.profile.redundancy("lr")
    wanted = Plan().with_fewer(0.2, redundancy, shape)
    assert task.budgets[0].target == wanted.target


def test_the_profile_opens_at_the_block_that_is_most_redundant(desk: Desk) -> None:
    run: Any = bundled_run()
    most = int(np.argmax(run.result.profile.redundancy("lr")))
    app = page("profile")
    assert app.selectbox(key="block").value == most
    assert f"as block {most} changes it" in words(app)
    assert f"Block {most} changes its input least" in words(app)


def test_whoever_named_a_folder_is_not_asked_for_one(desk: Desk, tmp_path: Path) -> None:
    app = page("play")
    assert "make one, or name its folder" in words(app)
    app.text_input(key="beside-folder").set_value(str(tmp_path)).run()
    assert "make one, or name its folder" not in words(app)
    app.switch_page("app_pages/runs.py").run()
    app.switch_page("app_pages/play.py").run()
    assert "make one, or name its folder" not in words(app)


def test_before_anything_is_written_an_example_that_ships_is_shown(desk: Desk) -> None:
    app = page("play")
    run: Any = bundled_run()
    found = read_comparison(run.request, run.result)
    for name in ("dense", found.planned):
        sample = found.measured[name].sample
        assert sample and sample.text.strip() in words(app)
    assert "token by token" in words(app)
