"""Starting the server of the app. The settings are those of ``.streamlit/config.toml``, wherever one stands.

Knows nothing about pages.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import streamlit as st

log = logging.getLogger(__name__)
CONFIG = Path(__file__).parents[1] / ".streamlit" / "config.toml"


def serve(port: int = 8501, address: str = "127.0.0.1", open_browser: bool = True) -> None:
    """Serve the app until it is interrupted. Only this machine can reach the default address.

    Whoever reaches another one can read files and fill the disk with this user's rights.
    """
    settings = dict(_flat(tomllib.loads(CONFIG.read_text(encoding="utf-8"))))
    settings |= {"server.port": port, "server.address": address, "server.headless": not open_browser}
    if address not in settings["server.allowedHosts"]:
        log.warning(
            "Whoever can reach %s can use this app with your rights; it asks for no password.", address
        )
        settings["server.allowedHosts"] = []  # the names under which others reach it are not known here
    st.App(Path(__file__).with_name("main.py"), lifespan=_with_worker).run(config=settings)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names for nested tables, as streamlit wants them."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@asynccontextmanager
async def _with_worker(_app: st.App) -> AsyncIterator[None]:
    """Start the worker before the first page, so that it need not wait for torch, and end it cleanly."""
    from app.state import worker

    worker()
    yield
    worker().stop()
