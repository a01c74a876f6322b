"""How much may be uploaded. Streamlit keeps uploads in memory, and by itself bounds only each file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import streamlit as st
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

UPLOADS = "/_stcore/upload_file"
MEGA = 2**20
FILES = 2
"""Of one session: the one that is shown, and the one that takes its place."""
OF_ALL = 200 * MEGA
"""Bytes of all sessions together."""
FRAMING = 64 * 2**10
"""Bytes that a browser puts around a file."""

Held = Mapping[str, Mapping[str, Any]]
"""Uploaded files by their session and their own id, each with its ``data``."""


def held() -> Held:
    """Give what streamlit keeps now."""
    return getattr(get_instance().uploaded_file_mgr, "file_storage", {})


def let_go(file: Any) -> None:
    """Give back the memory of a file that this session uploaded, once it was stored elsewhere."""
    if context := get_script_run_ctx():
        kept: Any = get_instance().uploaded_file_mgr
        kept.remove_file(context.session_id, file.file_id)


class Uploads:
    """Middleware: refuses uploads in one sentence where none are ``taken``, or where they would be too much.

    What is still on its way counts as if it were here.
    """

    def __init__(self, app: Any, taken: bool = True, held: Callable[[], Held] = held) -> None:
        self._app, self._taken, self._held = app, taken, held
        self._coming: Counter[str] = Counter()
        """Bytes on their way, for each session."""
        self._files: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or UPLOADS not in scope["path"]:
            await self._app(scope, receive, send)
            return
        if not self._taken:
            await _refuse(send, 403, "This server takes no uploads.")
            return
        if scope["method"] != "PUT":
            await self._app(scope, receive, send)
            return
        told = {name.lower(): value for name, value in scope["headers"]}
        length = told.get(b"content-length", b"")
        if not length.isdigit():
            await _refuse(send, 411, "An upload has to say how long it is.")
            return
        session, size = scope["path"].split("/")[-2], int(length)
        if reason := self._too_much(session, size):
            await _refuse(send, 413, reason)
            return
        self._coming[session] += size
        self._files[session] += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._coming[session] -= size
            self._files[session] -= 1
            self._coming += Counter()  # drops those of whom none is left
            self._files += Counter()

    def _too_much(self, session: str, size: int) -> str | None:
        """Why this upload is refused, in one sentence."""
        largest = int(st.get_option("server.maxUploadSize"))
        if size > largest * MEGA + FRAMING:
            return f"The file has {size / MEGA:.0f} MB, but {largest} MB is the most: send a smaller one."
        files = self._held()
        if len(files.get(session, ())) + self._files[session] >= FILES:
            return f"This page has {FILES} uploaded files already: remove one, or load the page anew."
        kept = sum(len(file.data) for session in files.values() for file in list(session.values()))
        if kept + self._coming.total() + size > OF_ALL:
            return "The memory that this server keeps for uploads is full: try again in some minutes."
        return None


async def _refuse(send: Any, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode()})
