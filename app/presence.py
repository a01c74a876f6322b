"""Who still has a page open: whose places in the queue are kept, and whose are free again.

Knows nothing about streamlit: whoever asks says which sessions are connected.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

REMEMBERED = 10_000
"""Owners whose sessions are kept in mind: those that drew a page last."""


class Presence:
    """The sessions of every owner, each with the time at which one of them was connected last."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``patience`` is how many seconds a page may be away, for a reload or a moment without a network."""
        self._patience, self._clock = patience, clock
        self._lock = threading.Lock()
        self._sessions: OrderedDict[str, set[str]] = OrderedDict()
        self._seen: dict[str, float] = {}
        self._addresses: dict[str, str] = {}

    def note(self, owner: str, session: str, address: str = "") -> None:
        """This session is the owner's, and there; it comes from this address."""
        with self._lock:
            self._sessions.setdefault(owner, set()).add(session)
            self._sessions.move_to_end(owner)
            self._seen[owner], self._addresses[owner] = self._clock(), address
            while len(self._sessions) > REMEMBERED:
                forgotten, _ = self._sessions.popitem(last=False)
                self._seen.pop(forgotten, None)
                self._addresses.pop(forgotten, None)

    def address(self, owner: str) -> str:
        """Give the address that the owner came from last; '' where that is not known."""
        return self._addresses.get(owner, "")

    def gone(self, owner: str, connected: Callable[[str], bool]) -> bool:
        """Tell whether the owner has had no connected session for so long that none comes back.

        An owner who was never noted, as after a restart, has as long from the first time this is asked.
        """
        with self._lock:
            now = self._clock()
            if any(connected(session) for session in self._sessions.get(owner, ())):
                self._seen[owner] = now
            return now - self._seen.setdefault(owner, now) > self._patience
