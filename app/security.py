"""What the server tells browsers to refuse: other origins, other people's frames, what no page needs.

Knows nothing about pages but the scripts that are written in them, and nothing about streamlit but where its
entry page lies.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import streamlit

from analysis.errors import SlicescopeError

ENTRY = Path(streamlit.__file__).with_name("static") / "index.html"
PAGES = Path(__file__).with_name("app_pages")
SCRIPTS = tuple(sorted(Path(__file__).parent.glob("*/*.js")))
"""Scripts of our own that pages hold word for word."""
CLOSED = re.compile(r"/_stcore/(?!(?:health|host-config|stream)$|upload_file/)|/component/")
"""What streamlit answers and no page needs: its memory and sessions, a run of the script for whoever asks,
its interface for programs, parts of pages that others wrote."""
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_ORIGIN = re.compile(r"https?://(\*\.)?[A-Za-z0-9.-]+(:\d+)?")


class Security:
    """Middleware: puts the headers on every answer, closes what no page needs, and keeps foreign pages out.

    ``hosts`` are the names of proxies in front of the server.
    """

    def __init__(self, app: Any, frames: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts)
        self._headers = [(name.encode(), value.encode()) for name, value in headers(frames).items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on."""
        if scope["type"] == "websocket" and not self._is_own(scope):
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        names = {name for name, _ in self._headers}

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", ()) if pair[0].lower() not in names]
                message = {**message, "headers": [*kept, *self._headers]}
            await send(message)

        if CLOSED.search(scope["path"]):
            await answer({"type": "http.response.start", "status": 404, "headers": []})
            await answer({"type": "http.response.body", "body": b""})
            return
        await self._app(scope, receive, answer)

    def _is_own(self, scope: Any) -> bool:
        """Whether a connection comes from a page of this server, its port included, or from no page."""
        told = {name.lower(): value.decode("latin-1").lower() for name, value in scope["headers"]}
        if b"origin" not in told:
            return True
        try:
            origin = urlsplit(told[b"origin"])
            # A proxy may put its own name in place of the one that the browser used; it is at the usual port.
            return bool(origin.netloc) and origin.netloc in {told.get(b"host"), *self._hosts}
        except ValueError:
            return False


def headers(frames: Iterable[str] = ()) -> dict[str, str]:
    """The headers; pages of the origins ``frames`` may show the app in a frame."""
    ancestors = ["'self'", *(_checked(origin) for origin in frames)]
    scripts = " ".join(f"'sha256-{_digest(script)}'" for script in sorted(set(inline_scripts())))
    rules = {
        "default-src": "'self'",
        # Neither 'unsafe-inline' nor 'unsafe-eval': streamlit and plotly do without.
        "script-src": f"'self' {scripts}",
        # streamlit writes its style sheets into the page as it runs, and plotly puts styles on its elements.
        "style-src": "'self' 'unsafe-inline'",
        # Icons and one font are written into the style sheets; plotly draws a chart on a canvas to save it.
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": " ".join(ancestors),
    }
    return {
        "content-security-policy": "; ".join(f"{name} {value}" for name, value in rules.items()),
        "x-content-type-options": "nosniff",
        # The keys of runs are in the address.
        "referrer-policy": "same-origin",
        "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    }


def inline_scripts() -> Iterator[str]:
    """The scripts inside streamlit's entry page and inside our own pages: those, and no others, may run."""
    yield from _INLINE.findall(ENTRY.read_text(encoding="utf-8"))
    for script in SCRIPTS:
        yield script.read_text(encoding="utf-8")
    for page in sorted(PAGES.glob("*.py")):
        for node in ast.walk(ast.parse(page.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield from _INLINE.findall(node.value)


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _checked(origin: str) -> str:
    """An origin as the header wants it; anything else could add rules of its own."""
    if not _ORIGIN.fullmatch(origin):
        raise SlicescopeError(
            f"'{origin}' is not an origin that could embed the app: give one such as https://course.example.org."
        )
    return origin
