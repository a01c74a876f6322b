"""The texts that a session brought, which its lists of texts offer."""

from __future__ import annotations

import streamlit as st


def own_texts() -> list[str]:
    """The texts that this session brought: what lists of texts offer beside the usual ones."""
    return st.session_state.setdefault("own-texts", [])


def offer_text(said: str) -> None:
    """Let lists of texts offer this one too, the last one first; only in a callback."""
    st.session_state["own-texts"] = [said, *(each for each in own_texts() if each != said)]
