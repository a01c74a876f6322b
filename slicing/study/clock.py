"""How long trials will take, learnt from those that ran, and what is left of the minutes of a wish."""

from __future__ import annotations

import statistics
import time

from slicing.study.requests import Trial


class Clock:
    """Count the seconds of a shrink; a trial that was stored already counts with those that it took."""

    def __init__(self, seconds: float, pace: float) -> None:
        """``seconds``: all that may be spent. ``pace``: tokens per second through the dense model."""
        self.seconds, self.pace = seconds, pace
        self._begun, self._stored = time.perf_counter(), 0.0
        self._learnt: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._begun + self._stored

    @property
    def left(self) -> float:
        """Seconds that are left, below 0 where there are none."""
        return self.seconds - self.spent

    def count(self, seconds: float) -> None:
        """Count a stored trial, which took so many seconds when it ran."""
        self._stored += seconds

    def expect(self, trial: Trial) -> float:
        """Seconds that a trial will take.

        Its work by the pace, times what trials of the same method took of that, or else the median of all.
        """
        usual = statistics.median(self._learnt.values()) if self._learnt else 1.0
        return _work(trial) / self.pace * self._learnt.get(trial.recipe.short, usual)

    def learn(self, trial: Trial, seconds: float) -> None:
        """Take in what a trial took."""
        self._learnt[trial.recipe.short] = seconds * self.pace / _work(trial)


def _work(trial: Trial) -> float:
    """Tokens through the decoder, as its phases estimate them; those of making the dense model are none."""
    return sum(work for _, work in trial.own_phases()) or 1.0
