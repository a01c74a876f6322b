"""How long trials will take, learnt from those that ran, and what is left of the minutes of a wish."""

from __future__ import annotations

import statistics
import time

from slicing.studies.requests import Trial


class Clock:
    """Count the seconds of a shrink; a trial that was stored already counts with those that it took."""

    def __init__(self, seconds: float, pace: float) -> None:
        """``seconds``: all that may be spent. ``pace``: tokens per second through the dense model."""
        self.seconds, self.pace = seconds, pace
        self._begun, self._stored = time.perf_counter(), 0.0
        self._took: dict[str, tuple[float, float]] = {}
        """Of the last trial of each method: seconds at the pace, and those that it took."""

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

        What every trial takes beside its work, and its work at the pace, times what trials of the same method
        took of that, or else the median of all.
        """
        beside = max(0.0, min((took - paced for paced, took in self._took.values()), default=0.0))
        ratios = {name: (took - beside) / paced for name, (paced, took) in self._took.items()}
        usual = statistics.median(ratios.values()) if ratios else 1.0
        return beside + self._paced(trial) * ratios.get(trial.recipe.short, usual)

    def learn(self, trial: Trial, seconds: float) -> None:
        """Take in what a trial took."""
        self._took[trial.recipe.short] = self._paced(trial), seconds

    def _paced(self, trial: Trial) -> float:
        """Seconds at the pace, for the tokens through the decoder that its phases estimate."""
        return max(1.0, sum(work for _, work in trial.own_phases())) / self.pace
