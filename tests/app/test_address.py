"""Addresses of pages come from anybody: what they say is taken where it can be, and passed over where not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from app import plan_state, state, talk_state
from app.talk_state import Talk


class Parameters(dict[str, str]):
    """As streamlit gives them."""

    def to_dict(self) -> dict[str, str]:
        return dict(self)

    def from_dict(self, values: dict[str, str]) -> None:
        self.clear()
        self.update(values)


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch):
    """Open the address with these parameters."""

    def visit(**parameters: str) -> None:
        page = SimpleNamespace(query_params=Parameters(parameters), session_state={"owner": "me"})
        for module in (state, plan_state, talk_state):
            monkeypatch.setattr(module, "st", page)

    return visit


@pytest.mark.parametrize(
    ("said", "step"),
    [("3", 3), ("0", 1), ("-5", 1), ("99", 7), ("", 1), ("²", 1), ("1.5", 1), ("nan", 1), ("9" * 5000, 1)],
)
def test_a_talk_stands_at_a_step_that_there_is(at, said, step):
    at(step=said)
    assert talk_state.talk(7) == Talk(step)


@pytest.mark.parametrize(
    "said", ["nan,1,1", "inf,1,1", "1e400,1,1", "-1,1,1", "100,1,1", "a,b,c", ",,", "9" * 5000]
)
def test_shares_that_are_none_are_passed_over(at, said):
    at(shares=said)
    assert plan_state.begun_shares((0.25,) * 3)[1] == (0.25,) * 3


def test_shares_of_a_link_are_taken(at):
    at(shares="10,20.5,0")
    assert plan_state.begun_shares((0.25,) * 3)[1] == (0.1, 0.205, 0.0)


@pytest.mark.parametrize("key", ["x" * 5000, "\0", "../../..", "9" * 400])
def test_a_run_that_is_not_stored_is_told(at, key):
    at()
    state.st.session_state["compare-run"] = key
    shown = state.shown("compare")
    assert shown and shown.bundled and "no longer stored" in str(shown.problem)
