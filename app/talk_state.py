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


_WORDS = ("present", "step", "predict", "reveal", "room")
_MOST = 9_999
"""Hands that can be counted for one option."""


def presenting() -> bool:
    """Tell whether the URL asks for the talk."""
    return st.query_params.get("present") == "1"


def talk(steps: int) -> Talk:
    """Give the state of the talk of so many steps; called once in every run of its page."""
    # Where a key has just taken it counts more than the address, which lags behind when keys come fast.
    at = st.session_state.pop("told", None) or _talk_in_address(steps)
    st.session_state["talk"] = at
    room = _room()
    said = {"room": _written(room)} if at.predict and room else {}
    st.query_params.from_dict({**without_talk(), **at.parameters(), **said})
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


# What the room guessed


def guesses(step: int, options: int) -> tuple[int, ...]:
    """Give how many hands each of so many options of a step got, (options,)."""
    counted = _room().get(step, ())[:options]
    return (*counted, *(0 for _ in range(options - len(counted))))


def count_guess(step: int, options: int, option: int) -> None:
    """Count one more hand for an option; only in a callback."""
    counted = list(guesses(step, options))
    counted[option] = min(counted[option] + 1, _MOST)
    _keep({**_room(), step: tuple(counted)})


def forget_guesses(step: int) -> None:
    """Begin the counts of a step anew; only in a callback."""
    _keep({place: counted for place, counted in _room().items() if place != step})


def _keep(room: dict[int, tuple[int, ...]]) -> None:
    st.session_state["room"] = room
    if room:
        st.query_params["room"] = _written(room)
    elif "room" in st.query_params:
        del st.query_params["room"]


def _room() -> dict[int, tuple[int, ...]]:
    """Every count by its step: the session's, or those of the address, which outlives a reload."""
    if "room" not in st.session_state:
        st.session_state["room"] = _read(st.query_params.get("room", ""))
    return st.session_state["room"]


def _written(room: dict[int, tuple[int, ...]]) -> str:
    """Write counts as ``3.2-0-11_7.1-4``: steps, each with the hands of its options."""
    return "_".join(f"{step}.{'-'.join(map(str, counted))}" for step, counted in sorted(room.items()))


def _read(text: str) -> dict[int, tuple[int, ...]]:
    """Read counts; what is none is left out."""
    room: dict[int, tuple[int, ...]] = {}
    for part in text.split("_"):
        step, _, rest = part.partition(".")
        place, counted = read_whole(step), [read_whole(each) for each in rest.split("-")]
        if place is not None and 1 <= place <= 99 and len(counted) <= 9:
            hands = tuple(each for each in counted if each is not None and 0 <= each <= _MOST)
            if len(hands) == len(counted):
                room[place] = hands
    return room
