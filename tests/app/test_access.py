"""Who gets in, and what a session in demo mode may reach: the pages' state without a browser."""

from __future__ import annotations

import gc
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import streamlit as st
from streamlit import user_info
from streamlit.testing.v1 import AppTest

from analysis.errors import SlicescopeError
from analysis.sources.model import ModelSource
from analysis.sources.text import TextSource
from analysis.storage import runs_folder
from app import policy as module
from app import state, turns
from app.engine import Unload
from app.job import Job
from app.pace import ASKING, Asking
from app.policy import Policy, Refused
from app.presence import Presence
from slicing.plans import Plan
from slicing.studies.requests import ProfileRequest
from slicing.studies.store import RUN_FILE, bundled_run

MAIN = Path(__file__).parents[2] / "app" / "main.py"
AUTH = {"redirect_uri": "https://slices.example.org/oauth2callback", "cookie_secret": "x" * 40}
PROVIDER = {"client_id": "a", "client_secret": "b", "server_metadata_url": "https://a.example.org"}
STRANGE = ModelSource(kind="hub", location="a/b")


class Desk:
    """Stands in for the worker."""

    def __init__(self) -> None:
        self.active: tuple[Job, ...] = ()

    def submit(self, task: Any, owner: str) -> Job:
        job = Job(len(self.active) + 1, task, owner)
        self.active += (job,)
        return job

    def preview(self, recipe: Any, owner: str) -> None:
        raise AssertionError("The refused preview was asked for.")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A session of a stranger at a server in demo mode."""
    memory: dict[str, Any] = {"owner": "me"}
    desk = Desk()
    monkeypatch.setattr(st, "session_state", memory)
    monkeypatch.setattr(state, "worker", lambda: desk)
    monkeypatch.setattr(state, "enforced", Policy.demo)
    monkeypatch.setattr(module, "SPARE_DISK", 0)
    desks = Presence(60), Asking()
    monkeypatch.setattr(state, "presence", lambda: desks[0])
    monkeypatch.setattr(state, "asking", lambda: desks[1])
    yield memory


def profile(seed: int, model: ModelSource | None = None) -> ProfileRequest:
    text = TextSource(kind="demo", split="calibration")
    return ProfileRequest(model=model or ModelSource(kind="demo"), text=text, seed=seed)


def store(run: Any) -> str:
    folder = runs_folder() / run.key
    folder.mkdir(parents=True)
    (folder / RUN_FILE).write_text(run.to_json())
    return run.key


def test_every_task_passes_the_policy(session: dict[str, Any]) -> None:
    for task in (profile(0, STRANGE), Unload()):
        with pytest.raises(Refused):
            state.submit(task)
    assert state.worker().active == ()
    state.submit(profile(0))
    state.submit(profile(1))
    with pytest.raises(Refused, match="You have 2 jobs"):
        state.submit(profile(2))
    session["owner"] = "another"
    state.submit(profile(2))


def test_one_address_cannot_fill_the_queue_nor_ask_all_the_time(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        state.presence().note(f"person {number}", str(number), "192.0.2.7" if number < 7 else "192.0.2.8")
    for number in range(6):
        session["owner"] = f"person {number}"
        state.submit(profile(number))
    session["owner"] = "person 6"
    with pytest.raises(Refused, match="6 jobs from your network"):
        state.submit(profile(6))
    session["owner"] = "person 7"
    state.submit(profile(7))
    desk = Desk()
    monkeypatch.setattr(state, "worker", lambda: desk)
    with pytest.raises(SlicescopeError, match="Too many jobs were asked for"):
        for seed in range(int(ASKING.burst) + 1):
            desk.active = ()  # as if each was cancelled at once
            state.submit(profile(seed))


@pytest.mark.parametrize("demo_mode", [True, False])
def test_only_strangers_who_are_gone_lose_their_places(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch, demo_mode: bool
) -> None:
    said: list[bool] = []
    presence = Presence(0.0, itertools.count().__next__)
    monkeypatch.setattr(state, "presence", lambda: presence)
    monkeypatch.setattr(state, "enforced", lambda: Policy(demo_mode=demo_mode))
    runtime = SimpleNamespace(is_active_session="one".__eq__)
    monkeypatch.setattr(state, "get_instance", lambda: runtime)
    desk = SimpleNamespace(tend=lambda gone: said.extend([gone("me"), gone("another")]))
    monkeypatch.setattr(state, "worker", lambda: desk)
    presence.note("me", "one")
    presence.note("another", "two")
    state.tend()
    assert said == [False, demo_mode]


def test_the_server_passes_by_what_pages_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streamlit collects garbage in full after every drawing, and would look through all of torch."""
    monkeypatch.setattr(state, "worker", lambda: SimpleNamespace(tend=lambda gone: None))
    state.tend()
    state.tend()
    monkeypatch.setitem(sys.modules, "late", sys)
    begun = [gc.callbacks]
    state.tend()
    assert any(each is begun for each in gc.get_objects())
    state.tend()
    assert not any(each is begun for each in gc.get_objects())


