"""How the Python interface tells how far work is, and what users must know: bars by tqdm, and warnings."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from analysis.errors import PlanError
from analysis.sources.hub import FETCHING
from analysis.values import Progress, no_progress

ProgressLike: TypeAlias = "bool | Callable[[str, int, int], None]"
"""Whether progress is shown, or what it is told to: ``progress(phase, done, total)``."""
LOGGED = 30.0
"""Seconds between two lines of a bar where standard error is no terminal."""


class Bars:
    """One bar for each phase, one at a time; in a notebook they are widgets where there are some."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._phase = ""

    def tell(self, phase: str, done: int, total: int) -> None:
        """Move the bar of a phase, which takes the place of the one before."""
        if self._bar is None or phase != self._phase or done < self._bar.n:
            self.close()
            self._bar, self._phase = self._new(phase, total), phase
        if self._bar.total != total:
            self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()

    def _new(self, phase: str, total: int) -> Any:
        from tqdm.auto import tqdm

        in_bytes = {"unit": "B", "unit_scale": True, "unit_divisor": 1024} if phase == FETCHING else {}
        often = 0.1 if sys.stderr.isatty() or "ipykernel" in sys.modules else LOGGED
        return tqdm(total=total, desc=phase, leave=False, mininterval=often, **in_bytes)


@contextmanager
def telling(progress: ProgressLike) -> Iterator[Progress]:
    """Give the callback that work tells its progress to."""
    if not isinstance(progress, bool):
        if not callable(progress):
            raise PlanError(
                f"Progress is True, False or a function of phase, done and total; got {progress!r}: give one."
            )
        yield progress
        return
    if not progress:
        yield no_progress
        return
    bars = Bars()
    try:
        yield bars.tell
    finally:
        bars.close()


def warn(sentences: Iterable[str]) -> None:
    """Warn of what spoils or flatters a result, as Python does, at the line that called a verb."""
    for each in sentences:
        warnings.warn(each, UserWarning, stacklevel=_depth())


def _depth() -> int:
    """How many calls lie between ``warn`` and whoever called a verb."""
    frame, depth = sys._getframe(2), 2
    while frame is not None and frame.f_globals.get("__name__", "").startswith("slicing.interface"):
        frame, depth = frame.f_back, depth + 1
    return depth
