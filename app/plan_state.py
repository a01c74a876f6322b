"""The plan of the Tune page as a session remembers it: the sliders, the shares by hand, and the way back."""

from __future__ import annotations

import streamlit as st

from analysis.numbers import read_number, read_whole
from slicing.plans import Plan

UNDOABLE = 50
"""Plans that can be gone back to."""


def tuned_plan() -> Plan:
    """The plan as it was last seen on the Tune page."""
    return st.session_state.get("plan", Plan())


def was_tuned() -> bool:
    """Tell whether this session has been at a plan yet; before, there is only the usual one."""
    return "plan" in st.session_state


def keep_plan(plan: Plan) -> None:
    """Remember the plan for the other pages, and the one before it for undo."""
    before: Plan | None = st.session_state.get("plan")
    if before is not None and before != plan:
        past = st.session_state.setdefault("past", [])
        past.append(before)
        del past[:-UNDOABLE]
    st.session_state["plan"] = plan
    if plan.allocation != "manual":
        st.query_params.pop("shares", None)


def can_undo() -> bool:
    """Tell whether there is a plan before this one."""
    return bool(st.session_state.get("past"))


def plan_before() -> Plan:
    """The plan before this one, which becomes the plan; only where there is one."""
    st.session_state["plan"] = st.session_state["past"].pop()
    return st.session_state["plan"]


def moved_bar() -> tuple[int, float] | None:
    """Give the block whose bar was moved on the picture last, and its share; ``None`` for what is no move."""
    block, _, rest = str(st.session_state.get("plan-move") or "").partition(":")
    place, percent = read_whole(block), read_number(rest.partition(":")[0])
    if place is None or percent is None or not 0.0 <= percent <= 100.0:
        return None
    return place, percent / 100.0


def moves_taken() -> int:
    """Give the number of the last move of a bar that the session knows; 0 where there was none."""
    return read_whole(str(st.session_state.get("plan-move") or "").rpartition(":")[2]) or 0


def begun_shares(usual: tuple[float, ...]) -> tuple[str, tuple[float, ...]]:
    """The key of the table of shares, and what it began with: the session's, the link's, or the usual."""
    key = f"shares-{st.session_state.setdefault('shares-version', 0)}"
    if key not in st.session_state:  # the table is drawn for the first time, or was left and is come back to
        now = st.session_state.get("shares-now") or _shares_of_link()
        st.session_state["shares-begun"] = now if now and len(now) == len(usual) else usual
    return key, st.session_state["shares-begun"]


def start_shares(shares: tuple[float, ...]) -> None:
    """Begin the table of shares anew with these; only in a callback."""
    st.session_state["shares-now"] = shares
    st.session_state["shares-version"] = st.session_state.get("shares-version", 0) + 1


def keep_shares(shares: tuple[float, ...]) -> None:
    """Remember the shares as they were edited, and put them into the link."""
    st.session_state["shares-now"] = shares
    st.query_params["shares"] = ",".join(f"{100 * share:g}" for share in shares)


def _shares_of_link() -> tuple[float, ...] | None:
    said = [read_number(part) for part in st.query_params.get("shares", "").split(",")]
    shares = tuple(percent / 100 for percent in said if percent is not None and 0 <= percent < 100)
    return shares if len(shares) == len(said) else None
