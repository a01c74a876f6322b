"""What a session remembers of the Runs page: what was deleted last, and what went wrong."""

from __future__ import annotations

import streamlit as st


def remember_trash(name: str, title: str) -> None:
    """Note what was deleted last, and the name that takes it back."""
    st.session_state["trash"] = name, title


def last_trash() -> tuple[str, str] | None:
    """Give what was deleted last in this session: the name that takes it back, and its title."""
    return st.session_state.get("trash")


def forget_trash() -> None:
    """It was taken back."""
    st.session_state.pop("trash", None)


def complain(sentence: str) -> None:
    """Note what went wrong in a callback, to be told once the page is drawn."""
    st.session_state["complaint"] = sentence


def complaint() -> str | None:
    """Give what went wrong in a callback, once."""
    return st.session_state.pop("complaint", None)
