"""Which of the runs that ship a session looks at."""

from __future__ import annotations

from typing import Literal

from app import shipped, state
from slicing.studies.store import COMPARISONS


def demo_shown(view: Literal["profile", "compare"]) -> str:
    """Name the comparison that ships which a view shows; empty where it shows another run."""
    run, _ = state.asked_for(view)
    if run:
        return ""
    key = state.key_asked(view)
    return key if key in COMPARISONS else shipped.FIRST


def show_demo(name: str) -> None:
    """Let every page and the talk show this comparison that ships; only in a callback."""
    for view in ("profile", "compare"):
        state.show_run(view, name)


def begin_study(name: str) -> None:
    """Let the study page show this one where none was asked for yet."""
    if not state.key_asked("study"):
        state.show_run("study", name)
