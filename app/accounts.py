"""Who uses the app, where the server asks for a login or a proxy names people."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st


def account() -> str | None:
    """The stable id of whoever is logged in, or named by a trusted proxy; ``None`` without a login."""
    user = st.user.to_dict()
    name = user.get("sub") or user.get("email")
    return f"{user.get('iss', '')} {name}" if name else None  # another provider may give the same name


def must_log_in() -> bool:
    """Tell whether the server asks for a login, and this session has none."""
    return st.user.to_dict().get("is_logged_in") is False


def logged_in() -> bool:
    """Tell whether this session could log out."""
    return st.user.to_dict().get("is_logged_in") is True


def login_providers() -> list[str | None]:
    """The providers that the secrets name, or ``None`` for the one that needs no name."""
    named = [name for name, section in st.secrets["auth"].items() if isinstance(section, Mapping)]
    return named or [None]
