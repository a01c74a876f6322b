"""How long a job takes from now on: by the pace of the phase it is in, and never more than was said before.

Knows nothing about jobs: whoever listens to one says how far its phase is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

OBSERVED = 3.0
"""Seconds of work before a pace is believed."""
INSTANT = 0.05
"""First steps that take a smaller share of the longest one were no work: their results were stored."""
WRONG = 1.5
"""An estimate so many times what was said last shows that this was wrong."""
SLACK = 30.0
"""Seconds that an estimate may be above what was said last beside that."""


class TimeLeft:
    """What is left of phases whose weights say how much work each is, in whatever unit.

    In a phase that tells its steps, their own pace counts; in one that does not tell any yet, and in those
    that follow, the mean pace by weight. Between two steps the time that passes is taken off.
    """

    def __init__(
        self, weights: Sequence[float], clock: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        self._weights, self._clock = list(weights), clock
        self._place: tuple[int, str, int] | None = None
        """The phase: its place among the weights, its name, and of how many steps it is."""
        self._done = 0
        self._begun_place, self._began = 0.0, 0.0
        """When the first phase of this place began, and when this one did."""
        self._heard: float | None = None
        """When anything was told last."""
        self._ticked = 0.0
        """When a step was done last."""
        self._steps: list[tuple[float, int]] = []
        """Seconds of the phase between two messages, and how many steps were done then."""
        self._spent, self._worked = 0.0, 0.0
        """Seconds of the places that are over, and their weight."""
        self._said: float | None = None
        self.late = False
        """Whether the time that was said last has turned out to be much too short."""

    def advance(self, step: int, phase: str, done: int, total: int) -> None:
        """Note that ``done`` of ``total`` steps of a phase are done; ``step`` is its place among the weights.

        A place may hold several phases, one after another.
        """
        now, place = self._clock(), (step, phase, max(total, 1))
        if place != self._place or done < self._done:
            self._enter(place, done, now)
        if done > self._done:
            self._steps.append((now - self._ticked, done - self._done))
            self._done, self._ticked = done, now
        self._heard = now

    def _enter(self, place: tuple[int, str, int], done: int, now: float) -> None:
        # A phase that is heard of when its first step is done began when the one before was heard of last.
        began = now if not done or self._heard is None else self._heard
        if self._place is None or place[0] != self._place[0]:
            if self._place and self._weights[self._place[0]]:
                self._spent += began - self._begun_place
                self._worked += self._weights[self._place[0]]
            self._begun_place = began
        self._done = 0 if self._heard is not None else done
        self._place, self._began, self._ticked, self._steps = place, began, began, []

    def seconds(self) -> float | None:
        """Seconds left, never more than at an earlier call; ``None`` while no pace is known."""
        found = self._estimate()
        if found is not None:
            self.late = self._said is not None and found > WRONG * self._said + SLACK
            self._said = found if self._said is None else min(found, self._said)
        return self._said

    def _estimate(self) -> float | None:
        """The time left by all that is known now, which may be more than before."""
        if self._place is None:
            return None
        now, (step, _, total) = self._clock(), self._place
        weight, later = self._weights[step], sum(self._weights[step + 1 :])
        own = self._own_pace(now)
        spent, worked = self._spent, self._worked
        if own is not None and weight:
            spent += self._began - self._begun_place + own * total
            worked += weight
        mean = spent / worked if worked and spent >= OBSERVED else None
        if mean is None and (later or own is None):
            return None
        if own is not None:
            left = own * (total - self._done) - min(now - self._ticked, own * self._at_once())
        else:
            left = max((mean or 0.0) * weight - (now - self._begun_place), 0.0)
        return left + later * (mean or 0.0)

    def _own_pace(self, now: float) -> float | None:
        """Seconds for a step of the phase; ``None`` while that would be a guess."""
        if not self._steps or now - self._began < OBSERVED:
            return None
        waited, pace, count = now - self._ticked, _pace(self._steps), self._at_once()
        if (self._place and self._done >= self._place[2]) or waited <= pace * count:
            return pace
        if self._said is None and waited > 2 * pace * count:  # longer than all before: wait for its end
            return None
        return _pace([*self._steps, (waited, count)])

    def _at_once(self) -> int:
        """Give how many steps are told at a time: one, or many where the steps are bytes."""
        return max(1, round(sum(count for _, count in self._steps) / max(1, len(self._steps))))


def _pace(steps: Sequence[tuple[float, int]]) -> float:
    """Mean seconds for a step, without the first ones where those were no work."""
    longest = max(seconds / count for seconds, count in steps)
    first = next(
        place for place, (seconds, count) in enumerate(steps) if seconds >= INSTANT * longest * count
    )
    counted = steps[first:]
    return sum(seconds for seconds, _ in counted) / sum(count for _, count in counted)
