"""Neighbouring blocks become one, from the top down, as long as the output stays alike: LaCo and Sliding
Layer Merging, one search between them.

What size comes out depends on a threshold of likeness. Where none is given, the highest is found that removes
as many blocks as asked for; the search stops as soon as they are gone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

from pydantic import Field

from analysis.errors import PlanError
from slicing.depth.layout import Layout, Merge
from slicing.depth.methods import RemovalMethod, method
from slicing.depth.survey import Survey

_STEPS = 7
"""Halvings of the range of thresholds, which ends up a hundredth wide."""


class Merging(RemovalMethod):
    """What the two methods share."""

    tries = True
    variants = ("merge=top", "merge=sum", "merge=mean")

    merge: Merge = Field(default="sum", title="Merge rule")
    threshold: float | None = Field(default=None, title="Threshold of likeness")
    """The least cosine of the outputs; ``None`` for the highest that removes enough."""

    @abstractmethod
    def search(self, blocks: int, count: int, alike: Callable[[Layout], bool]) -> Layout:
        """The layout with ``count`` of the ``blocks`` fewer at most, of merges after which the output is
        still ``alike``.
        """

    def merged(self, survey: Survey, threshold: float, count: int) -> Layout:
        """The layout at a threshold, with ``count`` blocks fewer at most."""
        return self.search(survey.blocks, count, lambda tried: survey.similarity(tried) > threshold)

    def most(self, blocks: int) -> int:
        """What is gone where every merge is accepted."""
        return self.search(blocks, blocks - 1, lambda _: True).count

    def layout(self, survey: Survey, count: int) -> Layout:
        """At the threshold, or at the highest one that takes away ``count`` blocks."""
        if self.threshold is not None:
            found = self.merged(survey, self.threshold, count)
            if found.count < count:
                raise PlanError(
                    f"At a threshold of {self.threshold:g} '{self.name}' merges away {found.count} of the "
                    f"{survey.blocks} blocks, but {count} are to go: leave the threshold out, and the "
                    "highest that is enough is found."
                )
            return found
        low, high = -1.0, 1.0  # at the lower one every merge is accepted
        best = self.merged(survey, low, count)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            found = self.merged(survey, middle, count)
            if found.count == count:
                best, low = found, middle
            else:
                high = middle
        return best

    def joined(
        self, blocks: int, groups: list[tuple[int, ...]], before: tuple[tuple[int, ...], ...] = ()
    ) -> Layout:
        """The layout of these groups; ``before`` them, some of their parts had become one."""
        inner = [(part[0], part[-1]) for part in before if part not in groups]
        # The last of some parts is the last of them all, whatever became one first.
        return Layout(
            blocks=blocks,
            groups=tuple(groups),
            merge=self.merge,
            inner=() if self.merge == "top" else tuple(inner),
        )


@method
class LaCo(Merging):
    """``width`` blocks after a block fold into it where the output stays alike, else one block further down.

    After a merge the search goes on ``interval`` blocks below (algorithm 1). A merged block is one block to
    the next merge that takes it in.
    """

    name = "laco"
    title = "Layer collapse (LaCo)"
    source = "Yang et al., LaCo, Findings of EMNLP 2024"
    fault = (
        "The released code replaces the blocks by their last (rule 'top'); by the paper's own rule ('sum') "
        "the output's likeness falls to about 0."
    )

    width: int = Field(default=3, ge=1, title="Blocks per merge")
    interval: int = Field(default=1, ge=1, title="Interval")

    def search(self, blocks: int, count: int, alike: Callable[[Layout], bool]) -> Layout:
        """From the last blocks down."""
        groups = [(place,) for place in range(blocks)]
        merged: tuple[tuple[int, ...], ...] = ()
        first = len(groups) - 1 - min(self.width, count)
        while first >= 0 and blocks - len(groups) < count:
            many = min(self.width, count - (blocks - len(groups)), len(groups) - 1 - first)
            joined = sum(groups[first : first + many + 1], ())
            tried = [*groups[:first], joined, *groups[first + many + 1 :]]
            if alike(self.joined(blocks, tried, merged)):
                groups, merged = tried, (*merged, joined)
                first -= self.interval
            else:
                first -= 1
        return self.joined(blocks, groups, merged)


@method
class SlidingMerge(Merging):
    """A window grows downward from below the last block as long as the output stays alike, then becomes one
    block, and the next window begins below it (algorithm 1).
    """

    name = "sliding"
    title = "Sliding layer merging"
    source = "Ding et al., Sliding Layer Merging, AAAI 2026"
    fault = (
        "The released code keeps the window's last block with the first one's norms (rule 'top' keeps its "
        "own), and drops a window that reaches block 0 unmerged."
    )

    def search(self, blocks: int, count: int, alike: Callable[[Layout], bool]) -> Layout:
        """The last block stays as it is."""
        last = blocks - 1
        done: list[tuple[int, ...]] = [(last,)]
        window = (last - 1,)
        for place in range(last - 2, -1, -1):
            gone = last + 1 - place - len(done) - 1  # if this block joined the window
            wider = (place, *window)
            below = [(each,) for each in range(place - 1, -1, -1)]
            tried = self.joined(blocks, [*done, wider, *below][::-1])
            if gone <= count and alike(tried):
                window = wider
            else:
                done.append(window)
                window = (place,)
        return self.joined(blocks, [*done, window][::-1])
