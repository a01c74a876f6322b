"""Whose pages are still open."""

from __future__ import annotations

import pytest

from app import presence as module
from app.presence import Presence


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_owner_is_gone_when_no_session_came_back_in_time() -> None:
    clock, connected = Clock(), {"one", "two"}
    presence = Presence(120, clock)
    presence.note("me", "one")
    presence.note("me", "two")

    def gone() -> bool:
        return presence.gone("me", connected.__contains__)

    clock.now = 1000
    assert not gone()
    connected.discard("one")
    clock.now = 2000
    assert not gone()  # the other page is still open
    connected.discard("two")
    clock.now = 2100
    assert not gone()  # it may be a reload
    connected.add("two")
    assert not gone()
    connected.discard("two")
    clock.now = 2210
    assert not gone()
    clock.now = 2230
    assert gone()


def test_an_owner_of_an_earlier_server_has_a_moment_to_come_back() -> None:
    clock = Clock()
    presence = Presence(120, clock)
    assert not presence.gone("me", lambda session: False)
    clock.now = 121
    assert presence.gone("me", lambda session: False)
    presence.note("me", "one")
    assert not presence.gone("me", "one".__eq__)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    presence = Presence(120)
    for owner in ("a", "b", "a", "c"):
        presence.note(owner, owner)
    assert set(presence._sessions) == {"a", "c"} == set(presence._seen)
