"""One budget over everything: whichever option saves a parameter at the least predicted cost goes next.

Knows nothing about models: an option is so many parameters saved at such a cost.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from analysis.errors import PlanError

OptionType = TypeVar("OptionType", bound="Option")


@dataclass(frozen=True)
class Option:
    """One way to make one part of a model smaller."""

    saved: int
    """Parameters fewer."""
    cost: float
    """What the loss is predicted to rise by, nats per token."""


def hull(options: Sequence[OptionType]) -> list[OptionType]:
    """The options on the lower convex hull of cost over parameters saved, from the one that saves nothing on.

    What is not on it is never the best next step: a mixture of two that are would cost less.
    """
    found: list[OptionType] = []
    for each in sorted(options, key=lambda option: (option.saved, option.cost)):
        if found and each.saved == found[-1].saved:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) >= _slope(found[-2], each):
            found.pop()
        found.append(each)
    return found


def share_out(parts: Sequence[Sequence[OptionType]], wanted: int) -> list[OptionType]:
    """Choose an option for every part so that ``wanted`` parameters or a little more are saved.

    ``parts`` have the options of one part each, among them one that saves nothing. The segment of a hull that
    costs least per parameter goes next; the last one is then undone as far as the size allows, by the other
    options of its part. Raises ``PlanError`` where all parts together save too little.
    """
    hulls = [hull(options) for options in parts]
    at = [0] * len(hulls)
    queue = [(_slope(each[0], each[1]), place) for place, each in enumerate(hulls) if len(each) > 1]
    heapq.heapify(queue)
    saved = sum(each[0].saved for each in hulls)
    last = None
    while saved < wanted:
        if not queue:
            raise PlanError(
                f"All that can go inside the blocks is {saved:,} parameters, but {wanted:,} must: choose "
                "a larger size, or remove whole blocks first, as in 'llm-streamline(share=0.5) | mixed'."
            )
        _, last = heapq.heappop(queue)
        at[last] += 1
        options = hulls[last]
        saved += options[at[last]].saved - options[at[last] - 1].saved
        if at[last] + 1 < len(options):
            heapq.heappush(queue, (_slope(options[at[last]], options[at[last] + 1]), last))
    chosen = [options[place] for options, place in zip(hulls, at, strict=True)]
    if last is not None and saved > wanted:  # the last segment may have gone too far
        least = chosen[last].saved - (saved - wanted)
        enough = [each for each in parts[last] if least <= each.saved <= chosen[last].saved]
        chosen[last] = min(enough, key=lambda option: option.cost)
    return chosen


def _slope(first: Option, second: Option) -> float:
    return (second.cost - first.cost) / (second.saved - first.saved)
