"""Where a talk stands, in the session and in its address."""

from __future__ import annotations

from typing import NamedTuple

import streamlit as st

from analysis.numbers import read_whole


class Talk(NamedTuple):
    """Where a talk stands. All of it is in the URL, so that a reload or a link leads there."""

    step: int
    """From 1."""
    predict: bool = False
    """Whether each step asks before it answers."""
    revealed: bool = True
    """Whether the answer is shown."""

    def parameters(self) -> dict[str, str]:
        """As they stand in the URL."""
        shown = {"reveal": "1"} if self.predict and self.revealed else {}
        return {
            "present": "1",
            "step": str(self.step),
            **({"predict": "1"} if self.predict else {}),
            **shown,
        }


_WORDS = ("present", "step", "predict", "reveal")


def presenting() -> bool:
    """Tell whether the URL asks for the talk."""
    return st.query_params.get("present") == "1"


def talk(steps: int) -> Talk:
    """Give the state of the talk of so many steps; called once in every run of its page."""
    # Where a key has just taken it counts more than the address, which lags behind when keys come fast.
    at = st.session_state.pop("told", None) or _talk_in_address(steps)
    st.session_state["talk"] = at
    st.query_params.from_dict({**without_talk(), **at.parameters()})
    return at


def standing() -> Talk:
    """Give the step at which the talk was last shown, or has been taken since."""
    return st.session_state["talk"]


def tell(talk: Talk) -> None:
    """Take the talk there."""
    st.session_state["talk"] = st.session_state["told"] = talk


def _talk_in_address(steps: int) -> Talk:
    step, predict = read_whole(st.query_params.get("step", "")), st.query_params.get("predict") == "1"
    return Talk(
        step=min(max(step or 1, 1), steps),
        predict=predict,
        revealed=not predict or st.query_params.get("reveal") == "1",
    )


def without_talk() -> dict[str, str]:
    """Give what the URL says besides the talk."""
    return {name: value for name, value in st.query_params.to_dict().items() if name not in _WORDS}
