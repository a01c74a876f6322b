"""LaCo: some blocks after a block fold into it where the output stays alike."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import Field

from slicing.depth.layout import Layout
from slicing.steps.base import step
from slicing.steps.merging import Merging


@step
class LaCo(Merging):
    """``width`` blocks after a block fold into it where the output stays alike, else one block further down.

    After a merge the search goes on ``interval`` blocks below (algorithm 1). A merged block is one block to
    the next merge that takes it in.
    """

    name = "laco"
    title = "Layer collapse (LaCo)"
    source = "Yang et al., LaCo, Findings of EMNLP 2024"
    cite = "yang2024laco"
    known_issue = (
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
