"""Searches that know nothing about models: a loss is a function of what is tried.

For where to cut: coordinate exchange under a budget, by the measured loss of previews.

One number per block, the share it loses; a share that grows makes all others shrink, so that the budget
stays. Each round asks what the loss does when one block's share grows by a step, for every block, and then
goes down along all of that at once, as far as pays.

For what to take out next, one thing after the other: only those are tried again that may be missed least.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np

from analysis.errors import PlanError
from analysis.storage import cache_folder, storage_errors
from analysis.values import Progress, no_progress

STEP = 0.06
"""By how much one block's share grows to see what that does: three widths of 8 at D = 576, or so."""
STRIDES = (0.5, 1.0, 2.0, 4.0)
"""How far a round goes down, as multiples of a root mean square change of ``STEP`` of the shares."""
LARGEST = 0.8
"""No share grows beyond this."""
FALLS_TO = 0.5
"""A rise of the loss is expected to fall at most to so much of itself while something else goes. On the demo
model, the 11 blocks that go one after the other are those of trying all. Of attentions and MLPs, one by one,
that was so of the first 11 alone, and not of 19 or 24. So nothing but whole blocks is searched for like
this."""
FIRST_TRIED = 3
"""So many of the least rises of before are measured first."""
Candidate = TypeVar("Candidate", bound=Hashable)


class Found(NamedTuple):
    """What a search ended with."""

    shares: tuple[float, ...]
    """(L,), with the target for their mean."""
    losses: tuple[float, ...]
    """The least loss, at the start and after each round."""
    evaluations: int


class SearchLog:
    """Losses that were measured, kept line by line so that a search that was interrupted goes on.

    Used in a ``with``; the file goes when the search is through.
    """

    def __init__(self, key: str) -> None:
        self.path = cache_folder() / "searches" / f"{key}.jsonl"
        self.known: dict[tuple[float, ...], float] = {}

    def __enter__(self) -> SearchLog:
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for line in self.path.read_text().splitlines() if self.path.exists() else []:
                try:
                    entry = json.loads(line)
                    self.known[tuple(entry["shares"])] = float(entry["loss"])
                except (ValueError, KeyError, TypeError):  # the line that was being written
                    continue
            self._file = self.path.open("a")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if kind is None:
            self.path.unlink(missing_ok=True)

    def note(self, shares: tuple[float, ...], loss: float) -> None:
        """Keep one more."""
        self.known[shares] = loss
        with storage_errors(self.path):
            self._file.write(json.dumps({"shares": shares, "loss": loss}) + "\n")
            self._file.flush()


def search(
    loss: Callable[[tuple[float, ...]], float],
    blocks: int,
    target: float,
    rounds: int,
    log: SearchLog | None = None,
    progress: Progress = no_progress,
) -> Found:
    """The shares (L,) of mean ``target`` with the least ``loss`` that ``rounds`` rounds come upon.

    Starts at equal shares. Without chance in it: the same losses lead the same way. Raises ``PlanError``
    for a target that leaves nothing to exchange.
    """
    if not STEP / 2 < target < LARGEST - STEP:
        raise PlanError(
            f"A search exchanges shares around the target, which at {target:g} leaves no room: choose one "
            f"between {STEP / 2:g} and {LARGEST - STEP:g}."
        )
    total = rounds * (blocks + len(STRIDES)) + 1
    asked: set[tuple[float, ...]] = set()

    def measured(shares: np.ndarray) -> float:
        key = tuple(np.round(shares, 6).tolist())
        asked.add(key)
        known = log.known if log else {}
        value = known[key] if key in known else loss(key)
        if log and key not in known:
            log.note(key, value)
        progress("Searching", min(len(asked), total), total)
        return value

    best = np.full(blocks, target)
    losses = [measured(best)]
    for _ in range(rounds):
        slopes = np.zeros(blocks)
        for block in range(blocks):
            moved = best.copy()
            moved[block] += STEP
            slopes[block] = measured(scaled(moved, target)) - losses[-1]
        direction = slopes.mean() - slopes
        size = float(np.sqrt(np.square(direction).mean()))
        if size == 0.0:
            break
        tried = [scaled(best + stride * STEP * direction / size, target) for stride in STRIDES]
        found = [measured(each) for each in tried]
        place = int(np.argmin(found))
        if found[place] >= losses[-1]:
            losses.append(losses[-1])
            break
        best = tried[place]
        losses.append(found[place])
    return Found(tuple(np.round(best, 6).tolist()), tuple(losses), len(asked))


def scaled(shares: np.ndarray, target: float) -> np.ndarray:
    """Shares in [0, ``LARGEST``] of mean ``target``, what is cut off passed on to the others alike."""
    shares = shares.copy()
    for _ in range(100):
        shares = np.clip(shares, 0.0, LARGEST)
        missing = target - shares.mean()
        free = shares < LARGEST if missing > 0 else shares > 0.0
        if abs(missing) < 1e-12 or not free.any():
            break
        shares[free] += missing * len(shares) / free.sum()
    return shares


def least_missed(
    candidates: Sequence[Candidate],
    rises: Callable[[Sequence[Candidate]], Mapping[Candidate, float]],
    before: Mapping[Candidate, float],
) -> tuple[Candidate, dict[Candidate, float]]:
    """Find the candidate whose rise of the loss is least, and give the last known rises of all of them.

    ``rises`` measures some candidates in one go. ``before`` has their rises from an earlier step, when less
    was gone; without one of a candidate, it is measured. Those are measured whose rise is still the least if
    it has fallen to ``FALLS_TO`` of itself: the answer is that of measuring all, unless one falls further.
    Of equals the first is taken.
    """
    known = {each: before[each] for each in candidates if each in before}
    order = sorted(candidates, key=lambda each: known.get(each, -math.inf))
    new = sum(each not in known for each in candidates)
    some, found = order[: max(FIRST_TRIED, new)], {}
    while some:
        found.update(rises(some))
        least = min(found.values())
        some = [each for each in order if each not in found and _fallen(known[each]) < least]
    chosen = min((each for each in candidates if each in found), key=found.__getitem__)
    return chosen, {**known, **found}


def _fallen(rise: float) -> float:
    """Tell the least that a rise is expected to be now; one that is a gain already may stay what it is."""
    return min(rise, FALLS_TO * rise)
