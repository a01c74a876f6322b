"""How many pages are drawn at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_TURNS = threading.BoundedSemaphore(2)
TURN = 2.0
"""Seconds that a page waits for its turn: another may wait for the Hub meanwhile, and has no use for it."""


@contextmanager
def turn() -> Iterator[None]:
    """Let two pages be drawn at the same time. More would not be done sooner, since all share one
    interpreter, and would keep it from the server.
    """
    mine = _TURNS.acquire(timeout=TURN)
    try:
        yield
    finally:
        if mine:
            _TURNS.release()