def test_two_pages_are_drawn_at_a_time_and_none_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def draw() -> None:
        with turns.turn():
            drawn.append("third")

    monkeypatch.setattr(turns, "TURN", 30.0)
    third = threading.Thread(target=draw)
    with turns.turn():
        with turns.turn():
            third.start()
            third.join(0.2)
            assert drawn == []
        third.join(10)
        assert drawn == ["third"]
    monkeypatch.setattr(turns, "TURN", 0.05)
    with turns.turn(), turns.turn():
        draw()
    assert drawn == ["third"] * 2
    assert turns._TURNS._value == 2  # each was given back once


def test_a_card_is_refused_before_anything_is_read(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_card", lambda source: pytest.fail("The configuration was read."))
    with pytest.raises(Refused):
        state.model_card(STRANGE)


def test_a_preview_of_a_model_that_is_not_offered_is_refused(session: dict[str, Any]) -> None:
    run = bundled_run()
    strange = run.model_copy(update={"request": run.request.model_copy(update={"model": STRANGE})})
    assert "does not offer the model" in str(state.preview_of(strange, Plan()))


def test_only_owners_cancel_and_are_told(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    mine, others = Job(1, profile(0), "me"), Job(2, profile(1), "another")
    assert (state.may_cancel(mine), state.may_cancel(others)) == (True, False)
    monkeypatch.setattr(state, "enforced", Policy)
    assert state.may_cancel(others)


def test_lists_show_what_the_session_made(session: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    state.submit(profile(0))
    assert state.may_list(profile(0).key)
    assert not state.may_list(profile(1).key)
    monkeypatch.setattr(state, "enforced", Policy)
    assert state.may_list(profile(1).key)


def test_runs_of_others_open_by_their_whole_key(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = store(bundled_run())
    for asked, found in ((key, False), (key[:5], True)):
        state.show_run("compare", asked)
        assert state.shown("compare").bundled is found  # type: ignore[union-attr]
    monkeypatch.setattr(state, "enforced", Policy)
    assert not state.shown("compare").bundled  # type: ignore[union-attr]


def test_the_first_model_offered_is_the_usual_one(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "enforced", lambda: Policy.demo((STRANGE,)))
    assert state.source() == STRANGE


def test_errors_name_no_folders_to_strangers(
    session: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert state.told(ValueError("'/srv/runs/a' is broken")) == "'a' is broken"
    monkeypatch.setattr(state, "enforced", Policy)
    assert state.told("'/srv/runs/a' is broken") == "'/srv/runs/a' is broken"


def entry(monkeypatch: pytest.MonkeyPatch, **auth: Any) -> AppTest:
    """The first page where the secrets ask for a login; AppTest hands them to pages, but not to st.user."""
    monkeypatch.setattr(user_info, "get_secrets_auth_section", lambda: {**AUTH, **auth})
    app = AppTest.from_file(str(MAIN), default_timeout=30)
    app.secrets["auth"] = {**AUTH, **auth}
    return app.run()


def test_nothing_is_drawn_before_the_login(monkeypatch: pytest.MonkeyPatch) -> None:
    app = entry(monkeypatch, **PROVIDER)
    assert [title.value for title in app.title] == ["slicescope"]
    assert [button.label for button in app.button] == ["Log in"]
    assert not app.exception
    assert "owner" not in app.session_state
    app.switch_page("app_pages/runs.py").run()
    assert [title.value for title in app.title] == ["slicescope"]


def test_each_provider_has_its_button(monkeypatch: pytest.MonkeyPatch) -> None:
    app = entry(monkeypatch, one=PROVIDER, two=PROVIDER)
    assert [button.label for button in app.button] == ["Log in with one", "Log in with two"]


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ({"iss": "https://a.org", "sub": "17", "email": "ada@a.org"}, "https://a.org 17"),
        ({"email": "ada@a.org"}, " ada@a.org"),
        ({}, None),
    ],
)
def test_jobs_belong_to_the_account(monkeypatch: pytest.MonkeyPatch, user: Any, owner: str | None) -> None:
    class User:
        def to_dict(self) -> dict[str, Any]:
            return user

    memory: dict[str, Any] = {}
    monkeypatch.setattr(st, "user", User())
    monkeypatch.setattr(st, "session_state", memory)
    monkeypatch.setattr(st, "query_params", {})
    state.begin_session()
    first = memory["owner"]
    state.begin_session()
    assert memory["owner"] == first
    assert first == owner or (owner is None and len(first) == 32)
