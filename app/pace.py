"""How often somebody may come, click and ask, and what may come over the connection of a page.

Knows nothing about pages, and about streamlit no more than what its messages are called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from analysis.errors import SlicescopeError

NEEDED = frozenset(
    {
        *("rerun_script", "stop_script", "app_heartbeat", "file_urls_request"),
        "backend_operation_request",
    }
)
"""Messages that pages send. Others would empty the caches of everybody, and so end the worker, or tell of the
folder that the program lies in."""
CONNECTIONS = 60
"""Open pages of one address: a class room behind one router."""


PATIENCE = 10.0
"""Seconds for which somebody may send more than is due, before the connection is ended."""
CLOSE = {"type": "websocket.close", "code": 1008}  # against the rules
GONE = {"type": "websocket.disconnect", "code": 1008}


FOLDER = str(Path(__file__).parent).encode()


class Pace(NamedTuple):
    """So many at once, and then so many a second."""

    burst: float
    rate: float


CLICKS = Pace(10, 4)
"""Messages of one connection. A page that refreshes itself sends two a second."""
CLICKS_OF_ADDRESS = Pace(30, 15)
ASKING = Pace(10, 1 / 30)
"""Jobs that one person asks for, also those that are cancelled at once."""
"""Jobs that one person asks for."""
ASKING_OF_ADDRESS = Pace(30, 1 / 10)


class Allowance:
    """What is left of a pace."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._clock = pace, clock
        self._left, self._at = pace.burst, clock()

    @property
    def wait(self) -> float:
        """Seconds until the next one is due; 0 where it is due now."""
        return max(0.0, (1.0 - self._fill()) / self._pace.rate)

    @property
    def whole(self) -> bool:
        """Tell whether it is as if none had ever been taken."""
        return self._fill() >= self._pace.burst

    def take(self) -> float:
        """Take one, and give the seconds until it is due; those after it wait longer."""
        wait = self.wait
        self._left -= 1.0
        return wait

    def _fill(self) -> float:
        now = self._clock()
        self._left = min(self._pace.burst, self._left + (now - self._at) * self._pace.rate)
        self._at = now
        return self._left


class Allowances:
    """One for every name; those that are whole again are forgotten."""

    def __init__(self, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace, self._clock = pace, clock
        self._named: OrderedDict[str, Allowance] = OrderedDict()

    def of(self, name: str) -> Allowance:
        """The allowance of this name."""
        while self._named and next(iter(self._named.values())).whole:
            self._named.popitem(last=False)
        found = self._named.setdefault(name, Allowance(self._pace, self._clock))
        self._named.move_to_end(name)
        return found


class Asking:
    """How often people may ask for a job: each person, and each address."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._people, self._addresses = Allowances(ASKING, clock), Allowances(ASKING_OF_ADDRESS, clock)

    def ask(self, person: str, address: str) -> None:
        """Count one more, or refuse it (``SlicescopeError``) where there were too many."""
        allowances = self._people.of(person), self._addresses.of(address)
        if wait := max(allowance.wait for allowance in allowances):
            raise SlicescopeError(
                f"Too many jobs were asked for in a short time: ask again in {math.ceil(wait)} seconds."
            )
        for allowance in allowances:
            allowance.take()


def neighbourhood(address: str | None) -> str:
    """Give what counts as one address: of IPv6 the network, which is one customer's."""
    try:
        known = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "this machine"
    return str(ipaddress.ip_network((known, 64), strict=False)) if known.version == 6 else str(known)


class Connections:
    """Middleware: passes on what pages send and nothing else, and where wanted no faster than is fair.

    Too much of it waits, which slows down its sender alone; the timers of a page are left out instead, since
    they come again. Whoever does not stop is disconnected.
    """

    def __init__(self, app: Any, paced: bool) -> None:
        self._app, self._paced = app, paced
        self._addresses = Allowances(CLICKS_OF_ADDRESS)
        self._open: Counter[str] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a connection on, or refuse it; what is no connection is passed on as it is."""
        if scope["type"] != "websocket":
            await self._app(scope, receive, send)
            return
        where = neighbourhood((scope.get("client") or (None,))[0])
        if self._paced and self._open[where] >= CONNECTIONS:
            await send(CLOSE)
            return
        self._open[where] += 1
        try:
            if self._paced:
                await asyncio.sleep(self._addresses.of(where).take())
            line = _Line(receive, send, partial(self._addresses.of, where) if self._paced else None)
            await self._app(scope, line.receive, line.send)
        finally:
            self._open[where] -= 1
            self._open += Counter()  # drops those of whom none is left


class _Line:
    """One connection. ``shared`` gives the allowance of its address; ``None`` is no limit."""

    def __init__(self, receive: Any, send: Any, shared: Callable[[], Allowance] | None) -> None:
        self._receive, self._send, self._shared = receive, send, shared
        self._own = Allowance(CLICKS)
        self._behind: float | None = None
        """Since when there has been more than is due."""
        self._closed = False

    async def receive(self) -> Any:
        """The next message that passes, as soon as it is due."""
        while True:
            message = GONE if self._closed else await self._receive()
            if message["type"] != "websocket.receive":
                return message
            told = _read(message)
            if told is None:  # streamlit says what is wrong with it
                return message
            if told.WhichOneof("type") in NEEDED and await self._is_due(told):
                return GONE if self._closed else message

    async def send(self, message: Any) -> None:
        """Pass on what the page is told, unless it is gone; then it is told so when it listens next."""
        if not self._closed:
            try:
                await self._send(_without_path(message))
            except OSError:
                self._closed = True

    async def _is_due(self, told: BackMsg) -> bool:
        """Wait until the message is due, or disconnect; false where it is left out."""
        if self._shared is None:
            return True
        shared = self._shared()
        if told.rerun_script.is_auto_rerun and (self._own.wait or shared.wait):
            return False
        wait, now = self._own.take(), time.monotonic()
        self._behind = (self._behind or now) if wait else None
        if self._behind is not None and now - self._behind > PATIENCE:
            await self.send(CLOSE)
            self._closed = True
            return True
        await asyncio.sleep(max(wait, shared.take()))
        return True


def _without_path(message: Any) -> Any:
    """Streamlit begins every drawing with where the program lies, which no page needs."""
    content = message.get("bytes") or b""
    if FOLDER not in content:
        return message
    told = ForwardMsg.FromString(content)
    if told.WhichOneof("type") != "new_session":
        return message
    told.new_session.main_script_path = "main.py"
    return {**message, "bytes": told.SerializeToString()}


def _read(message: Any) -> BackMsg | None:
    told = BackMsg()
    try:
        told.ParseFromString(message.get("bytes") or b"")
    except DecodeError:
        return None
    return told
